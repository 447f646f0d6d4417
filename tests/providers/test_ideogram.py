from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
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
)
from tests.simulators._base import Fault
from tests.simulators.ideogram import IdeogramSimulator

MODEL = "ideogram-4-5"


def wanted(
    workspace: FolderWorkspace | None = None, *, model: str = MODEL, count: int = 1, mask: bool = False, **more: Any
) -> ImageRequest:
    """An edit of `count` pictures, or a generation."""
    if workspace is None:
        return generation(model, "ideogram", **more)
    return edit_of(workspace, model, "ideogram", count=count, mask=mask, **more)


CONFORMANCE = ProviderCase(
    simulator=lambda key: IdeogramSimulator(key=key, words=("completed",)),
    requests=lambda workspace: [
        wanted(n=2),
        wanted(workspace, mask=True),
        wanted(workspace, operation=Operation.VARIATION, prompt=None),
    ],
    unsupported=wanted(negative_prompt="fog"),
    unclear=frozenset({500, 503, 504, 529}),
)


@pytest.fixture
async def simulator() -> AsyncIterator[IdeogramSimulator]:
    async with IdeogramSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: IdeogramSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("ideogram", sessions, simulator.base_url, timeout_s=20)


async def accepted(provider: Provider, asked: Call) -> str:
    outcome = await provider.start(asked)
    assert isinstance(outcome, Accepted)
    assert outcome.poll_after_s == 1.0
    return outcome.handle


async def finish(provider: Provider, asked: Call) -> Finished:
    handle = await accepted(provider, asked)
    for _ in range(10):
        outcome = await provider.poll(handle, asked)
        if isinstance(outcome, Finished):
            return outcome
    raise AssertionError


class TestGeneration:
    async def test_from_start_to_end(
        self, provider: Provider, simulator: IdeogramSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(n=2, size="1024x1024", quality="hd", seed=42, extra={"magic_prompt": "off"})
        asked = call(request, workspace)
        handle = await accepted(provider, asked)
        running = await provider.poll(handle, asked)
        assert isinstance(running, Running)
        assert running.poll_after_s >= 1.0
        finished = await provider.poll(handle, asked)

        start, first, second = simulator.exchanges
        assert (start.method, start.path, start.query) == ("POST", "/v2/image/generate/ideogram-4-5", {})
        assert start.headers["api-key"] == KEY
        assert "authorization" not in start.headers
        assert start.fields == {
            "prompt": "a red fox",
            "num_images": 2,
            "size": "1024x1024",
            "quality": "high",
            "seed": 42,
            "async": True,
            "magic_prompt": "off",
        }
        name = msgspec.json.decode(handle)["id"]
        assert first.path == second.path == f"/v2/generations/{name}"
        assert isinstance(finished, Finished)
        assert [type(picture) for picture in finished.pictures] == [RemotePicture, RemotePicture]
        assert {picture.revised_prompt for picture in finished.pictures} == {"a red fox, at dusk"}
        assert (finished.cost_micros, finished.created) == (60_000, 1795413600)
        assert (finished.size, finished.quality, finished.model) == ("1024x1024", "high", MODEL)
        assert finished.via is None

    @pytest.mark.parametrize(
        ("model", "asked", "sent"),
        [
            (MODEL, {"aspect_ratio": "16:9"}, {"size": "1280x720"}),
            (MODEL, {"aspect_ratio": "16:9", "resolution": "2K"}, {"size": "2560x1440"}),
            (MODEL, {"size": "2:3"}, {"size": "832x1248"}),
            (MODEL, {"size": "auto", "quality": "auto"}, {}),
            (
                "ideogram-4",
                {"size": "512x1536", "quality": "low"},
                {"resolution": "512x1536", "rendering_speed": "turbo"},
            ),
            ("ideogram-4", {"aspect_ratio": "3:1"}, {"resolution": "1536x512"}),
            (
                "ideogram-3",
                {"aspect_ratio": "16:9", "quality": "high", "style": "DESIGN", "negative_prompt": "fog"},
                {
                    "aspect_ratio": "16x9",
                    "rendering_speed": "quality",
                    "style_type": "design",
                    "negative_prompt": "fog",
                },
            ),
            (
                "ideogram-3",
                {"size": "512x512", "quality": "medium"},
                {"resolution": "512x512", "rendering_speed": "default"},
            ),
            ("p-image-ideogram", {"size": "512x768"}, {"custom_width": 512, "custom_height": 768}),
            ("p-image-ideogram", {"aspect_ratio": "1:1"}, {"custom_width": 1024, "custom_height": 1024}),
        ],
    )
    async def test_each_model_has_its_own_words(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
        workspace: FolderWorkspace,
        model: str,
        asked: dict[str, Any],
        sent: dict[str, Any],
    ) -> None:
        finished = await finish(provider, call(wanted(model=model, **asked), workspace))
        assert simulator.exchanges[0].path == f"/v2/image/generate/{model}"
        assert simulator.exchanges[0].fields == {"prompt": "a red fox", "num_images": 1, "async": True, **sent}
        assert len(finished.pictures) == 1

    @pytest.mark.parametrize("model", ["ideogram-3", "ideogram-4"])
    async def test_a_transparent_background_is_another_model(
        self, provider: Provider, simulator: IdeogramSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        await finish(provider, call(wanted(model=model, background="transparent"), workspace))
        await finish(provider, call(wanted(model=model, background="opaque"), workspace))
        paths = [exchange.path for exchange in simulator.exchanges if exchange.submission]
        assert paths == [f"/v2/image/generate/{model}-transparent", f"/v2/image/generate/{model}"]

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: IdeogramSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(model="nano-banana-9", aspect_ratio="16:9", background="transparent", resolution="4K")
        with pytest.raises(ProviderModelGone):
            await provider.start(call(request, workspace))
        assert simulator.exchanges[0].path == "/v2/image/generate/nano-banana-9"
        assert simulator.exchanges[0].fields == {
            "prompt": "a red fox",
            "num_images": 1,
            "async": True,
            "aspect_ratio": "16:9",
            "background": "transparent",
            "resolution": "4K",
        }

    async def test_an_answer_that_is_complete_at_once(self, provider: Provider, workspace: FolderWorkspace) -> None:
        outcome = await provider.start(call(wanted(extra={"async": False}), workspace))
        assert isinstance(outcome, Finished)
        assert len(outcome.pictures) == 1


class TestEdit:
    @pytest.mark.parametrize(
        ("model", "more", "path", "parts"),
        [
            (MODEL, {"count": 2}, "precise-edit/ideogram-4-5", ["image", "reference_images"]),
            (MODEL, {"mask": True}, "precise-edit/ideogram-4-5", ["image", "mask"]),
            (MODEL, {"size": "512x512"}, "generate/ideogram-4-5", ["images"]),
            ("ideogram-4-6", {"count": 2, "mask": True}, "generate/ideogram-4-6", ["images", "images", "mask"]),
            ("ideogram-4", {}, "remix/ideogram-4", ["image"]),
            ("ideogram-3", {}, "remix/ideogram-3", ["image"]),
            ("ideogram-3", {"mask": True}, "inpaint/ideogram-3", ["image", "mask"]),
            ("gpt-image-2", {"mask": True}, "generate/gpt-image-2", ["images", "mask"]),
        ],
    )
    async def test_routes_and_parts(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        path: str,
        parts: list[str],
    ) -> None:
        finished = await finish(provider, call(wanted(workspace, model=model, **more), workspace))
        exchange = simulator.exchanges[0]
        assert exchange.path == f"/v2/image/{path}"
        assert [file.name for file in exchange.files] == parts
        assert exchange.fields["async"] == "true"
        [done] = simulator.generations.values()
        if done.mask is not None:  # its left half is to change
            changes = 255 if model == "gpt-image-2" else 0
            assert (done.mask.getpixel((0, 0)), done.mask.getpixel((63, 0))) == (changes, 255 - changes)
        assert (len(finished.pictures), finished.via) == (1, None)

    @pytest.mark.parametrize(("model", "path"), [(MODEL, "generate/ideogram-4-5"), ("ideogram-3", "remix/ideogram-3")])
    async def test_a_variation_has_a_neutral_prompt(
        self, provider: Provider, simulator: IdeogramSimulator, workspace: FolderWorkspace, model: str, path: str
    ) -> None:
        request = wanted(workspace, model=model, operation=Operation.VARIATION, prompt=None)
        finished = await finish(provider, call(request, workspace))
        assert simulator.exchanges[0].path == f"/v2/image/{path}"
        assert simulator.exchanges[0].fields["prompt"] == VARIATION_PROMPT
        assert finished.via == "edit"

    async def test_the_quality_that_was_drawn(self, provider: Provider, workspace: FolderWorkspace) -> None:
        assert (await finish(provider, call(wanted(), workspace))).quality == "high"
        assert (await finish(provider, call(wanted(workspace), workspace))).quality == "medium"
        assert (await finish(provider, call(wanted(model="ideogram-3"), workspace))).quality is None


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"negative_prompt": "fog"}, "negative_prompt"),
            ({"style": "design"}, "style"),
            ({"background": "transparent"}, "background"),
            ({"output_format": "png"}, "output_format"),
            ({"num_inference_steps": 4}, "num_inference_steps"),
            ({"quality": "best"}, "quality"),
            ({"quality": "very_low"}, "quality"),
            ({"size": "1024x1024", "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"aspect_ratio": "wide"}, "aspect_ratio"),
            ({"resolution": "2K"}, "resolution"),
            ({"resolution": "8K", "aspect_ratio": "1:1"}, "resolution"),
            ({"prompt": "x" * 10_001}, "prompt"),
            ({"model": "ideogram-4", "size": "2K"}, "size"),
            ({"model": "ideogram-4", "negative_prompt": "fog"}, "negative_prompt"),
            ({"model": "ideogram-3", "resolution": "2K"}, "resolution"),
            ({"model": "p-image-ideogram", "size": "500x500"}, "size"),
        ],
    )
    async def test_generations(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
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
            ({"prompt": None}, "prompt"),
            ({"edit_type": "outpainting"}, "type"),
            ({"mask": True, "size": "512x512"}, "size"),
            ({"mask": True, "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"model": "ideogram-4", "mask": True}, "mask"),
            ({"model": "ideogram-4", "background": "transparent"}, "background"),
            ({"model": "ideogram-3", "count": 2}, "image"),
            ({"model": "ideogram-4-transparent"}, "model"),
        ],
    )
    async def test_edits(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []


class TestPolls:
    async def test_another_process_goes_on(
        self, simulator: IdeogramSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        asked = call(wanted(), workspace)
        handle = await accepted(open_provider("ideogram", sessions, simulator.base_url), asked)
        another = open_provider("ideogram", sessions, simulator.base_url)
        assert isinstance(await another.poll(handle, asked), Running)
        assert isinstance(await another.poll(handle, asked), Finished)
        assert simulator.submissions == 1

    async def test_an_unknown_word_means_still_running(
        self, provider: Provider, simulator: IdeogramSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.words = ("dreaming",)
        asked = call(wanted(), workspace)
        assert isinstance(await provider.poll(await accepted(provider, asked), asked), Running)

    @pytest.mark.parametrize(("reason", "told"), [("out of paint", "out of paint"), (None, "did not say why")])
    async def test_work_that_failed(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
        workspace: FolderWorkspace,
        reason: str | None,
        told: str,
    ) -> None:
        simulator.words, simulator.failure_reason = ("failed",), reason
        asked = call(wanted(), workspace)
        handle = await accepted(provider, asked)
        outcome = await provider.poll(handle, asked)
        assert isinstance(outcome, Failed)
        assert (type(outcome.error), outcome.error.provider_code) == (ProviderRejected, "failed")
        assert told in outcome.error.message
        assert outcome.charged is Charged.NO

    async def test_some_pictures_withheld(self, provider: Provider, workspace: FolderWorkspace) -> None:
        finished = await finish(provider, call(wanted(prompt="[half] a fox", n=4), workspace))
        assert len(finished.pictures) == 2

    async def test_all_pictures_withheld(self, provider: Provider, workspace: FolderWorkspace) -> None:
        asked = call(wanted(prompt="[unsafe] a fox", n=2), workspace)
        handle = await accepted(provider, asked)
        assert isinstance(await provider.poll(handle, asked), Running)
        outcome = await provider.poll(handle, asked)
        assert isinstance(outcome, Failed)
        assert (type(outcome.error), outcome.error.provider_code) == (ProviderRejected, "image_unsafe")
        assert (outcome.charged, outcome.error.cost_micros) == (Charged.YES, 60_000)

    @pytest.mark.parametrize("cost", [None, -5, "60000", 0.5, True])
    async def test_odd_money_costs_no_picture(
        self, provider: Provider, simulator: IdeogramSimulator, workspace: FolderWorkspace, cost: Any
    ) -> None:
        simulator.cost_micros = cost
        assert (await finish(provider, call(wanted(), workspace))).cost_micros is None

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (401, ProviderAuthError),
            (404, ProviderProtocolError),
            (429, ProviderBusy),
            (500, ProviderUnavailable),
            (503, ProviderUnavailable),
            (400, ProviderProtocolError),
        ],
    )
    async def test_refused_questions(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        asked = call(wanted(), workspace)
        handle = await accepted(provider, asked)
        simulator.faults.push(Fault(kind="status", status=status, headers={"Retry-After": "2"}))
        with pytest.raises(ProviderError) as caught:
            await provider.poll(handle, asked)
        assert type(caught.value) is expected
        assert caught.value.status == status

    async def test_handles_that_are_not_there(self, provider: Provider, workspace: FolderWorkspace) -> None:
        for handle in ("", "{}", '{"id": "gen-9", "accepted_at": 1.0}'):
            with pytest.raises(ProviderProtocolError):
                await provider.poll(handle, call(wanted(), workspace))

    async def test_there_is_no_cancel(self, provider: Provider, workspace: FolderWorkspace) -> None:
        asked = call(wanted(), workspace)
        assert not await provider.cancel(await accepted(provider, asked), asked)


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "reason", "expected"),
        [
            (400, "bad_request", ProviderRejected),
            (401, None, ProviderAuthError),
            (402, "insufficient_funds", ProviderAuthError),
            (402, "daily_limit", ProviderAuthError),
            (403, None, ProviderAuthError),
            (404, None, ProviderModelGone),
            (413, None, ProviderRejected),
            (422, "prompt_unsafe", ProviderRejected),
            (429, "inflight_limit", ProviderBusy),
            (500, None, ProviderUncertain),
            (503, None, ProviderUncertain),
        ],
    )
    async def test_each_has_its_class(
        self,
        provider: Provider,
        simulator: IdeogramSimulator,
        workspace: FolderWorkspace,
        status: int,
        reason: str | None,
        expected: type[ProviderError],
    ) -> None:
        body = {"error": "Told why.", "reject_reason": reason}
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(wanted(), workspace))
        assert type(caught.value) is expected
        assert (caught.value.status, caught.value.provider_code) == (status, reason)
        assert caught.value.message == "Told why."

    async def test_a_refused_prompt(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="unsafe"):
            await provider.start(call(wanted(prompt="[blocked] a fox"), workspace))
