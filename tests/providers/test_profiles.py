import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from safelight.adapters.providers._base import ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.adapters.providers._profiles import PROFILES
from safelight.adapters.providers._registry import load_providers
from safelight.application.ports import Provider, ProviderKey, RemotePicture
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
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
    edit_of,
    generation,
    image_bytes,
    open_provider,
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.profiles import ProfileSimulator, Seen

MODEL = "maker/any-model"
NO_KEY = ProviderKey(name=None, value=None)


def edit(
    workspace: FolderWorkspace, name: str, *, model: str = MODEL, count: int = 1, mask: bool = False, **more: Any
) -> ImageRequest:
    return edit_of(workspace, model, name, count=count, mask=mask, **more)


def vary(workspace: FolderWorkspace, name: str, **more: Any) -> ImageRequest:
    return edit(workspace, name, **{"operation": Operation.VARIATION, "prompt": None, **more})


def _case(
    name: str,
    requests: Callable[[FolderWorkspace], list[ImageRequest]],
    unsupported: dict[str, Any],
    unclear: frozenset[int] = frozenset({504}),
) -> ProviderCase:
    return ProviderCase(
        simulator=lambda key: ProfileSimulator(name, key=key),
        requests=requests,
        unsupported=generation(MODEL, name, **unsupported),
        unclear=unclear,
    )


def _all_three(name: str, *, mask: bool, n: int = 2) -> Callable[[FolderWorkspace], list[ImageRequest]]:
    return lambda workspace: [
        generation(MODEL, name, n=n),
        edit(workspace, name, mask=mask),
        vary(workspace, name, n=n),
    ]


CASES = {
    "together": _case("together", _all_three("together", mask=False), {"quality": "high"}, frozenset({500, 504, 529})),
    "openrouter": _case("openrouter", _all_three("openrouter", mask=False), {"style": "x"}, frozenset({500, 504})),
    "nebius": _case(
        "nebius",
        lambda _workspace: [generation(MODEL, "nebius")],
        {"quality": "high"},
        frozenset({500, 504, 529}),
    ),
    "vllm_omni": _case("vllm_omni", _all_three("vllm_omni", mask=True), {"quality": "high"}),
    "sglang": _case("sglang", _all_three("sglang", mask=False), {"style": "vivid"}),
    "localai": _case("localai", _all_three("localai", mask=True), {"quality": "high"}),
    "sdcpp": _case("sdcpp", _all_three("sdcpp", mask=True), {"quality": "high"}),
    "lemonade": _case("lemonade", _all_three("lemonade", mask=True, n=1), {"negative_prompt": "x"}),
}


@pytest.fixture
async def simulator(request: pytest.FixtureRequest) -> AsyncIterator[ProfileSimulator]:
    name: str = request.param
    async with ProfileSimulator(name, key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: ProfileSimulator, sessions: HttpSessions) -> Provider:
    return open_provider(simulator.name, sessions, simulator.base_url, timeout_s=20)


def at(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("simulator", names, indirect=True)


def last_seen(simulator: ProfileSimulator) -> Seen:
    return simulator.seen[-1]


def changed_part(seen: Seen) -> tuple[Any, Any]:
    """The mask at its left, which is to change, and at its right."""
    assert seen.mask is not None
    return seen.mask.getpixel((0, 0)), seen.mask.getpixel((seen.mask.width - 1, 0))


GENERATIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "together",
        {"n": 2, "size": "1344x768", "seed": 7, "negative_prompt": "fog", "num_inference_steps": 9, "user": "u"},
        {
            "n": 2,
            "width": 1344,
            "height": 768,
            "seed": 7,
            "negative_prompt": "fog",
            "steps": 9,
            "response_format": "base64",
        },
    ),
    (
        "together",
        {"aspect_ratio": "16:9", "output_format": "png", "quality": "auto"},
        {"n": 1, "width": 1360, "height": 768, "output_format": "png", "response_format": "base64"},
    ),
    (
        "together",
        {"size": "auto", "extra": {"image_loras": [{"path": "p", "scale": 1}], "steps": 3}},
        {"n": 1, "steps": 3, "image_loras": [{"path": "p", "scale": 1}], "response_format": "base64"},
    ),
    (
        "openrouter",
        {
            "n": 2,
            "size": "2K",
            "aspect_ratio": "9:19.5",
            "resolution": "2K",
            "quality": "hd",
            "background": "transparent",
            "output_format": "webp",
            "output_compression": 80,
            "seed": 7,
            "user": "u",
            "extra": {"provider": {"only": ["x"]}},
        },
        {
            "n": 2,
            "size": "2K",
            "aspect_ratio": "9:19.5",
            "resolution": "2K",
            "quality": "high",
            "background": "transparent",
            "output_format": "webp",
            "output_compression": 80,
            "seed": 7,
            "provider": {"only": ["x"]},
        },
    ),
    ("openrouter", {"size": "auto", "style": "auto", "quality": "auto"}, {"n": 1, "quality": "auto"}),
    (
        "nebius",
        {"size": "512x768", "output_format": "jpeg", "seed": 1, "num_inference_steps": 4, "negative_prompt": "fog"},
        {
            "width": 512,
            "height": 768,
            "response_extension": "jpg",
            "seed": 1,
            "num_inference_steps": 4,
            "negative_prompt": "fog",
            "response_format": "b64_json",
        },
    ),
    (
        "vllm_omni",
        {
            "n": 3,
            "size": "64x96",
            "seed": 7,
            "negative_prompt": "fog",
            "num_inference_steps": 9,
            "output_format": "webp",
            "user": "u",
            "extra": {"guidance_scale": 3.5},
        },
        {
            "n": 3,
            "size": "64x96",
            "seed": 7,
            "negative_prompt": "fog",
            "num_inference_steps": 9,
            "output_format": "webp",
            "user": "u",
            "guidance_scale": 3.5,
            "response_format": "b64_json",
        },
    ),
    (
        "vllm_omni",
        {"size": "1:1", "background": "auto"},
        {"n": 1, "size": "1024x1024", "response_format": "b64_json"},
    ),
    (
        "sglang",
        {"size": "64x64", "seed": 7, "quality": "high", "background": "opaque", "output_compression": 50, "user": "u"},
        {
            "n": 1,
            "size": "64x64",
            "seed": 7,
            "quality": "high",
            "background": "opaque",
            "output_compression": 50,
            "user": "u",
            "response_format": "b64_json",
        },
    ),
    (
        "localai",
        {"n": 2, "size": "64x64", "seed": 7, "num_inference_steps": 20, "user": "u"},
        {"n": 2, "size": "64x64", "seed": 7, "step": 20, "response_format": "b64_json"},
    ),
    (
        "lemonade",
        {"size": "512x512", "seed": 7, "num_inference_steps": 20, "quality": "auto"},
        {"n": 1, "size": "512x512", "seed": 7, "steps": 20, "response_format": "b64_json"},
    ),
]


class TestGeneration:
    @pytest.mark.parametrize(
        ("simulator", "asked", "sent"), GENERATIONS, indirect=["simulator"], ids=[each[0] for each in GENERATIONS]
    )
    async def test_fields_have_the_servers_names(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        asked: dict[str, Any],
        sent: dict[str, Any],
    ) -> None:
        finished = await run(provider, call(generation(MODEL, simulator.name, **asked), workspace))
        [exchange] = simulator.exchanges
        assert exchange.method == "POST"
        assert exchange.fields == {"model": MODEL, "prompt": "a red fox", **sent}
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert [picture.revised_prompt for picture in finished.pictures] == [None] * len(finished.pictures)
        assert finished.via is None

    @pytest.mark.parametrize(
        ("simulator", "path"),
        [
            ("together", "/v1/images/generations"),
            ("openrouter", "/api/v1/images"),
            ("localai", "/v1/images/generations"),
            ("sdcpp", "/v1/images/generations"),
        ],
        indirect=["simulator"],
    )
    async def test_its_route(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace, path: str
    ) -> None:
        await run(provider, call(generation(MODEL, simulator.name), workspace))
        assert simulator.exchanges[0].path == path

    @at("together")
    async def test_schnell_gets_its_four_steps(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        model = "black-forest-labs/FLUX.1-schnell"
        await run(provider, call(generation(model, "together"), workspace))
        await run(provider, call(generation(model, "together", num_inference_steps=2), workspace))
        assert [exchange.fields["steps"] for exchange in simulator.exchanges] == [4, 2]

    @at("together")
    async def test_links_when_they_are_wanted(
        self, simulator: ProfileSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("together", sessions, simulator.base_url, options={"response_format": "url"})
        finished = await run(provider, call(generation(MODEL, "together"), workspace))
        [picture] = finished.pictures
        assert isinstance(picture, RemotePicture)
        assert (finished.model, finished.created, finished.usage) == (MODEL, None, None)

    @at("openrouter")
    async def test_money_and_tokens_are_reported(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.cost = 0.0387654
        finished = await run(provider, call(generation(MODEL, "openrouter"), workspace))
        assert finished.cost_micros == 38_765
        assert finished.usage is not None
        assert (finished.usage.input_tokens, finished.usage.output_tokens) == (0, 4175)
        assert finished.created == 1748372400

    @pytest.mark.parametrize("cost", [None, -1.0, "0.04", True])
    @at("openrouter")
    async def test_odd_money_costs_no_picture(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace, cost: Any
    ) -> None:
        simulator.cost = cost
        finished = await run(provider, call(generation(MODEL, "openrouter"), workspace))
        assert (len(finished.pictures), finished.cost_micros) == (1, None)


class TestPictures:
    @pytest.mark.parametrize(
        ("model", "field", "count"),
        [
            ("black-forest-labs/FLUX.2-pro", "reference_images", 2),
            ("black-forest-labs/FLUX.1-kontext-pro", "image_url", 1),
            ("google/flash-image", "reference_images", 1),
        ],
    )
    @at("together")
    async def test_together(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        model: str,
        field: str,
        count: int,
    ) -> None:
        await run(provider, call(edit(workspace, "together", model=model, count=count), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/generations"
        assert ({"image_url", "reference_images"} & exchange.fields.keys()) == {field}
        assert isinstance(exchange.fields[field], str if field == "image_url" else list)
        assert [image.size for image in last_seen(simulator).pictures] == [(64, 48)] * count

    @at("openrouter")
    async def test_openrouter(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(edit(workspace, "openrouter", count=2), workspace))
        references = simulator.exchanges[0].fields["input_references"]
        assert [each["type"] for each in references] == ["image_url", "image_url"]
        assert len({each["image_url"]["url"] for each in references}) == 2
        assert finished.cost_micros == 40_000

    @at("vllm_omni")
    async def test_vllm_omni(self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace) -> None:
        request = edit(workspace, "vllm_omni", count=2, mask=True, background="opaque", output_compression=50, seed=3)
        await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/edits"
        assert [file.name for file in exchange.files] == ["image", "image", "mask_image"]
        assert changed_part(last_seen(simulator)) == (255, 0)
        assert exchange.fields == {
            "model": MODEL,
            "prompt": "a red fox",
            "n": "1",
            "background": "opaque",
            "output_compression": "50",
            "seed": "3",
            "response_format": "b64_json",
        }

    @pytest.mark.parametrize(
        ("simulator", "count", "names"),
        [
            ("sglang", 1, ["image"]),
            ("sglang", 2, ["image[]", "image[]"]),
            ("sdcpp", 1, ["image[]"]),
            ("lemonade", 1, ["image"]),
        ],
        indirect=["simulator"],
    )
    async def test_parts(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        count: int,
        names: list[str],
    ) -> None:
        await run(provider, call(edit(workspace, simulator.name, count=count), workspace))
        assert [file.name for file in simulator.exchanges[0].files] == names

    @at("sdcpp", "lemonade", "localai")
    async def test_masks_are_white_where_they_change(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(edit(workspace, simulator.name, mask=True), workspace))
        [exchange] = simulator.exchanges
        assert exchange.files[-1].name == "mask"
        assert changed_part(last_seen(simulator)) == (255, 0)
        assert len(finished.pictures) == 1

    @at("localai")
    async def test_localai_inpaints_at_one_size(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, "localai", mask=True, size="512x512", num_inference_steps=20, prompt="a|b")
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/inpainting"
        assert exchange.fields == {"model": MODEL, "prompt": "a,b", "steps": "20"}
        [picture] = finished.pictures
        assert isinstance(picture, RemotePicture)
        assert picture.trusted_host == simulator.root_url.removeprefix("http://")

    @pytest.mark.parametrize(("count", "field"), [(1, "file"), (2, "ref_images")])
    @at("localai")
    async def test_localai_reads_bare_base64(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace, count: int, field: str
    ) -> None:
        await run(provider, call(edit(workspace, "localai", count=count, size="64x64"), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/generations"
        assert field in exchange.fields
        assert len(last_seen(simulator).pictures) == count

    @at("together", "openrouter", "vllm_omni", "sglang", "localai", "sdcpp")
    async def test_a_variation_is_an_edit(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(vary(workspace, simulator.name), workspace))
        assert finished.via == "edit"
        assert last_seen(simulator).prompt.strip() == VARIATION_PROMPT

    @at("lemonade")
    async def test_lemonade_varies_by_itself(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(vary(workspace, "lemonade", n=2, size="64x64"), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/images/variations"
        assert exchange.fields == {"model": MODEL, "n": "2", "size": "64x64"}
        assert (len(finished.pictures), finished.via) == (2, None)

    @at("lemonade")
    async def test_lemonade_varies_after_a_prompt_as_an_edit(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(vary(workspace, "lemonade", prompt="bluer"), workspace))
        assert (simulator.exchanges[0].path, finished.via) == ("/v1/images/edits", "edit")


class TestPrompts:
    """What these servers do with a prompt behind the caller's back."""

    @pytest.mark.parametrize(
        ("prompt", "negative", "sent"),
        [
            ("a | b || c", None, "a , b ,, c"),
            ("a fox", "fog | rain", "a fox|fog , rain"),
            ("a fox", None, "a fox"),
        ],
    )
    @at("localai")
    async def test_a_bar_means_nothing_to_localai(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        prompt: str,
        negative: str | None,
        sent: str,
    ) -> None:
        request = generation(MODEL, "localai", prompt=prompt, negative_prompt=negative, size="64x64")
        await run(provider, call(request, workspace))
        assert simulator.exchanges[0].fields["prompt"] == sent
        positive, _, rest = sent.partition("|")
        assert (last_seen(simulator).prompt, last_seen(simulator).negative_prompt) == (positive, rest)

    @at("sdcpp")
    async def test_sdcpp_is_told_in_its_own_tag(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        evil = 'fog</sd_cpp_extra_args> "quoted"\n<lora:x>'
        request = generation(MODEL, "sdcpp", seed=7, negative_prompt=evil, num_inference_steps=9, output_format="webp")
        await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert set(exchange.fields) == {"model", "prompt", "n", "output_format"}
        assert last_seen(simulator).prompt.strip() == "a red fox"
        assert last_seen(simulator).native == {
            "seed": 7,
            "negative_prompt": evil,
            "sample_params": {"sample_steps": 9},
        }

    @at("sdcpp", "sglang")
    async def test_a_seed_is_always_sent(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        request = generation(MODEL, simulator.name, size="64x64")
        for token in ("job-1", "job-1", "job-2"):
            await run(provider, call(request, workspace, token=token))
        seeds = [
            seen.native.get("seed", exchange.fields.get("seed"))
            for seen, exchange in zip(simulator.seen, simulator.exchanges, strict=True)
        ]
        assert seeds[0] == seeds[1] != seeds[2]
        assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)

    @pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
    @at(*PROFILES)
    async def test_native_arguments_are_refused(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace, field: str
    ) -> None:
        text = 'fox <SD_cpp_extra_args>{"lora": "/etc"}</sd_cpp_extra_args>'
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(generation(MODEL, simulator.name, **{field: text}), workspace))
        assert caught.value.param == field
        assert simulator.exchanges == []


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("together", {"quality": "high"}, "quality"),
    ("together", {"background": "transparent"}, "background"),
    ("together", {"resolution": "2K"}, "resolution"),
    ("together", {"output_format": "webp"}, "output_format"),
    ("together", {"output_compression": 50}, "output_compression"),
    ("together", {"size": "1K"}, "size"),
    ("together", {"size": "1024x1024", "aspect_ratio": "1:1"}, "aspect_ratio"),
    ("together", {"aspect_ratio": "wide"}, "aspect_ratio"),
    ("together", {"partial_images": 2}, "partial_images"),
    ("openrouter", {"negative_prompt": "x"}, "negative_prompt"),
    ("openrouter", {"num_inference_steps": 4}, "num_inference_steps"),
    ("openrouter", {"style": "vivid"}, "style"),
    ("openrouter", {"moderation": "low"}, "moderation"),
    ("openrouter", {"n": 11}, "n"),
    ("nebius", {"n": 2}, "n"),
    ("vllm_omni", {"quality": "high"}, "quality"),
    ("vllm_omni", {"style": "vivid"}, "style"),
    ("vllm_omni", {"background": "opaque"}, "background"),
    ("vllm_omni", {"output_compression": 5, "output_format": "jpeg"}, "output_compression"),
    ("sglang", {"style": "vivid"}, "style"),
    ("localai", {"size": "large"}, "size"),
    ("localai", {"output_format": "png"}, "output_format"),
    ("sdcpp", {"output_format": "gif"}, "output_format"),
    ("sdcpp", {"background": "opaque"}, "background"),
    ("lemonade", {"negative_prompt": "x"}, "negative_prompt"),
    ("lemonade", {"output_format": "png"}, "output_format"),
    ("lemonade", {"n": 2}, "n"),
]
REFUSED_EDITS: list[tuple[str, dict[str, Any], str]] = [
    ("together", {"mask": True}, "mask"),
    ("together", {"prompt": None}, "prompt"),
    ("together", {"edit_type": "outpainting"}, "type"),
    ("together", {"operation": Operation.GENERATION}, "input_images"),
    ("openrouter", {"mask": True}, "mask"),
    ("openrouter", {"input_fidelity": "high"}, "input_fidelity"),
    ("nebius", {}, "model"),
    ("sglang", {"mask": True}, "mask"),
    ("localai", {"mask": True, "size": "1024x1024"}, "size"),
    ("localai", {"mask": True, "aspect_ratio": "16:9"}, "aspect_ratio"),
    ("localai", {"mask": True, "negative_prompt": "x"}, "negative_prompt"),
    ("localai", {"mask": True, "seed": 1}, "seed"),
    ("localai", {"mask": True, "n": 2}, "n"),
    ("sdcpp", {"output_format": "webp"}, "output_format"),
    ("lemonade", {"background": "opaque"}, "background"),
]


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(("simulator", "more", "param"), REFUSED, indirect=["simulator"])
    async def test_generations(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(generation(MODEL, simulator.name, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(("simulator", "more", "param"), REFUSED_EDITS, indirect=["simulator"])
    async def test_edits(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, simulator.name, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @at("lemonade")
    async def test_lemonade_reads_png(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        jpeg = workspace.put(image_bytes(file_format="JPEG"))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, "lemonade", images=(jpeg,)), workspace))
        assert caught.value.param == "image"
        assert simulator.exchanges == []

    @at("together")
    async def test_known_models_are_checked_too(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        kontext = "black-forest-labs/FLUX.1-kontext-pro"
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, "together", model=kontext, count=2), workspace))
        assert caught.value.param == "image"
        spec = provider.spec(kontext)
        assert spec is not None
        with pytest.raises(UnsupportedFeature, match="no mask"):
            spec.check(edit(workspace, "together", model=kontext, mask=True))
        assert simulator.exchanges == []


ERRORS: list[tuple[str, int, dict[str, Any] | None, type[ProviderError]]] = [
    ("together", 400, None, ProviderRejected),
    ("together", 422, None, ProviderRejected),
    ("together", 401, None, ProviderAuthError),
    ("together", 402, None, ProviderAuthError),
    ("together", 403, None, ProviderAuthError),
    ("together", 404, None, ProviderModelGone),
    ("together", 429, None, ProviderBusy),
    ("together", 500, None, ProviderUncertain),
    ("together", 502, None, ProviderUncertain),
    ("together", 503, None, ProviderUnavailable),
    ("together", 524, None, ProviderUncertain),
    ("openrouter", 400, None, ProviderRejected),
    ("openrouter", 401, None, ProviderAuthError),
    ("openrouter", 402, None, ProviderAuthError),
    ("openrouter", 403, None, ProviderAuthError),
    (
        "openrouter",
        403,
        {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"], "flagged_input": "…"}}},
        ProviderRejected,
    ),
    ("openrouter", 404, None, ProviderModelGone),
    ("openrouter", 413, None, ProviderRejected),
    ("openrouter", 429, None, ProviderBusy),
    ("openrouter", 500, None, ProviderUncertain),
    ("openrouter", 502, None, ProviderUncertain),
    ("openrouter", 503, None, ProviderUnavailable),
    ("openrouter", 524, None, ProviderUncertain),
    ("openrouter", 529, None, ProviderBusy),
    ("vllm_omni", 400, None, ProviderRejected),
    ("vllm_omni", 401, None, ProviderAuthError),
    ("vllm_omni", 404, None, ProviderModelGone),
    ("vllm_omni", 422, None, ProviderRejected),
    ("vllm_omni", 500, None, ProviderUnavailable),
    ("vllm_omni", 503, None, ProviderUnavailable),
    ("sglang", 400, None, ProviderRejected),
    ("sglang", 422, None, ProviderRejected),
    ("localai", 500, None, ProviderUnavailable),
    ("sdcpp", 400, None, ProviderRejected),
    ("lemonade", 400, None, ProviderRejected),
    ("lemonade", 501, None, ProviderModelGone),
]


class TestCount:
    async def test_the_operator_knows_how_many_a_model_draws(
        self, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        async with ProfileSimulator("sglang", key=KEY) as simulator:
            described = {"name": MODEL, "operations": ["image_generation"], "max_n": 2}
            provider = open_provider("sglang", sessions, simulator.base_url, models=(described,))
            await run(provider, call(generation(MODEL, "sglang", n=2, size="64x64"), workspace))
            with pytest.raises(UnsupportedFeature) as caught:
                await provider.start(call(generation(MODEL, "sglang", n=3), workspace))
        assert caught.value.param == "n"
        assert simulator.submissions == 1


class TestErrors:
    @pytest.mark.parametrize(("simulator", "status", "body", "expected"), ERRORS, indirect=["simulator"])
    async def test_each_has_its_class(
        self,
        provider: Provider,
        simulator: ProfileSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: dict[str, Any] | None,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(generation(MODEL, simulator.name), workspace))
        assert (type(caught.value), caught.value.status) == (expected, status)
        assert caught.value.message == ("flagged" if body else f"simulated failure {status}")

    async def test_a_model_that_is_not_served(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with ProfileSimulator("together", key=KEY, models=("another",)) as simulator:
            provider = open_provider("together", sessions, simulator.base_url)
            with pytest.raises(ProviderModelGone):
                await provider.start(call(generation(MODEL, "together"), workspace))

    @at("together")
    async def test_there_are_no_handles(self, provider: Provider, workspace: FolderWorkspace) -> None:
        wanted = call(generation(MODEL, "together"), workspace)
        with pytest.raises(ProviderRejected):
            await provider.poll("h", wanted)
        assert not await provider.cancel("h", wanted)


class TestSettings:
    @pytest.mark.parametrize("name", list(PROFILES))
    def test_each_profile_is_a_type(self, name: str) -> None:
        module = load_providers()[name]
        settled = module.settle(ProviderSettings(name=ProviderName(name), type=name))
        assert settled.base_url == PROFILES[name].base_url
        assert module.needs_key is (not PROFILES[name].local) is (module.env_key is not None)
        assert settled.repeatable is PROFILES[name].local

    def test_the_usual_variables_switch_the_hosted_ones_on(self) -> None:
        found = {name: load_providers()[name].env_key for name in PROFILES}
        assert (found["together"], found["openrouter"]) == ("TOGETHER_API_KEY", "OPENROUTER_API_KEY")

    def test_more_pictures_than_a_call_draws_become_several_calls(self, sessions: HttpSessions) -> None:
        found = {name: open_provider(name, sessions, "http://h/v1").max_n for name in PROFILES}
        assert found == {
            "together": 4,
            "openrouter": 10,
            "nebius": 1,
            "vllm_omni": 10,
            "sglang": 10,
            "localai": 1,
            "sdcpp": 8,
            "lemonade": 1,
        }
        described = {"name": "sdxl", "operations": ["image_generation"]}
        spec = open_provider("lemonade", sessions, "http://h/v1", models=(described,)).spec("sdxl")
        assert spec is not None
        assert spec.max_n == 1
        assert open_provider("openai_compatible", sessions, "http://h/v1").max_n is None

    async def test_a_profile_is_an_option_too(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with ProfileSimulator("vllm_omni") as simulator:
            options = {"profile": "vllm_omni"}
            provider = open_provider("openai_compatible", sessions, simulator.base_url, options=options)
            await run(provider, call(edit(workspace, "gpu-box", mask=True), workspace, key=NO_KEY))
            with pytest.raises(UnsupportedFeature):
                await provider.start(call(generation(MODEL, "gpu-box", style="vivid"), workspace))
            assert simulator.submissions == 1
            assert "authorization" not in simulator.exchanges[0].headers

    @pytest.mark.parametrize(
        ("kind", "options", "told"),
        [
            ("openai_compatible", {"profile": "vllm"}, r"profile: there is no 'vllm'; known: together,"),
            ("together", {"profile": "sglang"}, "profile"),
            ("vllm_omni", {"response_format": "url"}, "vLLM-Omni answers b64_json alone"),
        ],
    )
    def test_what_cannot_be(self, sessions: HttpSessions, kind: str, options: dict[str, Any], told: str) -> None:
        with pytest.raises(ConfigurationError, match=told):
            open_provider(kind, sessions, "http://127.0.0.1:1/v1", options=options)

    def test_names_are_fit_for_settings_and_modules(self) -> None:
        assert all(re.fullmatch(r"[a-z_]+", name) for name in PROFILES)

    @at("sglang")
    async def test_where_the_server_keeps_its_files_stays_there(
        self, provider: Provider, simulator: ProfileSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(generation(MODEL, "sglang", size="64x64"), workspace))
        assert "secret" not in repr(finished)
        assert replace(finished, pictures=()).model is None
        assert simulator.submissions == 1
