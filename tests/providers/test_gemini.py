from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from msgspec import structs

from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Provider
from safelight.domain.capability import Life
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged
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
    size,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.gemini import GeminiSimulator, error, error_info, quota_error, text

MODEL = "gemini-nano-banana-2.1"
FLASH = "gemini-3.1-flash-image"
LITE = "gemini-3.1-flash-lite-image"
OLD = "gemini-2.5-flash-image"


def without_masks(requests: list[ImageRequest]) -> list[ImageRequest]:
    return [structs.replace(request, mask=None) for request in requests]


CONFORMANCE = ProviderCase(
    simulator=lambda key: GeminiSimulator(key=key),
    requests=lambda workspace: without_masks(one_of_each(workspace, MODEL, "gemini")),
    unsupported=generation(MODEL, "gemini", output_format="png"),
)


@pytest.fixture
async def simulator() -> AsyncIterator[GeminiSimulator]:
    async with GeminiSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: GeminiSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("gemini", sessions, simulator.base_url, timeout_s=20)


def drawing(model: str = MODEL, **more: Any) -> ImageRequest:
    return generation(model, "gemini", **more)


def edit(workspace: FolderWorkspace, *, model: str = MODEL, count: int = 1, **more: Any) -> ImageRequest:
    inputs = tuple(workspace.put(image_bytes(colour=(number, 0, 0))) for number in range(count))
    return drawing(model, **{"operation": Operation.EDIT, "images": inputs, **more})


class TestGeneration:
    async def test_sends_every_field_and_stores_the_picture(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        request = drawing(
            size="2752x1536",
            background="opaque",
            moderation="low",
            seed=7,
            negative_prompt="snow",
            user="user-17",
            extra={"generationConfig": {"thinkingConfig": {"thinkingLevel": "high"}}, "store": False},
            extra_headers={"X-Trace": "t-1", "x-goog-api-key": "theirs"},
        )
        finished = await run(provider, call(request, workspace))

        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", f"/v1beta/models/{MODEL}:generateContent")
        assert exchange.query == {}
        assert exchange.headers["x-goog-api-key"] == KEY
        assert exchange.headers["content-type"] == "application/json"
        assert exchange.headers["x-trace"] == "t-1"
        assert "authorization" not in exchange.headers
        harms = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
        assert exchange.fields == {
            "contents": [{"role": "user", "parts": [{"text": "a red fox\n\nAvoid: snow"}]}],
            "generationConfig": {
                "responseModalities": ["IMAGE"],
                "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
                "seed": 7,
                "thinkingConfig": {"thinkingLevel": "high"},
            },
            "safetySettings": [{"category": f"HARM_CATEGORY_{harm}", "threshold": "BLOCK_ONLY_HIGH"} for harm in harms],
            "store": False,
        }
        [image] = stored(finished)
        assert (image.sha256,) == exchange.outputs_sha256
        assert (image.content_type, image.dimensions) == ("image/jpeg", size(2752, 1536))
        assert (finished.model, finished.size, finished.output_format) == (MODEL, "2752x1536", "jpeg")
        assert (finished.via, finished.charged) == (None, Charged.YES)
        assert workspace.open_sinks == 0

    async def test_the_least_is_sent_where_nothing_is_asked(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        request = drawing(size="auto", quality="auto", aspect_ratio="auto", background="auto", moderation="auto")
        await run(provider, call(request, workspace))
        assert simulator.exchanges[0].fields == {
            "contents": [{"role": "user", "parts": [{"text": "a red fox"}]}],
            "generationConfig": {"responseModalities": ["IMAGE"]},
        }

    async def test_counts_thoughts_as_text_that_came_out(self, provider: Provider, workspace: FolderWorkspace) -> None:
        usage = (await run(provider, call(drawing(), workspace))).usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3, 1127, 1130)
        assert usage.input_tokens_details == {"text_tokens": 3, "image_tokens": 0}
        assert usage.output_tokens_details == {"text_tokens": 7, "image_tokens": 1120}

    @pytest.mark.parametrize(
        ("model", "asked", "sent"),
        [
            (MODEL, {"size": "1024x1024"}, {"aspectRatio": "1:1", "imageSize": "1K"}),
            (MODEL, {"size": "1536x1024"}, {"aspectRatio": "3:2", "imageSize": "1K"}),
            (MODEL, {"size": "1920x1080"}, {"aspectRatio": "16:9", "imageSize": "1K"}),
            (MODEL, {"size": "3072x384"}, {"aspectRatio": "8:1", "imageSize": "1K"}),
            (MODEL, {"size": "4096x4096"}, {"aspectRatio": "1:1", "imageSize": "4K"}),
            (MODEL, {"size": "512x512"}, {"aspectRatio": "1:1", "imageSize": "1K"}),
            (FLASH, {"size": "512x512"}, {"aspectRatio": "1:1", "imageSize": "512"}),
            (FLASH, {"size": "700x700"}, {"aspectRatio": "1:1", "imageSize": "512"}),
            ("gemini-3-pro-image", {"size": "3072x384"}, {"aspectRatio": "21:9", "imageSize": "1K"}),
            (LITE, {"size": "1024x1536"}, {"aspectRatio": "2:3", "imageSize": "1K"}),
            (OLD, {"size": "1248x832"}, {"aspectRatio": "3:2"}),
            (OLD, {"resolution": "1K"}, None),
            (MODEL, {"size": "21:9"}, {"aspectRatio": "21:9"}),
            (MODEL, {"size": "4K"}, {"imageSize": "4K"}),
            (MODEL, {"aspect_ratio": "4:5", "resolution": "2k"}, {"aspectRatio": "4:5", "imageSize": "2K"}),
            (MODEL, {"size": "1024x1024", "aspect_ratio": "9:16"}, {"aspectRatio": "9:16", "imageSize": "1K"}),
            (MODEL, {"quality": "high"}, {"imageSize": "2K"}),
            (MODEL, {"quality": "low", "size": "9:16"}, {"aspectRatio": "9:16", "imageSize": "1K"}),
            (MODEL, {"quality": "auto", "size": "2048x2048"}, {"aspectRatio": "1:1", "imageSize": "2K"}),
            (OLD, {"quality": "medium"}, None),
        ],
    )
    async def test_a_size_becomes_a_ratio_and_a_tier(
        self,
        provider: Provider,
        simulator: GeminiSimulator,
        workspace: FolderWorkspace,
        model: str,
        asked: dict[str, str],
        sent: dict[str, str] | None,
    ) -> None:
        await run(provider, call(drawing(model, **asked), workspace))
        assert simulator.exchanges[0].fields["generationConfig"].get("imageConfig") == sent

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        request = drawing("gemini/next image", size="6:1", resolution="8k")
        with pytest.raises(ProviderError):
            await provider.start(call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1beta/models/gemini/next image:generateContent"
        assert exchange.fields["generationConfig"]["imageConfig"] == {"aspectRatio": "6:1", "imageSize": "8K"}

    @pytest.mark.parametrize(
        ("suffix", "options", "path"),
        [
            ("", {"api_version": "v1"}, "/v1/models"),
            ("/", {}, "/v1beta/models"),
            ("/v1", {}, "/v1/models"),
            ("/v1beta/", {"api_version": "v1"}, "/v1beta/models"),
        ],
    )
    async def test_the_version_comes_from_the_base_url_or_the_option(
        self,
        simulator: GeminiSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        suffix: str,
        options: dict[str, str],
        path: str,
    ) -> None:
        provider = open_provider("gemini", sessions, simulator.base_url + suffix, options=options)
        await run(provider, call(drawing(), workspace))
        assert simulator.exchanges[0].path.rpartition("/")[0] == path


class TestEdit:
    async def test_sends_the_pictures_in_order_after_the_text(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        inputs = (image_bytes(640, 360), image_bytes(file_format="JPEG"), image_bytes(1376, 768, "WEBP"))
        request = edit(workspace, images=tuple(workspace.put(content) for content in inputs), edit_type="inpainting")
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path.endswith(f"/{MODEL}:generateContent")
        assert int(exchange.headers["content-length"]) > 0
        assert "transfer-encoding" not in exchange.headers
        types = ("image/png", "image/jpeg", "image/webp")
        pictures = [
            {"inlineData": {"mimeType": kind, "data": text(content)}}
            for kind, content in zip(types, inputs, strict=True)
        ]
        assert exchange.fields["contents"][0]["parts"] == [{"text": "a red fox"}, *pictures]
        assert "imageConfig" not in exchange.fields["generationConfig"]
        assert stored(finished)[0].dimensions == size(1376, 768)
        assert finished.via is None
        assert finished.usage is not None
        assert finished.usage.input_tokens_details == {"text_tokens": 3, "image_tokens": 774}

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, operation=Operation.VARIATION, prompt=None, size="1024x1024")
        finished = await run(provider, call(request, workspace))
        first, second = simulator.exchanges[0].fields["contents"][0]["parts"]
        assert first == {"text": VARIATION_PROMPT}
        assert second["inlineData"]["mimeType"] == "image/png"
        assert finished.via == "edit"

    async def test_the_callers_own_contents_win(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        contents = [{"role": "user", "parts": [{"text": "a blue fox"}]}]
        await run(provider, call(edit(workspace, extra={"contents": contents}), workspace))
        assert simulator.exchanges[0].fields["contents"] == contents


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (MODEL, {"style": "vivid"}, "style"),
            (MODEL, {"output_format": "png"}, "output_format"),
            (MODEL, {"output_compression": 50}, "output_compression"),
            (MODEL, {"num_inference_steps": 4}, "num_inference_steps"),
            (MODEL, {"input_fidelity": "high"}, "input_fidelity"),
            (MODEL, {"partial_images": 1}, "partial_images"),
            (MODEL, {"background": "transparent"}, "background"),
            (MODEL, {"moderation": "none"}, "moderation"),
            (MODEL, {"quality": "ultra"}, "quality"),
            (MODEL, {"quality": "high", "size": "1024x1024"}, "quality"),
            (MODEL, {"quality": "low", "resolution": "1K"}, "quality"),
            (MODEL, {"aspect_ratio": "2:1"}, "aspect_ratio"),
            (MODEL, {"size": "2:1"}, "size"),
            (MODEL, {"resolution": "8K"}, "resolution"),
            (MODEL, {"resolution": "512"}, "resolution"),
            (LITE, {"aspect_ratio": "1:8"}, "aspect_ratio"),
            (LITE, {"size": "2K"}, "size"),
            (LITE, {"size": "2048x2048"}, "size"),
            (LITE, {"quality": "high"}, "quality"),
            (OLD, {"resolution": "2K"}, "resolution"),
            ("gemini-unknown", {"style": "vivid"}, "style"),
            ("gemini-unknown", {"output_format": "png"}, "output_format"),
            ("gemini-unknown", {"background": "transparent"}, "background"),
            ("gemini-unknown", {"quality": "hd"}, "quality"),
            ("gemini-unknown", {"n": 2}, "n"),
        ],
    )
    async def test_what_cannot_be_expressed(
        self,
        provider: Provider,
        simulator: GeminiSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: Any,
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(drawing(model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"edit_type": "background_removal"}, "type"),
            ({"prompt": None}, "prompt"),
            ({"count": 15}, "image"),
            ({"model": OLD, "count": 4}, "image"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace, more: Any, param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize("model", [MODEL, "gemini-unknown"])
    async def test_there_is_no_mask_and_no_gif(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        masked = edit(workspace, model=model, mask=workspace.put(mask_bytes()))
        gif = edit(workspace, model=model, images=(workspace.put(image_bytes(file_format="GIF")),))
        for request, param in ((masked, "mask"), (gif, "image")):
            with pytest.raises(UnsupportedFeature) as caught:
                await provider.start(call(request, workspace))
            assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize("model", ["imagen-4.0-generate-001", "imagen-3.0-whatever"])
    async def test_imagen_is_gone(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        with pytest.raises(ProviderModelGone, match="switched"):
            await provider.start(call(drawing(model), workspace))
        assert simulator.exchanges == []

    def test_a_frame_is_refused_before_the_job_is_accepted(self, provider: Provider) -> None:
        spec = provider.spec(LITE)
        assert spec is not None
        with pytest.raises(UnsupportedFeature, match="does not draw at 4K; it draws at 1K"):
            spec.check(drawing(LITE, resolution="4K"))

    async def test_the_operators_word_on_a_model_counts(
        self, simulator: GeminiSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        models = ({"name": LITE, "wire": {"tiers": ["1K", "2K"]}}, {"name": "mine", "operations": ["image_edit"]})
        provider = open_provider("gemini", sessions, simulator.base_url, models=models)
        lite, mine = provider.spec(LITE), provider.spec("mine")
        assert lite is not None
        assert mine is not None
        lite.check(drawing(LITE, resolution="2K"))
        with pytest.raises(UnsupportedFeature):
            lite.check(drawing(LITE, resolution="4K"))
        with pytest.raises(UnsupportedFeature, match="mask"):
            mine.check(edit(workspace, mask=workspace.put(mask_bytes())))


def test_the_lives_and_prices_of_the_models_are_known(provider: Provider) -> None:
    specs = {spec.name: spec for spec in provider.specs}
    assert all(spec.max_n == 1 for spec in specs.values())
    assert specs[MODEL].life is Life.LIVE
    assert specs[FLASH].life is Life.LEGACY
    assert str(specs[OLD].shutdown_date) == "2027-03-15"
    assert specs["imagen-4.0-generate-001"].life is specs["gemini-3-pro-image-preview"].life is Life.RETIRED
    price = specs[MODEL].price
    assert price is not None
    assert price.per_million_tokens is not None
    assert price.per_million_tokens.image_out == Decimal(30)
    assert provider.spec("gemini-7") is None


class TestAnswersWithoutAPicture:
    async def fail(self, provider: Provider, workspace: FolderWorkspace, prompt: str, **more: Any) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(drawing(prompt=prompt), workspace, **more))
        assert workspace.open_sinks == 0
        assert caught.value.status == 200
        return caught.value

    @pytest.mark.parametrize(
        "reason", ["SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "JAILBREAK", "OTHER", "NEW_REASON"]
    )
    async def test_a_blocked_prompt_is_final(self, provider: Provider, workspace: FolderWorkspace, reason: str) -> None:
        error = await self.fail(provider, workspace, f"a [blocked:{reason}] fox")
        assert type(error) is ProviderRejected
        assert error.provider_code == reason
        assert error.request_id is not None
        assert ("does not tell" in error.message) == (reason == "OTHER")

    @pytest.mark.parametrize(
        "reason",
        [
            "SAFETY",
            "IMAGE_SAFETY",
            "PROHIBITED_CONTENT",
            "IMAGE_PROHIBITED_CONTENT",
            "BLOCKLIST",
            "SPII",
            "RECITATION",
            "IMAGE_RECITATION",
            "MAX_TOKENS",
            "LANGUAGE",
            "NEW_REASON",
        ],
    )
    async def test_a_blocked_picture_is_final(
        self, provider: Provider, workspace: FolderWorkspace, reason: str
    ) -> None:
        error = await self.fail(provider, workspace, f"a [finish:{reason}] fox")
        assert type(error) is ProviderRejected
        assert error.provider_code == reason
        assert error.message.endswith("Unable to show the picture.")

    @pytest.mark.parametrize("reason", ["NO_IMAGE", "IMAGE_OTHER", "OTHER", "MALFORMED_FUNCTION_CALL"])
    async def test_a_model_that_failed_is_tried_once_more(
        self, provider: Provider, workspace: FolderWorkspace, reason: str
    ) -> None:
        first = await self.fail(provider, workspace, f"a [finish:{reason}] fox")
        again = await self.fail(provider, workspace, f"a [finish:{reason}] fox", attempt=2)
        assert (type(first), type(again)) == (ProviderUnavailable, ProviderRejected)
        assert first.provider_code == again.provider_code == reason

    async def test_words_in_the_place_of_a_picture_are_told(
        self, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        error = await self.fail(provider, workspace, "[words]")
        assert type(error) is ProviderUnavailable
        assert error.message == "the model ended without a picture (STOP): Which fox do you mean?"

    async def test_an_empty_answer_cannot_be_read(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="empty"))
        assert type(await self.fail(provider, workspace, "a fox")) is ProviderProtocolError


class ScriptedSimulator(GeminiSimulator):
    """Answers what it is told."""

    body: Any = None

    def generate(self, call: Any, name: str) -> Any:
        reply = super().generate(call, name)
        return replace(reply, body=msgspec.json.encode(self.body))


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedSimulator]:
    async with ScriptedSimulator(key=KEY) as started:
        yield started


def candidate(*parts: Any, reason: str | None = "STOP") -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, **({"finishReason": reason} if reason else {})}


def inline(content: bytes, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": text(content)}, **more}


class TestReading:
    async def read(
        self, scripted: ScriptedSimulator, sessions: HttpSessions, workspace: FolderWorkspace, *candidates: Any
    ) -> Any:
        scripted.body = {"candidates": list(candidates)}
        return await run(open_provider("gemini", sessions, scripted.base_url), call(drawing(), workspace))

    async def test_working_sketches_are_no_result(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(drawing(prompt="a [sketch] of a fox"), workspace))
        assert tuple(image.sha256 for image in stored(finished)) == simulator.exchanges[0].outputs_sha256

    async def test_all_pictures_of_all_candidates_that_ended_well_are_taken(
        self, scripted: ScriptedSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        small, other, bad = image_bytes(8, 8), image_bytes(16, 8), image_bytes(4, 4)
        finished = await self.read(
            scripted,
            sessions,
            workspace,
            candidate(inline(small), {"text": "and"}, inline(other), {"inlineData": {"data": "%%"}}),
            candidate(inline(bad), reason="IMAGE_SAFETY"),
            candidate(inline(small), reason=None),
            {"content": {"role": "model"}},
        )
        assert [image.dimensions for image in stored(finished)] == [size(8, 8), size(16, 8), size(8, 8)]
        assert finished.output_format == "png"
        assert (finished.usage, finished.model) == (None, None)

    async def test_a_picture_that_is_none_is_an_unreadable_answer(
        self, scripted: ScriptedSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderProtocolError):
            await self.read(scripted, sessions, workspace, candidate(inline(b"no picture")))

    async def test_a_picture_with_an_odd_end_is_not_delivered(
        self, scripted: ScriptedSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderRejected, match="MAX_TOKENS"):
            await self.read(scripted, sessions, workspace, candidate(inline(image_bytes()), reason="MAX_TOKENS"))

    async def test_a_large_picture_is_streamed(
        self, simulator: GeminiSimulator, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 8_000_000
        finished = await run(provider, call(drawing(), workspace))
        [image] = stored(finished)
        assert (image.sha256,) == simulator.exchanges[0].outputs_sha256
        assert max(sink.largest_chunk_bytes for sink in workspace.sinks) <= 64 * 1024

    @pytest.mark.parametrize("usage", [None, 3, {}, {"promptTokenCount": "many", "promptTokensDetails": "none"}])
    async def test_odd_counts_are_left_out(
        self, scripted: ScriptedSimulator, sessions: HttpSessions, workspace: FolderWorkspace, usage: Any
    ) -> None:
        scripted.body = {"candidates": [candidate(inline(image_bytes()))], "usageMetadata": usage}
        finished = await run(open_provider("gemini", sessions, scripted.base_url), call(drawing(), workspace))
        assert finished.usage is None


REFUSALS: list[tuple[int, Any, type[ProviderError]]] = [
    (400, error("bad"), ProviderRejected),
    (400, error("API key not valid.", details=[error_info("API_KEY_INVALID")]), ProviderAuthError),
    (400, error("User location is not supported.", word="FAILED_PRECONDITION"), ProviderAuthError),
    (400, [error("API key expired.", details=[error_info("API_KEY_INVALID")])], ProviderAuthError),
    (401, error("no", status=401), ProviderAuthError),
    (403, error("leaked", status=403), ProviderAuthError),
    (404, error("models/x is no longer available", status=404), ProviderModelGone),
    (408, None, ProviderUnavailable),
    (413, "<html><title>Payload Too Large</title></html>", ProviderRejected),
    (429, error("slow down", status=429), ProviderBusy),
    (429, quota_error(quota_id="GenerateRequestsPerMinutePerProject", delay="34.5s"), ProviderBusy),
    (429, quota_error(quota_id="GenerateRequestsPerDayPerProject", delay="3s"), ProviderBusy),
    (429, quota_error(quota_id="GenerateRequestsPerDay-FreeTier", value="0", delay="3s"), ProviderAuthError),
    (429, error("Quota exceeded for metric: x, limit: 0, model: y", status=429), ProviderAuthError),
    (429, error("Quota exceeded for metric: x, limit: 0.5", status=429), ProviderBusy),
    (429, {"error": {"details": [3, {"violations": [1]}, {"retryDelay": "soon"}], "code": 429}}, ProviderBusy),
    (429, {"error": {"code": 429, "details": [{"violations": [{"quotaId": [], "quotaValue": []}]}]}}, ProviderBusy),
    (499, error("gone", status=499), ProviderUncertain),
    (500, error("oops", status=500), ProviderUnavailable),
    (502, None, ProviderUnavailable),
    (503, error("The model is overloaded.", status=503), ProviderUnavailable),
    (504, error("late", status=504), ProviderUncertain),
    (500, "not JSON", ProviderUnavailable),
    (400, {"error": "of another shape"}, ProviderRejected),
]


class TestRefusals:
    async def refuse(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace, status: int, body: Any
    ) -> ProviderError:
        said = msgspec.json.encode(body).decode() if isinstance(body, list) else body
        simulator.faults.push(Fault(kind="status", status=status, body=said))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(drawing(), workspace))
        assert caught.value.status == status
        assert workspace.sinks == []
        return caught.value

    @pytest.mark.parametrize(("status", "body", "expected"), REFUSALS)
    async def test_each_is_of_its_class(
        self,
        provider: Provider,
        simulator: GeminiSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: Any,
        expected: type[ProviderError],
    ) -> None:
        assert type(await self.refuse(provider, simulator, workspace, status, body)) is expected
        assert simulator.submissions == 1

    @pytest.mark.parametrize(
        ("quota_id", "delay", "seconds"),
        [("PerMinute", "34.5s", 34.5), ("PerMinute", None, None), ("RequestsPerDay", "3s", 3600)],
    )
    async def test_the_told_wait_is_in_the_body(
        self,
        provider: Provider,
        simulator: GeminiSimulator,
        workspace: FolderWorkspace,
        quota_id: str,
        delay: str | None,
        seconds: float | None,
    ) -> None:
        body = quota_error(quota_id=quota_id, delay=delay)
        caught = await self.refuse(provider, simulator, workspace, 429, body)
        assert caught.retry_after_s == seconds
        assert caught.provider_code == caught.provider_type == "RESOURCE_EXHAUSTED"

    async def test_a_wrong_key_is_named_by_its_reason(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        body = error("API key not valid.", details=[error_info("API_KEY_INVALID")])
        caught = await self.refuse(provider, simulator, workspace, 400, body)
        assert (caught.provider_code, caught.provider_type) == ("API_KEY_INVALID", "INVALID_ARGUMENT")
        assert caught.message == "API key not valid."

    async def test_the_field_at_fault_is_named(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        request = drawing(extra={"generationConfig": {"imageConfig": {"imageSize": "2k"}}})
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "generation_config.image_config.image_size"
        assert simulator.charged == 0

    async def test_a_retired_model_is_gone(
        self, provider: Provider, simulator: GeminiSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderModelGone):
            await provider.start(call(drawing("gemini-3-pro-image-preview"), workspace))
        assert simulator.submissions == 1

    async def test_there_are_no_handles(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected):
            await provider.poll("h", call(drawing(), workspace))
        assert await provider.cancel("h", call(drawing(), workspace)) is False
