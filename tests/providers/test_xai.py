from collections.abc import AsyncIterator
from typing import Any

import pytest

from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Provider, ProviderKey, RemotePicture
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
    edit_of,
    generation,
    mask_bytes,
    open_provider,
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.xai import XAISimulator

MODEL = "grok-imagine-image-2.0"
OLDER = "grok-imagine-image"


def wanted(
    workspace: FolderWorkspace | None = None, *, model: str = MODEL, count: int = 0, **more: Any
) -> ImageRequest:
    """An edit of `count` pictures, or a generation."""
    if workspace is None:
        return generation(model, "xai", **more)
    return edit_of(workspace, model, "xai", count=count, **more)


CONFORMANCE = ProviderCase(
    simulator=lambda key: XAISimulator(key=key),
    requests=lambda workspace: [
        wanted(n=2, size="1024x1024"),
        wanted(workspace, count=1),
        wanted(workspace, count=1, operation=Operation.VARIATION, prompt=None),
    ],
    unsupported=wanted(seed=1),
)


@pytest.fixture
async def simulator() -> AsyncIterator[XAISimulator]:
    async with XAISimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: XAISimulator, sessions: HttpSessions) -> Provider:
    return open_provider("xai", sessions, simulator.base_url, timeout_s=20)


class TestGeneration:
    async def test_sends_every_field_and_stores_the_pictures(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            n=2,
            size="1536x1024",
            quality="low",
            user="user-17",
            extra={"storage_options": {"filename": "fox"}, "resolution": "1k"},
        )
        finished = await run(provider, call(request, workspace))

        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path, exchange.query) == ("POST", "/v1/images/generations", {})
        assert exchange.fields == {
            "model": MODEL,
            "prompt": "a red fox",
            "n": 2,
            "aspect_ratio": "3:2",
            "resolution": "1k",
            "quality": "low",
            "response_format": "b64_json",
            "user": "user-17",
            "storage_options": {"filename": "fox"},
        }
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.headers["content-type"] == "application/json"
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert [image.content_type for image in stored(finished)] == ["image/jpeg", "image/jpeg"]
        assert (finished.model, finished.cost_micros, finished.via) == (MODEL, 80_000, None)
        assert [picture.revised_prompt for picture in finished.pictures] == [None, None]
        assert workspace.open_sinks == 0

    async def test_what_was_not_said_is_not_sent(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(wanted(size="auto", quality="auto"), workspace))
        sent = {"model": MODEL, "prompt": "a red fox", "n": 1, "response_format": "b64_json"}
        assert simulator.exchanges[0].fields == sent

    @pytest.mark.parametrize(
        ("size", "ratio", "tier"),
        [
            ("1024x1024", "1:1", "1k"),
            ("1280x1280", "1:1", "1k"),
            ("2048x2048", "1:1", "2k"),
            ("1024x1536", "2:3", "2k"),
            ("1792x1024", "16:9", "2k"),
            ("1024x768", "4:3", "1k"),
            ("590x1280", "9:19.5", "1k"),
            ("2520x1080", "21:9", "2k"),
        ],
    )
    async def test_a_size_becomes_a_ratio_and_a_tier(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace, size: str, ratio: str, tier: str
    ) -> None:
        await run(provider, call(wanted(size=size), workspace))
        fields = simulator.exchanges[0].fields
        assert (fields["aspect_ratio"], fields["resolution"]) == (ratio, tier)

    async def test_ratio_and_tier_win_over_the_size(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(wanted(size="512x512", aspect_ratio="16:9", resolution="2K"), workspace))
        fields = simulator.exchanges[0].fields
        assert (fields["aspect_ratio"], fields["resolution"]) == ("16:9", "2k")

    @pytest.mark.parametrize(
        ("asked", "sent"),
        [("low", "low"), ("standard", "medium"), ("medium", "medium"), ("high", "medium"), ("hd", "medium")],
    )
    async def test_qualities(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace, asked: str, sent: str
    ) -> None:
        finished = await run(provider, call(wanted(quality=asked), workspace))
        assert simulator.exchanges[0].fields["quality"] == sent
        assert finished.cost_micros == (40_000 if sent == "low" else 60_000)

    async def test_a_retired_name_is_served_by_another_model(
        self, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        spec = provider.spec("grok-imagine-image-quality-latest")
        assert spec is not None
        assert spec.life is Life.RETIRED
        finished = await run(provider, call(wanted(model="grok-imagine-image-quality-latest"), workspace))
        assert finished.model == MODEL

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(model="grok-imagine-3", size="3000x1000", quality="best", seed=5)
        with pytest.raises(ProviderRejected, match="seed"):
            await provider.start(call(request, workspace))
        fields = simulator.exchanges[0].fields
        assert (fields["model"], fields["quality"], fields["seed"]) == ("grok-imagine-3", "best", 5)
        assert (fields["aspect_ratio"], fields["resolution"]) == ("20:9", "2k")
        with pytest.raises(ProviderModelGone):
            await provider.start(call(wanted(model="grok-imagine-3"), workspace))

    async def test_links_are_handed_to_the_fetcher(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(wanted(extra={"response_format": "url"}), workspace))
        [picture] = finished.pictures
        assert isinstance(picture, RemotePicture)
        assert picture.url == f"{simulator.root_url}/files/1-0.jpg"

    async def test_a_large_answer_is_streamed(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 1_000_000
        finished = await run(provider, call(wanted(n=2), workspace))
        assert [image.size_bytes for image in stored(finished)] == [1_000_000] * 2
        assert max(sink.largest_chunk_bytes for sink in workspace.sinks) <= 64 * 1024


class TestEdit:
    async def test_one_source_goes_as_a_data_url(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, count=1, n=2, size="1024x768", quality="low", edit_type="inpainting")
        finished = await run(provider, call(request, workspace))

        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/v1/images/edits")
        assert exchange.headers["content-type"] == "application/json"
        image = exchange.fields.pop("image")
        assert image.keys() == {"url", "type"}
        assert image["url"].startswith("data:image/png;base64,")
        assert exchange.fields == {
            "model": MODEL,
            "prompt": "a red fox",
            "n": 2,
            "aspect_ratio": "4:3",
            "resolution": "1k",
            "quality": "low",
            "response_format": "b64_json",
        }
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert (finished.cost_micros, finished.via) == (100_000, None)

    async def test_several_sources_go_as_a_list(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, count=3, aspect_ratio="9:16")
        await run(provider, call(request, workspace))
        fields = simulator.exchanges[0].fields
        assert "image" not in fields
        assert [source["type"] for source in fields["images"]] == ["image_url"] * 3
        assert len({source["url"] for source in fields["images"]}) == 3
        assert fields["aspect_ratio"] == "9:16"

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, count=1, operation=Operation.VARIATION, prompt=None)
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert (exchange.path, exchange.fields["prompt"]) == ("/v1/images/edits", VARIATION_PROMPT)
        assert finished.via == "edit"

    async def test_the_callers_own_source_displaces_ours(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, count=1, extra={"image": {"file_id": "file-1"}})
        with pytest.raises(ProviderRejected):  # the simulator has no files
            await provider.start(call(request, workspace))
        assert simulator.exchanges[0].fields["image"] == {"file_id": "file-1"}


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"seed": 1}, "seed"),
            ({"negative_prompt": "x"}, "negative_prompt"),
            ({"num_inference_steps": 4}, "num_inference_steps"),
            ({"style": "vivid"}, "style"),
            ({"background": "opaque"}, "background"),
            ({"moderation": "low"}, "moderation"),
            ({"output_format": "png"}, "output_format"),
            ({"output_compression": 50}, "output_compression"),
            ({"partial_images": 1}, "partial_images"),
            ({"input_fidelity": "high"}, "input_fidelity"),
            ({"quality": "best"}, "quality"),
            ({"aspect_ratio": "7:3"}, "aspect_ratio"),
            ({"size": "4096x4096"}, "size"),
            ({"size": "2000x500"}, "size"),
            ({"model": OLDER, "quality": "low"}, "quality"),
            ({"model": OLDER, "aspect_ratio": "21:9"}, "aspect_ratio"),
        ],
    )
    async def test_fields_of_generations(
        self,
        provider: Provider,
        simulator: XAISimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(**more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"count": 6}, "image"),
            ({"count": 4, "model": OLDER}, "image"),
            ({"count": 1, "prompt": None}, "prompt"),
            ({"count": 1, "edit_type": "outpainting"}, "type"),
            ({"count": 1, "size": "1024x1536"}, "size"),
            ({"count": 1, "aspect_ratio": "9:16"}, "aspect_ratio"),
        ],
    )
    async def test_fields_of_edits(
        self,
        provider: Provider,
        simulator: XAISimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize("model", [MODEL, "grok-imagine-3"])
    async def test_a_mask_whatever_the_model(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        request = wanted(workspace, model=model, count=1, mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "mask"
        assert simulator.exchanges == []


class TestModeration:
    async def test_withheld_pictures_are_never_handed_out(
        self, provider: Provider, simulator: XAISimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(wanted(prompt="[half] a fox", n=4), workspace))
        assert len(finished.pictures) == 2
        assert tuple(image.sha256 for image in stored(finished)) == simulator.exchanges[0].outputs_sha256
        assert finished.cost_micros == 160_000

    async def test_all_withheld_is_a_rejection(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="withheld every image") as caught:
            await provider.start(call(wanted(prompt="[withheld] a fox", n=2), workspace))
        assert caught.value.provider_code == "content_policy_violation"
        assert caught.value.charged is Charged.YES
        assert caught.value.cost_micros

    async def test_nothing_at_all_may_have_been_billed(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderProtocolError, match="moderation; it may have been billed"):
            await provider.start(call(wanted(prompt="[empty] a fox"), workspace))

    async def test_a_refused_prompt(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="moderation") as caught:
            await provider.start(call(wanted(prompt="[blocked] a fox"), workspace))
        assert caught.value.status == 400


CASES: list[tuple[int, dict[str, Any], type[ProviderError]]] = [
    (400, {"error": "Argument not supported: size"}, ProviderRejected),
    (400, {"code": "x", "error": "Incorrect API key provided: xa***bc."}, ProviderAuthError),
    (400, {"code": "x", "error": "Incorrect%20API%20key%20provided:%20xa***bc."}, ProviderAuthError),
    (401, {"error": {"message": "no key", "type": "auth", "param": None, "code": "x"}}, ProviderAuthError),
    (403, {"code": "The caller does not have permission", "error": "no credits"}, ProviderAuthError),
    (404, {"error": "no such model"}, ProviderModelGone),
    (405, {"error": "method"}, ProviderRejected),
    (415, {"error": "not JSON"}, ProviderRejected),
    (422, {"error": "unknown field"}, ProviderRejected),
    (429, {"error": "too many requests"}, ProviderBusy),
    (500, {"error": "internal"}, ProviderUnavailable),
    (500, {"error": "This model is deprecated and no longer available."}, ProviderModelGone),
    (503, {"error": "overloaded"}, ProviderUnavailable),
    (504, {"error": "deadline"}, ProviderUncertain),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "body", "expected"), CASES)
    async def test_each_has_its_class(
        self,
        provider: Provider,
        simulator: XAISimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any],
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body, headers={"Retry-After": "3"}))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(wanted(), workspace))
        assert type(caught.value) is expected
        assert (caught.value.status, caught.value.retry_after_s) == (status, 3.0)
        assert caught.value.request_id == "req_00000001"
        said = body["error"]
        assert caught.value.message[:8] == (said if isinstance(said, str) else said["message"])[:8]

    async def test_a_wrong_key_comes_as_a_bad_request(self, provider: Provider, workspace: FolderWorkspace) -> None:
        key = ProviderKey(name="old", value="xai-another-0123456789")
        with pytest.raises(ProviderAuthError) as caught:
            await provider.start(call(wanted(), workspace, key=key))
        assert caught.value.status == 400
        assert "***" not in caught.value.message

    async def test_the_older_model_names_itself(self, provider: Provider, workspace: FolderWorkspace) -> None:
        finished = await run(provider, call(wanted(model=OLDER), workspace))
        assert (finished.model, finished.cost_micros) == (OLDER, 20_000)

    async def test_there_are_no_handles(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected):
            await provider.poll("h", call(wanted(), workspace))
        assert not await provider.cancel("h", call(wanted(), workspace))
