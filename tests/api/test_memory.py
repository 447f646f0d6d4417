"""How much memory the gateway needs, measured from outside: an image on its way is never held as a whole."""

import asyncio
import json
import logging
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from tests.api.child import MIB, Child, child
from tests.api.client import Client
from tests.api.serving import SimulatorThread
from tests.api.wire import EDITS, GENERATIONS
from tests.simulators._pictures import picture_of_bytes
from tests.simulators.openai import OpenAISimulator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

log = logging.getLogger(__name__)

PICTURE_BYTES = 8_000_000
MODEL = {"model": "openai/gpt-image-2", "prompt": "x"}
FORM = {"content-type": "multipart/form-data; boundary=cut"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Child]:
    with SimulatorThread(OpenAISimulator(image_bytes=PICTURE_BYTES)) as thread:
        settings: dict[str, Any] = {
            "server": {"port": 0},
            "storage": {"data_dir": str(tmp_path / "data")},
            "log": {"level": "error"},
            "providers": {"openai": {"base_url": thread.simulator.base_url, "keys": [{"value": "any"}]}},
        }
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        async with child(tmp_path / "settings.yaml") as running:
            yield running


async def growth(gateway: Child, work: Callable[[], Awaitable[object]]) -> float:
    """MiB that are resident at the peak of `work` beyond those before it: the usual, of several times."""
    await work()
    found: list[float] = []
    for _ in range(5):
        gateway.forget_peak()
        before = gateway.resident_bytes
        await work()
        found.append(round((gateway.peak_bytes - before) / MIB, 2))
    return median(found)


def head_of(disposition: str) -> bytes:
    return f"--cut\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()


def form_of(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(head_of(name) + content + b"\r\n" for name, content in parts) + b"--cut--\r\n"


FIELDS = tuple((f'name="{name}"', value.encode()) for name, value in MODEL.items())


async def test_one_large_picture_in_flight(gateway: Child) -> None:
    """The design's figure: at most 2 MiB above the picture's own bytes, which are on disk."""
    picture = picture_of_bytes(PICTURE_BYTES)
    upload = form_of(*FIELDS, ('name="image"; filename="large.png"', picture))

    async with Client(gateway.url) as client:

        async def generate() -> dict[str, Any]:
            job = await client.run(values={**MODEL, "response_format": "url"})
            assert job["status"] == "completed", job
            return job

        async def develop() -> None:
            job = await client.run(values={**MODEL, "response_format": "url", "partial_images": 2})
            assert job["status"] == "completed", job

        async def read_as_base64() -> None:
            reply = await client.get(f"/v1/async/images/generations/{kept['id']}")
            assert len(reply.body) > PICTURE_BYTES * 4 // 3

        async def read_by_link() -> None:
            assert len((await client.get(link)).body) == PICTURE_BYTES

        async def edit() -> None:
            reply = await client.ask("POST", EDITS, data=upload, headers=FORM)
            assert reply.status == 202, reply.body
            assert (await client.end("edits", reply.json["id"]))["status"] == "completed"

        kept = await client.run(values={**MODEL, "response_format": "b64_json"})
        link = (await generate())["result"]["data"][0]["url"]
        figures = {
            work.__name__: await growth(gateway, work)
            for work in (generate, develop, read_as_base64, read_by_link, edit)
        }

    log.info("MiB above: %s", figures)
    assert max(figures.values()) <= 2.0, figures


def hostile_bodies(size: int) -> list[tuple[str, dict[str, str], bytes]]:
    json_head = {"content-type": "application/json", "x-bf-passthrough-extra-params": "true"}
    start = b'{"model": "builtin/sketch", "prompt": "x", "own": '
    many = b",".join(b'"k%d":%d' % (index, index) for index in range(size // 16))
    packer = zlib.compressobj(1, wbits=31)
    packed = packer.compress(start + b'"' + b" " * size) + packer.flush()
    return [
        (GENERATIONS, json_head, start + b'"' + b"A" * size + b'"}'),
        (GENERATIONS, json_head, start + b'"' + b"words " * (size // 6) + b'"}'),
        (GENERATIONS, json_head, start + b"[" * size),
        (GENERATIONS, json_head, start + b"[" + b"0," * (size // 2) + b"0]}"),
        (GENERATIONS, json_head, start + b"{" + many + b"}}"),
        (GENERATIONS, json_head, b"x" * size),
        (GENERATIONS, {**json_head, "content-encoding": "gzip"}, packed),
        (EDITS, FORM, form_of(*FIELDS, ('name="own"', b"x" * size))),
        (EDITS, FORM, form_of(*FIELDS, ('name="image"; filename="fox.png"', b"x" * size))),
        (EDITS, FORM, head_of('name="model"') + b"\r\n--cut" * (size // 7)),
    ]


async def test_memory_stays_flat_under_hostile_bodies(gateway: Child) -> None:
    """Fifty of 20 MB, five at a time: what is resident afterwards, and at the worst moment."""
    bodies = hostile_bodies(20_000_000)

    async with Client(gateway.url) as client:

        async def send(path: str, headers: dict[str, str], body: bytes) -> None:
            reply = await client.ask("POST", path, data=body, headers=headers)
            assert reply.status in {400, 413}, reply.body[:200]
            json.loads(reply.body)

        for body in bodies:
            await send(*body)
        gateway.forget_peak()
        before = gateway.resident_bytes
        for _ in range(10):
            await asyncio.gather(*(send(*body) for body in bodies[:5]))
            bodies = bodies[5:] + bodies[:5]
        after, peak = (gateway.resident_bytes - before) / MIB, (gateway.peak_bytes - before) / MIB
        assert (await client.get("/health")).status == 200

    log.info("MiB above: %.1f afterwards, %.1f at the peak", after, peak)
    assert after < 40
    assert peak < 80
