"""The simulators are strict, and each fault does what it says, as a raw client sees it."""

import asyncio
import base64
import hashlib
import io
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
from PIL import Image

from tests.simulators._base import Fault
from tests.simulators._pictures import filled, picture, picture_of_bytes, stamped
from tests.simulators.openai import OpenAISimulator
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

KEY = "sk-test"
REQUEST = {"model": "gpt-image-2.5-flare", "prompt": "a red fox, ink drawing", "size": "1024x1024"}
PNG = picture(1024, 1024, "png")
MASK = picture(1024, 1024, "png", transparent=True)


@pytest.fixture
async def simulator() -> AsyncIterator[OpenAISimulator]:
    async with OpenAISimulator(key=KEY) as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as opened:
        yield opened


Answer = tuple[int, Any]


async def generate(session: aiohttp.ClientSession, simulator: OpenAISimulator, **fields: object) -> Answer:
    async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST | fields) as response:
        return response.status, await response.json()


def form(*files: tuple[str, bytes, str, str], **fields: str) -> aiohttp.FormData:
    """Make an edit's form; a file is (part name, bytes, file name, type)."""
    made = aiohttp.FormData(default_to_multipart=True)
    for name, value in ({"model": "gpt-image-2", "prompt": "make it night"} | fields).items():
        made.add_field(name, value)
    for name, content, filename, content_type in files:
        made.add_field(name, io.BytesIO(content), filename=filename, content_type=content_type)
    return made


async def edit(session: aiohttp.ClientSession, simulator: OpenAISimulator, body: aiohttp.FormData) -> Answer:
    async with session.post(f"{simulator.base_url}/images/edits", data=body) as response:
        return response.status, await response.json()


def decoded(item: dict[str, str]) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))
    image.load()
    return image


class TestOpenAIGenerations:
    async def test_answers_real_pictures_of_the_asked_size_with_usage(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        status, body = await generate(session, simulator, n=2, size="1536x1024")
        assert status == 200
        assert [decoded(item).size for item in body["data"]] == [(1536, 1024)] * 2
        assert body["usage"]["output_tokens"] == 878
        assert (body["size"], body["quality"], body["output_format"]) == ("1536x1024", "medium", "png")

    @pytest.mark.parametrize(("file_format", "pillow"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("gif", "GIF")])
    async def test_answers_other_formats(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession, file_format: str, pillow: str
    ) -> None:
        _, body = await generate(session, simulator, model="gpt-image-2.6-flare", output_format=file_format)
        assert decoded(body["data"][0]).format == pillow

    async def test_answers_svg(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        _, body = await generate(session, simulator, model="gpt-image-2.6-flare", output_format="svg")
        assert base64.b64decode(body["data"][0]["b64_json"]).startswith(b"<svg")
        assert body["svg_usage"]["total_tokens"] == 210

    async def test_no_two_pngs_are_the_same_bytes_and_the_record_tells_which_were_sent(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        _, body = await generate(session, simulator, n=2)
        sent = tuple(hashlib.sha256(base64.b64decode(item["b64_json"])).hexdigest() for item in body["data"])
        assert len(set(sent)) == 2
        assert simulator.exchanges[0].outputs_sha256 == sent

    @pytest.mark.parametrize(
        ("fields", "param", "code"),
        [
            ({"response_format": "b64_json"}, "response_format", "unknown_parameter"),
            ({"style": "vivid"}, "style", "unknown_parameter"),
            ({"seed": 1}, "seed", "unknown_parameter"),
            ({"input_fidelity": "high"}, "input_fidelity", "unknown_parameter"),
            ({"n": "2"}, "n", "invalid_type"),
            ({"n": True}, "n", "invalid_type"),
            ({"n": 0}, "n", "integer_below_min_value"),
            ({"n": 11}, "n", "integer_above_max_value"),
            ({"prompt": ""}, "prompt", "empty_string"),
            ({"prompt": "x" * 32_001}, "prompt", "string_above_max_length"),
            ({"quality": "hd"}, "quality", "invalid_value"),
            ({"quality": "max", "model": "gpt-image-2"}, "quality", "invalid_value"),
            ({"size": "512x512"}, "size", "invalid_value"),
            ({"size": "1000x1000"}, "size", "invalid_value"),
            ({"size": "3840x1024"}, "size", "invalid_value"),
            ({"size": "4096x2048"}, "size", "invalid_value"),
            ({"size": "1280x1280", "model": "gpt-image-1.5"}, "size", "invalid_value"),
            ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value"),
            ({"output_compression": 50}, "output_compression", "invalid_value"),
            ({"output_format": "gif"}, "output_format", "invalid_value"),
            ({"frame_count": 4}, "frame_count", "invalid_value"),
            ({"complexity": "low"}, "complexity", "unknown_parameter"),
            ({"partial_images": 2}, "partial_images", "invalid_value"),
        ],
    )
    async def test_refuses(
        self,
        simulator: OpenAISimulator,
        session: aiohttp.ClientSession,
        fields: dict[str, object],
        param: str,
        code: str,
    ) -> None:
        status, body = await generate(session, simulator, **fields)
        assert status == 400
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert (body["error"]["param"], body["error"]["code"]) == (param, code)
        assert body["error"]["type"] == "invalid_request_error"
        assert (simulator.submissions, simulator.charged) == (1, 0)

    async def test_refuses_models_that_are_gone(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        status, body = await generate(session, simulator, model="dall-e-3")
        assert (status, body["error"]["code"]) == (404, "model_not_found")

    async def test_refuses_a_wrong_key(self, simulator: OpenAISimulator) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-other"}) as session:
            status, body = await generate(session, simulator)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")

    async def test_blocks_what_moderation_would(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        status, body = await generate(session, simulator, prompt="a fox [blocked]")
        assert (status, body["error"]["code"]) == (400, "moderation_blocked")
        assert body["error"]["moderation_details"]["moderation_stage"] == "input"

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/images/variations", 404),
            ("GET", "/images/generations", 405),
            ("POST", "/images/generations?x=1", 400),
        ],
    )
    async def test_refuses_other_routes(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession, method: str, path: str, status: int
    ) -> None:
        async with session.request(method, simulator.base_url + path, json=REQUEST) as response:
            assert response.status == status
            assert "error" in await response.json()

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [("text/plain", b"{}"), ("application/json", b"[]"), ("application/json", b'{"model": ')],
    )
    async def test_refuses_other_bodies(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession, content_type: str, body: bytes
    ) -> None:
        url = f"{simulator.base_url}/images/generations"
        async with session.post(url, data=body, headers={"Content-Type": content_type}) as response:
            assert response.status == 400
            assert "error" in await response.json()

    async def test_streams_partial_pictures_and_then_the_whole(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        request = REQUEST | {"stream": True, "partial_images": 2}
        async with session.post(f"{simulator.base_url}/images/generations", json=request) as response:
            assert response.content_type == "text/event-stream"
            events = re.findall(r"^event: (.+)$", await response.text(), re.MULTILINE)
        assert events == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]

    async def test_answers_pictures_of_a_given_number_of_bytes(self, session: aiohttp.ClientSession) -> None:
        async with OpenAISimulator(image_bytes=100_000) as simulator:
            _, body = await generate(session, simulator)
        assert len(base64.b64decode(body["data"][0]["b64_json"])) == 100_000
        decoded(body["data"][0])


class TestOpenAIEdits:
    async def test_takes_an_image_and_a_mask_and_records_them(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        body = form(("image", PNG, "a.png", "image/png"), ("mask", MASK, "m.png", "image/png"), n="2", stream="false")
        status, answer = await edit(session, simulator, body)
        assert (status, len(answer["data"])) == (200, 2)
        recorded = simulator.exchanges[0].files
        assert [(part.name, part.filename, part.content_type, part.size_bytes) for part in recorded] == [
            ("image", "a.png", "image/png", len(PNG)),
            ("mask", "m.png", "image/png", len(MASK)),
        ]
        assert recorded[0].sha256 == hashlib.sha256(PNG).hexdigest()
        assert simulator.exchanges[0].fields["n"] == "2"

    async def test_takes_sixteen_images(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        small = picture(16, 16, "webp")
        files = [("image[]", small, f"{index}.webp", "image/webp") for index in range(16)]
        status, _ = await edit(session, simulator, form(*files))
        assert status == 200

    async def test_takes_the_json_form(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        url = "data:image/png;base64," + base64.b64encode(PNG).decode()
        request = {"model": "gpt-image-2", "prompt": "make it night", "images": [{"image_url": url}]}
        async with session.post(f"{simulator.base_url}/images/edits", json=request) as response:
            assert response.status == 200
        request["images"] = [{"image_url": "https://pictures.example/a.png"}]
        async with session.post(f"{simulator.base_url}/images/edits", json=request) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_value")

    @pytest.mark.parametrize(
        ("files", "fields", "param"),
        [
            ([], {}, "image"),
            ([("image", PNG, "a.png", "image/jpeg")], {}, "image"),
            ([("image", b"no picture", "fox.png", "image/png")], {}, "image"),
            ([("image", PNG, "a.png", "image/png")] * 2, {}, "image"),
            ([("photo", PNG, "a.png", "image/png")], {}, "photo"),
            ([("image[]", picture(16, 16, "png"), "a.png", "image/png")] * 17, {}, "image"),
            ([("image", PNG, "a.png", "image/png"), ("mask", PNG, "m.png", "image/png")], {}, "mask"),
            (
                [
                    ("image", PNG, "a.png", "image/png"),
                    ("mask", picture(16, 16, "png", transparent=True), "m.png", "image/png"),
                ],
                {},
                "mask",
            ),
            ([("image", PNG, "a.png", "image/png"), ("markup", MASK, "m.png", "image/png")], {}, "markup"),
            ([("image", PNG, "a.png", "image/png")], {"moderation": "low"}, "moderation"),
            ([("image", PNG, "a.png", "image/png")], {"response_format": "url"}, "response_format"),
            ([("image", PNG, "a.png", "image/png")], {"input_fidelity": "high"}, "input_fidelity"),
            ([("image", PNG, "a.png", "image/png")], {"n": "two"}, "n"),
        ],
    )
    async def test_refuses(
        self,
        simulator: OpenAISimulator,
        session: aiohttp.ClientSession,
        files: list[tuple[str, bytes, str, str]],
        fields: dict[str, str],
        param: str,
    ) -> None:
        status, answer = await edit(session, simulator, form(*files, **fields))
        assert (status, answer["error"]["param"]) == (400, param)

    async def test_refuses_a_mask_of_4_mb(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        mask = filled(MASK, 4_000_000)
        body = form(("image", PNG, "a.png", "image/png"), ("mask", mask, "m.png", "image/png"))
        status, answer = await edit(session, simulator, body)
        assert (status, answer["error"]["code"]) == (400, "image_too_large")


async def test_models_tell_when_they_end(simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{simulator.base_url}/models") as response:
        models = {item["id"]: item["shutdown_date"] for item in (await response.json())["data"]}
    assert models["gpt-image-1.5"] == "2026-12-01"
    assert models["gpt-image-2"] is None
    assert simulator.submissions == 0


async def test_the_official_client_is_served(simulator: OpenAISimulator) -> None:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=simulator.base_url, max_retries=0) as client:
        made = await client.images.generate(model="gpt-image-2", prompt="a red fox", size="1024x1024")
        changed = await client.images.edit(model="gpt-image-2", prompt="at night", image=("a.png", PNG, "image/png"))
        with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'style'"):
            await client.images.generate(model="gpt-image-2", prompt="a red fox", style="vivid")
    assert made.data
    assert changed.data


class TestFaults:
    async def test_status_with_headers_and_the_providers_body(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=429, headers={"Retry-After": "7"}))
        async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
            assert (await response.json())["error"]["code"] == "rate_limit_exceeded"
            assert response.headers["x-request-id"] == "req_00000001"
        assert (await generate(session, simulator))[0] == 200
        assert (simulator.submissions, simulator.charged) == (2, 1)

    async def test_a_standing_fault_stays_and_pushed_ones_go_first(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        simulator.faults.always(Fault(kind="status", status=503))
        simulator.faults.push(Fault(kind="status", status=400, body={"error": {"message": "mine"}}))
        assert [(await generate(session, simulator))[0] for _ in range(3)] == [400, 503, 503]
        simulator.faults.always(None)
        assert (await generate(session, simulator))[0] == 200

    async def test_a_fault_waits_for_the_request_it_is_for(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=500, path="*/edits"))
        assert (await generate(session, simulator))[0] == 200
        assert (await edit(session, simulator, form(("image", PNG, "a.png", "image/png"))))[0] == 500

    async def test_html(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="html", status=502))
        async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST) as response:
            assert (response.status, response.content_type) == (502, "text/html")
            assert (await response.text()).startswith("<html>")

    async def test_held_until_released(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(hold=True))
        under_way = asyncio.create_task(generate(session, simulator))
        await simulator.wait_for_submissions(1)
        assert not under_way.done()
        assert simulator.exchanges[0].status is None
        simulator.release()
        assert (await under_way)[0] == 200

    async def test_slow(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(delay_s=0.05))
        started = asyncio.get_running_loop().time()
        assert (await generate(session, simulator))[0] == 200
        assert asyncio.get_running_loop().time() - started >= 0.05

    @pytest.mark.parametrize(("kind", "charged"), [("reset_before_read", 0), ("reset_after_read", 1)])
    async def test_resets(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession, kind: Any, charged: int
    ) -> None:
        simulator.faults.push(Fault(kind=kind))
        with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)) as caught:
            await generate(session, simulator)
        assert isinstance(caught.value, ConnectionResetError) or "reset" in str(caught.value)
        exchange = simulator.exchanges[0]
        assert (exchange.body_read, exchange.status) == (bool(charged), None)
        assert (simulator.submissions, simulator.charged) == (1, charged)

    async def test_truncated(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="truncated"))
        async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    async def test_stalled_after_half(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="stalled"))
        async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST) as response:
            length = response.content_length or 0
            half = await response.content.readexactly(length // 2)
            assert response.content.total_bytes == length // 2
            simulator.release()
            assert len(half + await response.read()) == length

    async def test_drip(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="drip", size_bytes=1000))
        assert (await generate(session, simulator))[0] == 200

    async def test_wrong_json(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="wrong_json"))
        async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST) as response:
            assert (response.status, response.content_type) == (200, "application/json")
            with pytest.raises(msgspec.DecodeError):
                msgspec.json.decode(await response.read())

    async def test_empty(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="empty"))
        status, body = await generate(session, simulator)
        assert (status, body["data"]) == (200, [])

    async def test_huge(self, simulator: OpenAISimulator, session: aiohttp.ClientSession) -> None:
        simulator.faults.push(Fault(kind="huge", size_bytes=3_000_000))
        async with session.post(f"{simulator.base_url}/images/generations", json=REQUEST) as response:
            assert len(await response.read()) > 3_000_000

    async def test_a_refused_request_is_not_charged_whatever_the_fault(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(aiohttp.ClientError):
            await generate(session, simulator, style="vivid")
        assert simulator.charged == 0


class TestControl:
    async def test_steers_and_counts_over_http(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        control = f"{simulator.root_url}/_control"
        plan = {"push": [{"hold": True}], "always": {"kind": "status", "status": 503}}
        async with session.post(f"{control}/faults", json=plan) as response:
            assert response.status == 200
        under_way = asyncio.create_task(generate(session, simulator))
        async with session.get(f"{control}/exchanges?submissions=1") as response:
            state = await response.json()
        assert (state["submissions"], state["charged"], state["exchanges"][0]["fault"]) == (1, 0, "answer")
        async with session.post(f"{control}/release") as response:
            assert response.status == 200
        assert (await under_way)[0] == 200
        assert (await generate(session, simulator))[0] == 503
        async with session.post(f"{control}/reset") as response:
            assert (await response.json())["exchanges"] == []
        assert (await generate(session, simulator))[0] == 200

    async def test_refuses_faults_it_does_not_know(
        self, simulator: OpenAISimulator, session: aiohttp.ClientSession
    ) -> None:
        async with session.post(f"{simulator.root_url}/_control/faults", json={"push": [{"kind": "odd"}]}) as response:
            assert response.status == 400
        async with session.get(f"{simulator.root_url}/_control/nothing") as response:
            assert response.status == 404


class TestOpenAICompatible:
    async def test_serves_its_pictures_by_url_and_as_base64(self, session: aiohttp.ClientSession) -> None:
        async with OpenAICompatibleSimulator() as simulator:
            url = f"{simulator.base_url}/images/generations"
            async with session.post(url, json={"prompt": "a fox", "unheard_of": 1}) as response:
                item = (await response.json())["data"][0]
            async with session.get(item["url"]) as response:
                content = await response.read()
            assert hashlib.sha256(content).hexdigest() == simulator.exchanges[0].outputs_sha256[0]
            assert Image.open(io.BytesIO(content)).size == (512, 512)
            async with session.post(url, json={"prompt": "a fox", "response_format": "b64_json"}) as response:
                assert decoded((await response.json())["data"][0]).format == "PNG"
            assert simulator.submissions == 2

    async def test_edits(self, session: aiohttp.ClientSession) -> None:
        async with OpenAICompatibleSimulator() as simulator:
            url = f"{simulator.base_url}/images/edits"
            body = form(("image", PNG, "a.png", "image/png"), model="flux", n="2", guidance_scale="3.5")
            async with session.post(url, data=body) as response:
                assert (response.status, len((await response.json())["data"])) == (200, 2)
            async with session.post(url, json={"prompt": "a fox"}) as response:
                assert response.status == 422

    async def test_asks_for_its_key_also_for_files_if_it_has_one(self, session: aiohttp.ClientSession) -> None:
        async with (
            OpenAICompatibleSimulator(key=KEY, protect_files=True) as simulator,
            aiohttp.ClientSession() as stranger,
        ):
            async with session.post(f"{simulator.base_url}/images/generations", json={"prompt": "a fox"}) as response:
                url = (await response.json())["data"][0]["url"]
            async with stranger.get(url) as response:
                assert response.status == 401
            async with stranger.get(f"{simulator.base_url}/models") as response:
                assert response.status == 401
            async with session.get(url) as response:
                assert response.status == 200

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"prompt": ""}, 422),
            ({"n": "2"}, 422),
            ({"n": 11}, 422),
            ({"size": "big"}, 422),
            ({"response_format": "url"}, 422),
            ({"model": "other"}, 404),
        ],
    )
    async def test_refuses(self, session: aiohttp.ClientSession, fields: dict[str, object], status: int) -> None:
        async with OpenAICompatibleSimulator(formats=("b64_json",)) as simulator:
            request = {"prompt": "a fox"} | fields
            async with session.post(f"{simulator.base_url}/images/generations", json=request) as response:
                assert response.status == status
                assert "detail" in await response.json()


def test_pictures_of_a_number_of_bytes_are_exact() -> None:
    content = picture_of_bytes(250_000)
    assert len(content) == 250_000
    Image.open(io.BytesIO(content)).load()


def test_a_stamp_leaves_a_png_whole() -> None:
    content = stamped(picture(32, 16, "png"), "mark")
    image = Image.open(io.BytesIO(content))
    image.load()
    assert image.info["Comment"] == "mark"


@pytest.mark.parametrize("module", ["openai", "openai_compatible"])
async def test_runs_by_hand_and_ends_on_ctrl_c(module: str, session: aiohttp.ClientSession) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.simulators.{module}",
        "--port",
        "0",
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    line = (await process.stdout.readline()).decode()
    async with session.get(f"{line.split()[-1]}/models") as response:
        assert response.status == 200
    process.send_signal(2)
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"base_url: http://127.0.0.1:" in said
