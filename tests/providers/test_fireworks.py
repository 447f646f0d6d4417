from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from safelight.adapters.providers._base import Entry, NoOptions, ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.adapters.providers.fireworks import Fireworks
from safelight.application.ports import Accepted, Call, Failed, Finished, Provider, RemotePicture, Running
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
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    edit_of,
    generation,
    open_provider,
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.fireworks import FireworksSimulator

FLUX = "flux-1-schnell-fp8"
KONTEXT = "flux-kontext-pro"


def wanted(
    workspace: FolderWorkspace | None = None, *, model: str = KONTEXT, count: int = 1, mask: bool = False, **more: Any
) -> ImageRequest:
    """An edit of `count` pictures, or a generation."""
    if workspace is None:
        return generation(model, "fireworks", **more)
    return edit_of(workspace, model, "fireworks", count=count, mask=mask, **more)


CONFORMANCE = ProviderCase(
    simulator=lambda key: FireworksSimulator(key=key, words=("Ready",)),
    requests=lambda workspace: [
        wanted(model=FLUX),
        wanted(workspace),
        wanted(workspace, operation=Operation.VARIATION, prompt=None),
    ],
    unsupported=wanted(model=FLUX, negative_prompt="fog"),
    unclear=frozenset({500, 503, 504, 529}),
)


@pytest.fixture
async def simulator() -> AsyncIterator[FireworksSimulator]:
    async with FireworksSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: FireworksSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("fireworks", sessions, simulator.base_url, timeout_s=20)


def open_at(simulator: FireworksSimulator, sessions: HttpSessions, now: float) -> Provider:
    """A provider whose clock stands."""
    settings = ProviderSettings(name=ProviderName("fireworks"), type="fireworks", base_url=simulator.base_url)
    entry = Entry(settings=settings, options=NoOptions(), repeatable=False, sessions=sessions)
    return Fireworks(entry, now=lambda: now)


async def accepted(provider: Provider, asked: Call) -> str:
    outcome = await provider.start(asked)
    assert isinstance(outcome, Accepted)
    assert outcome.poll_after_s == 0.5
    return outcome.handle


class TestFlux:
    async def test_json_with_base64(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            model=FLUX, aspect_ratio="16:9", seed=42, num_inference_steps=4, user="u", extra={"guidance_scale": 3.5}
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == f"/inference/v1/workflows/accounts/fireworks/models/{FLUX}/text_to_image"
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.headers["accept"] == "application/json"
        assert exchange.fields == {
            "prompt": "a red fox",
            "aspect_ratio": "16:9",
            "seed": 42,
            "num_inference_steps": 4,
            "guidance_scale": 3.5,
        }
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert (finished.model, finished.via, finished.cost_micros) == (FLUX, None, None)

    @pytest.mark.parametrize("file_format", ["png", "jpeg"])
    async def test_a_format_is_asked_for_in_a_header(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace, file_format: str
    ) -> None:
        finished = await run(provider, call(wanted(model=FLUX, output_format=file_format), workspace))
        [exchange] = simulator.exchanges
        assert exchange.headers["accept"] == f"image/{file_format}"
        assert exchange.fields == {"prompt": "a red fox"}
        assert [image.content_type for image in stored(finished)] == [f"image/{file_format}"]
        assert finished.output_format == file_format

    async def test_base64_in_another_dress(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.loose = True
        finished = await run(provider, call(wanted(model=FLUX), workspace))
        assert len(stored(finished)) == 1

    @pytest.mark.parametrize("more", [{}, {"output_format": "png"}])
    async def test_filtered_pictures_are_never_handed_out(
        self, provider: Provider, workspace: FolderWorkspace, more: dict[str, Any]
    ) -> None:
        with pytest.raises(ProviderRejected, match="withheld") as caught:
            await provider.start(call(wanted(model=FLUX, prompt="[filtered]", **more), workspace))
        assert (caught.value.provider_code, caught.value.charged) == ("CONTENT_FILTERED", Charged.UNKNOWN)
        assert workspace.open_sinks == 0

    @pytest.mark.parametrize(
        ("size", "ratio"), [("1024x1024", "1:1"), ("1792x1024", "16:9"), ("832x1216", "2:3"), ("auto", None)]
    )
    async def test_a_size_becomes_a_ratio(
        self,
        provider: Provider,
        simulator: FireworksSimulator,
        workspace: FolderWorkspace,
        size: str,
        ratio: str | None,
    ) -> None:
        await run(provider, call(wanted(model=FLUX, size=size), workspace))
        assert simulator.exchanges[0].fields.get("aspect_ratio") == ratio

    async def test_a_whole_name_is_the_same_model(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        whole = f"accounts/fireworks/models/{FLUX}"
        await run(provider, call(wanted(model=whole), workspace))
        assert simulator.exchanges[0].path == f"/inference/v1/workflows/{whole}/text_to_image"
        with pytest.raises(UnsupportedFeature):
            await provider.start(call(wanted(model=whole, quality="high"), workspace))

    async def test_an_older_model_of_the_settings(
        self, simulator: FireworksSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        spec = {"name": "playground-v2", "operations": ["image_generation"], "wire": {"kind": "sides"}}
        provider = open_provider("fireworks", sessions, simulator.base_url, models=(spec,))
        for request in (
            wanted(model="playground-v2", size="96x64"),
            wanted(model="playground-v2", aspect_ratio="1:1"),
        ):
            await run(provider, call(request, workspace))
        first, second = simulator.exchanges
        assert first.path == "/inference/v1/image_generation/accounts/fireworks/models/playground-v2"
        assert (first.fields["width"], first.fields["height"]) == (96, 64)
        assert (second.fields["width"], second.fields["height"]) == (1024, 1024)

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderModelGone):
            await provider.start(call(wanted(model="flux-9", quality="best", size="9x9"), workspace))
        assert simulator.exchanges[0].fields == {
            "prompt": "a red fox",
            "quality": "best",
            "aspect_ratio": "1:1",
        }


class TestKontext:
    async def test_from_start_to_end(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        asked = call(wanted(workspace, seed=7, aspect_ratio="4:3", output_format="png"), workspace)
        handle = await accepted(provider, asked)
        running = await provider.poll(handle, asked)
        assert isinstance(running, Running)
        assert (running.poll_after_s, running.progress) == (0.5, 0.5)
        finished = await provider.poll(handle, asked)

        start, first, second = simulator.exchanges
        root = f"/inference/v1/workflows/accounts/fireworks/models/{KONTEXT}"
        assert (start.path, first.path, second.path) == (root, f"{root}/get_result", f"{root}/get_result")
        assert start.fields.pop("input_image").startswith("data:image/png;base64,")
        assert start.fields == {"prompt": "a red fox", "seed": 7, "aspect_ratio": "4:3", "output_format": "png"}
        assert first.method == "POST"
        assert first.fields == {"id": msgspec.json.decode(handle)["id"]}
        assert isinstance(finished, Finished)
        [picture] = finished.pictures
        assert isinstance(picture, RemotePicture)
        assert (finished.model, finished.via, finished.output_format) == (KONTEXT, None, "png")
        assert simulator.submissions == 1

    async def test_it_generates_too(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        await accepted(provider, call(wanted(size="1024x1024"), workspace))
        assert simulator.exchanges[0].fields == {"prompt": "a red fox", "aspect_ratio": "1:1"}

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.words = ("Ready",)
        asked = call(wanted(workspace, operation=Operation.VARIATION, prompt=None), workspace)
        finished = await provider.poll(await accepted(provider, asked), asked)
        assert isinstance(finished, Finished)
        assert finished.via == "edit"
        assert simulator.exchanges[0].fields["prompt"] == VARIATION_PROMPT

    async def test_another_process_goes_on(
        self, simulator: FireworksSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        asked = call(wanted(workspace), workspace)
        handle = await accepted(open_provider("fireworks", sessions, simulator.base_url), asked)
        another = open_provider("fireworks", sessions, simulator.base_url)
        assert isinstance(await another.poll(handle, asked), Running)
        assert isinstance(await another.poll(handle, asked), Finished)
        assert simulator.submissions == 1

    @pytest.mark.parametrize(
        ("word", "expected", "charged"),
        [
            ("Error", ProviderProtocolError, Charged.UNKNOWN),
            ("Failed", ProviderProtocolError, Charged.UNKNOWN),
            ("Request Moderated", ProviderRejected, Charged.NO),
            ("Content Moderated", ProviderRejected, Charged.NO),
        ],
    )
    async def test_work_that_failed(
        self,
        provider: Provider,
        simulator: FireworksSimulator,
        workspace: FolderWorkspace,
        word: str,
        expected: type[ProviderError],
        charged: Charged,
    ) -> None:
        simulator.words, simulator.details = (word,), "told why"
        asked = call(wanted(workspace), workspace)
        outcome = await provider.poll(await accepted(provider, asked), asked)
        assert isinstance(outcome, Failed)
        assert (type(outcome.error), outcome.charged) == (expected, charged)
        assert (outcome.error.message, outcome.error.provider_code) == (f"{word}: told why", word)

    async def test_an_unknown_word_means_still_running(
        self, provider: Provider, simulator: FireworksSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.words = ("Dreaming",)
        asked = call(wanted(workspace), workspace)
        assert isinstance(await provider.poll(await accepted(provider, asked), asked), Running)

    @pytest.mark.parametrize(("age_s", "ended"), [(29.0, False), (31.0, True)])
    async def test_a_task_may_be_unseen_at_first(
        self,
        simulator: FireworksSimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        age_s: float,
        *,
        ended: bool,
    ) -> None:
        provider = open_at(simulator, sessions, now=1000.0 + age_s)
        handle = msgspec.json.encode({"id": "req-9", "model": KONTEXT, "accepted_at": 1000.0}).decode()
        outcome = await provider.poll(handle, call(wanted(workspace), workspace))
        assert isinstance(outcome, Failed if ended else Running)

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderProtocolError),
            (401, ProviderAuthError),
            (404, ProviderProtocolError),
            (429, ProviderBusy),
            (500, ProviderUnavailable),
        ],
    )
    async def test_refused_questions(
        self,
        provider: Provider,
        simulator: FireworksSimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        asked = call(wanted(workspace), workspace)
        handle = await accepted(provider, asked)
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.poll(handle, asked)
        assert (type(caught.value), caught.value.status) == (expected, status)

    async def test_handles_that_are_not_there(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderProtocolError):
            await provider.poll("{}", call(wanted(workspace), workspace))
        assert not await provider.cancel("{}", call(wanted(workspace), workspace))


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"quality": "high"}, "quality"),
            ({"negative_prompt": "fog"}, "negative_prompt"),
            ({"background": "opaque"}, "background"),
            ({"output_format": "webp"}, "output_format"),
            ({"aspect_ratio": "7:3"}, "aspect_ratio"),
            ({"size": "7:3"}, "size"),
            ({"size": "2000x500"}, "size"),
            ({"size": "2K"}, "size"),
            ({"size": "1024x1024", "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"seed": 0}, "seed"),
            ({"model": KONTEXT, "num_inference_steps": 4}, "num_inference_steps"),
            ({"model": "../../accounts"}, "model"),
            ({"model": "a/../b"}, "model"),
            ({"model": "a?b=c"}, "model"),
        ],
    )
    async def test_generations(
        self,
        provider: Provider,
        simulator: FireworksSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(**{"model": FLUX, **more}), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"count": 2}, "image"),
            ({"mask": True}, "mask"),
            ({"prompt": None}, "prompt"),
            ({"edit_type": "outpainting"}, "type"),
            ({"model": FLUX}, "model"),
            ({"model": "flux-9"}, "image"),
            ({"model": "flux-kontext-9", "mask": True}, "mask"),
        ],
    )
    async def test_edits(
        self,
        provider: Provider,
        simulator: FireworksSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []


class TestErrors:
    @pytest.mark.parametrize("model", [FLUX, KONTEXT])
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRejected),
            (401, ProviderAuthError),
            (402, ProviderAuthError),
            (403, ProviderAuthError),
            (404, ProviderModelGone),
            (422, ProviderRejected),
            (429, ProviderBusy),
            (500, ProviderUncertain),
            (503, ProviderUncertain),
        ],
    )
    async def test_each_has_its_class(
        self,
        provider: Provider,
        simulator: FireworksSimulator,
        workspace: FolderWorkspace,
        model: str,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(wanted(model=model), workspace))
        assert (type(caught.value), caught.value.status) == (expected, status)
        assert caught.value.message == f"simulated failure {status}"
