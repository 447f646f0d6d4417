import base64
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image

from safelight.adapters.fetch import HttpPictureFetcher
from safelight.adapters.providers._base import Entry, ProviderSettings
from safelight.adapters.providers._handles import LONGEST_PAUSE_S
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.adapters.providers.fal import Fal, Options
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
from safelight.domain.ids import ProviderName
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
from tests.simulators.fal import KEYS_PATH, Ending, FalSimulator, model_fault, platform_fault, signed

DEV = "fal-ai/flux/dev"
SCHNELL = "fal-ai/flux/schnell"
BANANA = "fal-ai/nano-banana"
GPT = "fal-ai/gpt-image-1.5"
INPAINTING = "fal-ai/fast-sdxl/inpainting"

CONFORMANCE = ProviderCase(
    simulator=lambda key: FalSimulator(key=key),
    requests=lambda workspace: [generation(DEV, "fal", n=2), *one_of_each(workspace, GPT, "fal")],
    unsupported=generation(DEV, "fal", background="transparent"),
    unclear=frozenset(range(500, 600)),
)


@pytest.fixture
async def simulator() -> AsyncIterator[FalSimulator]:
    async with FalSimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: FalSimulator, sessions: HttpSessions) -> Provider:
    return open_provider("fal", sessions, simulator.base_url, timeout_s=20)


def asked(model: str, **more: Any) -> ImageRequest:
    return generation(model, "fal", **more)


def edit(workspace: FolderWorkspace, model: str, *, count: int = 1, **more: Any) -> ImageRequest:
    return edit_of(workspace, model, "fal", count=count, **more)


def picture_in(data_url: str) -> bytes:
    header, _, text = data_url.partition(",")
    assert header == "data:image/png;base64"
    return base64.b64decode(text)


PASSING = {"internal_server_error", "generation_timeout", "runner_disconnected", "request_timeout", "startup_timeout"}
"""What may not happen to the next request."""


class TestGeneration:
    async def test_sends_every_field_and_gives_links(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        request = asked(
            DEV,
            n=2,
            size="1024x768",
            output_format="jpeg",
            seed=7,
            num_inference_steps=20,
            user="user-17",
            extra={"guidance_scale": 3.5, "enable_safety_checker": False},
        )
        finished = await carried_out(provider, request, workspace)

        submit, status, result = simulator.exchanges
        assert (submit.method, submit.path, submit.query) == ("POST", "/fal-ai/flux/dev", {})
        assert submit.fields == {
            "prompt": "a red fox",
            "num_images": 2,
            "image_size": {"width": 1024, "height": 768},
            "output_format": "jpeg",
            "seed": 7,
            "num_inference_steps": 20,
            "guidance_scale": 3.5,
            "enable_safety_checker": False,
        }
        assert submit.headers["authorization"] == f"Key {KEY}"
        assert submit.headers["content-type"] == "application/json"
        assert not any(name.startswith("x-fal") for name in submit.headers)
        [made] = simulator.requests
        root = f"/fal-ai/flux/requests/{made}"
        assert (status.method, status.path, status.query) == ("GET", f"{root}/status", {"logs": "1"})
        assert (result.method, result.path, result.query) == ("GET", root, {})
        assert links(finished) == [f"{simulator.root_url}/files/{made}/{index}" for index in range(2)]
        assert finished.model == DEV
        assert finished.via is None
        assert [picture.revised_prompt for picture in finished.pictures] == [None, None]

    async def test_the_links_are_fetched_by_the_engine(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await carried_out(provider, asked(SCHNELL, size="64x48"), workspace)
        [picture] = finished.pictures
        assert isinstance(picture, RemotePicture)
        fetcher, sink = HttpPictureFetcher(), workspace.open_sink()
        await fetcher.fetch(picture, sink)
        await fetcher.close()
        assert (sink.image.content_type, str(sink.image.dimensions)) == ("image/png", "64x48")
        assert "authorization" not in simulator.exchanges[-1].headers

    async def test_options_are_headers(
        self, simulator: FalSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {"priority": "low", "start_timeout_s": 600, "output_lifetime_s": 3600}
        provider = open_provider("fal", sessions, simulator.base_url, options=options)
        await started(provider, asked(DEV), workspace)
        headers = simulator.exchanges[0].headers
        assert headers["x-fal-queue-priority"] == "low"
        assert headers["x-fal-request-timeout"] == "600"
        assert json.loads(headers["x-fal-object-lifecycle-preference"]) == {"expiration_duration_seconds": 3600}
        with pytest.raises(ConfigurationError, match="priority"):
            open_provider("fal", sessions, simulator.base_url, options={"priority": "high"})

    @pytest.mark.parametrize(
        ("model", "more", "inputs"),
        [
            (DEV, {"size": "square_hd"}, {"image_size": "square_hd"}),
            (DEV, {"size": "auto"}, {}),
            (DEV, {"aspect_ratio": "16:9"}, {"image_size": "landscape_16_9"}),
            (DEV, {"aspect_ratio": "3:4"}, {"image_size": "portrait_4_3"}),
            (BANANA, {"size": "1792x1024"}, {"aspect_ratio": "16:9"}),
            (
                BANANA,
                {"aspect_ratio": "auto", "output_format": "webp"},
                {"aspect_ratio": "auto", "output_format": "webp"},
            ),
            (GPT, {"size": "1536x1024", "quality": "auto"}, {"image_size": "1536x1024"}),
            (GPT, {"quality": "low", "background": "opaque"}, {"quality": "low", "background": "opaque"}),
        ],
    )
    async def test_sizes_and_qualities_are_translated(
        self,
        provider: Provider,
        simulator: FalSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        inputs: dict[str, Any],
    ) -> None:
        await started(provider, asked(model, **more), workspace)
        assert simulator.exchanges[0].fields == {"prompt": "a red fox", "num_images": 1, **inputs}

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (DEV, {"background": "opaque"}, "background"),
            (DEV, {"quality": "high"}, "quality"),
            (DEV, {"style": "vivid"}, "style"),
            (DEV, {"negative_prompt": "x"}, "negative_prompt"),
            (DEV, {"output_compression": 3}, "output_compression"),
            (DEV, {"output_format": "webp"}, "output_format"),
            (DEV, {"aspect_ratio": "21:9"}, "aspect_ratio"),
            (DEV, {"size": "huge"}, "size"),
            (DEV, {"size": "64x64", "aspect_ratio": "1:1"}, "aspect_ratio"),
            (DEV, {"size": "square", "aspect_ratio": "1:1"}, "aspect_ratio"),
            (BANANA, {"size": "4000x400"}, "size"),
            (BANANA, {"seed": 1}, "seed"),
            (GPT, {"size": "512x512"}, "size"),
            (GPT, {"size": "square_hd"}, "size"),
            (GPT, {"quality": "best"}, "quality"),
            (SCHNELL, {"operation": Operation.EDIT}, "model"),
        ],
    )
    async def test_what_a_known_model_cannot_express_is_refused_before_any_exchange(
        self,
        provider: Provider,
        simulator: FalSimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(asked(model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    @pytest.mark.parametrize(
        "model", ["flux", "../flux", "fal-ai/../x", "fal-ai/flux/", "fal-ai//x", "a/b?c=d", "a/b#c"]
    )
    async def test_what_names_no_model_is_refused_before_any_exchange(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(asked(model), workspace))
        assert caught.value.param == "model"
        assert simulator.exchanges == []

    async def test_an_operators_model_needs_no_code(
        self, simulator: FalSimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        bare = {"name": "acme/owl", "operations": ["image_edit"]}
        named = {"name": "acme/fox", "operations": ["image_edit"], "wire": {"image": "source", "count": "n"}}
        provider = open_provider("fal", sessions, simulator.base_url, models=(bare, named))
        for model in ("acme/owl", "acme/fox"):
            with pytest.raises(ProviderModelGone):
                await provider.start(call(edit(workspace, model), workspace))
        first, second = (exchange.fields.keys() for exchange in simulator.exchanges)
        assert first == {"prompt", "image_url"}
        assert second == {"prompt", "source", "n"}

    async def test_a_namespace_is_part_of_the_path(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        await carried_out(provider, asked("workflows/acme/fox"), workspace)
        assert simulator.exchanges[0].fields == {"prompt": "a red fox"}
        assert simulator.exchanges[1].path.startswith("/workflows/acme/fox/requests/")


class TestEdit:
    async def test_goes_to_the_endpoint_that_edits(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, BANANA, count=2, aspect_ratio="4:3")
        finished = await carried_out(provider, request, workspace)
        assert simulator.exchanges[0].path == "/fal-ai/nano-banana/edit"
        fields = dict(simulator.exchanges[0].fields)
        sent = [picture_in(link) for link in fields.pop("image_urls")]
        assert sent == [workspace.bytes_of(image.image) for image in request.images]
        assert fields == {"prompt": "a red fox", "num_images": 1, "aspect_ratio": "4:3"}
        assert int(simulator.exchanges[0].headers["content-length"]) > 0
        assert (finished.model, finished.via) == (BANANA, None)

    async def test_a_variation_is_an_edit_with_a_neutral_prompt(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, DEV, operation=Operation.VARIATION, prompt=None, extra={"strength": 0.4})
        finished = await carried_out(provider, request, workspace)
        [submit, *_] = simulator.exchanges
        assert submit.path == "/fal-ai/flux/dev/image-to-image"
        assert submit.fields["prompt"] == VARIATION_PROMPT
        assert submit.fields["strength"] == 0.4
        assert picture_in(submit.fields["image_url"]) == workspace.bytes_of(request.images[0].image)
        assert finished.via == "edit"

    async def test_a_mask_is_white_where_it_changes(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, GPT, mask=workspace.put(mask_bytes()), quality="low")
        await carried_out(provider, request, workspace)
        mask = Image.open(io.BytesIO(picture_in(simulator.exchanges[0].fields["mask_image_url"])))
        assert (mask.mode, mask.getpixel((0, 0)), mask.getpixel((63, 0))) == ("L", 255, 0)

    async def test_an_unknown_model_gets_the_most_common_names(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(
            workspace,
            INPAINTING,
            mask=workspace.put(mask_bytes()),
            negative_prompt="blur",
            size="64x48",
            n=2,
            output_format="jpeg",
        )
        await carried_out(provider, request, workspace)
        fields = dict(simulator.exchanges[0].fields)
        assert picture_in(fields.pop("image_url")) == workspace.bytes_of(request.images[0].image)
        assert Image.open(io.BytesIO(picture_in(fields.pop("mask_url")))).getpixel((0, 0)) == 255
        assert fields == {
            "prompt": "a red fox",
            "num_images": 2,
            "negative_prompt": "blur",
            "image_size": {"width": 64, "height": 48},
            "output_format": "jpeg",
        }

    async def test_ideograms_masks_are_the_other_way_round(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, "fal-ai/ideogram/v9/edit", mask=workspace.put(mask_bytes()))
        with pytest.raises(ProviderModelGone):
            await provider.start(call(request, workspace))
        mask = Image.open(io.BytesIO(picture_in(simulator.exchanges[0].fields["mask_url"])))
        assert (mask.getpixel((0, 0)), mask.getpixel((63, 0))) == (0, 255)

    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (DEV, {"count": 2}, "image"),
            (DEV, {"prompt": None}, "prompt"),
            (DEV, {"edit_type": "background_removal"}, "type"),
            (DEV, {"size": "1024x1024"}, "size"),
            (BANANA, {"aspect_ratio": "7:1"}, "aspect_ratio"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self, provider: Provider, workspace: FolderWorkspace, model: str, more: dict[str, Any], param: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, model, **more), workspace))
        assert caught.value.param == param

    async def test_a_model_without_masks_refuses_one(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, DEV, mask=workspace.put(mask_bytes())), workspace))
        assert caught.value.param == "mask"
        assert simulator.exchanges == []

    async def test_an_answer_of_one_image(self, provider: Provider, workspace: FolderWorkspace) -> None:
        finished = await carried_out(provider, edit(workspace, "fal-ai/birefnet"), workspace)
        assert len(links(finished)) == 1


class TestHandle:
    async def test_runs_then_finishes_in_another_process(
        self, simulator: FalSimulator, sessions: HttpSessions, workspace: FolderWorkspace, tmp_path: Path
    ) -> None:
        simulator.running_polls = 2
        request = asked(DEV)
        first = open_provider("fal", sessions, simulator.base_url)
        handle = await started(first, request, workspace)
        await first.close()

        second = open_provider("fal", sessions, simulator.base_url)
        again = call(request, FolderWorkspace(tmp_path))
        running = [await second.poll(handle, again) for _ in range(2)]
        assert running == [Running(poll_after_s=0.5, progress=0.25), Running(poll_after_s=0.5, progress=0.5)]
        assert isinstance(await second.poll(handle, again), Finished)
        assert simulator.submissions == 1

    async def test_an_old_request_is_asked_for_less_often(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.running_polls = 1
        known = json.loads(await started(provider, asked(DEV), workspace))
        running = await polled(provider, json.dumps({**known, "since": 0}), call(asked(DEV), workspace))
        assert isinstance(running, Running)
        assert running.poll_after_s == LONGEST_PAUSE_S

    async def test_our_key_goes_to_base_url_alone(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.announced_url = "https://queue.fal.run"
        handle = await started(provider, asked(DEV), workspace)
        known = json.loads(handle)
        assert known["status"] == f"fal-ai/flux/requests/{known['request_id']}/status"
        assert isinstance(await polled(provider, handle, call(asked(DEV), workspace)), Finished)

    async def test_an_unknown_state_is_still_running(
        self,
        provider: Provider,
        simulator: FalSimulator,
        workspace: FolderWorkspace,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        simulator.running_polls, simulator.running_word = 1, "DREAMING"
        handle = await started(provider, asked(DEV), workspace)
        assert isinstance(await polled(provider, handle, call(asked(DEV), workspace)), Running)
        assert "unknown_status" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("ending", "status", "code"),
        [
            (model_fault("content_policy_violation", 422), 422, "content_policy_violation"),
            (model_fault("image_too_small", 422), 422, "image_too_small"),
            (model_fault("internal_server_error", 500), 500, "internal_server_error"),
            (model_fault("generation_timeout", 504), 504, "generation_timeout"),
            (platform_fault("runner_disconnected", 503), 502, "runner_disconnected"),
            (platform_fault("request_timeout", 504), 502, "request_timeout"),
            # The result alone tells of it.
            (Ending(status=503, body=platform_fault("startup_timeout", 503).body), 503, "startup_timeout"),
            # The status alone tells of it.
            (Ending(error="no"), 502, None),
            (Ending(error_type="new_word"), 502, "new_word"),
        ],
    )
    async def test_completed_is_not_success(
        self,
        provider: Provider,
        simulator: FalSimulator,
        workspace: FolderWorkspace,
        ending: Ending,
        status: int,
        code: str | None,
    ) -> None:
        simulator.ending = ending
        handle = await started(provider, asked(DEV), workspace)
        with pytest.raises(ProviderUnavailable if code in PASSING else ProviderRejected) as caught:
            await polled(provider, handle, call(asked(DEV), workspace))
        assert caught.value.charged is Charged.NO
        assert (caught.value.status, caught.value.provider_type) == (status, code)
        assert "secret" not in caught.value.message
        assert simulator.submissions == 1

    async def test_a_status_that_cannot_be_read_is_no_end(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await started(provider, asked(DEV), workspace)
        simulator.faults.push(Fault(kind="wrong_json"), Fault(kind="empty"))
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await polled(provider, handle, call(asked(DEV), workspace))
        assert isinstance(await polled(provider, handle, call(asked(DEV), workspace)), Finished)

    async def test_blackened_pictures_are_moderated(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.ending = Ending(nsfw=(True, False))
        finished = await carried_out(provider, asked(DEV, n=2), workspace)
        assert [link[-2:] for link in links(finished)] == ["/1"]
        simulator.ending = Ending(nsfw=(True, True))
        with pytest.raises(ProviderRejected) as caught:
            await carried_out(provider, asked(DEV, n=2), workspace)
        assert caught.value.provider_code == "content_policy_violation"

    @pytest.mark.parametrize("body", [{}, {"images": []}, {"images": [{}]}, {"images": "x"}, {"image": None}])
    async def test_a_success_without_a_picture_is_unreadable(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace, body: Any
    ) -> None:
        simulator.ending = Ending(body=body)
        handle = await started(provider, asked(DEV), workspace)
        with pytest.raises(ProviderProtocolError):
            await polled(provider, handle, call(asked(DEV), workspace))

    async def test_data_uris_and_a_revised_prompt(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        inside = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
        simulator.ending = Ending(body={"images": [{"url": inside}], "prompt": "a red fox, in ink"})
        finished = await carried_out(provider, asked(DEV), workspace)
        [picture] = finished.pictures
        assert isinstance(picture, StoredPicture)
        assert workspace.bytes_of(picture.image) == image_bytes()
        assert picture.revised_prompt == "a red fox, in ink"
        assert workspace.open_sinks == 0

    async def test_a_question_that_is_refused_leaves_the_outcome_unknown(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await started(provider, asked(DEV), workspace)
        simulator.faults.push(Fault(kind="status", status=422))
        with pytest.raises(ProviderProtocolError, match="tells nothing of the work") as caught:
            await polled(provider, handle, call(asked(DEV), workspace))
        assert caught.value.status == 422

    async def test_an_unknown_handle_is_lost_work(self, provider: Provider, workspace: FolderWorkspace) -> None:
        known = json.loads(await started(provider, asked(DEV), workspace))
        elsewhere = {name: str(value).replace("764cabcf", "00000000") for name, value in known.items()}
        with pytest.raises(ProviderModelGone):
            await polled(provider, json.dumps({**elsewhere, "since": 1}), call(asked(DEV), workspace))
        for handle in ("", "{}", "7"):
            with pytest.raises(ProviderRejected, match="no handle"):
                await polled(provider, handle, call(asked(DEV), workspace))

    async def test_cancel_goes_upstream(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        wanted = call(asked(DEV), workspace)
        waiting, over = [await started(provider, asked(DEV), workspace) for _ in range(2)]
        await polled(provider, over, wanted)
        assert await provider.cancel(waiting, wanted) is True
        assert await provider.cancel(over, wanted) is False
        last = simulator.exchanges[-1]
        assert (last.method, last.path) == ("PUT", f"/{json.loads(over)['cancel']}")
        simulator.faults.push(Fault(kind="status", status=404))
        assert await provider.cancel(waiting, wanted) is False
        assert await provider.cancel(None, wanted) is False

    @pytest.mark.parametrize("path", ["*/status", "*/requests/*[0-9]"])
    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            ({"kind": "status", "status": 401}, ProviderAuthError),
            ({"kind": "status", "status": 408}, ProviderUnavailable),
            ({"kind": "status", "status": 409}, ProviderUnavailable),
            ({"kind": "status", "status": 429}, ProviderBusy),
            ({"kind": "status", "status": 500}, ProviderUnavailable),
            ({"kind": "status", "status": 504}, ProviderUnavailable),
            ({"kind": "html", "status": 502}, ProviderUnavailable),
            ({"kind": "truncated"}, ProviderUnavailable),
        ],
    )
    async def test_a_question_that_fails_is_asked_again(
        self,
        provider: Provider,
        simulator: FalSimulator,
        workspace: FolderWorkspace,
        path: str,
        fault: dict[str, Any],
        expected: type[ProviderError],
    ) -> None:
        handle = await started(provider, asked(DEV), workspace)
        simulator.faults.push(Fault(**fault, path=path))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(asked(DEV), workspace))
        assert type(caught.value) is expected
        assert caught.value.error_class.poll_again
        assert isinstance(await polled(provider, handle, call(asked(DEV), workspace)), Finished)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRejected),
            (401, ProviderAuthError),
            (403, ProviderAuthError),
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
        simulator: FalSimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(asked(DEV), workspace))
        assert type(caught.value) is expected
        assert caught.value.message == f"Simulated failure {status}."
        assert caught.value.request_id == "req_00000001"

    async def test_what_a_model_does_not_take_is_named(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="colour: ") as caught:
            await provider.start(call(asked(DEV, extra={"colour": "secret"}), workspace))
        assert (caught.value.status, caught.value.provider_type, caught.value.param) == (
            422,
            "extra_forbidden",
            "colour",
        )
        assert "secret" not in caught.value.message

    async def test_a_lost_answer_of_a_submit_is_unknown(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(asked(DEV), workspace))
        assert simulator.charged == 1

    async def test_an_address_that_cannot_be_read(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.announced_url = "https://[::1"
        with pytest.raises(ProviderProtocolError, match="address"):
            await provider.start(call(asked(DEV), workspace))


BODY = msgspec.json.encode({"request_id": "r1", "status": "OK", "payload": {"images": []}})
ADDRESS = CallbackAddress(url="https://gw.example/v1/callbacks/fal/j1?token=t&x=%2F", secret="s")


class TestCallback:
    @pytest.fixture
    def clock(self) -> list[float]:
        return [time.time()]

    @pytest.fixture
    def listening(self, simulator: FalSimulator, sessions: HttpSessions, clock: list[float]) -> Fal:
        settings = ProviderSettings(name=ProviderName("fal"), type="fal", base_url=simulator.base_url)
        options = Options(keys_url=f"{simulator.base_url}{KEYS_PATH}")
        entry = Entry(settings=settings, options=options, repeatable=False, sessions=sessions)
        return Fal(entry, now=lambda: clock[0])

    async def test_is_asked_for_where_it_is_wanted(
        self, provider: Provider, simulator: FalSimulator, workspace: FolderWorkspace
    ) -> None:
        await provider.start(call(asked(DEV), workspace, callback=ADDRESS))
        assert simulator.exchanges[0].query == {"fal_webhook": ADDRESS.url}

    async def test_a_signed_call_is_taken_and_the_keys_are_fetched_once_a_day(
        self, listening: Fal, simulator: FalSimulator, workspace: FolderWorkspace, clock: list[float]
    ) -> None:
        wanted = call(asked(DEV), workspace)
        for moved_s in (0, 300, 86_399, 86_400):
            clock[0] += moved_s
            await listening.read_callback(signed(BODY, at=clock[0] - 299), BODY, wanted)
        assert [exchange.path for exchange in simulator.exchanges] == [KEYS_PATH, KEYS_PATH, KEYS_PATH]

    async def test_anything_else_is_refused(
        self, listening: Fal, workspace: FolderWorkspace, clock: list[float]
    ) -> None:
        right, now = signed(BODY), clock[0]
        wrong: list[tuple[dict[str, str], bytes]] = [
            ({}, BODY),
            (right, BODY + b" "),
            (signed(BODY, at=now + 302), BODY),
            (signed(BODY, at=now - 302), BODY),
            (signed(BODY, signer=Ed25519PrivateKey.generate()), BODY),
            ({**right, "X-Fal-Webhook-Request-Id": "r2"}, BODY),
            ({**right, "X-Fal-Webhook-Signature": "00" * 64}, BODY),
            ({**right, "X-Fal-Webhook-Signature": "xyz"}, BODY),
            ({**right, "X-Fal-Webhook-Timestamp": "soon"}, BODY),
        ]
        for headers, body in wrong:
            with pytest.raises(InvalidRequest, match="not signed by fal"):
                await listening.read_callback(headers, body, call(asked(DEV), workspace))

    @pytest.mark.parametrize(
        "document", ["", "{}", "[]", '{"keys": [{}]}', '{"keys": [{"x": "%"}]}', '{"keys": [{"x": "AA"}]}']
    )
    async def test_without_the_keys_it_cannot_be_checked(
        self, listening: Fal, simulator: FalSimulator, workspace: FolderWorkspace, document: str
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=200, body=document))
        with pytest.raises(ProviderUnavailable):
            await listening.read_callback(signed(BODY), BODY, call(asked(DEV), workspace))
        await listening.read_callback(signed(BODY), BODY, call(asked(DEV), workspace))
