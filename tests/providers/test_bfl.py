import base64
import hmac
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from PIL import Image
from structlog.testing import capture_logs

from safelight.adapters.providers._base import Entry, NoOptions, ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.adapters.providers.bfl import PROVIDER, BlackForestLabs
from safelight.application.ports import Accepted, CallbackAddress, Finished, RemotePicture, Running
from safelight.domain.errors import (
    ConfigurationError,
    InvalidRequest,
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
    generation,
    image_bytes,
    mask_bytes,
    open_provider,
    polled,
)
from tests.simulators._base import Fault
from tests.simulators.bfl import MODELS, BFLSimulator

MODEL = "flux-2-pro"
START = 1_795_400_000.0


def ask(model: str = MODEL, **more: Any) -> ImageRequest:
    return generation(model, "bfl", **more)


def edit(workspace: FolderWorkspace, model: str = MODEL, *, count: int = 1, **more: Any) -> ImageRequest:
    inputs = tuple(workspace.put(image_bytes(300, 260, colour=(number, 0, 0))) for number in range(count))
    return ask(model, **{"operation": Operation.EDIT, "images": inputs, **more})


def requests(workspace: FolderWorkspace) -> Sequence[ImageRequest]:
    return [
        ask(),
        edit(workspace),
        edit(workspace, operation=Operation.VARIATION, prompt=None),
        edit(workspace, "flux-pro-1.0-fill", mask=workspace.put(mask_bytes(300, 260))),
    ]


CONFORMANCE = ProviderCase(
    simulator=lambda key: BFLSimulator(key=key),
    requests=requests,
    unsupported=ask(negative_prompt="fog"),
    unclear=frozenset({500, 503, 504, 529}),
)


@dataclass
class Time:
    now_s: float = START

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def simulator() -> AsyncIterator[BFLSimulator]:
    async with BFLSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def provider(simulator: BFLSimulator, sessions: HttpSessions, time: Time) -> BlackForestLabs:
    settings = ProviderSettings(name=ProviderName("bfl"), type="bfl", base_url=simulator.base_url, timeout_s=20)
    entry = Entry(settings=PROVIDER.settle(settings), options=NoOptions(), repeatable=False, sessions=sessions)
    return BlackForestLabs(entry, now=time)


async def fields_of(
    provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace, request: ImageRequest
) -> dict[str, Any]:
    await provider.start(call(request, workspace))
    return simulator.exchanges[-1].fields


async def begun(provider: BlackForestLabs, workspace: FolderWorkspace, request: ImageRequest | None = None) -> str:
    outcome = await provider.start(call(request or ask(), workspace))
    assert isinstance(outcome, Accepted)
    return outcome.handle


def decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


class TestGeneration:
    async def test_sends_every_field(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask(
            "flux-2-flex",
            size="1024x768",
            seed=42,
            output_format="webp",
            num_inference_steps=30,
            user="user-17",
            extra={"guidance": 3.5, "prompt_upsampling": False, "seed": 43},
            extra_headers={"X-Key": "theirs", "X-Trace": "t-1"},
        )
        await provider.start(call(request, workspace))
        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path, exchange.query) == ("POST", "/v1/flux-2-flex", {})
        assert exchange.fields == {
            "prompt": "a red fox",
            "width": 1024,
            "height": 768,
            "seed": 43,
            "output_format": "webp",
            "steps": 30,
            "guidance": 3.5,
            "prompt_upsampling": False,
        }
        assert exchange.headers["x-key"] == KEY
        assert exchange.headers["x-trace"] == "t-1"
        assert "authorization" not in exchange.headers

    @pytest.mark.parametrize(
        ("model", "more", "sent"),
        [
            (MODEL, {}, {"output_format": "png"}),
            (MODEL, {"size": "auto", "aspect_ratio": "auto"}, {"output_format": "png"}),
            (MODEL, {"aspect_ratio": "16:9"}, {"width": 1360, "height": 768, "output_format": "png"}),
            (MODEL, {"aspect_ratio": "1:1"}, {"width": 1024, "height": 1024, "output_format": "png"}),
            ("flux-dev", {"aspect_ratio": "21:9"}, {"width": 1440, "height": 608, "output_format": "png"}),
            ("flux-pro-1.1", {"size": "1440x256"}, {"width": 1440, "height": 256, "output_format": "png"}),
            ("flux-kontext-max", {"size": "1000x760"}, {"aspect_ratio": "4:3", "output_format": "png"}),
            ("flux-kontext-pro", {"aspect_ratio": "7:5"}, {"aspect_ratio": "7:5", "output_format": "png"}),
            ("flux-pro-1.1-ultra", {"size": "9:21"}, {"aspect_ratio": "9:21", "output_format": "png"}),
            ("flux-3-image", {}, {}),
            ("flux-3-image", {"size": "1024x1024"}, {"aspect_ratio": "1:1", "resolution": "1k"}),
            ("flux-3-image", {"size": "2048x1152"}, {"aspect_ratio": "16:9", "resolution": "1.5k"}),
            ("flux-3-image", {"size": "4096x2304"}, {"aspect_ratio": "16:9", "resolution": "4k"}),
            ("flux-3-image", {"size": "2K"}, {"resolution": "2k"}),
            ("flux-3-image", {"size": "1024x1024", "resolution": "4K"}, {"aspect_ratio": "1:1", "resolution": "4k"}),
            ("flux-3-image", {"aspect_ratio": "5:7"}, {"aspect_ratio": "5:7"}),
        ],
    )
    async def test_sizes_are_said_as_the_model_has_them(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        sent: dict[str, Any],
    ) -> None:
        fields = await fields_of(provider, simulator, workspace, ask(model, **more))
        assert fields == {"prompt": "a red fox", **sent}

    async def test_an_unknown_model_is_asked_like_its_next_of_kin(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask("flux-2-ultra/x", size="100x100", quality="high", resolution="2K")
        with pytest.raises(ProviderModelGone):
            await provider.start(call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == "/v1/flux-2-ultra/x"
        assert exchange.fields == {
            "prompt": "a red fox",
            "width": 100,
            "height": 100,
            "quality": "high",
            "resolution": "2K",
            "output_format": "png",
        }

    async def test_a_finetune_is_a_model_of_its_own(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask("flux-pro-1.1-ultra-finetuned", size="1600x900", extra={"finetune_id": "mine"})
        fields = await fields_of(provider, simulator, workspace, request)
        assert fields == {
            "prompt": "a red fox",
            "aspect_ratio": "16:9",
            "output_format": "png",
            "finetune_id": "mine",
        }

    def test_all_models_of_the_sheet_are_known(self, provider: BlackForestLabs) -> None:
        assert {spec.name for spec in provider.specs} == MODELS.keys() - {"flux-pro-1.1-ultra-finetuned"}
        assert all(spec.max_n == 1 for spec in provider.specs)

    def test_a_wire_that_cannot_be_read_is_told_at_the_start(self, sessions: HttpSessions) -> None:
        odd = {"name": "flux-9", "operations": ["image_generation"], "wire": {"sizing": "inches", "images": []}}
        with pytest.raises(ConfigurationError, match=r"flux-9.*inches"):
            open_provider("bfl", sessions, models=(odd,))

    async def test_a_described_model_needs_no_code(
        self, simulator: BFLSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        new = {
            "name": "flux-9",
            "operations": ["image_generation"],
            "wire": {"sizing": "ratio", "images": [], "ratios": ["2:1"]},
        }
        provider = open_provider("bfl", sessions, simulator.base_url, models=(new,))
        with pytest.raises(ProviderModelGone):
            await provider.start(call(ask("flux-9", size="640x480", output_format="jpeg"), workspace))
        assert simulator.exchanges[0].fields == {
            "prompt": "a red fox",
            "aspect_ratio": "2:1",
            "output_format": "jpeg",
        }


class TestEdit:
    @pytest.mark.parametrize(
        ("model", "names"),
        [
            (MODEL, ["input_image", "input_image_2", "input_image_3"]),
            ("flux-kontext-pro", ["input_image", "input_image_2"]),
            ("flux-pro-1.1", ["image_prompt"]),
        ],
    )
    async def test_pictures_have_their_own_names(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        model: str,
        names: list[str],
    ) -> None:
        request = edit(workspace, model, count=len(names))
        fields = await fields_of(provider, simulator, workspace, request)
        assert fields.keys() == {"prompt", "output_format", *names}
        for name, source in zip(names, request.images, strict=True):
            assert decoded(fields[name]) == workspace.bytes_of(source.image)
        length = int(simulator.exchanges[0].headers["content-length"])
        assert length > sum(source.image.size_bytes for source in request.images)

    async def test_flux_3_takes_a_list(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, "flux-3-image", count=2)
        fields = await fields_of(provider, simulator, workspace, request)
        assert fields.keys() == {"prompt", "images"}
        assert [decoded(each) for each in fields["images"]] == [
            workspace.bytes_of(source.image) for source in request.images
        ]

    async def test_a_mask_is_white_where_it_was_transparent(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        mask = workspace.put(mask_bytes(300, 260))
        request = edit(workspace, "flux-pro-1.0-fill", mask=mask, edit_type="inpainting", prompt=None)
        fields = await fields_of(provider, simulator, workspace, request)
        assert fields.keys() == {"image", "mask", "output_format"}
        with Image.open(io.BytesIO(decoded(fields["mask"]))) as sent:
            assert (sent.format, sent.mode, sent.size) == ("PNG", "L", (300, 260))
            assert (sent.getpixel((10, 10)), sent.getpixel((290, 10))) == (255, 0)

    async def test_an_outpainting_takes_its_sides_from_the_caller(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, "flux-pro-1.0-expand", edit_type="outpainting", extra={"left": 256})
        fields = await fields_of(provider, simulator, workspace, request)
        assert fields.keys() == {"prompt", "image", "left", "output_format"}

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, operation=Operation.VARIATION, prompt=None)
        handle = await begun(provider, workspace, request)
        assert simulator.exchanges[0].fields["prompt"] == VARIATION_PROMPT
        await polled(provider, handle, call(request, workspace))
        finished = await polled(provider, handle, call(request, workspace))
        assert isinstance(finished, Finished)
        assert finished.via == "edit"
        assert finished.pictures[0].revised_prompt is None


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (MODEL, {"negative_prompt": "x"}, "negative_prompt"),
            (MODEL, {"quality": "high"}, "quality"),
            (MODEL, {"style": "vivid"}, "style"),
            (MODEL, {"background": "transparent"}, "background"),
            (MODEL, {"output_format": "gif"}, "output_format"),
            (MODEL, {"num_inference_steps": 5}, "num_inference_steps"),
            (MODEL, {"resolution": "2K"}, "resolution"),
            (MODEL, {"size": "1000x1000"}, "size"),
            (MODEL, {"size": "4096x4096"}, "size"),
            (MODEL, {"size": "1024x1024", "aspect_ratio": "1:1"}, "aspect_ratio"),
            (MODEL, {"aspect_ratio": "9000:1"}, "aspect_ratio"),
            ("flux-pro-1.1", {"size": "1536x1024"}, "size"),
            ("flux-3-image", {"seed": 1}, "seed"),
            ("flux-3-image", {"output_format": "png"}, "output_format"),
            ("flux-3-image", {"aspect_ratio": "7:4"}, "aspect_ratio"),
            ("flux-3-image", {"size": "7:4"}, "size"),
            ("flux-3-image", {"resolution": "8K"}, "resolution"),
            ("flux-kontext-pro", {"size": "2K"}, "size"),
            ("flux-pro-1.0-fill", {}, "model"),
        ],
    )
    async def test_what_the_model_cannot_express(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(ask(model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (MODEL, {"prompt": None}, "prompt"),
            (MODEL, {"count": 9}, "image"),
            (MODEL, {"edit_type": "outpainting"}, "type"),
            ("flux-2-klein-4b", {"count": 5}, "image"),
            ("flux-pro-1.0-expand", {"edit_type": "inpainting"}, "type"),
            ("flux-pro-1.1-ultra", {"operation": Operation.VARIATION}, "model"),
            ("flux-2-unknown", {"count": 9}, "image"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize("model", [MODEL, "flux-2-unknown"])
    async def test_a_mask_that_has_no_place(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        request = edit(workspace, model, mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "mask"
        assert simulator.exchanges == []


class TestHandles:
    async def test_from_the_start_to_the_picture(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace, time: Time
    ) -> None:
        simulator.words = ("Pending", "Generating", "Ready")
        accepted = await provider.start(call(ask(), workspace))
        assert isinstance(accepted, Accepted)
        assert msgspec.json.decode(accepted.handle) == {
            "id": "6f1d0000-00000001",
            "polling_url": f"{simulator.root_url}/v1/get_result?id=6f1d0000-00000001",
            "accepted_at": START,
            "cost_micros": 30_000,
        }
        assert accepted.poll_after_s == 0.5

        assert await polled(provider, accepted.handle, call(ask(), workspace)) == Running(poll_after_s=0.5)
        time.now_s += 60
        assert await polled(provider, accepted.handle, call(ask(), workspace)) == Running(poll_after_s=2.0)
        finished = await polled(provider, accepted.handle, call(ask(), workspace))
        assert isinstance(finished, Finished)
        host = simulator.root_url.removeprefix("http://")
        assert finished.pictures == (
            RemotePicture(url=f"{simulator.root_url}/samples/6f1d0000-00000001.png?sig=abc", trusted_host=host),
        )
        assert (finished.model, finished.cost_micros, finished.charged) == (MODEL, 30_000, Charged.YES)
        assert finished.created == int(simulator.tasks["6f1d0000-00000001"].started_at + 4.8)
        poll = simulator.exchanges[-1]
        assert (poll.method, poll.path, poll.query) == ("GET", "/v1/get_result", {"id": "6f1d0000-00000001"})
        assert poll.headers["x-key"] == KEY
        assert simulator.submissions == 1

    async def test_another_process_goes_on_polling(
        self, provider: BlackForestLabs, simulator: BFLSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        other = open_provider("bfl", sessions, simulator.base_url)
        assert isinstance(await other.poll(handle, call(ask(), workspace)), Running)
        assert isinstance(await other.poll(handle, call(ask(), workspace)), Finished)

    async def test_an_expanded_prompt_is_told(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.words = ("Reasoning", "Ready")
        simulator.cost = None
        request = ask("flux-3-image")
        handle = await begun(provider, workspace, request)
        assert isinstance(await polled(provider, handle, call(request, workspace)), Running)
        finished = await polled(provider, handle, call(request, workspace))
        assert isinstance(finished, Finished)
        assert finished.pictures[0].revised_prompt == "a red fox, in detail"
        assert finished.cost_micros is None

    async def test_a_cost_told_at_the_end_wins(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        body = {"status": "Ready", "result": {"sample": "https://delivery.example/s.png"}, "cost": 4.81, "progress": 2}
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        finished = await polled(provider, handle, call(ask(), workspace))
        assert isinstance(finished, Finished)
        assert finished.cost_micros == 48_100
        assert finished.created is None
        assert finished.pictures == (RemotePicture(url="https://delivery.example/s.png"),)

    async def test_progress_and_unknown_words_are_running(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        for status in (200, 422):
            body = {"status": "Dreaming", "progress": 0.25}
            simulator.faults.push(Fault(kind="status", status=status, body=body))
            with capture_logs() as logs:
                outcome = await polled(provider, handle, call(ask(), workspace))
            assert outcome == Running(poll_after_s=0.5, progress=0.25 if status == 200 else None)
            assert [(entry["event"], entry["log_level"]) for entry in logs] == [("unknown_task_status", "warning")]

    @pytest.mark.parametrize("status", [200, 422, 503])
    @pytest.mark.parametrize(
        ("word", "details", "expected", "message"),
        [
            (
                "Request Moderated",
                {"Moderation Reasons": ["Violence"]},
                ProviderRejected,
                "Request Moderated: Violence",
            ),
            ("Content Moderated", None, ProviderRejected, "Content Moderated"),
            ("Error", "worker died", ProviderProtocolError, "Error: worker died"),
            ("Failed", {"error": "no", "at": 3}, ProviderProtocolError, "Failed: no"),
        ],
    )
    async def test_a_task_that_failed(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        word: str,
        details: Any,
        expected: type[ProviderError],
        message: str,
        status: int,
    ) -> None:
        simulator.words, simulator.details, simulator.failure_status = (word,), details, status
        handle = await begun(provider, workspace)
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(ask(), workspace))
        assert type(caught.value) is expected
        assert (caught.value.provider_code, caught.value.message) == (word, message)
        assert not caught.value.error_class.poll_again

    @pytest.mark.parametrize("status", [200, 404])
    async def test_a_task_may_be_unseen_at_first(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace, time: Time, status: int
    ) -> None:
        handle = await begun(provider, workspace)
        lost = Fault(kind="status", status=status, body={"id": "6f1d", "status": "Task not found"})
        bare = Fault(kind="status", status=404)
        simulator.faults.push(lost, bare, lost, bare)
        time.now_s += 29
        for _ in range(2):
            assert isinstance(await polled(provider, handle, call(ask(), workspace)), Running)
        time.now_s += 2
        for _ in range(2):
            with pytest.raises(ProviderProtocolError):
                await polled(provider, handle, call(ask(), workspace))

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderProtocolError),
            (401, ProviderAuthError),
            (403, ProviderAuthError),
            (422, ProviderProtocolError),
            (429, ProviderBusy),
            (500, ProviderUnavailable),
            (503, ProviderUnavailable),
        ],
    )
    async def test_a_poll_that_is_refused(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=status, headers={"Retry-After": "3"}))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(ask(), workspace))
        assert type(caught.value) is expected
        assert caught.value.retry_after_s == 3
        assert caught.value.error_class.may_be_charged != caught.value.error_class.poll_again

    @pytest.mark.parametrize("kind", ["truncated", "html"])
    async def test_a_lost_poll_costs_nothing(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace, kind: Any
    ) -> None:
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind=kind, status=502))
        with pytest.raises(ProviderUnavailable):
            await polled(provider, handle, call(ask(), workspace))
        assert simulator.submissions == 1

    @pytest.mark.parametrize("body", [{"status": "Ready"}, {"status": "Ready", "result": {"sample": ""}}, {}])
    async def test_an_end_without_a_picture(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace, body: dict[str, Any]
    ) -> None:
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        with pytest.raises(ProviderProtocolError):
            await polled(provider, handle, call(ask(), workspace))

    async def test_with_a_webhook_the_host_of_the_start_is_asked(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace, ask(extra={"webhook_url": "https://gw.example/cb"}))
        assert msgspec.json.decode(handle)["polling_url"] is None
        assert isinstance(await polled(provider, handle, call(ask(), workspace)), Running)
        assert simulator.exchanges[-1].query == {"id": "6f1d0000-00000001"}

    @pytest.mark.parametrize(
        ("link", "trusted"),
        [
            ("https://api.eu2.bfl.ai/v1/get_result?id=x", True),
            ("https://bfl.ml/v1/get_result?id=x", True),
            ("http://api.bfl.ai/v1/get_result?id=x", False),
            ("https://bfl.ai.evil.example/v1/get_result?id=x", False),
            ("https://evilbfl.ai/", False),
            ("https://api.bfl.ai@evil.example/", False),
            ("https://user@api.bfl.ai/", False),
            ("http://127.0.0.1:1/v1/get_result?id=x", False),
            ("https://[", False),
        ],
    )
    async def test_the_key_is_shown_to_their_hosts_alone(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        link: str,
        *,
        trusted: bool,
    ) -> None:
        assert provider._may_see_key(link) is trusted
        simulator.polling_root = link.partition("/v1/")[0]
        handle = await begun(provider, workspace)
        if not trusted:
            assert isinstance(await polled(provider, handle, call(ask(), workspace)), Running)
            assert simulator.exchanges[-1].path == "/v1/get_result"

    async def test_a_foreign_address_without_an_id_is_no_use(
        self, provider: BlackForestLabs, workspace: FolderWorkspace
    ) -> None:
        handle = {"id": None, "polling_url": "https://evil.example/", "accepted_at": START, "cost_micros": None}
        with pytest.raises(ProviderProtocolError):
            await polled(provider, msgspec.json.encode(handle).decode(), call(ask(), workspace))

    async def test_nothing_can_be_cancelled(self, provider: BlackForestLabs, workspace: FolderWorkspace) -> None:
        handle = await begun(provider, workspace)
        assert await provider.cancel(handle, call(ask(), workspace)) is False


class TestRefusals:
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
            (502, ProviderUncertain),
            (503, ProviderUncertain),
        ],
    )
    async def test_each_is_of_its_class(
        self,
        provider: BlackForestLabs,
        simulator: BFLSimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert type(caught.value) is expected
        assert caught.value.status == status
        assert simulator.submissions == 1

    async def test_a_field_that_is_refused_is_named(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(ask(extra={"guidance": 3}), workspace))
        assert (caught.value.param, caught.value.provider_type) == ("guidance", "extra_forbidden")
        assert simulator.charged == 0

    async def test_moderation_of_the_prompt_is_told_by_the_poll(
        self, provider: BlackForestLabs, workspace: FolderWorkspace
    ) -> None:
        request = ask(prompt="a [blocked] thing")
        handle = await begun(provider, workspace, request)
        with pytest.raises(ProviderRejected) as caught:
            await polled(provider, handle, call(request, workspace))
        assert caught.value.provider_code == "Request Moderated"

    async def test_a_lost_start_leaves_the_outcome_unknown(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace))
        assert simulator.charged == 1

    async def test_a_key_in_the_details_is_cut(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.words, simulator.details = ("Error",), f"bad {KEY}"
        handle = await begun(provider, workspace)
        with pytest.raises(ProviderProtocolError, match=r"Error: bad \[key\]"):
            await polled(provider, handle, call(ask(), workspace))


async def test_a_large_picture_is_never_held(
    provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
) -> None:
    large = workspace.put(image_bytes(300, 260) + bytes(3_000_000))
    fields = await fields_of(provider, simulator, workspace, replace(edit(workspace), images=(large,)))
    assert len(decoded(fields["input_image"])) == large.image.size_bytes


ADDRESS = CallbackAddress(url="https://gw.example/v1/callbacks/bfl/j1?token=t", secret="shared")


class TestCallback:
    BODY = b'{"id": "t1", "status": "SUCCESS"}'
    DIGEST = hmac.new(b"shared", BODY, "sha256").hexdigest()

    async def test_is_asked_for_where_it_is_wanted(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        accepted = await provider.start(call(ask(), workspace, callback=ADDRESS))
        assert isinstance(accepted, Accepted)
        sent = simulator.exchanges[0].fields
        assert (sent["webhook_url"], sent["webhook_secret"]) == (ADDRESS.url, "shared")
        await provider.poll(accepted.handle, call(ask(), workspace))
        assert simulator.exchanges[1].path == "/v1/get_result"

    async def test_a_strict_schema_is_left_alone(
        self, provider: BlackForestLabs, simulator: BFLSimulator, workspace: FolderWorkspace
    ) -> None:
        await provider.start(call(ask("flux-3-image"), workspace, callback=ADDRESS))
        assert "webhook_url" not in simulator.exchanges[0].fields

    @pytest.mark.parametrize(
        "headers",
        [
            {"X-BFL-Signature": f"sha256={DIGEST}"},
            {"x-webhook-secret": "shared"},
            {"X-BFL-Signature": f"sha256={DIGEST}", "X-Webhook-Secret": "shared"},
        ],
    )
    async def test_a_signed_call_is_taken(
        self, provider: BlackForestLabs, workspace: FolderWorkspace, headers: dict[str, str]
    ) -> None:
        await provider.read_callback(headers, self.BODY, call(ask(), workspace, callback=ADDRESS))

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({}, BODY),
            ({"X-BFL-Signature": f"sha256={DIGEST}"}, BODY + b" "),
            ({"X-BFL-Signature": DIGEST}, BODY),
            ({"X-BFL-Signature": "sha256=\u00e9"}, BODY),
            ({"X-Webhook-Secret": "another"}, BODY),
            ({"X-BFL-Signature": f"sha256={DIGEST}", "X-Webhook-Secret": "another"}, BODY),
        ],
    )
    async def test_anything_else_is_refused(
        self, provider: BlackForestLabs, workspace: FolderWorkspace, headers: dict[str, str], body: bytes
    ) -> None:
        with pytest.raises(InvalidRequest, match="not signed"):
            await provider.read_callback(headers, body, call(ask(), workspace, callback=ADDRESS))

    async def test_nobody_who_was_told_no_secret_can_have_signed(
        self, provider: BlackForestLabs, workspace: FolderWorkspace
    ) -> None:
        empty = hmac.new(b"", self.BODY, "sha256").hexdigest()
        with pytest.raises(InvalidRequest):
            await provider.read_callback({"X-BFL-Signature": f"sha256={empty}"}, self.BODY, call(ask(), workspace))
