import asyncio
import base64
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from safelight.adapters.providers._base import ProviderSettings
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers.sdwebui import PROVIDER, Options, SDWebUI
from safelight.application.ports import ProviderKey
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
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
from tests.doubles import Told
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
    run,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.sdwebui import SDWebUISimulator

MODEL = "current"
XL = "XL/sd_xl_base_1.0.safetensors [31e35c80fc]"
LARGE = 4_000_000

CONFORMANCE = ProviderCase(
    simulator=lambda key: SDWebUISimulator(key=key),
    requests=lambda workspace: one_of_each(workspace, MODEL, "sdwebui", n=2),
    unsupported=generation(MODEL, "sdwebui", background="transparent"),
)


@pytest.fixture
async def simulator() -> AsyncIterator[SDWebUISimulator]:
    async with SDWebUISimulator(key=KEY) as started:
        yield started


@pytest.fixture
def provider(simulator: SDWebUISimulator, sessions: HttpSessions) -> SDWebUI:
    return opened(simulator, sessions)


def opened(simulator: SDWebUISimulator, sessions: HttpSessions, **more: Any) -> SDWebUI:
    provider = open_provider("sdwebui", sessions, simulator.base_url, **{"timeout_s": 20, **more})
    assert isinstance(provider, SDWebUI)
    return provider


def ask(model: str = MODEL, **more: Any) -> ImageRequest:
    return generation(model, "sdwebui", **more)


def edit(workspace: FolderWorkspace, **more: Any) -> ImageRequest:
    return ask(**{"operation": Operation.EDIT, "images": (workspace.put(image_bytes(300, 260)),), **more})


async def sent(
    provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace, request: ImageRequest
) -> dict[str, Any]:
    await run(provider, call(request, workspace))
    fields = dict(simulator.exchanges[-1].fields)
    assert fields.pop("force_task_id").startswith("task(safelight-")
    return fields


PLAIN = {
    "prompt": "a red fox",
    "steps": 20,
    "batch_size": 1,
    "n_iter": 1,
    "seed": -1,
    "send_images": True,
    "save_images": False,
}


class TestGeneration:
    async def test_the_least(self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace) -> None:
        assert await sent(provider, simulator, workspace, ask()) == PLAIN
        [exchange] = simulator.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/sdapi/v1/txt2img")
        assert exchange.headers["authorization"] == f"Bearer {KEY}"

    async def test_everything_the_caller_said_is_sent(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = ask(
            size="832x1216",
            n=3,
            seed=7,
            negative_prompt="fog",
            num_inference_steps=9,
            output_format="png",
            quality="hd",
            extra={"cfg_scale": 4.5, "sampler_name": "Euler a"},
        )
        assert await sent(provider, simulator, workspace, request) == {
            **PLAIN,
            "width": 832,
            "height": 1216,
            "n_iter": 3,
            "seed": 7,
            "negative_prompt": "fog",
            "steps": 9,
            "cfg_scale": 4.5,
            "sampler_name": "Euler a",
        }

    async def test_the_pictures_and_what_is_said_of_them(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        finished = await run(provider, call(ask(n=2, size="64x48"), workspace))
        assert tuple(image.sha256 for image in stored(finished)) == simulator.exchanges[0].outputs_sha256
        assert (finished.model, finished.size, finished.via) == ("v1-5-pruned-emaonly", "64x48", None)
        assert (finished.charged, finished.cost_micros) == (Charged.NO, None)
        [spec] = provider.specs
        assert spec.price is not None
        assert spec.price.per_image[0].usd == 0

    @pytest.mark.parametrize(
        ("more", "fields"),
        [
            ({"quality": "low"}, {"steps": 12}),
            ({"quality": "auto"}, {"steps": 20}),
            ({"quality": "high", "num_inference_steps": 5}, {"steps": 5}),
            ({"aspect_ratio": "16:9"}, {"width": 1360, "height": 768}),
            ({"size": "auto"}, {}),
            ({"seed": -1}, {}),
            ({"prompt": None}, {"prompt": ""}),
            ({"extra": {"batch_size": 2}}, {"batch_size": 2}),
        ],
    )
    async def test_translations(
        self,
        provider: SDWebUI,
        simulator: SDWebUISimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        fields: dict[str, Any],
    ) -> None:
        assert await sent(provider, simulator, workspace, ask(**more)) == {**PLAIN, **fields}

    async def test_the_operators_settings(
        self, simulator: SDWebUISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        options = {
            "steps": 30,
            "qualities": {"draft": 4},
            "pixels": 512 * 512,
            "styles": ["Film"],
            "allow": ["alwayson_scripts"],
            "defaults": {"cfg_scale": 6, "sampler_name": "Euler"},
        }
        current = {"name": MODEL, "wire": {"defaults": {"sampler_name": "DPM++ 2M"}}}
        provider = opened(simulator, sessions, options=options, models=(current,))
        request = ask(aspect_ratio="1:1", style="Film", extra={"alwayson_scripts": {}})
        assert await sent(provider, simulator, workspace, request) == {
            **PLAIN,
            "steps": 30,
            "cfg_scale": 6,
            "sampler_name": "DPM++ 2M",
            "width": 512,
            "height": 512,
            "styles": ["Film"],
            "alwayson_scripts": {},
        }
        assert (await sent(provider, simulator, workspace, ask(quality="draft")))["steps"] == 4

    @pytest.mark.parametrize("model", [MODEL, XL])
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"style": "vivid"}, "style"),
            ({"quality": "best"}, "quality"),
            ({"background": "opaque"}, "background"),
            ({"resolution": "2K"}, "resolution"),
            ({"output_format": "jpeg"}, "output_format"),
            ({"size": "1000x1001"}, "size"),
            ({"size": "1K"}, "size"),
            ({"size": "64x64", "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"aspect_ratio": "wide"}, "aspect_ratio"),
            ({"seed": -2}, "seed"),
            ({"edit_type": "outpainting"}, "type"),
            ({"extra": {"override_settings": {"sd_model_checkpoint": "x"}}}, "override_settings"),
            ({"extra": {"script_name": "x"}}, "script_name"),
            ({"extra": {"init_images": ["http://10.0.0.1/"]}}, "init_images"),
        ],
    )
    async def test_what_cannot_be_expressed_is_refused_before_any_exchange(
        self,
        provider: SDWebUI,
        simulator: SDWebUISimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        param: str,
    ) -> None:
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(ask(model, **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_a_second_input_picture_has_no_place(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, images=(workspace.put(image_bytes()), workspace.put(image_bytes(80, 80))))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "image"
        assert simulator.exchanges == []


class TestCheckpoints:
    @pytest.mark.parametrize(
        "model",
        [
            XL,
            "XL/sd_xl_base_1.0.safetensors",
            "sd_xl_base_1.0",
            "sd_xl_base_1.0.safetensors",
            "31e35c80fc",
            "dreamlike.ckpt",
            "dreamlike",
        ],
    )
    async def test_one_that_is_there_is_loaded_and_kept(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        fields = await sent(provider, simulator, workspace, ask(model))
        assert fields == {
            **PLAIN,
            "override_settings": {"sd_model_checkpoint": model},
            "override_settings_restore_afterwards": False,
        }
        assert [each.path for each in simulator.exchanges] == ["/sdapi/v1/sd-models", "/sdapi/v1/txt2img"]

    async def test_the_answer_names_what_drew(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        assert (await run(provider, call(ask(XL), workspace))).model == "XL_sd_xl_base_1.0"
        simulator.info = False
        assert (await run(provider, call(ask(XL), workspace))).model == XL
        assert (await run(provider, call(ask(), workspace))).model is None

    @pytest.mark.parametrize("model", ["nothing.safetensors", ""])
    async def test_one_that_is_not_there_is_never_replaced_by_the_loaded_one(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace, model: str
    ) -> None:
        with pytest.raises(ProviderModelGone):
            await provider.start(call(ask(model), workspace))
        assert simulator.submissions == 0

    async def test_a_server_without_a_list_is_believed(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=404, path="*/sd-models"))
        assert (await sent(provider, simulator, workspace, ask("any")))["override_settings"]

    @pytest.mark.parametrize(("status", "expected"), [(401, ProviderAuthError), (500, ProviderUnavailable)])
    async def test_a_list_that_is_refused_is_told(
        self,
        provider: SDWebUI,
        simulator: SDWebUISimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, path="*/sd-models"))
        with pytest.raises(expected):
            await provider.start(call(ask(XL), workspace))
        assert simulator.submissions == 0

    async def test_forge_may_need_modules(
        self, simulator: SDWebUISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        flux = {"name": XL, "operations": ["image_generation"], "wire": {"modules": ["/m/ae.safetensors"]}}
        fields = await sent(opened(simulator, sessions, models=(flux,)), simulator, workspace, ask(XL))
        assert fields["override_settings"]["forge_additional_modules"] == ["/m/ae.safetensors"]

    def test_a_wire_that_is_none(self, simulator: SDWebUISimulator, sessions: HttpSessions) -> None:
        with pytest.raises(ConfigurationError, match="model current: wire"):
            opened(simulator, sessions, models=({"name": MODEL, "wire": {"colour": 1}},))


class TestDrawingOver:
    async def test_an_edit(self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace) -> None:
        request = edit(workspace)
        fields = await sent(provider, simulator, workspace, request)
        [picture] = fields.pop("init_images")
        assert base64.b64decode(picture) == workspace.bytes_of(request.images[0].image)
        assert fields == {**PLAIN, "width": 304, "height": 256, "denoising_strength": 0.75, "resize_mode": 1}
        assert simulator.exchanges[-1].path == "/sdapi/v1/img2img"

    async def test_a_mask_is_grey_and_white_where_it_changes(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, mask=workspace.put(mask_bytes(300, 260)), size="512x512")
        fields = await sent(provider, simulator, workspace, request)
        with Image.open(io.BytesIO(base64.b64decode(fields["mask"]))) as mask:
            assert (mask.mode, mask.getpixel((0, 0)), mask.getpixel((299, 0))) == ("L", 255, 0)
        said = {name: value for name, value in fields.items() if name.startswith("inpaint")}
        assert said == {"inpainting_fill": 1, "inpaint_full_res": False, "inpainting_mask_invert": 0}
        assert (fields["width"], fields["height"]) == (512, 512)

    async def test_a_variation_has_less_strength(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, operation=Operation.VARIATION, prompt=None)
        fields = await sent(provider, simulator, workspace, request)
        assert (fields["denoising_strength"], fields["prompt"]) == (0.6, "")
        assert (await run(provider, call(request, workspace))).via == "edit"

    async def test_the_strength_may_be_said(
        self, simulator: SDWebUISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = opened(simulator, sessions, options={"edit_strength": 0.3})
        assert (await sent(provider, simulator, workspace, edit(workspace)))["denoising_strength"] == 0.3
        request = edit(workspace, extra={"denoising_strength": 0.9})
        assert (await sent(provider, simulator, workspace, request))["denoising_strength"] == 0.9


class TestAnswers:
    async def test_a_grid_is_dropped(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.grid = True
        for simulator.info in (True, False):
            finished = await run(provider, call(ask(n=2, size="64x64"), workspace))
            assert [image.dimensions.width for image in stored(finished)] == [64, 64]

    async def test_a_grid_is_dropped_even_where_pictures_are_missing(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.grid, simulator.stop_after = True, 1
        finished = await run(provider, call(ask(n=2, size="64x64"), workspace))
        assert [image.dimensions.width for image in stored(finished)] == [64]

    async def test_an_interrupted_drawing_without_a_picture(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.stop_after = 0
        with pytest.raises(ProviderProtocolError, match="interrupted"):
            await provider.start(call(ask(), workspace))

    async def test_data_urls_are_taken(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.data_urls = True
        for simulator._image_bytes in (None, 300_000):
            assert len(stored(await run(provider, call(ask(n=2, size="64x64"), workspace)))) == 2

    @pytest.mark.parametrize("info", [None, "", "no json", {"seed": 1}, '{"index_of_first_image": -3}'])
    async def test_odd_info_is_no_fault(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace, info: Any
    ) -> None:
        body = {"images": [base64.b64encode(image_bytes()).decode()], "info": info}
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        finished = await run(provider, call(ask(), workspace))
        assert (len(stored(finished)), finished.size) == (1, None)

    async def test_a_large_picture_is_never_held(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator._image_bytes = LARGE
        [image] = stored(await run(provider, call(ask(), workspace)))
        assert image.size_bytes == LARGE
        assert workspace.sinks[-1].largest_chunk_bytes <= 64 * 1024


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "body", "expected", "message"),
        [
            (401, {"detail": "Incorrect username or password"}, ProviderAuthError, "Incorrect username or password"),
            (404, {"detail": "Init image not found"}, ProviderRejected, "Init image not found"),
            (400, {"detail": "Sampler not found"}, ProviderRejected, "Sampler not found"),
            (
                404,
                {"error": "HTTPException", "detail": "Sampler not found", "body": "", "errors": ""},
                ProviderRejected,
                "Sampler not found",
            ),
            (404, {"detail": "Not Found"}, ProviderModelGone, "Not Found"),
            (
                422,
                {"detail": [{"loc": ["body", "steps"], "msg": "value is not valid", "type": "type_error"}]},
                ProviderRejected,
                "steps: value is not valid",
            ),
            (
                500,
                {"error": "OutOfMemoryError", "detail": "", "body": "", "errors": "CUDA is full"},
                ProviderRejected,
                "CUDA is full",
            ),
            (
                500,
                {"error": "RuntimeError", "errors": "HIP out of memory"},
                ProviderRejected,
                "HIP out of memory",
            ),
            (
                500,
                {"error": "RuntimeError", "detail": "", "errors": "Unknown checkpoint: x"},
                ProviderModelGone,
                "Unknown checkpoint: x",
            ),
            (500, {"error": "KeyError", "detail": "", "errors": ""}, ProviderUnavailable, "KeyError"),
            (
                500,
                "Internal Server Error",
                ProviderUnavailable,
                "the provider answered HTTP 500 (Internal Server Error)",
            ),
            (504, None, ProviderUncertain, "Simulated failure 504."),
        ],
    )
    async def test_each_is_of_its_class(
        self,
        provider: SDWebUI,
        simulator: SDWebUISimulator,
        workspace: FolderWorkspace,
        status: int,
        body: Any,
        expected: type[ProviderError],
        message: str,
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, body=body))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert (type(caught.value), caught.value.message) == (expected, message)
        assert caught.value.status == status

    async def test_paths_and_tracebacks_stay_there(self, provider: SDWebUI, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderUnavailable) as caught:
            await provider.start(call(ask(prompt="[fails]"), workspace))
        assert caught.value.message == "cannot open [path]"
        assert caught.value.provider_code == "RuntimeError"

    async def test_a_fault_for_want_of_memory_is_final(self, provider: SDWebUI, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await provider.start(call(ask(prompt="[memory]"), workspace))
        assert caught.value.provider_code == "OutOfMemoryError"

    async def test_a_lost_answer_leaves_the_outcome_unknown_and_a_repeat_is_free(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace))
        anywhere = ProviderSettings(name=ProviderName("box"), type="sdwebui", base_url="https://gpu.example")
        assert PROVIDER.settle(anywhere).repeatable is True
        assert len((await run(provider, call(ask(), workspace))).pictures) == 1


class TestMeanwhile:
    async def test_a_watcher_tells_of_the_calls_own_drawing(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        told = Told(wants=False)
        mine = call(ask(n=4), workspace, report=told)
        assert await provider.watch(mine) == 1.0
        assert simulator.exchanges == []
        await run(provider, mine)
        task = simulator.exchanges[-1].fields["force_task_id"]
        simulator.current = "task(another)"
        assert await provider.watch(mine) == 1.0
        simulator.current = task
        assert await provider.watch(mine) == 1.0
        assert simulator.exchanges[-1].fields == {"id_task": task, "id_live_preview": -1, "live_preview": False}
        assert (told.shares, told.previews) == ([0.45], [])
        told.wants_preview, simulator.share = True, 0.5
        await provider.watch(mine)
        assert (told.shares, [index for index, _ in told.previews]) == ([0.45, 0.5], [2])
        assert workspace.bytes_of(told.previews[0][1])

    async def test_nobody_looks_at_a_drawing_that_waits_for_its_turn(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(hold=True))
        first = call(ask(), workspace, token="first")
        second = call(ask(), workspace, token="second")
        drawing = asyncio.create_task(run(provider, first))
        await simulator.wait_for_submissions(1)
        assert await provider.watch(second) == 1.0
        assert simulator.submissions == len(simulator.exchanges) == 1
        assert await provider.watch(first) == 1.0
        assert simulator.exchanges[-1].path == "/internal/progress"
        simulator.release()
        await drawing

    async def test_cancel_interrupts_the_calls_own_drawing_alone(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        mine = call(ask(), workspace)
        await run(provider, mine)
        simulator.current = "task(another)"
        assert await provider.cancel(None, mine) is False
        simulator.current = simulator.exchanges[0].fields["force_task_id"]
        assert await provider.cancel(None, mine) is True
        assert await provider.cancel(None, mine) is False
        assert simulator.interrupts == 1

    async def test_sdnext_cannot_tell(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.dialect = "sdnext"
        mine = call(ask(), workspace)
        await run(provider, mine)
        assert await provider.watch(mine) is None
        assert await provider.cancel(None, mine) is False
        simulator.faults.push(Fault(kind="status", status=500))
        with pytest.raises(ProviderUnavailable):
            await provider.watch(mine)

    async def test_one_at_a_time_and_the_next_after_a_cancelled_one(
        self, provider: SDWebUI, simulator: SDWebUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(hold=True), Fault(hold=True))
        tasks = [asyncio.create_task(run(provider, call(ask(), workspace))) for _ in range(3)]
        await simulator.wait_for_submissions(1)
        assert simulator.submissions == 1
        tasks[0].cancel()
        await simulator.wait_for_submissions(2)
        simulator.release()
        assert [len(finished.pictures) for finished in await asyncio.gather(*tasks[1:])] == [1, 1]
        assert simulator.submissions == 3


class TestKeys:
    async def test_none_is_needed(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with SDWebUISimulator() as simulator:
            await run(opened(simulator, sessions), call(ask(), workspace, key=ProviderKey(name=None, value=None)))
            assert "authorization" not in simulator.exchanges[0].headers

    async def test_a_user_and_password_are_basic(self, sessions: HttpSessions, workspace: FolderWorkspace) -> None:
        async with SDWebUISimulator(key="ann:secret") as simulator:
            await run(
                opened(simulator, sessions), call(ask(), workspace, key=ProviderKey(name="a", value="ann:secret"))
            )

    async def test_where_a_repeat_costs_a_drawing_is_charged(
        self, simulator: SDWebUISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        provider = opened(simulator, sessions, repeatable=False)
        assert (await run(provider, call(ask(), workspace))).charged is Charged.YES


def test_options_have_limits(simulator: SDWebUISimulator, sessions: HttpSessions) -> None:
    assert Options().qualities["high"] == 40
    with pytest.raises(ConfigurationError, match="steps"):
        opened(simulator, sessions, options={"steps": 151})
