from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from safelight.adapters.providers._http import HttpSessions
from safelight.application.ports import Provider, RemotePicture
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderRejected,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    edit_of,
    generation,
    image_bytes,
    open_provider,
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.recraft import RecraftSimulator

MODEL = "recraftv4_1"


def wanted(
    workspace: FolderWorkspace | None = None, *, model: str = MODEL, count: int = 1, mask: bool = False, **more: Any
) -> ImageRequest:
    """An edit of `count` pictures, or a generation."""
    if workspace is None:
        return generation(model, "recraft", **more)
    return edit_of(workspace, model, "recraft", count=count, mask=mask, **more)


CONFORMANCE = ProviderCase(
    simulator=lambda key: RecraftSimulator(key=key),
    requests=lambda workspace: [
        wanted(n=2),
        wanted(workspace, mask=True),
        wanted(workspace, operation=Operation.VARIATION, prompt=None),
    ],
    unsupported=wanted(negative_prompt="fog"),
    unclear=frozenset({500, 503, 504, 529}),
)


@pytest.fixture
async def simulator() -> AsyncIterator[RecraftSimulator]:
    async with RecraftSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: RecraftSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("recraft", sessions, simulator.base_url, timeout_s=20)


class TestGeneration:
    async def test_sends_every_field_and_stores_the_pictures(
        self, provider: Provider, simulator: RecraftSimulator, workspace: FolderWorkspace
    ) -> None:
        controls = {"colors": [{"rgb": [200, 80, 40]}], "no_text": True}
        request = wanted(n=2, size="1024x1024", seed=42, output_format="png", user="u", extra={"controls": controls})
        finished = await run(provider, call(request, workspace))

        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/v1/images/generations")
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.fields == {
            "model": MODEL,
            "prompt": "a red fox",
            "n": 2,
            "size": "1024x1024",
            "random_seed": 42,
            "image_format": "png",
            "response_format": "b64_json",
            "controls": controls,
        }
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert {picture.revised_prompt for picture in finished.pictures} == {"a red fox, in detail"}
        assert (finished.cost_micros, finished.created, finished.model) == (70_000, 1795400000, MODEL)
        assert finished.via is None

    @pytest.mark.parametrize(
        ("asked", "sent"),
        [
            ({"aspect_ratio": "16:9"}, "16:9"),
            ({"size": "6:10"}, "6:10"),
            ({"size": "auto"}, None),
            ({"aspect_ratio": "auto"}, None),
            ({"model": "recraftv4_1_pro", "size": "3072x1536"}, "3072x1536"),
            ({"model": "recraftv3", "size": "1365x1024"}, "1365x1024"),
        ],
    )
    async def test_sizes(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
        workspace: FolderWorkspace,
        asked: dict[str, Any],
        sent: str | None,
    ) -> None:
        await run(provider, call(wanted(**asked), workspace))
        assert simulator.exchanges[0].fields.get("size") == sent

    async def test_older_models_take_styles(
        self, provider: Provider, simulator: RecraftSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(model="recraftv3", style="digital_illustration", negative_prompt="fog")
        await run(provider, call(request, workspace))
        fields = simulator.exchanges[0].fields
        assert (fields["style"], fields["negative_prompt"]) == ("digital_illustration", "fog")

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: RecraftSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderRejected, match="quality"):
            await provider.start(call(wanted(model="recraftv9", quality="high", size="9x9"), workspace))
        fields = simulator.exchanges[0].fields
        assert (fields["model"], fields["quality"], fields["size"]) == ("recraftv9", "high", "9x9")

    async def test_links_are_handed_to_the_fetcher(self, provider: Provider, workspace: FolderWorkspace) -> None:
        finished = await run(provider, call(wanted(extra={"response_format": "url"}), workspace))
        assert isinstance(finished.pictures[0], RemotePicture)

    @pytest.mark.parametrize(("told", "micros"), [(35, 35_000), (0.5, 500), ("35", None), (-1, None), (True, None)])
    async def test_credits_are_money(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
        workspace: FolderWorkspace,
        told: Any,
        micros: int | None,
    ) -> None:
        simulator.credits = told
        assert (await run(provider, call(wanted(), workspace))).cost_micros == micros


class TestEdit:
    @pytest.mark.parametrize(
        ("more", "path", "sent"),
        [
            ({}, "imageToImage", {"strength": 0.5, "prompt": "a red fox", "model": MODEL, "n": 1}),
            (
                {"mask": True, "seed": 7, "output_format": "png", "n": 2},
                "inpaint",
                {"prompt": "a red fox", "model": MODEL, "n": 2, "random_seed": 7, "image_format": "png"},
            ),
            (
                {"mask": True, "edit_type": "inpainting"},
                "inpaint",
                {"prompt": "a red fox", "model": MODEL, "n": 1},
            ),
            (
                {"edit_type": "outpainting", "extra": {"expand_left": 64}},
                "outpaint",
                {"prompt": "a red fox", "model": MODEL, "n": 1, "expand_left": 64},
            ),
            (
                {"edit_type": "outpainting", "size": "1344x768"},
                "outpaint",
                {"prompt": "a red fox", "model": MODEL, "n": 1, "size": "1344x768"},
            ),
            ({"edit_type": "background_removal", "prompt": None}, "removeBackground", {}),
        ],
    )
    async def test_each_kind_has_its_call(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        path: str,
        sent: dict[str, Any],
    ) -> None:
        finished = await run(provider, call(wanted(workspace, **more), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == f"/v1/images/{path}"
        assert exchange.fields.pop("image_url").startswith("data:image/png;base64,")
        assert ("mask_url" in exchange.fields) is bool(more.get("mask"))
        exchange.fields.pop("mask_url", None)
        assert exchange.fields == {"response_format": "b64_json", **sent}
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert finished.cost_micros == (10_000 if path == "removeBackground" else 40_000 * request_count(more))
        assert finished.via is None

    async def test_masks_are_of_two_colours_and_white_changes(
        self, provider: Provider, simulator: RecraftSimulator, workspace: FolderWorkspace
    ) -> None:
        soft = workspace.put(image_bytes(mode="RGBA", colour=(0, 0, 0, 90)))  # more clear than opaque
        for request in (wanted(workspace, mask=True), replace(wanted(workspace), mask=soft)):
            await run(provider, call(request, workspace))
        assert [mask.getpixel((0, 0)) for mask in simulator.masks] == [255, 255]
        assert [mask.getpixel((63, 0)) for mask in simulator.masks] == [0, 255]

    async def test_strength_is_the_operators(
        self, simulator: RecraftSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("recraft", sessions, simulator.base_url, options={"strength": 0.2})
        await run(provider, call(wanted(workspace), workspace))
        await run(provider, call(wanted(workspace, extra={"strength": 0.9}), workspace))
        assert [exchange.fields["strength"] for exchange in simulator.exchanges] == [0.2, 0.9]
        with pytest.raises(ConfigurationError, match="strength"):
            open_provider("recraft", sessions, simulator.base_url, options={"strength": 2})


class TestVariation:
    @pytest.mark.parametrize(
        ("asked", "size"), [({}, "4:3"), ({"size": "1024x1024"}, "1024x1024"), ({"aspect_ratio": "9:16"}, "9:16")]
    )
    async def test_recrafts_own_call_needs_a_size(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
        workspace: FolderWorkspace,
        asked: dict[str, Any],
        size: str,
    ) -> None:
        request = wanted(workspace, operation=Operation.VARIATION, prompt=None, n=2, seed=5, **asked)
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/variateImage"
        del exchange.fields["image_url"]
        assert exchange.fields == {"n": 2, "size": size, "random_seed": 5, "response_format": "b64_json"}
        assert (len(finished.pictures), finished.via, finished.model) == (2, None, "variateImage")

    async def test_after_a_prompt_it_is_an_edit(
        self, provider: Provider, simulator: RecraftSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, operation=Operation.VARIATION, prompt="bluer")
        finished = await run(provider, call(request, workspace))
        assert simulator.exchanges[0].path == "/v1/images/imageToImage"
        assert finished.via == "edit"


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"negative_prompt": "fog"}, "negative_prompt"),
            ({"style": "icon"}, "style"),
            ({"quality": "high"}, "quality"),
            ({"background": "transparent"}, "background"),
            ({"output_format": "jpeg"}, "output_format"),
            ({"size": "1000x1000"}, "size"),
            ({"aspect_ratio": "7:3"}, "aspect_ratio"),
            ({"size": "1024x1024", "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"prompt": "x" * 10_001}, "prompt"),
            ({"model": "recraftv3", "prompt": "x" * 1001}, "prompt"),
            ({"model": "recraftv3", "style": "vector_illustration"}, "style"),
            ({"model": "recraftv4_1_vector"}, "model"),
        ],
    )
    async def test_generations(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
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
            ({"count": 2}, "image"),
            ({"prompt": None}, "prompt"),
            ({"size": "1024x1024"}, "size"),
            ({"mask": True, "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"edit_type": "inpainting"}, "mask"),
            ({"edit_type": "outpainting", "mask": True}, "mask"),
            ({"edit_type": "background_removal", "n": 2}, "n"),
            ({"edit_type": "background_removal", "seed": 1}, "seed"),
            ({"edit_type": "background_removal", "output_format": "png"}, "output_format"),
            ({"operation": Operation.VARIATION, "prompt": None, "model": "recraftv3", "style": "any"}, "style"),
            ({"model": "recraftv9", "count": 2}, "image"),
        ],
    )
    async def test_edits(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "body", "expected"),
        [
            (400, {"code": "invalid_request", "message": "Told why."}, ProviderRejected),
            (400, {"code": "not_enough_credits", "message": "Told why."}, ProviderAuthError),
            (400, {"code": "x", "message": "Told why: Not enough credits"}, ProviderAuthError),
            (401, {"code": "unauthorized", "message": "Told why."}, ProviderAuthError),
            (402, {"message": "Told why."}, ProviderAuthError),
            (403, {"message": "Told why."}, ProviderAuthError),
            (404, {"message": "Told why."}, ProviderModelGone),
            (422, {"message": "Told why."}, ProviderRejected),
            (429, {"message": "Told why."}, ProviderBusy),
            (500, {"message": "Told why."}, ProviderUncertain),
            (503, {"message": "Told why."}, ProviderUncertain),
        ],
    )
    async def test_each_has_its_class(
        self,
        provider: Provider,
        simulator: RecraftSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any],
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(wanted(), workspace))
        assert (type(caught.value), caught.value.status) == (expected, status)
        assert caught.value.message.startswith("Told why")

    async def test_an_empty_account(
        self, provider: Provider, simulator: RecraftSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.balance = 10
        with pytest.raises(ProviderAuthError, match="not enough credits"):
            await provider.start(call(wanted(), workspace))

    async def test_a_refused_prompt(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="not allowed"):
            await provider.start(call(wanted(prompt="[blocked]"), workspace))

    async def test_there_are_no_handles(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected):
            await provider.poll("h", call(wanted(), workspace))
        assert not await provider.cancel("h", call(wanted(), workspace))


def request_count(more: dict[str, Any]) -> int:
    found: int = more.get("n", 1)
    return found
