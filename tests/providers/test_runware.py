import io
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pybase64
import pytest
from PIL import Image

from safelight.adapters.providers import runware
from safelight.adapters.providers._base import Entry, NoOptions, ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Finished, Provider, RemotePicture, Running
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
from safelight.domain.image import ImageRequest, Operation, ResponseFormat
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    edit_of,
    generation,
    mask_bytes,
    one_of_each,
    open_provider,
    polled,
    started,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.runware import RunwareSimulator

MODEL = "runware:101@1"
FLUX_2 = "runware:400@1"
IDEOGRAM = "ideogram:4.5@precise-edit"
OPENAI = "openai:1@1"


def wanted(
    workspace: FolderWorkspace | None = None, *, model: str = MODEL, count: int = 0, **more: Any
) -> ImageRequest:
    """An edit of `count` pictures, or a generation."""
    if workspace is None:
        return generation(model, "runware", **more)
    return edit_of(workspace, model, "runware", count=count, **more)


CONFORMANCE = ProviderCase(
    simulator=lambda key: RunwareSimulator(key=key, running=0),
    requests=lambda workspace: one_of_each(workspace, MODEL, "runware", n=2),
    unsupported=wanted(quality="high"),
    unclear=frozenset({500, 503, 504, 529}),
)


@pytest.fixture
async def simulator() -> AsyncIterator[RunwareSimulator]:
    async with RunwareSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: RunwareSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("runware", sessions, simulator.base_url, timeout_s=20)


def sent(simulator: RunwareSimulator) -> dict[str, Any]:
    """The one task that was handed in."""
    [exchange] = [exchange for exchange in simulator.exchanges if exchange.submission]
    [task] = exchange.fields["tasks"]
    assert isinstance(task, dict)
    return task


async def through(provider: Provider, request: ImageRequest, workspace: FolderWorkspace) -> Finished:
    """Start and poll to the end; the simulator says "running" once."""
    handle = await started(provider, request, workspace)
    running = await polled(provider, handle, call(request, workspace))
    assert isinstance(running, Running)
    finished = await polled(provider, handle, call(request, workspace))
    assert isinstance(finished, Finished)
    return finished


class TestGeneration:
    async def test_sends_every_field_and_brings_the_pictures(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(
            n=3,
            size="192x128",
            seed=42,
            negative_prompt="blurry",
            num_inference_steps=20,
            output_format="jpeg",
            output_compression=80,
            extra={"CFGScale": 3.5, "numberResults": 2},
        )
        finished = await through(provider, request, workspace)

        task = sent(simulator)
        assert UUID(task.pop("taskUUID")).version == 4
        assert task == {
            "taskType": "imageInference",
            "model": MODEL,
            "positivePrompt": "a red fox",
            "negativePrompt": "blurry",
            "width": 192,
            "height": 128,
            "numberResults": 2,
            "outputType": "URL",
            "outputFormat": "JPG",
            "outputQuality": 80,
            "seed": 42,
            "steps": 20,
            "CFGScale": 3.5,
            "includeCost": True,
            "deliveryMethod": "async",
        }
        for exchange in simulator.exchanges:
            assert (exchange.method, exchange.path, exchange.query) == ("POST", "/v1", {})
            assert exchange.headers["authorization"] == f"Bearer {KEY}"
            assert exchange.headers["content-type"] == "application/json"
        [task_id] = simulator.tasks
        asked = [{"taskType": "getResponse", "taskUUID": task_id}]
        assert [exchange.fields["tasks"] for exchange in simulator.exchanges[1:]] == [asked, asked]
        host = simulator.root_url.removeprefix("http://")
        assert finished.pictures == tuple(
            RemotePicture(url=f"{simulator.root_url}/files/{task_id}-{place}.png", trusted_host=host)
            for place in range(2)
        )
        assert (finished.model, finished.cost_micros, finished.via) == (MODEL, 7_600, None)

    async def test_base64_comes_where_it_was_asked_for(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._running, simulator._image_bytes = 0, 1_000_000
        request = wanted(response_format=ResponseFormat.B64_JSON)
        handle = await started(provider, request, workspace)
        finished = await polled(provider, handle, call(request, workspace))
        assert isinstance(finished, Finished)
        assert [image.size_bytes for image in stored(finished)] == [1_000_000]
        assert sent(simulator)["outputType"] == "base64Data"
        assert max(sink.largest_chunk_bytes for sink in workspace.sinks) <= 64 * 1024

    async def test_data_uris_and_answers_at_once_for_those_who_ask(
        self, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        request = wanted(extra={"outputType": "dataURI", "deliveryMethod": "sync"})
        finished = await provider.start(call(request, workspace))
        assert isinstance(finished, Finished)
        assert len(stored(finished)) == 1

    async def test_what_was_not_said_is_not_sent(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        await started(provider, wanted(size="auto", user="u"), workspace)
        assert sent(simulator).keys() == {
            "taskType",
            "taskUUID",
            "model",
            "positivePrompt",
            "numberResults",
            "outputType",
            "includeCost",
            "deliveryMethod",
        }

    async def test_settings_go_to_the_vendor(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(model=OPENAI, quality="high", background="transparent", style="vivid")
        await started(provider, request, workspace)
        settings = {"quality": "high", "background": "transparent", "style": "vivid"}
        assert sent(simulator)["providerSettings"] == {"openai": settings}

    async def test_an_unknown_model_is_passed_through(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderModelGone) as caught:
            await provider.start(call(wanted(model="bfl:9@9", aspect_ratio="1:1", size="100x100"), workspace))
        assert (caught.value.provider_code, caught.value.param) == ("invalidModel", "model")
        assert sent(simulator)["aspectRatio"] == "1:1"
        with pytest.raises(ProviderRejected, match="unknown parameter aspectRatio"):
            await provider.start(call(wanted(model="civitai:1@2", aspect_ratio="1:1"), workspace))


class TestEdit:
    async def test_an_open_model_changes_one_picture_where_the_mask_is_white(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, count=1, mask=workspace.put(mask_bytes()), extra={"strength": 0.9})
        finished = await through(provider, request, workspace)
        task = sent(simulator)
        assert task["seedImage"].startswith("data:image/png;base64,")
        content = pybase64.b64decode(task["maskImage"].removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as mask:
            assert (mask.size, mask.mode) == ((64, 48), "L")
            assert (mask.getpixel((0, 0)), mask.getpixel((63, 0))) == (255, 0)
        assert task["strength"] == 0.9
        assert finished.via is None

    @pytest.mark.parametrize(
        ("model", "place", "count"),
        [
            (FLUX_2, ("inputs", "referenceImages"), 2),
            (OPENAI, ("referenceImages",), 2),
            (IDEOGRAM, ("inputs", "image"), 1),
        ],
    )
    async def test_others_take_their_pictures_elsewhere(
        self,
        provider: Provider,
        simulator: RunwareSimulator,
        workspace: FolderWorkspace,
        model: str,
        place: tuple[str, ...],
        count: int,
    ) -> None:
        await started(provider, wanted(workspace, model=model, count=count), workspace)
        found: Any = sent(simulator)
        for name in place:
            found = found[name]
        assert len([found] if isinstance(found, str) else found) == count

    async def test_mask_and_settings_of_a_newer_model(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, model=IDEOGRAM, count=1, mask=workspace.put(mask_bytes()), quality="high")
        await started(provider, request, workspace)
        task = sent(simulator)
        assert task["inputs"].keys() == {"image", "mask"}
        assert task["settings"] == {"quality": "high"}

    async def test_a_variation_has_a_neutral_prompt(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, count=1, operation=Operation.VARIATION, prompt=None)
        finished = await through(provider, request, workspace)
        assert sent(simulator)["positivePrompt"] == VARIATION_PROMPT
        assert finished.via == "edit"


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"size": "100x100"}, "size"),
            ({"size": "4096x4096"}, "size"),
            ({"quality": "high"}, "quality"),
            ({"style": "vivid"}, "style"),
            ({"background": "opaque"}, "background"),
            ({"moderation": "low"}, "moderation"),
            ({"aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"output_format": "gif"}, "output_format"),
            ({"output_compression": 100}, "output_compression"),
            ({"partial_images": 1}, "partial_images"),
            ({"prompt": "x" * 3001}, "prompt"),
            ({"model": IDEOGRAM}, "model"),
        ],
    )
    async def test_fields_of_generations(
        self,
        provider: Provider,
        simulator: RunwareSimulator,
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
            ({"count": 1, "prompt": None}, "prompt"),
            ({"count": 1, "edit_type": "outpainting"}, "type"),
            ({"count": 2, "model": "civitai:1@2"}, "image"),
        ],
    )
    async def test_fields_of_edits(
        self,
        provider: Provider,
        simulator: RunwareSimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(wanted(workspace, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_a_mask_where_there_is_none(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        request = wanted(workspace, model=FLUX_2, count=1, mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "mask"
        assert simulator.exchanges == []


class TestTasks:
    async def test_the_same_attempt_twice_is_one_task(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(wanted(), workspace))
        handle = await started(provider, wanted(), workspace)
        assert len(simulator.tasks) == 1
        assert msgspec.json.decode(handle)["task"] in simulator.tasks
        await started(provider, wanted(), workspace, token="another attempt")
        assert len(simulator.tasks) == 2

    async def test_a_conflict_is_known_whatever_its_status(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        fault = {"errors": [{"code": "conflictTaskUUID", "message": "used"}]}
        simulator.faults.push(*(Fault(kind="status", status=status, body=fault) for status in (200, 400, 409)))
        for _ in range(3):
            await started(provider, wanted(), workspace)

    async def test_another_process_goes_on_with_the_handle(
        self, simulator: RunwareSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        first = open_provider("runware", sessions, simulator.base_url)
        handle = await started(first, wanted(), workspace)
        second = open_provider("runware", sessions, simulator.base_url + "/")
        outcomes = [await second.poll(handle, call(wanted(), workspace)) for _ in range(2)]
        assert isinstance(outcomes[1], Finished)
        assert simulator.submissions == 1

    async def test_an_unknown_word_means_still_running(self, provider: Provider, workspace: FolderWorkspace) -> None:
        finished = await through(provider, wanted(prompt="[odd] fox", n=2), workspace)
        assert len(finished.pictures) == 2

    async def test_a_task_that_polling_has_forgotten_is_looked_up(
        self, simulator: RunwareSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        now = 1000.0
        settings = ProviderSettings(name=ProviderName("r"), type="runware", base_url=simulator.base_url)
        entry = Entry(settings=settings, options=NoOptions(), repeatable=False, sessions=sessions)
        provider = runware.Runware(entry, now=lambda: now)
        request = wanted(prompt="[forgotten] fox")
        handle = await started(provider, request, workspace)
        young = await polled(provider, handle, call(request, workspace))
        assert isinstance(young, Running)
        now += 3601
        finished = await polled(provider, handle, call(request, workspace))
        assert isinstance(finished, Finished)
        assert simulator.exchanges[-1].fields["tasks"][0]["taskType"] == "getTaskDetails"
        simulator.tasks.clear()
        old = await polled(provider, handle, call(request, workspace))
        assert isinstance(old, Running)
        assert old.poll_after_s > young.poll_after_s

    async def test_some_may_fail(self, provider: Provider, workspace: FolderWorkspace) -> None:
        finished = await through(provider, wanted(prompt="[half] fox", n=4), workspace)
        assert (len(finished.pictures), finished.cost_micros) == (2, 7_600)

    async def test_all_may_fail(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="the vendor refuses") as caught:
            await through(provider, wanted(prompt="[fail] fox", n=4), workspace)
        assert caught.value.provider_code == "contentModeration"

    async def test_flagged_pictures_are_withheld_from_those_who_have_them_checked(
        self, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        finished = await through(provider, wanted(prompt="[flagged] fox"), workspace)
        assert len(finished.pictures) == 1
        checked = wanted(prompt="[flagged] a fox", extra={"safety": {"checkContent": True}, "taskUUID": OTHER_TASK})
        with pytest.raises(ProviderRejected, match="content check"):
            await through(provider, checked, workspace)

    @pytest.mark.parametrize("handle", ["", "{}", "no such handle", '{"task":1}'])
    async def test_foreign_handles(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace, handle: str
    ) -> None:
        with pytest.raises(ProviderRejected):
            await polled(provider, handle, call(wanted(), workspace))
        assert simulator.exchanges == []

    async def test_nothing_can_be_cancelled(self, provider: Provider, workspace: FolderWorkspace) -> None:
        handle = await started(provider, wanted(), workspace)
        assert not await provider.cancel(handle, call(wanted(), workspace))


OTHER_TASK = "a770f077-f413-47de-9dac-be0b26a35da6"


def fault(code: str, **more: Any) -> dict[str, Any]:
    return {"errors": [{"code": code, "message": f"it is {code}", **more}]}


CASES: list[tuple[int, Any, type[ProviderError]]] = [
    (400, fault("invalidPositivePrompt", parameter="positivePrompt"), ProviderRejected),
    (400, fault("missingParameter"), ProviderRejected),
    (400, fault("invalidModel", parameter="model"), ProviderModelGone),
    (400, fault("invalidApiKey"), ProviderAuthError),
    (401, fault("invalidApiKey"), ProviderAuthError),
    (402, fault("insufficientCredits"), ProviderAuthError),
    (403, fault("forbidden"), ProviderAuthError),
    (404, fault("notFound"), ProviderModelGone),
    (429, fault("tooManyRequests"), ProviderBusy),
    (500, fault("timeoutProvider"), ProviderUncertain),
    (400, fault("timeoutProvider"), ProviderUncertain),
    (502, "<html></html>", ProviderUncertain),
    (503, fault("unavailable"), ProviderUncertain),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "body", "expected"), CASES)
    async def test_of_submits(
        self,
        provider: Provider,
        simulator: RunwareSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: Any,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(wanted(), workspace))
        assert type(caught.value) is expected
        assert caught.value.status == status
        if isinstance(body, dict):
            assert caught.value.provider_code == body["errors"][0]["code"]
            assert caught.value.message == body["errors"][0]["message"]

    async def test_a_refused_prompt(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(wanted(prompt="[blocked] fox"), workspace))
        assert (caught.value.provider_code, caught.value.param) == ("contentModeration", "positivePrompt")

    @pytest.mark.parametrize("body", [{}, {"data": []}, {"data": [{"taskUUID": OTHER_TASK}]}, {"errors": []}])
    async def test_an_answer_that_acknowledges_nothing(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace, body: dict[str, Any]
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        with pytest.raises(ProviderProtocolError):
            await provider.start(call(wanted(), workspace))

    async def test_errors_may_come_with_a_good_status(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=200, body=fault("invalidValue", parameter="width")))
        with pytest.raises(ProviderRejected, match="it is invalidValue") as caught:
            await provider.start(call(wanted(), workspace))
        assert caught.value.param == "width"

    @pytest.mark.parametrize(
        ("status", "body", "expected"),
        [
            (429, fault("tooMany"), ErrorClass.BUSY),
            (500, fault("internal"), ErrorClass.UNAVAILABLE),
            (504, "", ErrorClass.UNAVAILABLE),
            (401, fault("invalidApiKey"), ErrorClass.AUTH),
            (400, fault("contentModeration", taskType="imageInference"), ErrorClass.REJECTED),
            (500, fault("timeoutProvider", taskType="imageInference"), ErrorClass.UNAVAILABLE),
            (500, fault("timeoutProvider", taskType="getResponse"), ErrorClass.UNAVAILABLE),
        ],
    )
    async def test_of_polls(
        self,
        provider: Provider,
        simulator: RunwareSimulator,
        workspace: FolderWorkspace,
        status: int,
        body: Any,
        expected: ErrorClass,
    ) -> None:
        handle = await started(provider, wanted(), workspace)
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(wanted(), workspace))
        assert caught.value.error_class == expected

    async def test_a_poll_whose_answer_is_lost_may_be_made_again(
        self, provider: Provider, simulator: RunwareSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await started(provider, wanted(), workspace)
        simulator.faults.push(Fault(kind="truncated"))
        with pytest.raises(ProviderUnavailable):
            await polled(provider, handle, call(wanted(), workspace))
        assert isinstance(await polled(provider, handle, call(wanted(), workspace)), Finished)
