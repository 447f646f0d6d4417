from collections.abc import AsyncIterator
from typing import Any

import pybase64
import pytest
from aiohttp import web

from safelight.adapters.providers._base import ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.adapters.providers.openai_compatible import PROVIDER
from safelight.application.ports import Provider, ProviderKey, RemotePicture
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest, Operation
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    generation,
    image_bytes,
    mask_bytes,
    one_of_each,
    open_provider,
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

PROVIDER_NAME = ProviderName("gpu-box")
NO_KEY = ProviderKey(name=None, value=None)


CONFORMANCE = ProviderCase(
    simulator=lambda key: OpenAICompatibleSimulator(key=key),
    requests=lambda workspace: one_of_each(workspace, "flux", "gpu-box", n=2, size="64x64"),
    unsupported=generation("flux", "gpu-box", prompt="<sd_cpp_extra_args>{}</sd_cpp_extra_args>"),
)


@pytest.fixture
async def simulator() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as started:
        yield started


@pytest.fixture
def provider(simulator: OpenAICompatibleSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("openai_compatible", sessions, simulator.base_url, timeout_s=20)


def flux(**more: Any) -> ImageRequest:
    return generation("flux", "gpu-box", **{"size": "64x64", **more})


class TestFields:
    async def test_everything_the_caller_said_is_sent(
        self, provider: Provider, simulator: OpenAICompatibleSimulator, workspace: FolderWorkspace
    ) -> None:
        said: dict[str, Any] = {
            "size": "64x64",
            "quality": "hd",
            "style": "vivid",
            "background": "opaque",
            "moderation": "low",
            "output_format": "png",
            "output_compression": 5,
            "seed": 7,
            "num_inference_steps": 4,
            "negative_prompt": "blurry",
            "aspect_ratio": "1:1",
            "resolution": "1K",
            "user": "u",
        }
        request = flux(**said, n=2, extra={"guidance_scale": 3.5, "seed": 8})
        finished = await run(provider, call(request, workspace, key=NO_KEY))
        [exchange] = simulator.exchanges
        sent = {**said, "model": "flux", "prompt": "a red fox", "n": 2, "response_format": "b64_json"}
        assert exchange.fields == {**sent, "guidance_scale": 3.5, "seed": 8}
        assert "authorization" not in exchange.headers
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert finished.created is not None

    async def test_a_key_is_shown_where_there_is_one(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with OpenAICompatibleSimulator(key=KEY) as simulator:
            provider = open_provider("openai_compatible", sessions, simulator.base_url + "/")
            await run(provider, call(flux(), workspace))
            with pytest.raises(ProviderAuthError):
                await provider.start(call(flux(), workspace, key=NO_KEY))
            theirs = flux(extra_headers={"Authorization": f"Bearer {KEY}"})
            await run(provider, call(theirs, workspace, key=NO_KEY))

    async def test_an_edit_is_a_form(
        self, provider: Provider, simulator: OpenAICompatibleSimulator, workspace: FolderWorkspace
    ) -> None:
        images = (workspace.put(image_bytes()), workspace.put(image_bytes(file_format="WEBP")))
        mask = workspace.put(mask_bytes())
        request = flux(
            operation=Operation.EDIT, images=images, mask=mask, seed=3, edit_type="inpainting", input_fidelity="high"
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/edits"
        assert exchange.fields == {
            "model": "flux",
            "prompt": "a red fox",
            "n": "1",
            "size": "64x64",
            "seed": "3",
            "type": "inpainting",
            "input_fidelity": "high",
            "response_format": "b64_json",
        }
        assert [(file.name, file.filename, file.content_type) for file in exchange.files] == [
            ("image[]", "image-1.png", "image/png"),
            ("image[]", "image-2.webp", "image/webp"),
            ("mask", "mask.png", "image/png"),
        ]
        assert exchange.files[0].sha256 == images[0].image.sha256
        assert (len(finished.pictures), finished.via) == (1, None)

    async def test_a_variation_is_an_edit(
        self, provider: Provider, simulator: OpenAICompatibleSimulator, workspace: FolderWorkspace
    ) -> None:
        image = workspace.put(image_bytes())
        request = flux(operation=Operation.VARIATION, prompt=None, images=(image,))
        finished = await run(provider, call(request, workspace))
        assert simulator.exchanges[0].path == "/v1/images/edits"
        assert simulator.exchanges[0].fields["prompt"] == VARIATION_PROMPT
        assert finished.via == "edit"

    @pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
    async def test_native_arguments_never_reach_a_server(
        self, provider: Provider, simulator: OpenAICompatibleSimulator, workspace: FolderWorkspace, name: str
    ) -> None:
        text = 'fox <SD_cpp_extra_args>{"lora": "/etc"}</sd_cpp_extra_args>'
        with pytest.raises(UnsupportedFeature):
            await provider.start(call(flux(**{name: text}), workspace))
        assert simulator.exchanges == []

    async def test_models_may_be_described_in_the_settings(
        self, simulator: OpenAICompatibleSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        spec = {"name": "flux", "operations": ["image_generation"], "fields": ["size"]}
        provider = open_provider("openai_compatible", sessions, simulator.base_url, models=(spec,))
        with pytest.raises(UnsupportedFeature):
            await provider.start(call(flux(seed=1), workspace))
        assert simulator.exchanges == []
        await run(provider, call(generation("any", size="64x64", seed=1), workspace))


class TestAnswers:
    async def test_links_of_the_own_server_are_trusted(
        self, simulator: OpenAICompatibleSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {"response_format": "url"}
        provider = open_provider("openai_compatible", sessions, simulator.base_url, options=options)
        finished = await run(provider, call(flux(), workspace))
        [picture] = finished.pictures
        host = simulator.root_url.removeprefix("http://")
        assert picture == RemotePicture(url=f"http://{host}/generated-images/1-0.png", trusted_host=host)
        assert simulator.exchanges[0].fields["response_format"] == "url"

    async def test_response_format_can_be_left_out(
        self, simulator: OpenAICompatibleSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {"response_format": "none"}
        provider = open_provider("openai_compatible", sessions, simulator.base_url, options=options)
        await run(provider, call(flux(), workspace))
        assert "response_format" not in simulator.exchanges[0].fields

    @pytest.mark.parametrize(
        ("link", "url", "trusted"),
        [
            ("/v1/images/7/content?variant=", "http://{host}/v1/images/7/content?variant=", True),
            ("files/7.png", "http://{host}/v1/files/7.png", True),
            ("https://cdn.example/7.png", "https://cdn.example/7.png", False),
            ("//cdn.example/7.png", "http://cdn.example/7.png", False),
            ("http://127.0.0.1:1/7.png", "http://127.0.0.1:1/7.png", False),
        ],
    )
    async def test_other_links(
        self, sessions: HttpSessions, workspace: FolderWorkspace, link: str, url: str, *, trusted: bool
    ) -> None:
        async with answering({"data": [{"url": link, "revised_prompt": "so"}]}) as base_url:
            provider = open_provider("openai_compatible", sessions, base_url)
            finished = await run(provider, call(flux(), workspace))
        host = base_url.removeprefix("http://").removesuffix("/v1")
        expected = RemotePicture(url=url.format(host=host), revised_prompt="so", trusted_host=host if trusted else None)
        assert finished.pictures == (expected,)

    @pytest.mark.parametrize(
        "answer",
        [
            {},
            {"data": None},
            {"data": []},
            {"data": [{}]},
            {"data": [{"b64_json": None, "url": None}]},
            {"data": [{"b64_json": "!!!"}]},
            {"data": [{"b64_json": "AAAA"}]},
            {"data": [{"b64_json": "!" * 100_000}]},
            {"data": [{"b64_json": "A" * 100_000}]},
            {"data": [{"url": "http://[::1"}]},
            {"data": {"b64_json": "AAAA"}},
            {"error": {"message": "out of memory"}},
            ["data"],
            "text",
        ],
    )
    async def test_answers_without_a_picture(
        self, sessions: HttpSessions, workspace: FolderWorkspace, answer: object
    ) -> None:
        async with answering(answer) as base_url:
            provider = open_provider("openai_compatible", sessions, base_url)
            with pytest.raises(ProviderProtocolError):
                await provider.start(call(flux(), workspace))
        assert workspace.open_sinks == 0

    async def test_odd_members_cost_no_picture(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        base64 = pybase64.b64encode(image_bytes()).decode()
        answer = {
            "data": [
                {"b64_json": f"data:image/png;base64,{base64}", "revised_prompt": 5, "url": None},
                {"b64_json": "broken!"},
                {"url": f"data:image/png;base64,{base64}", "revised_prompt": "word " * 20_000},
            ],
            "created": 1795400000.5,
            "usage": {"input_tokens": "many", "output_tokens": 4, "input_tokens_details": {"a": 1, "b": None}},
            "size": {"width": 64},
            "model": None,
            "file_path": "/srv/secret",
            "thought": "A" * 50_000,
        }
        async with answering(answer) as base_url:
            provider = open_provider("openai_compatible", sessions, base_url)
            finished = await run(provider, call(flux(), workspace))
        assert len(stored(finished)) == 2
        assert [picture.revised_prompt for picture in finished.pictures] == [None, None]
        assert (finished.created, finished.size) == (1795400000, None)
        assert finished.usage is not None
        assert (finished.usage.input_tokens, finished.usage.output_tokens) == (None, 4)
        assert finished.usage.input_tokens_details == {"a": 1}
        assert workspace.open_sinks == 0

    async def test_a_large_answer_is_streamed(
        self, provider: Provider, simulator: OpenAICompatibleSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 2_000_000
        finished = await run(provider, call(flux(n=2), workspace))
        assert [image.size_bytes for image in stored(finished)] == [2_000_000, 2_000_000]
        assert max(sink.largest_chunk_bytes for sink in workspace.sinks) <= 64 * 1024

    async def test_too_many_pictures(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with answering({"data": [], "junk": ["A" * 20_000] * 100}) as base_url:
            provider = open_provider("openai_compatible", sessions, base_url)
            with pytest.raises(ProviderProtocolError, match="more than 64"):
                await provider.start(call(flux(), workspace))
        assert workspace.open_sinks == 0


class answering:  # noqa: N801 - read like a function: `async with answering(…)`
    """A server that gives one answer to everything."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def __aenter__(self) -> str:
        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.json_response(self._answer)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._runner.cleanup()


REFUSALS: list[tuple[int, dict[str, Any] | str | None, type[ProviderError], str]] = [
    (422, {"detail": "size: bad"}, ProviderRejected, "size: bad"),
    (
        422,
        {"detail": [{"loc": ["body", "size"], "msg": "bad", "type": "value_error", "input": "secret"}]},
        ProviderRejected,
        "size: bad",
    ),
    (422, {"detail": []}, ProviderRejected, "the provider answered HTTP 422 (Unprocessable Entity)"),
    (400, {"detail": {"message": "no", "code": 3}}, ProviderRejected, "no"),
    (400, {"error": "no", "reject_reason": "x"}, ProviderRejected, "no"),
    (400, {"error": {"message": "no", "type": "", "code": 400}}, ProviderRejected, "no"),
    (400, '"no"', ProviderRejected, "no"),
    (401, None, ProviderAuthError, "simulated failure 401"),
    (404, {"detail": "Not Found"}, ProviderModelGone, "Not Found"),
    (405, {"detail": "Method Not Allowed"}, ProviderModelGone, "Method Not Allowed"),
    (501, {"detail": "no such route"}, ProviderModelGone, "no such route"),
    (500, {"error": {"code": 500, "message": "failed", "type": ""}}, ProviderUnavailable, "failed"),
    (503, "starting", ProviderUnavailable, "the provider answered HTTP 503 (Service Unavailable)"),
    (599, "", ProviderUnavailable, "the provider answered HTTP 599"),
]


class TestRefusals:
    @pytest.mark.parametrize(("status", "body", "expected", "message"), REFUSALS)
    async def test_each_shape_is_read(
        self,
        provider: Provider,
        simulator: OpenAICompatibleSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any] | str | None,
        expected: type[ProviderError],
        message: str,
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(flux(), workspace))
        assert (type(caught.value), caught.value.message, caught.value.status) == (expected, message, status)

    async def test_a_real_refusal(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderModelGone, match="'sdxl' is not served here"):
            await provider.start(call(generation("sdxl", size="64x64"), workspace))

    async def test_a_pooled_connection_is_used_again_and_its_reset_is_told(
        self, provider: Provider, simulator: OpenAICompatibleSimulator, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(flux(), workspace))
        simulator.faults.push(Fault(kind="reset_before_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(flux(), workspace))
        assert simulator.submissions == 2  # aiohttp repeats nothing by itself
        assert "connection" not in simulator.exchanges[0].headers


class TestSettings:
    @pytest.mark.parametrize(
        ("base_url", "repeatable"),
        [
            ("http://127.0.0.1:8000/v1", True),
            ("http://localhost:8000/v1", True),
            ("http://192.168.1.7/v1", True),
            ("http://10.0.0.1/v1", True),
            ("http://100.101.102.103/v1", True),
            ("http://[::1]:8000/v1", True),
            ("https://api.example.com/v1", False),
            ("https://8.8.8.8/v1", False),
            ("https://localhost.example.com/v1", False),
        ],
    )
    def test_repeats_are_free_on_the_own_network(self, base_url: str, *, repeatable: bool) -> None:
        settings = ProviderSettings(name=PROVIDER_NAME, type="openai_compatible", base_url=base_url)
        assert PROVIDER.settle(settings).repeatable is repeatable

    def test_the_operator_has_the_last_word(self) -> None:
        settings = ProviderSettings(
            name=PROVIDER_NAME, type="openai_compatible", base_url="https://api.example.com/v1", repeatable=True
        )
        assert PROVIDER.settle(settings).repeatable is True

    @pytest.mark.parametrize(
        "base_url",
        [
            None,
            "",
            "127.0.0.1:8000",
            "ftp://host/v1",
            "http:///v1",
            "http://user@host/v1",
            "http://host/v1?key=1",
            "http://host:port/v1",
            "http://[::1",
        ],
    )
    def test_an_address_must_be_usable(self, base_url: str | None) -> None:
        settings = ProviderSettings(name=PROVIDER_NAME, type="openai_compatible", base_url=base_url)
        with pytest.raises(ConfigurationError, match=r"providers\.gpu-box\.base_url"):
            PROVIDER.settle(settings)

    def test_options_are_checked(self, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match="response_format"):
            open_provider("openai_compatible", sessions, "http://host/v1", options={"response_format": "file"})
