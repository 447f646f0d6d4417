"""Input images behind links: fetched at the submit, through the address guard."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.api.client import SMALL, Client, png
from tests.api.serving import NO_RETRIES, ServedGateway, settings_for

VARY = {**SMALL, "model": "box/any", "prompt": "the same, at night"}
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"


@pytest.fixture
async def pictures() -> AsyncIterator[str]:
    """A server in the operator's own network."""

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name == "away":
            raise web.HTTPFound("http://169.254.169.254/latest/meta-data/")
        content = {"fox.png": png(), "fox.svg": SVG, "large.png": png() + bytes(3_000_000)}.get(name)
        return web.Response(body=content) if content else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await web.SockSite(runner, listener).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        await runner.cleanup()


async def asked(tmp_path: Path, link: str, **server: Any) -> tuple[int, dict[str, Any], int]:
    box = {"type": "openai_compatible", "base_url": "http://127.0.0.1:9/v1", "retries": NO_RETRIES}
    settings = settings_for(tmp_path / "data", server={"max_image": "2MB", **server}, providers={"box": box})
    with ServedGateway(settings) as served:
        async with Client(served.url) as client:
            reply = await client.send("generations", {**VARY, "input_images": [link]})
            return reply.status, reply.json, len(served.blobs) if reply.status != 202 else 0


async def test_an_image_behind_a_link_is_an_input_like_any_other(tmp_path: Path, pictures: str) -> None:
    status, body, _ = await asked(tmp_path, f"{pictures}/fox.png", private_hosts=["127.0.0.1"])
    assert status == 202, body


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:1/x.png",
        "http://images.example/x.png",
        "https://127.0.0.1/x.png",
        "https://localhost/x.png",
        "https://10.0.0.1/x.png",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/x.png",
        "https://[::ffff:127.0.0.1]/x.png",
        "https://[64:ff9b::7f00:1]/x.png",
        "https://[fd00:ec2::254]/x.png",
        "https://2130706433/x.png",
        "https://0x7f.1/x.png",
        "https://user:pass@images.example/x.png",
        "https://",
        "https://images.example" + "/x" * 5000,
    ],
)
async def test_links_into_networks_of_ours_are_refused(tmp_path: Path, link: str) -> None:
    status, body, blobs = await asked(tmp_path, link)
    assert (status, body["error"]["param"], blobs) == (400, "input_images[0]", 0)


@pytest.mark.parametrize("name", ["away", "fox.svg", "large.png", "none.png"])
async def test_what_is_no_image_too_large_or_leads_elsewhere_is_refused(
    tmp_path: Path, pictures: str, name: str
) -> None:
    status, body, blobs = await asked(tmp_path, f"{pictures}/{name}", private_hosts=["127.0.0.1"])
    assert (status, body["error"]["param"], blobs) == (400, "input_images[0]", 0)
