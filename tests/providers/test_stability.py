import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from PIL import Image
from structlog.testing import capture_logs

from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers._openai_shape import VARIATION_PROMPT
from safelight.application.ports import Accepted, Finished, Provider, ProviderKey, Running
from safelight.domain.errors import (
    ConfigurationError,
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
    generation,
    image_bytes,
    mask_bytes,
    one_of_each,
    open_provider,
    polled,
    run,
    stored,
)
from tests.simulators import stability
from tests.simulators._base import Call as SimulatedCall
from tests.simulators._base import Fault, Reply
from tests.simulators.stability import SERVICES, StabilitySimulator

MODEL = "stable-image-core"
ULTRA = "stable-image-ultra"
RELIGHT = "replace-background-and-relight"
CREATIVE = "upscale-creative"
LARGE = 4_000_000


def ask(model: str = MODEL, **more: Any) -> ImageRequest:
    return generation(model, "stability", **more)


def edit(workspace: FolderWorkspace, model: str = ULTRA, *, count: int = 1, **more: Any) -> ImageRequest:
    inputs = tuple(workspace.put(image_bytes(80, 72, colour=(number, 0, 0))) for number in range(count))
    return ask(model, **{"operation": Operation.EDIT, "images": inputs, **more})


def requests(workspace: FolderWorkspace) -> Sequence[ImageRequest]:
    image = (workspace.put(image_bytes(80, 72)),)
    mask = workspace.put(mask_bytes(80, 72))
    generated, _, varied = one_of_each(workspace, "sd3.5-large", "stability")
    return [
        ask(),
        generated,
        ask(operation=Operation.EDIT, images=image, mask=mask),
        ask(ULTRA, operation=varied.operation, images=image, prompt=None),
    ]


CONFORMANCE = ProviderCase(
    simulator=lambda key: StabilitySimulator(key=key),
    requests=requests,
    unsupported=ask(quality="high"),
    unclear=frozenset({500, 503, 504, 529}),
)


@pytest.fixture
async def simulator() -> AsyncIterator[StabilitySimulator]:
    async with StabilitySimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: StabilitySimulator, sessions: HttpSessions) -> Provider:
    return open_provider("stability", sessions, simulator.base_url, timeout_s=20)


class TestGeneration:
    async def test_sends_every_field_and_stores_the_picture(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask(
            "sd3.5-medium",
            aspect_ratio="16:9",
            seed=42,
            negative_prompt="fog",
            style="line-art",
            output_format="jpeg",
            user="user-17",
            extra={"cfg_scale": 4.5},
        )
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/v2beta/stable-image/generate/sd3")
        assert exchange.headers["authorization"] == f"Bearer {KEY}"
        assert exchange.headers["accept"] == "application/json"
        assert exchange.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert exchange.headers["stability-client-user-id"] == hashlib.sha256(b"user-17").hexdigest()
        assert exchange.fields == {
            "model": "sd3.5-medium",
            "prompt": "a red fox",
            "negative_prompt": "fog",
            "seed": "42",
            "output_format": "jpeg",
            "style_preset": "line-art",
            "aspect_ratio": "16:9",
            "cfg_scale": "4.5",
        }
        assert exchange.files == ()
        assert tuple(image.sha256 for image in stored(finished)) == exchange.outputs_sha256
        assert (finished.model, finished.via, finished.charged) == ("sd3.5-medium", None, Charged.YES)
        assert finished.cost_micros is None

    @pytest.mark.parametrize(
        ("model", "path"), [(MODEL, "core"), ("core", "core"), (ULTRA, "ultra"), ("sd3.5-flash", "sd3")]
    )
    async def test_a_model_is_a_path(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace, model: str, path: str
    ) -> None:
        await run(provider, call(ask(model), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == f"{SERVICES}generate/{path}"
        assert exchange.fields.get("model") == (model if path == "sd3" else None)

    @pytest.mark.parametrize(
        ("more", "sent"),
        [
            ({"size": "1024x1024"}, "1:1"),
            ({"size": "1536x1024"}, "3:2"),
            ({"size": "1792x1024"}, "16:9"),
            ({"size": "1000x3000"}, "9:21"),
            ({"size": "4:5"}, "4:5"),
            ({"size": "auto"}, None),
            ({"size": "1024x1024", "aspect_ratio": "21:9"}, "21:9"),
        ],
    )
    async def test_a_size_is_the_nearest_ratio(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        sent: str | None,
    ) -> None:
        await run(provider, call(ask(**more), workspace))
        assert simulator.exchanges[0].fields.get("aspect_ratio") == sent

    @pytest.mark.parametrize(
        ("model", "path", "more"),
        [
            ("stable-image-nova", "generate/nova", {}),
            ("edit/../../../v1/user", "edit/v1/user", {}),
            ("sd4-huge", "generate/sd4-huge", {}),
            ("sd3.9-x", "generate/sd3", {"model": "sd3.9-x"}),
        ],
    )
    async def test_an_unknown_model_is_passed_through(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        model: str,
        path: str,
        more: dict[str, str],
    ) -> None:
        with pytest.raises(ProviderError):
            await provider.start(call(ask(model, quality="high", seed=0, style="vivid"), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == SERVICES + path
        assert (
            exchange.fields == {"prompt": "a red fox", "quality": "high", "seed": "0", "style_preset": "vivid"} | more
        )

    async def test_the_gateway_may_be_named(
        self, simulator: StabilitySimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("stability", sessions, simulator.base_url, options={"client_id": "gateway"})
        await run(provider, call(ask(), workspace))
        assert simulator.exchanges[0].headers["stability-client-id"] == "gateway"
        assert "stability-client-user-id" not in simulator.exchanges[0].headers

    @pytest.mark.parametrize("options", [{"strength": 2}, {"client_id": "x" * 257}])
    def test_odd_options_are_refused(self, sessions: HttpSessions, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=r"providers\.stability"):
            open_provider("stability", sessions, options=options)

    def test_all_services_of_the_sheet_are_known(self, provider: Provider) -> None:
        paths = {spec.wire["path"] for spec in provider.specs}
        assert paths == stability.KNOWN.keys()
        assert all(spec.max_n == 1 for spec in provider.specs)

    async def test_a_described_model_needs_no_code(
        self, simulator: StabilitySimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        new = {"name": "nova", "operations": ["image_generation"], "wire": {"path": "generate/core"}}
        bare = {"name": "ultra-2", "operations": ["image_generation"]}
        provider = open_provider("stability", sessions, simulator.base_url, models=(new, bare))
        await run(provider, call(ask("nova"), workspace))
        with pytest.raises(ProviderModelGone):
            await provider.start(call(ask("ultra-2"), workspace))
        assert [each.path.removeprefix(SERVICES) for each in simulator.exchanges] == [
            "generate/core",
            "generate/ultra-2",
        ]

    def test_a_wire_that_cannot_be_read_is_told_at_the_start(self, sessions: HttpSessions) -> None:
        odd = {"name": "nova", "operations": ["image_generation"], "wire": {"path": 3}}
        with pytest.raises(ConfigurationError, match="nova"):
            open_provider("stability", sessions, models=(odd,))


class TestEdit:
    @pytest.mark.parametrize(
        ("model", "path", "more"),
        [
            (ULTRA, "generate/ultra", {}),
            ("sd3.5-large", "generate/sd3", {"model": "sd3.5-large", "mode": "image-to-image"}),
        ],
    )
    async def test_without_a_mask_the_model_redraws_the_picture(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        model: str,
        path: str,
        more: dict[str, str],
    ) -> None:
        request = edit(workspace, model)
        finished = await run(provider, call(request, workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == SERVICES + path
        assert exchange.fields == {"prompt": "a red fox", "strength": "0.6", **more}
        assert [(file.name, file.filename, file.content_type, file.sha256) for file in exchange.files] == [
            ("image", "image.png", "image/png", request.images[0].image.sha256)
        ]
        assert finished.via is None

    async def test_the_strength_can_be_set_for_all_or_for_one(
        self, simulator: StabilitySimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = open_provider("stability", sessions, simulator.base_url, options={"strength": 0.3})
        await run(provider, call(edit(workspace), workspace))
        await run(provider, call(edit(workspace, extra={"strength": 0.9}), workspace))
        assert [exchange.fields["strength"] for exchange in simulator.exchanges] == ["0.3", "0.9"]

    @pytest.mark.parametrize("model", [MODEL, ULTRA, "sd3.5-large", "inpaint", "edit/inpaint"])
    async def test_a_mask_goes_to_inpaint_white_where_it_was_transparent(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        model: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        contents: list[tuple[bytes, ...]] = []
        answer = simulator.answer

        async def recording(seen: SimulatedCall) -> Reply:
            contents.append(seen.contents)
            return await answer(seen)

        monkeypatch.setattr(simulator, "answer", recording)  # the record leaves the bytes out
        mask = workspace.put(mask_bytes(80, 72))
        finished = await run(provider, call(edit(workspace, model, mask=mask, extra={"grow_mask": 3}), workspace))
        [exchange] = simulator.exchanges
        assert exchange.path == f"{SERVICES}edit/inpaint"
        assert exchange.fields == {"prompt": "a red fox", "grow_mask": "3"}
        assert [(file.name, file.filename, file.content_type) for file in exchange.files] == [
            ("image", "image.png", "image/png"),
            ("mask", "mask.png", "image/png"),
        ]
        with Image.open(io.BytesIO(contents[0][1])) as sent:
            assert (sent.mode, sent.size) == ("L", (80, 72))
            assert (sent.getpixel((5, 5)), sent.getpixel((75, 5))) == (255, 0)
        redirected = model in {MODEL, ULTRA, "sd3.5-large"}
        assert finished.model == ("inpaint" if redirected else model)
        assert finished.cost_micros == (50_000 if redirected else None)

    @pytest.mark.parametrize(
        ("kind", "path", "more"),
        [
            ("inpainting", "edit/inpaint", {}),
            ("outpainting", "edit/outpaint", {"extra": {"left": 200}}),
            ("background_removal", "edit/remove-background", {"prompt": None, "output_format": "webp"}),
        ],
    )
    async def test_a_kind_of_edit_has_its_own_service(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        kind: str,
        path: str,
        more: dict[str, Any],
    ) -> None:
        finished = await run(provider, call(edit(workspace, MODEL, edit_type=kind, **more), workspace))
        assert simulator.exchanges[0].path == SERVICES + path
        assert len(finished.pictures) == 1

    @pytest.mark.parametrize(
        ("model", "more"),
        [
            ("erase", {"prompt": None}),
            ("search-and-replace", {"extra": {"search_prompt": "a dog"}}),
            ("search-and-recolor", {"extra": {"select_prompt": "fur"}}),
            ("upscale-fast", {"prompt": None}),
            ("upscale-conservative", {}),
            ("control-sketch", {"style": "origami"}),
            ("control-structure", {}),
            ("control-style", {"size": "1024x1024"}),
            ("control-style-transfer", {"count": 2, "prompt": None}),
        ],
    )
    async def test_each_service_is_a_model(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
    ) -> None:
        finished = await run(provider, call(edit(workspace, model, **more), workspace))
        assert (finished.model, finished.cost_micros) == (model, None)
        spec = provider.spec(model)
        assert spec is not None
        assert simulator.exchanges[0].path == SERVICES + spec.wire["path"]

    @pytest.mark.parametrize("model", [ULTRA, "sd3.5-flash"])
    async def test_a_variation_is_a_redrawing_with_a_neutral_prompt(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        request = edit(workspace, model, operation=Operation.VARIATION, prompt=None)
        finished = await run(provider, call(request, workspace))
        assert simulator.exchanges[0].fields["prompt"] == VARIATION_PROMPT
        assert finished.via == "edit"


class TestRefusedBeforeAnyExchange:
    @pytest.mark.parametrize(
        ("model", "more", "param"),
        [
            (MODEL, {"quality": "high"}, "quality"),
            (MODEL, {"background": "transparent"}, "background"),
            (MODEL, {"resolution": "2K"}, "resolution"),
            (MODEL, {"output_compression": 5}, "output_compression"),
            (MODEL, {"style": "vivid"}, "style"),
            (MODEL, {"seed": 0}, "seed"),
            (MODEL, {"seed": 2**32}, "seed"),
            (MODEL, {"output_format": "gif"}, "output_format"),
            (MODEL, {"aspect_ratio": "4:3"}, "aspect_ratio"),
            (MODEL, {"size": "4:3"}, "size"),
            (MODEL, {"size": "2K"}, "size"),
            (MODEL, {"prompt": "x" * 10_001}, "prompt"),
            ("sd3.5-large", {"output_format": "webp"}, "output_format"),
            ("inpaint", {}, "model"),
        ],
    )
    async def test_what_the_model_cannot_express(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
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
            (MODEL, {}, "mask"),
            (MODEL, {"operation": Operation.VARIATION}, "model"),
            (MODEL, {"masked": True, "aspect_ratio": "16:9"}, "aspect_ratio"),
            (MODEL, {"edit_type": "background_removal"}, "prompt"),
            (MODEL, {"edit_type": "background_removal", "prompt": None, "output_format": "jpeg"}, "output_format"),
            (ULTRA, {"prompt": None}, "prompt"),
            (ULTRA, {"count": 2}, "image"),
            ("sd3.5-large", {"aspect_ratio": "16:9"}, "aspect_ratio"),
            ("sd3.5-large", {"size": "1024x1024"}, "size"),
            ("inpaint", {"edit_type": "outpainting"}, "type"),
            ("search-and-replace", {"edit_type": "inpainting"}, "type"),
            ("erase", {}, "prompt"),
            ("upscale-creative", {"masked": True, "prompt": "x"}, "mask"),
            ("edit/new", {"count": 2}, "image"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        wanted = {name: value for name, value in more.items() if name != "masked"}
        if "masked" in more:
            wanted["mask"] = workspace.put(mask_bytes(80, 72))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, model, **wanted), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []


class TestHandles:
    async def begun(self, provider: Provider, request: ImageRequest, workspace: FolderWorkspace) -> str:
        outcome = await provider.start(call(request, workspace))
        assert isinstance(outcome, Accepted)
        assert outcome.poll_after_s == 10
        return outcome.handle

    async def test_relight_from_the_start_to_the_picture(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, RELIGHT, count=2, prompt="a beach", extra={"light_source_direction": "left"})
        handle = await self.begun(provider, request, workspace)
        [exchange] = simulator.exchanges
        assert exchange.path == f"{SERVICES}edit/{RELIGHT}"
        assert exchange.fields == {"background_prompt": "a beach", "light_source_direction": "left"}
        assert [file.name for file in exchange.files] == ["subject_image", "background_reference"]

        assert await polled(provider, handle, call(request, workspace)) == Running(poll_after_s=10)
        finished = await polled(provider, handle, call(request, workspace))
        assert isinstance(finished, Finished)
        poll = simulator.exchanges[-1]
        assert (poll.method, poll.path) == ("GET", f"/v2beta/results/{handle}")
        assert poll.headers["accept"] == "application/json"
        assert tuple(image.sha256 for image in stored(finished)) == poll.outputs_sha256
        assert simulator.submissions == 1

    async def test_another_process_goes_on_polling(
        self, provider: Provider, simulator: StabilitySimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, CREATIVE)
        handle = await self.begun(provider, request, workspace)
        other = open_provider("stability", sessions, simulator.base_url)
        assert isinstance(await other.poll(handle, call(request, workspace)), Running)
        assert isinstance(await other.poll(handle, call(request, workspace)), Finished)

    async def test_an_unknown_word_is_running_with_a_warning(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, CREATIVE)
        handle = await self.begun(provider, request, workspace)
        for status, word in ((202, "queued"), (200, "queued")):
            simulator.faults.push(Fault(kind="status", status=status, body={"id": handle, "status": word}))
            with capture_logs() as logs:
                assert await polled(provider, handle, call(request, workspace)) == Running(poll_after_s=10)
            assert [entry["log_level"] for entry in logs] == ["warning"]

    async def test_another_key_does_not_find_it(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with StabilitySimulator() as simulator:
            provider = open_provider("stability", sessions, simulator.base_url)
            request = edit(workspace, CREATIVE)
            handle = await self.begun(provider, request, workspace)
            other = ProviderKey(name="other", value="sk-other")
            with pytest.raises(ProviderProtocolError) as caught:
                await polled(provider, handle, call(request, workspace, key=other))
            assert caught.value.status == 404
            assert caught.value.error_class.may_be_charged

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRejected),
            (401, ProviderAuthError),
            (403, ProviderRejected),
            (404, ProviderProtocolError),
            (429, ProviderBusy),
            (500, ProviderUnavailable),
            (503, ProviderUnavailable),
        ],
    )
    async def test_a_poll_that_is_refused(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        request = edit(workspace, CREATIVE)
        handle = await self.begun(provider, request, workspace)
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(request, workspace))
        assert type(caught.value) is expected

    async def test_a_blurred_result_is_no_result(self, provider: Provider, workspace: FolderWorkspace) -> None:
        request = edit(workspace, CREATIVE, prompt="a [blurred] thing")
        handle = await self.begun(provider, request, workspace)
        await polled(provider, handle, call(request, workspace))
        with pytest.raises(ProviderRejected):
            await polled(provider, handle, call(request, workspace))

    async def test_nothing_can_be_cancelled(self, provider: Provider, workspace: FolderWorkspace) -> None:
        request = edit(workspace, CREATIVE)
        assert await provider.cancel("a" * 64, call(request, workspace)) is False


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRejected),
            (401, ProviderAuthError),
            (402, ProviderAuthError),
            (403, ProviderRejected),
            (404, ProviderModelGone),
            (413, ProviderRejected),
            (422, ProviderRejected),
            (429, ProviderBusy),
            (500, ProviderUncertain),
            (503, ProviderUncertain),
        ],
    )
    async def test_each_is_of_its_class_and_keeps_what_was_said(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert type(caught.value) is expected
        said = simulator.error_body(status)
        told = (caught.value.message, caught.value.provider_code, caught.value.request_id)
        assert told == (said["errors"][0], said["name"], said["id"])
        assert caught.value.status == status

    @pytest.mark.parametrize(("told", "kept"), [({}, 60), ({"Retry-After": "5"}, 60), ({"Retry-After": "90"}, 90)])
    async def test_who_was_too_fast_waits_for_a_minute_at_least(
        self,
        provider: Provider,
        simulator: StabilitySimulator,
        workspace: FolderWorkspace,
        told: dict[str, str],
        kept: float,
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=429, headers=told))
        with pytest.raises(ProviderBusy) as caught:
            await provider.start(call(ask(), workspace))
        assert caught.value.retry_after_s == kept

    async def test_a_prompt_that_is_refused_is_not_the_keys_fault(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(ask(prompt="a [blocked] thing"), workspace))
        assert (caught.value.status, caught.value.provider_code) == (403, "content_moderation")
        assert simulator.charged == 0

    async def test_a_blurred_picture_is_never_handed_out(self, provider: Provider, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(ask(prompt="a [blurred] thing"), workspace))
        assert caught.value.provider_code == "CONTENT_FILTERED"
        assert workspace.open_sinks == 0

    @pytest.mark.parametrize(
        "body",
        [
            {"finish_reason": "SUCCESS"},
            {"image": "", "finish_reason": "SUCCESS"},
            {"image": "iVBORw0KGgo=", "finish_reason": "SUCCESS"},
            {"image": "iVBORw0KGgo=", "finish_reason": "ODD"},
            {"image": 3},
        ],
    )
    async def test_a_success_without_a_picture_cannot_be_read(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace, body: dict[str, Any]
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        with pytest.raises(ProviderProtocolError):
            await provider.start(call(ask(), workspace))

    async def test_a_lost_answer_leaves_the_outcome_unknown(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace))

    async def test_a_body_that_is_cut_is_uncertain(
        self, provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = 300_000
        simulator.faults.push(Fault(kind="truncated"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace))
        assert workspace.open_sinks == 0


async def test_a_large_picture_is_never_held(
    provider: Provider, simulator: StabilitySimulator, workspace: FolderWorkspace
) -> None:
    simulator._image_bytes = LARGE
    finished = await run(provider, call(ask(), workspace))
    assert stored(finished)[0].size_bytes == LARGE
    assert workspace.sinks[-1].largest_chunk_bytes <= 64 * 1024
