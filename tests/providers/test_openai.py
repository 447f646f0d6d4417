import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Provider
from safelight.domain.capability import Life
from safelight.domain.errors import (
    ConfigurationError,
    ErrorClass,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    StorageError,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged
from tests.doubles import Told
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    Once,
    ProviderCase,
    call,
    edit_of,
    generation,
    image_bytes,
    mask_bytes,
    one_of_each,
    open_provider,
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.openai import OpenAISimulator

MODEL = "gpt-image-2"
LARGE = 8_000_000


CONFORMANCE = ProviderCase(
    simulator=lambda key: OpenAISimulator(key=key),
    requests=lambda workspace: one_of_each(workspace, MODEL, "openai", n=2),
    unsupported=generation(MODEL, seed=1),
)


@pytest.fixture
async def simulator() -> AsyncIterator[OpenAISimulator]:
    async with OpenAISimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: OpenAISimulator, sessions: HttpSessions) -> Provider:
    return open_provider("openai", sessions, simulator.base_url, timeout_s=20)


def edit(workspace: FolderWorkspace, *, model: str = MODEL, count: int = 1, **more: Any) -> ImageRequest:
    return edit_of(workspace, model, "openai", count=count, **more)


class TestGeneration:
    async def test_sends_every_field_and_stores_the_picture(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        model = "gpt-image-2.6-flare"
        request = generation(
            model,
            n=2,
            size="1024x1024",
            quality="high",
            background="opaque",
            moderation="low",
            output_format="webp",
            output_compression=80,
            user="user-17",
            extra={"complexity": "low"},
            extra_headers={"X-Trace": "t-1", "COOKIE": "a=b", "authorization": "Bearer theirs", "Host": "evil"},
        )
        finished = await run(provider, call(request, workspace))

        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/v1/images/generations")
        assert exchange.fields == {
            "model": model,
            "prompt": "a red fox",
            "n": 2,
            "size": "1024x1024",
            "quality": "high",
            "background": "opaque",
            "moderation": "low",
            "output_format": "webp",
            "output_compression": 80,
            "safety_identifier": hashlib.sha256(b"user-17").hexdigest(),
            "complexity": "low",
        }
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.headers["content-type"] == "application/json"
        assert exchange.headers["x-trace"] == "t-1"
        assert "cookie" not in exchange.headers
        assert exchange.headers["host"] != "evil"
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert [image.content_type for image in stored(finished)] == ["image/webp", "image/webp"]
        assert (finished.size, finished.quality, finished.output_format) == ("1024x1024", "high", "webp")
        assert (finished.background, finished.via, finished.charged) == ("opaque", None, Charged.YES)
        assert finished.created is not None
        assert finished.usage is not None
        assert finished.usage.output_tokens == 2 * 439
        assert finished.usage.input_tokens_details == {"text_tokens": 3, "image_tokens": 0}
        assert workspace.open_sinks == 0

    async def test_asks_for_as_many_as_the_call_says_and_never_for_a_response_format(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = replace(generation(MODEL, n=20), response_format=None)
        finished = await run(provider, call(request, workspace, n=3))
        assert simulator.exchanges[0].fields == {"model": MODEL, "prompt": "a red fox", "n": 3}
        assert len(finished.pictures) == 3

    @pytest.mark.parametrize(("asked", "sent"), [("standard", "medium"), ("hd", "high"), ("low", "low")])
    async def test_old_qualities_have_new_names(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, asked: str, sent: str
    ) -> None:
        await run(provider, call(generation(MODEL, quality=asked), workspace))
        assert simulator.exchanges[0].fields["quality"] == sent

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderModelGone):
            await provider.start(call(generation("gpt-image-9", size="2x2"), workspace))
        assert simulator.exchanges[0].fields["model"] == "gpt-image-9"

    async def test_organization_and_project_are_headers(
        self, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {"organization": "org_1", "project": "proj_2"}
        provider = open_provider("openai", sessions, simulator.base_url, options=options)
        await run(provider, call(generation(MODEL), workspace))
        headers = simulator.exchanges[0].headers
        assert (headers["openai-organization"], headers["openai-project"]) == ("org_1", "proj_2")

    def test_unknown_options_are_refused(self, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match=r"providers\.openai.*organisation"):
            open_provider("openai", sessions, options={"organisation": "org_1"})


class TestEdit:
    async def test_sends_pictures_and_mask_as_files(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, count=2, mask=workspace.put(mask_bytes()), n=2, output_compression=50)
        request = replace(request, output_format="jpeg", extra={"svg": {"model": "m"}, "stream": False})
        finished = await run(provider, call(replace(request, extra={"stream": False}), workspace))

        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/v1/images/edits")
        assert exchange.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert int(exchange.headers["content-length"]) > 0
        assert "transfer-encoding" not in exchange.headers
        assert exchange.fields == {
            "model": MODEL,
            "prompt": "a red fox",
            "n": "2",
            "output_format": "jpeg",
            "output_compression": "50",
            "stream": "false",
        }
        files = [(file.name, file.filename, file.content_type, file.sha256) for file in exchange.files]
        assert request.mask is not None
        first, second = (image.image.sha256 for image in request.images)
        assert files == [
            ("image[]", "image-1.png", "image/png", first),
            ("image[]", "image-2.png", "image/png", second),
            ("mask", "mask.png", "image/png", request.mask.image.sha256),
        ]
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert finished.via is None

    async def test_one_picture_has_the_plain_name(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        jpeg = workspace.put(image_bytes(file_format="JPEG"))
        await run(provider, call(edit(workspace, images=(jpeg,)), workspace))
        [file] = simulator.exchanges[0].files
        assert (file.name, file.filename, file.content_type) == ("image", "image-1.jpg", "image/jpeg")

    @pytest.mark.parametrize(
        ("model", "asked", "sent"),
        [("gpt-image-2", "high", None), ("gpt-image-1.5", "high", "high"), ("gpt-image-1-mini", "low", "low")],
    )
    async def test_fidelity_is_sent_where_it_can_be_chosen(
        self,
        provider: Provider,
        simulator: OpenAISimulator,
        workspace: FolderWorkspace,
        model: str,
        asked: str,
        sent: str | None,
    ) -> None:
        await run(provider, call(edit(workspace, model=model, input_fidelity=asked), workspace))
        assert simulator.exchanges[0].fields.get("input_fidelity") == sent

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, operation=Operation.VARIATION, prompt=None, size="1024x1024", user="u")
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/edits"
        assert exchange.fields["prompt"] == VARIATION_PROMPT
        assert finished.via == "edit"


class TestPreviews:
    @pytest.mark.parametrize("operation", [Operation.GENERATION, Operation.EDIT])
    async def test_the_picture_develops(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, operation: Operation
    ) -> None:
        request = generation(MODEL, partial_images=2, n=2)
        if operation is Operation.EDIT:
            request = edit(workspace, partial_images=2, n=2)
        told = Told()
        finished = await run(provider, call(request, workspace, report=told))

        sent = simulator.exchanges[0].fields
        form = operation is Operation.EDIT
        assert (sent["stream"], sent["partial_images"]) == (("true", "2") if form else (True, 2))
        assert [index for index, _ in told.previews] == [0, 0, 1, 1]
        assert all(workspace.bytes_of(preview) for _, preview in told.previews)
        assert tuple(image.sha256 for image in stored(finished)) == simulator.exchanges[0].outputs_sha256
        assert (finished.size, finished.quality, finished.output_format) == ("1024x1024", "medium", "png")
        assert finished.created is not None
        assert finished.usage is not None
        assert finished.usage.output_tokens == 2 * 439
        assert finished.usage.output_tokens_details == {"image_tokens": 2 * 439, "text_tokens": 0}
        assert workspace.open_sinks == 0

    async def test_without_the_wish_there_is_no_stream(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(generation(MODEL, partial_images=0), workspace))
        assert simulator.exchanges[0].fields.keys() == {"model", "prompt", "n"}

    async def test_pictures_that_came_before_a_stream_broke_off_are_kept(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="truncated"))
        finished = await run(provider, call(generation(MODEL, partial_images=1, n=2), workspace))
        assert [image.sha256 for image in stored(finished)] == [simulator.exchanges[0].outputs_sha256[0]]
        assert workspace.open_sinks == 0

    async def test_a_stream_that_broke_off_before_the_first_picture_may_be_charged(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="truncated"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(generation(MODEL, partial_images=1), workspace))
        assert workspace.open_sinks == 0

    @pytest.mark.parametrize(
        ("word", "error", "code"),
        [
            ("[late block]", ProviderRejected, "moderation_blocked"),
            ("[late fault]", ProviderUncertain, "server_error"),
        ],
    )
    async def test_an_error_may_come_after_the_first_preview(
        self, provider: Provider, workspace: FolderWorkspace, word: str, error: type[ProviderError], code: str
    ) -> None:
        with pytest.raises(error) as caught:
            await provider.start(call(generation(MODEL, partial_images=1, prompt=word), workspace))
        assert caught.value.provider_code == code

    async def test_a_refusal_comes_with_its_status_as_ever(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=429))
        with pytest.raises(ProviderBusy):
            await provider.start(call(generation(MODEL, partial_images=1), workspace))

    async def test_a_server_that_does_not_stream_is_understood_too(
        self, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        body = msgspec.json.encode({"data": [{"b64_json": base64.b64encode(image_bytes()).decode()}]})
        async with Once(body, "application/json") as server:
            provider = open_provider("openai", sessions, server.url, timeout_s=20)
            finished = await run(provider, call(generation(MODEL, partial_images=1), workspace))
        assert len(stored(finished)) == 1

    @pytest.mark.parametrize("body", [b"", b"data: [DONE]\n\n", b'data: {"type": "image_generation.queued"}\n\n'])
    async def test_a_stream_without_a_picture_is_no_success(
        self, sessions: HttpSessions, workspace: FolderWorkspace, body: bytes
    ) -> None:
        async with Once(body, "text/event-stream") as server:
            provider = open_provider("openai", sessions, server.url, timeout_s=20)
            with pytest.raises(ProviderProtocolError):
                await provider.start(call(generation(MODEL, partial_images=1), workspace))

    async def test_an_unreadable_preview_is_left_out(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        picture = base64.b64encode(image_bytes()).decode()
        events: list[dict[str, Any]] = [
            {"type": "image_generation.partial_image", "b64_json": "bm8gcGljdHVyZQ=="},
            {"type": "image_generation.partial_image"},
            {"type": "image_generation.completed", "b64_json": picture},
        ]
        body = b"".join(b"data: %b\r\n\r\n" % msgspec.json.encode(event) for event in events) + b"data: [DONE]"
        told = Told()
        async with Once(body, "text/event-stream") as server:
            provider = open_provider("openai", sessions, server.url, timeout_s=20)
            finished = await run(provider, call(generation(MODEL, partial_images=2), workspace, report=told))
        assert (len(stored(finished)), told.previews) == (1, [])
        assert finished.usage is None

    async def test_what_moves_has_no_previews(self, provider: Provider, workspace: FolderWorkspace) -> None:
        request = generation("gpt-image-2.6-flare", output_format="gif", partial_images=1)
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "partial_images"


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"seed": 1}, "seed"),
            ({"negative_prompt": "x"}, "negative_prompt"),
            ({"num_inference_steps": 4}, "num_inference_steps"),
            ({"aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"resolution": "1K"}, "resolution"),
            ({"style": "vivid"}, "style"),
            ({"quality": "xhigh"}, "quality"),
            ({"quality": "best"}, "quality"),
            ({"output_format": "gif"}, "output_format"),
            ({"input_fidelity": "low"}, "input_fidelity"),
            ({"size": "1000x1000"}, "size"),
            ({"size": "256x256"}, "size"),
            ({"size": "3840x1024"}, "size"),
            ({"size": "4096x2048"}, "size"),
            ({"background": "transparent", "output_format": "jpeg"}, "background"),
            ({"output_compression": 50}, "output_compression"),
            ({"output_compression": 50, "output_format": "png"}, "output_compression"),
            ({"prompt": "x" * 32_001}, "prompt"),
        ],
    )
    async def test_what_the_model_cannot_express(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, more: Any, param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(generation(MODEL, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"moderation": "low"}, "moderation"),
            ({"edit_type": "background_removal"}, "type"),
            ({"prompt": None}, "prompt"),
            ({"count": 17}, "image"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, more: Any, param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_a_gif_has_no_mask(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, model="gpt-image-2.6-flare", output_format="gif", mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature):
            await provider.start(call(request, workspace))
        await run(provider, call(replace(request, mask=None), workspace))
        assert simulator.submissions == 1

    def test_the_lives_of_the_models_are_known(self, provider: Provider) -> None:
        lives = {spec.name: (spec.life, spec.shutdown_date) for spec in provider.specs}
        assert lives["gpt-image-2"] == (Life.LIVE, None)
        assert lives["gpt-image-1"][0] is lives["dall-e-3"][0] is Life.RETIRED
        assert lives["gpt-image-1.5"][0] is Life.LEGACY
        assert str(lives["gpt-image-1-mini"][1]) == "2026-12-01"
        assert provider.spec("gpt-image-7") is None


def error(code: str | None, kind: str = "invalid_request_error", param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": "Told why.", "type": kind, "param": param, "code": code}}


REFUSALS: list[tuple[int, dict[str, Any] | None, type[ProviderError]]] = [
    (400, error("invalid_value", param="size"), ProviderRejected),
    (400, error("unknown_parameter"), ProviderRejected),
    (400, error("moderation_blocked", "image_generation_user_error"), ProviderRejected),
    (400, error("billing_hard_limit_reached"), ProviderAuthError),
    (400, error("model_not_found"), ProviderModelGone),
    (400, error("invalid_value", param="model"), ProviderModelGone),
    (401, error("invalid_api_key"), ProviderAuthError),
    (403, error(None), ProviderAuthError),
    (404, error("model_not_found"), ProviderModelGone),
    (408, error(None), ProviderUnavailable),
    (409, error(None), ProviderUnavailable),
    (413, error(None), ProviderRejected),
    (429, error("rate_limit_exceeded"), ProviderBusy),
    (429, error("insufficient_quota"), ProviderAuthError),
    (429, error("billing_not_active"), ProviderAuthError),
    (429, error("organization_spend_limit_exceeded"), ProviderAuthError),
    (429, error("project_spend_limit_exceeded"), ProviderAuthError),
    (500, error("server_error", "server_error"), ProviderUnavailable),
    (502, None, ProviderUnavailable),
    (503, None, ProviderUnavailable),
    (504, None, ProviderUncertain),
    (307, None, ProviderUnavailable),
]


class TestRefusals:
    @pytest.mark.parametrize(("status", "body", "expected"), REFUSALS)
    async def test_each_is_of_its_class_and_keeps_what_was_said(
        self,
        provider: Provider,
        simulator: OpenAISimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any] | None,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body, headers={"Location": "/elsewhere"}))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(generation(MODEL), workspace))
        assert type(caught.value) is expected
        assert caught.value.status == status
        assert caught.value.request_id == "req_00000001"
        if body is not None:
            said = body["error"]
            told = (caught.value.message, caught.value.provider_code, caught.value.provider_type, caught.value.param)
            assert told == ("Told why.", said["code"], said["type"], said["param"])
        assert simulator.submissions == 1
        assert workspace.sinks == []

    async def test_a_real_moderation_refusal(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(generation(MODEL, prompt="a [blocked] thing"), workspace))
        assert caught.value.provider_code == "moderation_blocked"
        assert not caught.value.error_class.may_be_charged
        assert simulator.charged == 0

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7),
            ({"Retry-After": "0.5"}, 0.5),
            ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "nan"}, None),
            ({"Retry-After": "-4"}, 0),
            ({"Retry-After": "1e300"}, 86_400),
            ({}, None),
        ],
    )
    async def test_the_told_wait_is_kept(
        self,
        provider: Provider,
        simulator: OpenAISimulator,
        workspace: FolderWorkspace,
        headers: dict[str, str],
        seconds: float | None,
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=429, headers=headers))
        with pytest.raises(ProviderBusy) as caught:
            await provider.start(call(generation(MODEL), workspace))
        assert caught.value.retry_after_s == seconds

    async def test_a_wait_told_as_a_date_is_counted_from_the_providers_clock(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        headers = {
            "Retry-After": format_datetime(now + timedelta(seconds=90), usegmt=True),
            "Date": format_datetime(now, usegmt=True),
        }
        simulator.faults.push(Fault(kind="status", status=429, headers=headers))
        with pytest.raises(ProviderBusy) as caught:
            await provider.start(call(generation(MODEL), workspace))
        assert caught.value.retry_after_s == 90

    @pytest.mark.parametrize(
        ("status", "told", "expected"),
        [
            (400, "true", ProviderUnavailable),
            (429, "false", ProviderAuthError),
            (500, "false", ProviderRejected),
            (504, "true", ProviderUncertain),
            (401, "true", ProviderAuthError),
        ],
    )
    async def test_should_retry_is_heeded_where_it_cannot_cost(
        self,
        provider: Provider,
        simulator: OpenAISimulator,
        workspace: FolderWorkspace,
        status: int,
        told: str,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=error(None), headers={"x-should-retry": told}))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(generation(MODEL), workspace))
        assert type(caught.value) is expected

    async def test_a_proxys_page_is_named_by_its_title(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="html", status=502))
        with pytest.raises(ProviderUnavailable, match=r"^502$"):
            await provider.start(call(generation(MODEL), workspace))

    async def test_keys_and_length_are_cut(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        message = f"Incorrect key {KEY}, or sk-proj-******wxyz. " + "x" * 100_000
        simulator.faults.push(
            Fault(kind="status", status=401, body={"error": {"message": message[:50_000], "code": KEY}})
        )
        with pytest.raises(ProviderAuthError) as caught:
            await provider.start(call(generation(MODEL), workspace))
        assert caught.value.message.startswith("Incorrect key [key], or [key]. x")
        assert len(caught.value.message) == 2000
        assert caught.value.provider_code == "[key]"

    async def test_an_endless_refusal_is_not_read_to_its_end(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=500, body="x" * 20_000_000))
        with pytest.raises(ProviderUnavailable, match="HTTP 500"):
            await provider.start(call(generation(MODEL), workspace))


class TestLostAnswers:
    async def fail(
        self, provider: Provider, workspace: FolderWorkspace, request: ImageRequest | None = None
    ) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(request or generation(MODEL), workspace))
        assert workspace.open_sinks == 0
        return caught.value

    @pytest.mark.parametrize("kind", ["reset_before_read", "reset_after_read"])
    async def test_a_reset_leaves_the_outcome_unknown(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, kind: Any
    ) -> None:
        simulator.faults.push(Fault(kind=kind))
        error = await self.fail(provider, workspace)
        assert type(error) is ProviderUncertain
        assert error.status == 502
        assert error.error_class.may_be_charged
        assert simulator.submissions == 1

    async def test_silence_leaves_the_outcome_unknown(
        self, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("openai", sessions, simulator.base_url, timeout_s=0.3)
        simulator.faults.push(Fault(hold=True))
        error = await self.fail(provider, workspace)
        assert type(error) is ProviderUncertain
        assert error.status == 504

    async def test_a_stalled_answer_leaves_the_outcome_unknown(
        self, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("openai", sessions, simulator.base_url, timeout_s=0.5)
        simulator._image_bytes = 300_000
        simulator.faults.push(Fault(kind="stalled"))
        error = await self.fail(provider, workspace)
        assert (type(error), error.status) == (ProviderUncertain, 504)
        assert [sink.ending for sink in workspace.sinks] == ["aborted"]

    @pytest.mark.parametrize("image_bytes", [None, 300_000])
    async def test_half_an_answer_leaves_the_outcome_unknown(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, image_bytes: int | None
    ) -> None:
        simulator._image_bytes = image_bytes
        simulator.faults.push(Fault(kind="truncated"))
        error = await self.fail(provider, workspace)
        assert (type(error), error.status) == (ProviderUncertain, 502)
        assert all(sink.ending == "aborted" for sink in workspace.sinks)

    @pytest.mark.parametrize("kind", ["wrong_json", "empty"])
    async def test_an_answer_that_cannot_be_read(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace, kind: Any
    ) -> None:
        simulator.faults.push(Fault(kind=kind))
        error = await self.fail(provider, workspace)
        assert type(error) is ProviderProtocolError
        assert error.request_id == "req_00000001"
        assert error.error_class.may_be_charged

    async def test_an_answer_that_never_ends(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="huge", size_bytes=30_000_000))
        assert type(await self.fail(provider, workspace)) is ProviderProtocolError

    async def test_nobody_there_is_free(
        self, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("openai", sessions, simulator.base_url)
        await simulator.stop()
        error = await self.fail(provider, workspace)
        assert type(error) is ProviderUnavailable
        assert error.error_class is ErrorClass.UNAVAILABLE
        assert "127.0.0.1" not in error.message

    async def test_a_name_that_does_not_exist_is_free(
        self, sessions: HttpSessions, workspace: FolderWorkspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def nothing(*_args: object, **_more: object) -> list[Any]:
            raise OSError(-2, "Name or service not known")

        monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", nothing)
        monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", nothing)
        provider = open_provider("openai", sessions, "https://nowhere.invalid/v1")
        assert type(await self.fail(provider, workspace)) is ProviderUnavailable

    async def test_no_tls_where_it_is_expected_is_free(
        self, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("openai", sessions, simulator.base_url.replace("http:", "https:"))
        error = await self.fail(provider, workspace)
        assert type(error) is ProviderUnavailable
        assert "TLS" in error.message

    async def test_an_upload_that_was_cut_off_is_free(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        """Nobody acts on half a form: what was not handed over as a whole cannot have been bought."""
        large = workspace.put(image_bytes(3000, 3000, "PNG") + bytes(30_000_000))
        simulator.faults.push(Fault(kind="reset_before_read"))
        error = await self.fail(provider, workspace, edit(workspace, images=(large,)))
        assert type(error) is ProviderUnavailable

    async def test_an_early_refusal_of_an_upload_is_read(
        self, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("openai", sessions, simulator.base_url)
        request = edit(workspace)
        simulator.faults.push(Fault(kind="status", status=401))
        assert type(await self.fail(provider, workspace, request)) is ProviderAuthError


class TestOurOwnFaults:
    async def test_a_store_that_cannot_be_written(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 300_000
        workspace.write_fault = StorageError("no room")
        with pytest.raises(StorageError):
            await provider.start(call(generation(MODEL), workspace))
        assert workspace.open_sinks == 0

    async def test_a_store_that_cannot_be_read(self, provider: Provider, workspace: FolderWorkspace) -> None:
        request = edit(workspace)
        workspace.read_fault = StorageError("unplugged")
        with pytest.raises(StorageError):
            await provider.start(call(request, workspace))

    async def test_a_picture_over_the_limit(
        self, provider: Provider, simulator: OpenAISimulator, tmp_path: Path
    ) -> None:
        simulator._image_bytes = 300_000
        small = FolderWorkspace(tmp_path, max_bytes=200_000)
        with pytest.raises(ProviderProtocolError, match="larger than 200000 bytes"):
            await provider.start(call(generation(MODEL), small))
        assert small.open_sinks == 0


class TestMeans:
    async def test_a_large_picture_is_never_held(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = LARGE
        await run(provider, call(generation(MODEL), workspace))  # the simulator makes and keeps its picture
        finished = await run(provider, call(generation(MODEL), workspace))
        [image] = stored(finished)
        assert image.size_bytes == LARGE
        assert workspace.sinks[-1].largest_chunk_bytes <= 64 * 1024

    async def test_paid_calls_never_share_a_connection(
        self, provider: Provider, simulator: OpenAISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(generation(MODEL), workspace))
        connector = sessions.fresh.connector
        assert connector is not None
        assert connector._conns == {}
        assert simulator.exchanges[0].headers["connection"] == "close"

    async def test_cancelling_leaves_nothing_open(
        self, provider: Provider, simulator: OpenAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 300_000
        simulator.faults.push(Fault(kind="stalled"))
        task = asyncio.create_task(run(provider, call(generation(MODEL), workspace)))
        await workspace.opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [sink.ending for sink in workspace.sinks] == ["aborted"]
