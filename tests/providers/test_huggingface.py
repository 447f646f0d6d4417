from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from safelight.adapters.providers import huggingface
from safelight.adapters.providers._base import Entry, ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Accepted, Finished, Provider, RemotePicture, Running
from safelight.domain.errors import (
    ErrorClass,
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
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest, Operation
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    edit_of,
    generation,
    mask_bytes,
    open_provider,
    polled,
    run,
    stored,
)
from tests.simulators._base import Exchange, Fault
from tests.simulators.huggingface import FLUX, KONTEXT, LORA, STAGED, VERSION, HuggingFaceSimulator


def wanted(workspace: FolderWorkspace | None = None, *, model: str, count: int = 0, **more: Any) -> ImageRequest:
    """An edit of `count` pictures, or a generation."""
    if workspace is None:
        return generation(model, "huggingface", **more)
    return edit_of(workspace, model, "huggingface", count=count, **more)


CONFORMANCE = ProviderCase(
    simulator=lambda key: HuggingFaceSimulator(key=key, running=0),
    requests=lambda workspace: [
        wanted(model=f"hf-inference/{FLUX}"),
        wanted(workspace, model=f"{KONTEXT}:fal-ai", count=1),
        wanted(workspace, model=f"together/{KONTEXT}", count=1, operation=Operation.VARIATION, prompt=None),
    ],
    unsupported=wanted(model=f"nscale/{FLUX}", seed=1),
    unclear=frozenset({500, 502, 504}),
)


@pytest.fixture
async def simulator() -> AsyncIterator[HuggingFaceSimulator]:
    async with HuggingFaceSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: HuggingFaceSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("huggingface", sessions, simulator.base_url, timeout_s=20)


def purchases(simulator: HuggingFaceSimulator) -> list[Exchange]:
    return [exchange for exchange in simulator.exchanges if exchange.submission]


async def through(provider: Provider, request: ImageRequest, workspace: FolderWorkspace) -> Finished:
    """Start and poll to the end; the simulator says "running" once."""
    made = call(request, workspace)
    accepted = await provider.start(made)
    assert isinstance(accepted, Accepted)
    assert accepted.poll_after_s > 0
    running = await polled(provider, accepted.handle, made)
    assert isinstance(running, Running)
    finished = await polled(provider, accepted.handle, made)
    assert isinstance(finished, Finished)
    return finished


def links(finished: Finished) -> list[str]:
    assert all(isinstance(picture, RemotePicture) for picture in finished.pictures)
    return [picture.url for picture in finished.pictures if isinstance(picture, RemotePicture)]


class TestHFInference:
    async def test_a_generation_is_answered_with_bytes(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            model=f"hf-inference/{FLUX}",
            size="96x64",
            seed=7,
            num_inference_steps=4,
            negative_prompt="blurry",
            extra={"guidance_scale": 3.5},
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges  # no look-up
        assert (exchange.method, exchange.path) == ("POST", f"/hf-inference/models/{FLUX}")
        assert exchange.headers["accept"] == "image/png"
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.fields == {
            "inputs": "a red fox",
            "parameters": {
                "width": 96,
                "height": 64,
                "seed": 7,
                "num_inference_steps": 4,
                "negative_prompt": "blurry",
                "guidance_scale": 3.5,
            },
        }
        [image] = stored(finished)
        assert (image.sha256,) == exchange.outputs_sha256
        assert (str(image.dimensions), finished.model, finished.via) == ("96x64", FLUX, None)

    async def test_an_edit_with_parameters_is_json(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            workspace,
            model=f"hf-inference/{KONTEXT}",
            count=1,
            size="96x64",
            num_inference_steps=4,
            negative_prompt="x",
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.fields["parameters"] == {
            "prompt": "a red fox",
            "negative_prompt": "x",
            "num_inference_steps": 4,
            "target_size": {"width": 96, "height": 64},
        }
        assert [str(image.dimensions) for image in stored(finished)] == ["96x64"]

    async def test_an_edit_without_parameters_is_the_picture_itself(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, model=f"hf-inference/{KONTEXT}", count=1, prompt=None)
        await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        [file] = exchange.files
        assert exchange.headers["content-type"] == "image/png"
        assert file.sha256 == request.images[0].image.sha256

    async def test_a_variation_has_a_neutral_prompt(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            workspace, model=f"hf-inference/{KONTEXT}", count=1, operation=Operation.VARIATION, prompt=None
        )
        finished = await run(provider, call(request, workspace))
        assert simulator.exchanges[0].fields["parameters"] == {"prompt": VARIATION_PROMPT}
        assert finished.via == "edit"

    async def test_a_large_picture_is_streamed(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 1_000_000
        finished = await run(provider, call(wanted(model=f"hf-inference/{FLUX}"), workspace))
        assert [image.size_bytes for image in stored(finished)] == [1_000_000]
        assert max(sink.largest_chunk_bytes for sink in workspace.sinks) <= 64 * 1024

    async def test_bytes_that_are_no_picture(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        headers = {"Content-Type": "image/png"}
        simulator.faults.push(Fault(kind="status", status=200, body="no picture", headers=headers))
        with pytest.raises(ProviderProtocolError, match="picture that"):
            await provider.start(call(wanted(model=f"hf-inference/{FLUX}"), workspace))
        assert workspace.open_sinks == 0

    async def test_a_model_that_loads_tells_how_long(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderUnavailable, match="loading") as caught:
            await provider.start(call(wanted(model=f"hf-inference/{FLUX}", prompt="[loading]"), workspace))
        assert caught.value.retry_after_s == 20.5
        assert not caught.value.error_class.may_be_charged

    async def test_no_seed_with_a_picture(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, model=f"hf-inference/{KONTEXT}", count=1, seed=1), workspace))
        assert caught.value.param == "seed"
        assert simulator.exchanges == []


class TestFal:
    async def test_a_generation_goes_through_the_queue(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            model=f"fal-ai/{FLUX}", n=2, size="96x64", seed=7, output_format="jpeg", extra={"guidance_scale": 2}
        )
        finished = await through(provider, request, workspace)
        lookup, bought, *asked = simulator.exchanges
        assert (lookup.path, lookup.query) == (f"/api/models/{FLUX}", {"expand[]": "inferenceProviderMapping"})
        assert (bought.path, bought.query) == ("/fal-ai/fal-ai/flux/dev", {"_subdomain": "queue"})
        assert bought.fields == {
            "prompt": "a red fox",
            "seed": 7,
            "output_format": "jpeg",
            "image_size": {"width": 96, "height": 64},
            "num_images": 2,
            "guidance_scale": 2,
        }
        root = "/fal-ai/fal-ai/flux/requests/fal-ai-1"
        assert [exchange.path for exchange in asked] == [f"{root}/status", f"{root}/status", root]
        assert all(exchange.query == {"_subdomain": "queue"} for exchange in asked)
        assert links(finished) == [f"{simulator.root_url}/files/fal-ai-1-{place}.png" for place in range(2)]

    async def test_an_edit_names_its_pictures_twice(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        await through(provider, wanted(workspace, model=f"fal-ai/{KONTEXT}", count=2), workspace)
        [bought] = purchases(simulator)
        assert bought.path == "/fal-ai/fal-ai/flux-kontext/dev"
        assert len(bought.fields["image_urls"]) == 2
        assert bought.fields["image_url"] == bought.fields["image_urls"][0]

    async def test_a_lora_comes_from_the_hub(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        await through(provider, wanted(model=LORA), workspace)
        [bought] = purchases(simulator)
        assert bought.path == "/fal-ai/fal-ai/flux-lora"
        url = f"https://huggingface.co/{LORA}/resolve/main/ink%20v1.safetensors"
        assert bought.fields["loras"] == [{"path": url, "scale": 1}]

    @pytest.mark.parametrize(
        ("prompt", "expected", "code"),
        [
            ("[fail]", ProviderRejected, "task_failed"),
            ("[flagged]", ProviderRejected, "content_policy_violation"),
            ("[invalid]", ProviderRejected, None),
        ],
    )
    async def test_it_may_end_badly(
        self,
        provider: Provider,
        workspace: FolderWorkspace,
        prompt: str,
        expected: type[ProviderError],
        code: str | None,
    ) -> None:
        with pytest.raises(ProviderError) as caught:
            await through(provider, wanted(model=f"fal-ai/{FLUX}", prompt=prompt), workspace)
        assert type(caught.value) is expected
        assert caught.value.provider_code == code

    async def test_a_result_that_cannot_be_had_now_may_be_had_later(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._running = 0
        made = call(wanted(model=f"fal-ai/{FLUX}"), workspace)
        accepted = await provider.start(made)
        assert isinstance(accepted, Accepted)
        simulator.faults.push(Fault(kind="status", status=502, path="*/requests/fal-ai-1"))
        with pytest.raises(ProviderUnavailable) as caught:
            await polled(provider, accepted.handle, made)
        assert caught.value.error_class.poll_again
        assert isinstance(await polled(provider, accepted.handle, made), Finished)


class TestReplicate:
    async def test_it_mostly_answers_at_once(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(model=f"replicate/{FLUX}", prompt="[list]", size="96x64", seed=7, output_format="jpeg")
        finished = await run(provider, call(request, workspace))
        [bought] = purchases(simulator)
        assert bought.path == "/replicate/v1/models/black-forest-labs/flux-dev/predictions"
        assert bought.headers["prefer"] == "wait"
        assert bought.fields == {
            "input": {"prompt": "[list]", "seed": 7, "output_format": "jpg", "width": 96, "height": 64}
        }
        assert links(finished) == [f"{simulator.root_url}/files/replicate-1-0.png"]

    async def test_what_outlasts_the_wait_is_asked_for(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await through(provider, wanted(model=f"replicate/{FLUX}", prompt="[slow]"), workspace)
        assert simulator.exchanges[-1].path == "/replicate/v1/predictions/replicate-1"
        assert len(links(finished)) == 1

    async def test_versions_and_pictures(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(wanted(model=f"{LORA}:replicate"), workspace))
        await run(provider, call(wanted(workspace, model=f"replicate/{KONTEXT}", count=1), workspace))
        version, edit = purchases(simulator)
        assert (version.path, version.fields["version"]) == ("/replicate/v1/predictions", VERSION)
        assert version.fields["input"]["lora_weights"] == f"https://huggingface.co/{LORA}"
        inputs = edit.fields["input"]
        assert inputs["image"] == inputs["input_image"]
        assert inputs["images"] == inputs["input_images"] == [inputs["image"]]

    async def test_a_failure(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="replicate failed: NSFW"):
            await provider.start(call(wanted(model=f"replicate/{FLUX}", prompt="[fail]"), workspace))


class TestOpenAIShaped:
    async def test_together(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            model=f"together/{FLUX}",
            n=2,
            size="96x64",
            seed=7,
            num_inference_steps=4,
            negative_prompt="x",
            output_format="png",
        )
        finished = await run(provider, call(request, workspace))
        [bought] = purchases(simulator)
        assert bought.path == "/together/v1/images/generations"
        assert bought.fields == {
            "model": FLUX,
            "prompt": "a red fox",
            "response_format": "base64",
            "n": 2,
            "width": 96,
            "height": 64,
            "steps": 4,
            "seed": 7,
            "negative_prompt": "x",
            "output_format": "png",
        }
        assert tuple(image.sha256 for image in stored(finished)) == bought.outputs_sha256

    async def test_together_edits(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        await run(provider, call(wanted(workspace, model=f"together/{KONTEXT}", count=1), workspace))
        await run(provider, call(wanted(workspace, model=f"together/{STAGED}", count=2), workspace))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, model=f"together/{KONTEXT}", count=2), workspace))
        kontext, other = purchases(simulator)
        assert kontext.fields["image_url"].startswith("data:image/png;base64,")
        assert len(other.fields["reference_images"]) == 2
        assert caught.value.param == "image"

    async def test_nscale(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(wanted(model=f"nscale/{FLUX}", size="96x64"), workspace))
        [bought] = purchases(simulator)
        assert bought.path == "/nscale/v1/images/generations"
        assert bought.fields == {
            "model": FLUX,
            "prompt": "a red fox",
            "response_format": "b64_json",
            "size": "96x64",
        }
        assert len(stored(finished)) == 1


class TestWaveSpeedAndZai:
    async def test_wavespeed(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await through(provider, wanted(model=f"wavespeed/{FLUX}", size="96x64", seed=7), workspace)
        [bought] = purchases(simulator)
        assert bought.path == "/wavespeed/api/v3/wavespeed-ai/flux-dev"
        assert bought.fields == {"prompt": "a red fox", "seed": 7, "size": "96*64"}
        assert simulator.exchanges[-1].path == "/wavespeed/api/v3/predictions/wavespeed-1/result"
        assert len(links(finished)) == 1

    async def test_wavespeed_edits_though_its_last_check_failed(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, model=f"wavespeed/{KONTEXT}", count=1)
        assert isinstance(await provider.start(call(request, workspace)), Accepted)
        assert purchases(simulator)[0].fields["image"].startswith("data:image/png;base64,")

    async def test_zai(self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace) -> None:
        finished = await through(provider, wanted(model=f"zai-org/{FLUX}", size="96x64", quality="hd"), workspace)
        [bought] = purchases(simulator)
        assert bought.path == "/zai-org/api/paas/v4/async/images/generations"
        assert bought.fields == {"model": "flux-dev", "prompt": "a red fox", "size": "96x64", "quality": "hd"}
        assert simulator.exchanges[-1].path == "/zai-org/api/paas/v4/async-result/zai-org-1"
        assert len(links(finished)) == 1

    @pytest.mark.parametrize("partner", ["wavespeed", "zai-org"])
    async def test_failures_and_odd_words(self, provider: Provider, workspace: FolderWorkspace, partner: str) -> None:
        with pytest.raises(ProviderRejected, match=f"{partner} failed"):
            await through(provider, wanted(model=f"{partner}/{FLUX}", prompt="[fail]"), workspace)
        await through(provider, wanted(model=f"{partner}/{FLUX}", prompt="[odd]"), workspace)


class TestPartners:
    async def test_the_hubs_order_decides_among_live_ones(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        for request in (wanted(model=FLUX), wanted(workspace, model=KONTEXT, count=1)):
            assert isinstance(await provider.start(call(request, workspace)), Accepted)
        assert [bought.path for bought in purchases(simulator)] == [
            "/fal-ai/fal-ai/flux/dev",
            "/fal-ai/fal-ai/flux-kontext/dev",
        ]

    async def test_a_look_up_is_kept_for_a_while_and_dropped_when_it_proves_wrong(
        self, simulator: HuggingFaceSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        now = 1000.0
        settings = ProviderSettings(name=ProviderName("hf"), type="huggingface", base_url=simulator.base_url)
        entry = Entry(settings=settings, options=huggingface.Options(), repeatable=False, sessions=sessions)
        provider = huggingface.HuggingFace(entry, now=lambda: now)
        made = call(wanted(model=f"nscale/{FLUX}"), workspace)

        def lookups() -> int:
            return sum(exchange.path.startswith("/api/") for exchange in simulator.exchanges)

        await provider.start(made)
        await provider.start(made)
        assert lookups() == 1
        simulator.faults.push(Fault(kind="status", status=404, method="POST"))
        with pytest.raises(ProviderModelGone):
            await provider.start(made)
        await provider.start(made)
        assert lookups() == 2
        now += huggingface.MAPPING_LIFETIME_S
        await provider.start(made)
        assert lookups() == 3

    @pytest.mark.parametrize(
        ("model", "words"),
        [
            ("lab/none", "Repository not found"),
            (STAGED, "every live partner lacks lab/next for text-to-image"),
            (f"nscale/{STAGED}", "nscale lacks lab/next for text-to-image"),
            (f"together/{KONTEXT}", "together lacks .* for text-to-image"),
        ],
    )
    async def test_what_nobody_offers(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace, model: str, words: str
    ) -> None:
        with pytest.raises(ProviderModelGone, match=words):
            await provider.start(call(wanted(model=model), workspace))
        assert purchases(simulator) == []

    async def test_staging_is_served_to_those_who_name_it(self, provider: Provider, workspace: FolderWorkspace) -> None:
        assert isinstance(await provider.start(call(wanted(model=f"fal-ai/{STAGED}"), workspace)), Accepted)

    @pytest.mark.parametrize("model", ["flux", f"nebius/{FLUX}", f"{FLUX}:nebius", f"fal-ai/{FLUX}:fal-ai", "a/../b"])
    async def test_names_that_are_none(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        assert provider.spec(model) is None
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(model=model), workspace))
        assert caught.value.param == "model"
        assert simulator.exchanges == []

    async def test_the_partner_that_was_found_sets_the_limits(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        spec = provider.spec(FLUX)
        assert spec is not None
        assert spec.max_n == 1
        request = wanted(workspace, model=KONTEXT, count=1, aspect_ratio="1:1")
        await provider.start(call(request, workspace))
        assert purchases(simulator)[0].fields["aspect_ratio"] == "1:1"

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (f"hf-inference/{FLUX}", {"quality": "high"}, "quality"),
            (f"together/{FLUX}", {"quality": "high"}, "quality"),
            (f"nscale/{FLUX}", {"num_inference_steps": 4}, "num_inference_steps"),
            (f"zai-org/{FLUX}", {"seed": 4}, "seed"),
            (f"fal-ai/{FLUX}", {"output_compression": 4}, "output_compression"),
            (FLUX, {"partial_images": 1}, "partial_images"),
        ],
    )
    async def test_fields_that_a_partner_has_not(
        self,
        provider: Provider,
        simulator: HuggingFaceSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(model=model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize("model", [f"nscale/{FLUX}", f"zai-org/{FLUX}"])
    async def test_partners_without_edits(self, provider: Provider, workspace: FolderWorkspace, model: str) -> None:
        with pytest.raises(UnsupportedFeature):
            await provider.start(call(wanted(workspace, model=model, count=1), workspace))

    async def test_masks_have_no_common_name(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, model=KONTEXT, count=1, mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "mask"
        assert simulator.exchanges == []

    async def test_an_organisation_pays(
        self, simulator: HuggingFaceSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("huggingface", sessions, simulator.base_url, options={"bill_to": "acme"})
        await provider.start(call(wanted(model=f"nscale/{FLUX}"), workspace))
        assert purchases(simulator)[0].headers["x-hf-bill-to"] == "acme"

    async def test_the_hub_may_be_elsewhere(
        self, simulator: HuggingFaceSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        async with HuggingFaceSimulator() as hub:
            options = {"hub_url": hub.base_url}
            provider = open_provider("huggingface", sessions, simulator.base_url, options=options)
            await provider.start(call(wanted(model=f"nscale/{FLUX}"), workspace))
            assert [exchange.path for exchange in hub.exchanges] == [f"/api/models/{FLUX}"]
        assert len(simulator.exchanges) == 1

    def test_the_real_router_has_the_real_hub(self, sessions: HttpSessions) -> None:
        provider = open_provider("huggingface", sessions)
        assert isinstance(provider, huggingface.HuggingFace)
        assert provider._hub == huggingface.HUB


CASES: list[tuple[int, Any, type[ProviderError]]] = [
    (400, {"error": "bad width"}, ProviderRejected),
    (401, {"error": "Invalid username or password."}, ProviderAuthError),
    (402, {"error": "You have exceeded your monthly included credits"}, ProviderAuthError),
    (403, {"error": "no permission"}, ProviderAuthError),
    (404, {"error": "not mapped"}, ProviderModelGone),
    (413, "too large", ProviderRejected),
    (422, {"detail": [{"loc": ["body", "prompt"], "msg": "required", "type": "missing"}]}, ProviderRejected),
    (429, {"error": "too many"}, ProviderBusy),
    (500, {"error": "broken"}, ProviderUncertain),
    (502, {"error": "broken"}, ProviderUncertain),
    (503, {"error": "broken"}, ProviderUncertain),
    (504, {"error": "late"}, ProviderUncertain),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "body", "expected"), CASES)
    async def test_each_has_its_class(
        self,
        provider: Provider,
        simulator: HuggingFaceSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: Any,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body, method="POST"))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(wanted(model=f"nscale/{FLUX}"), workspace))
        assert type(caught.value) is expected
        assert caught.value.status == status

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (Fault(kind="status", status=504), ProviderUnavailable),
            (Fault(kind="status", status=401), ProviderAuthError),
            (Fault(kind="empty"), ProviderModelGone),
            (Fault(kind="wrong_json"), ProviderUnavailable),
            (Fault(kind="truncated"), ProviderUnavailable),
        ],
    )
    async def test_a_look_up_that_fails_costs_nothing(
        self,
        provider: Provider,
        simulator: HuggingFaceSimulator,
        workspace: FolderWorkspace,
        fault: Fault,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(fault)
        with pytest.raises(expected) as caught:
            await provider.start(call(wanted(model=f"nscale/{FLUX}"), workspace))
        assert not caught.value.error_class.may_be_charged
        assert purchases(simulator) == []

    @pytest.mark.parametrize(
        ("partner", "fault"),
        [
            ("fal-ai", Fault(kind="empty", method="POST")),
            ("replicate", Fault(kind="empty", method="POST")),
            ("together", Fault(kind="empty", method="POST")),
            ("wavespeed", Fault(kind="empty", method="POST")),
            ("zai-org", Fault(kind="empty", method="POST")),
            ("hf-inference", Fault(kind="empty", method="POST")),
        ],
    )
    async def test_a_purchase_without_an_answer_to_use(
        self,
        provider: Provider,
        simulator: HuggingFaceSimulator,
        workspace: FolderWorkspace,
        partner: str,
        fault: Fault,
    ) -> None:
        simulator.faults.push(fault)
        with pytest.raises(ProviderProtocolError):
            await provider.start(call(wanted(model=f"{partner}/{FLUX}"), workspace))

    @pytest.mark.parametrize("status", [404, 429, 500, 504])
    async def test_a_poll_that_fails(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace, status: int
    ) -> None:
        made = call(wanted(model=f"wavespeed/{FLUX}"), workspace)
        accepted = await provider.start(made)
        assert isinstance(accepted, Accepted)
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, accepted.handle, made)
        expected = {404: ErrorClass.MODEL_GONE, 429: ErrorClass.BUSY}
        assert caught.value.error_class == expected.get(status, ErrorClass.UNAVAILABLE)

    @pytest.mark.parametrize("handle", ["", "{}", '{"partner":"nebius","path":"/x","since":1}', '"x"'])
    async def test_foreign_handles(
        self, provider: Provider, simulator: HuggingFaceSimulator, workspace: FolderWorkspace, handle: str
    ) -> None:
        with pytest.raises(ProviderRejected):
            await polled(provider, handle, call(wanted(model=FLUX), workspace))
        assert simulator.exchanges == []

    async def test_nothing_can_be_cancelled(self, provider: Provider, workspace: FolderWorkspace) -> None:
        assert not await provider.cancel("{}", call(wanted(model=FLUX), workspace))

    async def test_another_process_goes_on_with_the_handle(
        self, simulator: HuggingFaceSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        made = call(wanted(model=FLUX), workspace)
        first = open_provider("huggingface", sessions, simulator.base_url)
        accepted = await first.start(made)
        assert isinstance(accepted, Accepted)
        known = msgspec.json.decode(accepted.handle)
        assert (known["partner"], known["path"]) == ("fal-ai", "/fal-ai/flux/requests/fal-ai-1")
        second = open_provider("huggingface", sessions, simulator.base_url + "/")
        outcomes = [await second.poll(accepted.handle, made) for _ in range(2)]
        assert isinstance(outcomes[1], Finished)
        assert len(purchases(simulator)) == 1
