import asyncio
import base64
import hashlib
import io
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from safelight.adapters.fetch import HttpPictureFetcher
from safelight.adapters.providers._handles import LONGEST_PAUSE_S, pause_s, progress_in
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.adapters.providers.replicate import INLINE_BYTES
from safelight.application.ports import (
    CallbackAddress,
    Finished,
    Provider,
    RemotePicture,
    Running,
    StoredPicture,
)
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
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged
from tests.providers.support import (
    KEY,
    FolderWorkspace,
    ProviderCase,
    call,
    carried_out,
    edit_of,
    generation,
    image_bytes,
    links,
    mask_bytes,
    one_of_each,
    open_provider,
    polled,
    started,
)
from tests.simulators._base import Fault
from tests.simulators.replicate import SDXL_VERSION, ReplicateSimulator, signed

SCHNELL = "black-forest-labs/flux-schnell"
DEV = "black-forest-labs/flux-dev"
KONTEXT = "black-forest-labs/flux-kontext-pro"
FLUX_2 = "black-forest-labs/flux-2-pro"
IDEOGRAM = "ideogram-ai/ideogram-4-5"
SDXL = f"stability-ai/sdxl:{SDXL_VERSION}"

CONFORMANCE = ProviderCase(
    simulator=lambda key: ReplicateSimulator(key=key),
    requests=lambda workspace: [generation(SCHNELL, "replicate", n=2), *one_of_each(workspace, IDEOGRAM, "replicate")],
    unsupported=generation(SCHNELL, "replicate", style="vivid"),
    unclear=frozenset(range(500, 600)),
)


@pytest.fixture
async def simulator() -> AsyncIterator[ReplicateSimulator]:
    async with ReplicateSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: ReplicateSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("replicate", sessions, simulator.base_url, timeout_s=20)


def asked(model: str, **more: Any) -> ImageRequest:
    return generation(model, "replicate", **more)


def edit(workspace: FolderWorkspace, model: str, *, count: int = 1, **more: Any) -> ImageRequest:
    return edit_of(workspace, model, "replicate", count=count, **more)


class TestGeneration:
    async def test_sends_every_field_without_waiting_and_gives_links(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        request = asked(
            SCHNELL,
            n=2,
            aspect_ratio="16:9",
            output_format="jpeg",
            output_compression=80,
            seed=7,
            num_inference_steps=4,
            user="user-17",
            extra={"go_fast": False},
        )
        finished = await carried_out(provider, request, workspace)

        create, question = simulator.exchanges
        assert (create.method, create.path) == ("POST", f"/v1/models/{SCHNELL}/predictions")
        assert create.fields == {
            "input": {
                "prompt": "a red fox",
                "num_outputs": 2,
                "aspect_ratio": "16:9",
                "output_format": "jpg",
                "output_quality": 80,
                "seed": 7,
                "num_inference_steps": 4,
                "go_fast": False,
            }
        }
        assert create.headers["authorization"] == f"Bearer {KEY}"
        assert create.headers["content-type"] == "application/json"
        assert create.headers["cancel-after"] == "1800s"
        assert "prefer" not in create.headers
        [made] = simulator.predictions
        assert (question.method, question.path) == ("GET", f"/v1/predictions/{made}")
        assert links(finished) == [f"{simulator.root_url}/delivery/{made}/{index}" for index in range(2)]
        assert finished.model == SCHNELL
        assert finished.created == int(simulator.predictions[made].created_at.timestamp())
        assert finished.via is None

    async def test_the_links_are_fetched_by_the_engine(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await carried_out(provider, asked(SCHNELL, output_format="png"), workspace)
        [picture] = finished.pictures
        assert isinstance(picture, RemotePicture)
        fetcher, sink = HttpPictureFetcher(), workspace.open_sink()
        await fetcher.fetch(picture, sink)
        await fetcher.close()
        assert (sink.image.content_type, sink.image.sha256) == (
            "image/png",
            simulator.exchanges[-1].outputs_sha256[0],
        )
        assert "authorization" not in simulator.exchanges[-1].headers

    @pytest.mark.parametrize(
        ("model", "path", "version"),
        [
            (SDXL, "predictions", SDXL),
            (SDXL_VERSION, "predictions", SDXL_VERSION),
            ("deployments/acme/fox", "deployments/acme/fox/predictions", None),
        ],
    )
    async def test_each_kind_of_model_has_its_route(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        model: str,
        path: str,
        version: str | None,
    ) -> None:
        finished = await carried_out(provider, asked(model), workspace)
        assert simulator.exchanges[0].path == f"/v1/{path}"
        assert simulator.exchanges[0].fields.get("version") == version
        assert simulator.exchanges[0].fields["input"] == {"prompt": "a red fox"}
        assert len(links(finished)) == 1

    @pytest.mark.parametrize(
        "model", ["sdxl", "../files", "a/..", "a/b/c", "deployments/a", "a/b:12", "a b/c", "a/b?x"]
    )
    async def test_what_names_no_model_is_refused_before_any_exchange(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        with pytest.raises((UnsupportedFeature, ProviderModelGone)) as caught:
            await provider.start(call(asked(model), workspace))
        assert model == "deployments/a" or isinstance(caught.value, UnsupportedFeature)
        assert model == "deployments/a" or simulator.exchanges == []

    async def test_an_unknown_model_gets_the_most_common_names(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        image = workspace.put(image_bytes())
        request = asked(
            SDXL,
            operation=Operation.EDIT,
            n=3,
            size="512x768",
            seed=1,
            negative_prompt="blur",
            num_inference_steps=20,
            images=(image,),
            mask=workspace.put(mask_bytes()),
            extra={"prompt_strength": 0.5},
        )
        await carried_out(provider, request, workspace)
        inputs = simulator.exchanges[0].fields["input"]
        assert picture_in(inputs.pop("image")) == workspace.bytes_of(image.image)
        assert grey(inputs.pop("mask")) == (255, 0)
        assert inputs == {
            "prompt": "a red fox",
            "num_outputs": 3,
            "width": 512,
            "height": 768,
            "seed": 1,
            "negative_prompt": "blur",
            "num_inference_steps": 20,
            "prompt_strength": 0.5,
        }

    async def test_what_an_unknown_model_does_not_take_is_refused_by_replicate(
        self, provider: Provider, workspace: FolderWorkspace
    ) -> None:
        request = asked(SDXL, style="vivid", quality="high", output_compression=7, aspect_ratio="1:1")
        with pytest.raises(ProviderRejected, match=r"Additional property .* is not allowed") as caught:
            await provider.start(call(request, workspace))
        assert caught.value.status == 422

    @pytest.mark.parametrize(
        ("model", "size", "inputs"),
        [
            (SCHNELL, "1024x1024", {"aspect_ratio": "1:1", "num_outputs": 1}),
            (SCHNELL, "1792x1024", {"aspect_ratio": "16:9", "num_outputs": 1}),
            (SCHNELL, "1024x1536", {"aspect_ratio": "2:3", "num_outputs": 1}),
            (SCHNELL, "auto", {"num_outputs": 1}),
            (FLUX_2, "1536x1024", {"aspect_ratio": "custom", "width": 1536, "height": 1024}),
            (IDEOGRAM, "1024x1024", {"size": "1024x1024", "num_images": 1}),
            (IDEOGRAM, "2K", {"size": "2K", "num_images": 1}),
        ],
    )
    async def test_sizes_are_translated(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        model: str,
        size: str,
        inputs: dict[str, Any],
    ) -> None:
        await started(provider, asked(model, size=size), workspace)
        assert simulator.exchanges[0].fields["input"] == {"prompt": "a red fox", **inputs}

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (SCHNELL, {"style": "vivid"}, "style"),
            (SCHNELL, {"quality": "high"}, "quality"),
            (SCHNELL, {"background": "transparent"}, "background"),
            (SCHNELL, {"negative_prompt": "x"}, "negative_prompt"),
            (SCHNELL, {"output_format": "gif"}, "output_format"),
            (SCHNELL, {"aspect_ratio": "7:3"}, "aspect_ratio"),
            (SCHNELL, {"size": "4000x400"}, "size"),
            (SCHNELL, {"size": "0x400"}, "size"),
            (SCHNELL, {"size": "large"}, "size"),
            (SCHNELL, {"size": "1024x1024", "aspect_ratio": "1:1"}, "aspect_ratio"),
            (FLUX_2, {"size": "4096x1024"}, "size"),
            (KONTEXT, {"output_format": "webp"}, "output_format"),
            (SCHNELL, {"operation": Operation.EDIT}, "model"),
        ],
    )
    async def test_what_a_known_model_cannot_express_is_refused_before_any_exchange(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(asked(model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_the_lifetime_is_an_option(
        self, simulator: ReplicateSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("replicate", sessions, simulator.base_url, options={"cancel_after_s": 60})
        await started(provider, asked(SCHNELL), workspace)
        assert simulator.exchanges[0].headers["cancel-after"] == "60s"
        with pytest.raises(ConfigurationError, match="cancel_after_s"):
            open_provider("replicate", sessions, simulator.base_url, options={"cancel_after_s": 1})

    def test_an_operators_model_needs_no_code(self, simulator: ReplicateSimulator, sessions: HttpSessions) -> None:
        table = {"name": "acme/owl", "operations": ["image_generation"], "wire": {"count": "n", "colour": "red"}}
        with pytest.raises(ConfigurationError, match=r"acme/owl: wire: .*colour"):
            open_provider("replicate", sessions, simulator.base_url, models=(table,))


def picture_in(data_url: str) -> bytes:
    header, _, text = data_url.partition(",")
    assert header == "data:image/png;base64"
    return base64.b64decode(text)


def grey(data_url: str) -> tuple[Any, Any]:
    """The left half of our mask is to change."""
    mask = Image.open(io.BytesIO(picture_in(data_url)))
    return mask.getpixel((0, 0)), mask.getpixel((mask.width - 1, 0))


class TestEdit:
    async def test_one_picture_and_its_prompt(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, KONTEXT, aspect_ratio="match_input_image")
        finished = await carried_out(provider, request, workspace)
        inputs = simulator.exchanges[0].fields["input"]
        assert picture_in(inputs.pop("input_image")) == workspace.bytes_of(request.images[0].image)
        assert inputs == {"prompt": "a red fox", "aspect_ratio": "match_input_image"}
        assert finished.via is None

    async def test_several_pictures_are_a_list(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, FLUX_2, count=3)
        await carried_out(provider, request, workspace)
        sent = [picture_in(link) for link in simulator.exchanges[0].fields["input"]["input_images"]]
        assert sent == [workspace.bytes_of(image.image) for image in request.images]

    async def test_the_masks_polarity_is_the_models(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        await carried_out(provider, edit(workspace, IDEOGRAM, mask=workspace.put(mask_bytes())), workspace)
        assert grey(simulator.exchanges[0].fields["input"]["mask"]) == (0, 255)

    async def test_a_large_picture_is_uploaded_first(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        noise = Image.frombytes("RGB", (320, 320), os.urandom(320 * 320 * 3))
        stream = io.BytesIO()
        noise.save(stream, "PNG")
        assert stream.tell() > INLINE_BYTES
        large = workspace.put(stream.getvalue())
        await carried_out(provider, edit(workspace, KONTEXT, images=(large,)), workspace)
        upload, create, _ = simulator.exchanges
        assert (upload.method, upload.path, upload.submission) == ("POST", "/v1/files", False)
        [file] = upload.files
        assert (file.name, file.filename, file.content_type) == ("content", "image-1.png", "image/png")
        assert file.sha256 == large.image.sha256
        file_id = hashlib.sha256(stream.getvalue()).hexdigest()[:24]
        assert create.fields["input"]["input_image"] == f"{simulator.base_url}/files/{file_id}"

        for fault, expected in [
            (Fault(kind="status", status=413, path="*/files"), ProviderRejected),
            (Fault(kind="status", status=503, path="*/files"), ProviderUnavailable),
            (Fault(kind="status", status=504, path="*/files"), ProviderUnavailable),
            (Fault(kind="reset_after_read", path="*/files"), ProviderUnavailable),
            (Fault(kind="empty", path="*/files"), ProviderUnavailable),
        ]:
            simulator.faults.push(fault)
            with pytest.raises(expected):
                await provider.start(call(edit(workspace, KONTEXT, images=(large,)), workspace))
        assert simulator.submissions == 1

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, DEV, operation=Operation.VARIATION, prompt=None, n=2)
        finished = await carried_out(provider, request, workspace)
        inputs = simulator.exchanges[0].fields["input"]
        assert inputs["prompt"] == VARIATION_PROMPT
        assert inputs["num_outputs"] == 2
        assert finished.via == "edit"

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (KONTEXT, {"count": 2}, "image"),
            (KONTEXT, {"prompt": None}, "prompt"),
            (KONTEXT, {"edit_type": "outpainting"}, "type"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self, provider: Provider, workspace: FolderWorkspace, model: str, more: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, model, **more), workspace))
        assert caught.value.param == param

    async def test_a_model_without_masks_refuses_one(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, KONTEXT, mask=workspace.put(mask_bytes())), workspace))
        assert caught.value.param == "mask"
        assert simulator.exchanges == []


class TestHandle:
    async def test_runs_then_finishes_in_another_process(
        self, simulator: ReplicateSimulator, sessions: HttpSessions, workspace: FolderWorkspace, tmp_path: Path
    ) -> None:
        simulator.running_polls = 2
        request = asked(SCHNELL)
        first = open_provider("replicate", sessions, simulator.base_url)
        handle = await started(first, request, workspace)
        await first.close()

        second = open_provider("replicate", sessions, simulator.base_url)
        again = call(request, FolderWorkspace(tmp_path))
        running = [await second.poll(handle, again) for _ in range(2)]
        assert running == [Running(poll_after_s=1.0, progress=0.25), Running(poll_after_s=1.0, progress=0.5)]
        assert isinstance(await second.poll(handle, again), Finished)
        assert simulator.submissions == 1

    async def test_an_old_prediction_is_asked_for_less_often(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.running_polls = 1
        handle = await started(provider, asked(SCHNELL), workspace)
        simulator.predictions[handle].created_at = datetime(2026, 1, 1, tzinfo=UTC)
        running = await polled(provider, handle, call(asked(SCHNELL), workspace))
        assert isinstance(running, Running)
        assert running.poll_after_s == LONGEST_PAUSE_S

    async def test_an_odd_date_is_no_fault(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.created_at = "yesterday"
        finished = await carried_out(provider, asked(SCHNELL), workspace)
        assert finished.created is None

    async def test_an_unknown_state_is_still_running(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        simulator.ending = ("dreaming", None)
        handle = await started(provider, asked(SCHNELL), workspace)
        assert isinstance(await polled(provider, handle, call(asked(SCHNELL), workspace)), Running)
        assert "unknown_status" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("prompt", "expected", "code"),
        [
            ("[blocked]", ProviderRejected, "E005"),
            ("[fail]", ProviderUnavailable, "E1000"),
            ("[oom]", ProviderRejected, "E1001"),
            ("[broken]", ProviderRejected, "prediction_failed"),
            ("[aborted]", ProviderUnavailable, "aborted"),
            ("[canceled]", ProviderUncertain, "canceled"),
        ],
    )
    async def test_each_bad_end_has_its_class_and_is_not_asked_for_again(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        prompt: str,
        expected: type[ProviderError],
        code: str,
    ) -> None:
        request = asked(SCHNELL, prompt=prompt)
        handle = await started(provider, request, workspace)
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(request, workspace))
        assert type(caught.value) is expected
        assert caught.value.charged is (Charged.UNKNOWN if prompt == "[canceled]" else Charged.NO)
        assert caught.value.provider_code == code
        assert caught.value.request_id == handle
        assert simulator.submissions == 1

    async def test_a_result_that_has_expired_is_no_success(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await started(provider, asked(SCHNELL), workspace)
        await polled(provider, handle, call(asked(SCHNELL), workspace))
        simulator.predictions[handle].data_removed = True
        with pytest.raises(ProviderUncertain, match="its result has expired"):
            await polled(provider, handle, call(asked(SCHNELL), workspace))

    @pytest.mark.parametrize("output", [[], {}, "no link", [None, 7], {"seed": 1}])
    async def test_a_success_without_a_picture_is_unreadable(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace, output: Any
    ) -> None:
        simulator.output = output
        handle = await started(provider, asked(SCHNELL), workspace)
        with pytest.raises(ProviderProtocolError, match="without a picture"):
            await polled(provider, handle, call(asked(SCHNELL), workspace))

    async def test_pictures_are_found_in_any_shape(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        small, large = image_bytes(), image_bytes() + os.urandom(200_000)
        inside = [f"data:image/png;base64,{base64.b64encode(each).decode()}" for each in (small, large)]
        simulator.output = {"images": ["https://replicate.delivery/a.png", inside], "mask": "https://x.example/b.png"}
        finished = await carried_out(provider, asked(SCHNELL), workspace)
        kinds = [type(picture) for picture in finished.pictures]
        assert kinds == [RemotePicture, StoredPicture, StoredPicture, RemotePicture]
        assert links(finished) == ["https://replicate.delivery/a.png", "https://x.example/b.png"]
        remote = finished.pictures[0]
        assert isinstance(remote, RemotePicture)
        assert remote.trusted_host is None
        stored = [each.image for each in finished.pictures if isinstance(each, StoredPicture)]
        assert [workspace.bytes_of(image) for image in stored] == [small, large]
        assert workspace.open_sinks == 0

    async def test_a_link_that_cannot_be_read(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.output = "https://[::1"
        handle = await started(provider, asked(SCHNELL), workspace)
        with pytest.raises(ProviderProtocolError, match="link that cannot be read"):
            await polled(provider, handle, call(asked(SCHNELL), workspace))

    async def test_a_question_that_is_refused_leaves_the_outcome_unknown(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await started(provider, asked(SCHNELL), workspace)
        simulator.faults.push(Fault(kind="status", status=422))
        with pytest.raises(ProviderProtocolError, match="tells nothing of the work") as caught:
            await polled(provider, handle, call(asked(SCHNELL), workspace))
        assert caught.value.status == 422

    async def test_an_unknown_handle_is_lost_work(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderModelGone):
            await polled(provider, "p404", call(asked(SCHNELL), workspace))
        with pytest.raises(ProviderModelGone):
            await provider.cancel("p404", call(asked(SCHNELL), workspace))

    async def test_cancel_goes_upstream(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.running_polls = 1
        wanted = call(asked(SCHNELL), workspace)
        waiting, running, over = [await started(provider, asked(SCHNELL), workspace) for _ in range(3)]
        await polled(provider, running, wanted)
        await polled(provider, over, wanted)
        await polled(provider, over, wanted)
        assert await provider.cancel(waiting, wanted) is True
        assert await provider.cancel(running, wanted) is True
        assert await provider.cancel(None, wanted) is False
        assert await provider.cancel(over, wanted) is False
        assert simulator.exchanges[-1].path == f"/v1/predictions/{over}/cancel"
        assert simulator.exchanges[-1].fields == {}
        assert simulator.submissions == 3

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (Fault(kind="status", status=401), ProviderAuthError),
            (Fault(kind="status", status=429), ProviderBusy),
            (Fault(kind="status", status=500), ProviderUnavailable),
            (Fault(kind="status", status=503), ProviderUnavailable),
            (Fault(kind="status", status=504), ProviderUnavailable),
            (Fault(kind="html", status=502), ProviderUnavailable),
            (Fault(kind="truncated"), ProviderUnavailable),
            (Fault(kind="wrong_json"), ProviderUnavailable),
            (Fault(kind="empty"), ProviderUnavailable),
        ],
    )
    async def test_a_question_that_fails_is_asked_again(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        fault: Fault,
        expected: type[ProviderError],
    ) -> None:
        handle = await started(provider, asked(SCHNELL), workspace)
        simulator.faults.push(fault)
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(asked(SCHNELL), workspace))
        assert type(caught.value) is expected
        assert caught.value.error_class.poll_again
        assert caught.value.retry_after_s == (30.0 if expected is ProviderBusy else None)
        assert isinstance(await polled(provider, handle, call(asked(SCHNELL), workspace)), Finished)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRejected),
            (401, ProviderAuthError),
            (402, ProviderAuthError),
            (404, ProviderModelGone),
            (422, ProviderRejected),
            (429, ProviderBusy),
            (500, ProviderUncertain),
            (502, ProviderUncertain),
            (503, ProviderUncertain),
            (504, ProviderUncertain),
        ],
    )
    async def test_each_is_of_its_class(
        self,
        provider: Provider,
        simulator: ReplicateSimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(asked(SCHNELL), workspace))
        assert type(caught.value) is expected
        assert caught.value.retry_after_s == (30.0 if status == 429 else None)
        if status != 429:
            assert caught.value.message == f"Simulated failure {status}."

    async def test_a_lost_answer_of_a_create_is_unknown(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(asked(SCHNELL), workspace))
        assert simulator.charged == 1

    async def test_a_model_that_is_gone(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderModelGone, match=r"acme/owl .*could not be found"):
            await provider.start(call(asked("acme/owl"), workspace))

    async def test_concurrent_starts_are_one_prediction_each(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        handles = await asyncio.gather(*(started(provider, asked(SCHNELL), workspace) for _ in range(5)))
        assert len(set(handles)) == simulator.submissions == 5


BODY = msgspec.json.encode({"id": "p1", "status": "succeeded", "output": ["https://replicate.delivery/x.png"]})


ADDRESS = CallbackAddress(url="https://gw.example/v1/callbacks/replicate/j1?token=t", secret="s")


class TestCallback:
    async def test_is_asked_for_where_it_is_wanted(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        await provider.start(call(asked(SCHNELL), workspace, callback=ADDRESS))
        assert simulator.exchanges[0].fields["webhook"] == ADDRESS.url
        assert simulator.exchanges[0].fields["webhook_events_filter"] == ["completed"]

    async def test_a_signed_call_is_taken_and_the_secret_is_fetched_once(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        wanted = call(asked(SCHNELL), workspace)
        for _ in range(2):
            await provider.read_callback(signed(BODY), BODY, wanted)
        assert [exchange.path for exchange in simulator.exchanges] == ["/v1/webhooks/default/secret"]

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({}, BODY),
            (signed(BODY), BODY + b" "),
            (signed(BODY, secret="whsec_" + base64.b64encode(b"another").decode()), BODY),
            (signed(BODY, at=1_700_000_000), BODY),
            ({**signed(BODY), "Webhook-Signature": "v1"}, BODY),
            ({**signed(BODY), "Webhook-Signature": "v1,%%%"}, BODY),
            ({**signed(BODY), "Webhook-Signature": "v2,AAAA"}, BODY),
            ({**signed(BODY), "Webhook-Timestamp": "soon"}, BODY),
            ({**signed(BODY), "Webhook-Id": "msg_2"}, BODY),
        ],
    )
    async def test_anything_else_is_refused(
        self, provider: Provider, workspace: FolderWorkspace, headers: dict[str, str], body: bytes
    ) -> None:
        wanted = call(asked(SCHNELL), workspace)
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="not signed by Replicate"):
                await provider.read_callback(headers, body, wanted)

    async def test_a_secret_that_was_changed_is_fetched_anew(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace
    ) -> None:
        wanted = call(asked(SCHNELL), workspace)
        await provider.read_callback(signed(BODY), BODY, wanted)
        another = "whsec_" + base64.b64encode(b"another").decode()
        simulator.faults.push(Fault(kind="status", status=200, body={"key": another}))
        await provider.read_callback(signed(BODY, secret=another), BODY, wanted)

    @pytest.mark.parametrize("fault", [Fault(kind="status", status=500), Fault(kind="status", status=200, body={})])
    async def test_without_the_secret_it_cannot_be_checked(
        self, provider: Provider, simulator: ReplicateSimulator, workspace: FolderWorkspace, fault: Fault
    ) -> None:
        simulator.faults.push(fault)
        with pytest.raises(ProviderError):
            await provider.read_callback(signed(BODY), BODY, call(asked(SCHNELL), workspace))


class TestPauses:
    @pytest.mark.parametrize(("age_s", "expected"), [(0, 1.0), (5, 1.0), (20, 4.0), (3600, LONGEST_PAUSE_S)])
    def test_grow_with_the_age_of_the_work(self, age_s: float, expected: float) -> None:
        assert pause_s(age_s, least_s=1.0) == expected

    @pytest.mark.parametrize(
        ("logs", "expected"),
        [
            (None, None),
            ("", None),
            ("Using seed: 7", None),
            ("  0%|          | 0/4", 0.0),
            (" 25%|##  | 1/4\n 50%|####| 2/4\ndone", 0.5),
            ("999%|####|", 1.0),
            ("kept 80% of it", None),
        ],
    )
    def test_progress_is_the_last_bar(self, logs: str | None, expected: float | None) -> None:
        assert progress_in(logs) == expected
