import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from structlog.testing import capture_logs

from safelight.adapters.providers import comfyui
from safelight.adapters.providers._base import Entry, ProviderSettings
from safelight.adapters.providers._comfyui_workflow import Workflow, built_in
from safelight.adapters.providers._http import HttpSessions
from safelight.adapters.providers.comfyui import PROVIDER, ComfyUI, Options, WorkflowFiles
from safelight.application.ports import Accepted, Finished, ProviderKey, Running
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
    polled,
    stored,
)
from tests.simulators._base import Fault
from tests.simulators.comfyui import ComfyUISimulator

MODEL = "sd_xl_base_1.0.safetensors"
OLD_MODEL = "v1-5-pruned-emaonly-fp16.safetensors"
START = 1_795_400_000.0
PORTRAIT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": MODEL}, "_meta": {"title": "Load"}},
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["1", 1], "text": "portrait of {{prompt}}, {{light=dusk}}"},
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "blurry"}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 80, "batch_size": 1}},
    "5": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "positive": ["2", 0],
            "negative": ["3", 0],
            "latent_image": ["4", 0],
            "seed": "{{seed}}",
            "steps": "{{steps=9}}",
            "cfg": "{{ cfg = 6.5 }}",
            "sampler_name": "{{sampler_name=euler}}",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    },
    "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
    "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "{{prefix}}"}},
}

CONFORMANCE = ProviderCase(
    simulator=lambda key: ComfyUISimulator(key=key, stages=()),
    requests=lambda workspace: one_of_each(workspace, MODEL, "comfyui", n=2),
    unsupported=generation(MODEL, "comfyui", quality="high"),
    unclear=frozenset({500, 504}),
)


@dataclass
class Time:
    now_s: float = START

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def simulator() -> AsyncIterator[ComfyUISimulator]:
    async with ComfyUISimulator(key=KEY) as started:
        yield started


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def provider(simulator: ComfyUISimulator, sessions: HttpSessions, time: Time) -> ComfyUI:
    return opened(simulator, sessions, time)


def opened(
    simulator: ComfyUISimulator,
    sessions: HttpSessions,
    now: Time,
    *,
    options: Options | None = None,
    **settings: Any,
) -> ComfyUI:
    said = ProviderSettings(name=ProviderName("comfyui"), type="comfyui", base_url=simulator.base_url, **settings)
    settled = PROVIDER.settle(said)
    entry = Entry(
        settings=settled, options=options or Options(), repeatable=bool(settled.repeatable), sessions=sessions
    )
    return ComfyUI(entry, now=now)


def files(folder: Path, **workflows: Mapping[str, Any]) -> Options:
    """Write one model `portrait` with these workflows."""
    paths = {}
    for task, graph in workflows.items():
        path = folder / f"{task}.json"
        path.write_bytes(msgspec.json.encode(graph))
        paths[task] = str(path)
    return Options(workflows={"portrait": WorkflowFiles(**paths)})


def ask(model: str = MODEL, **more: Any) -> ImageRequest:
    return generation(model, "comfyui", **more)


def edit(workspace: FolderWorkspace, model: str = MODEL, **more: Any) -> ImageRequest:
    inputs = (workspace.put(image_bytes(300, 260)),)
    return ask(model, **{"operation": Operation.EDIT, "images": inputs, **more})


async def begun(provider: ComfyUI, workspace: FolderWorkspace, request: ImageRequest | None = None) -> str:
    outcome = await provider.start(call(request or ask(), workspace))
    assert isinstance(outcome, Accepted)
    return outcome.handle


async def ended(provider: ComfyUI, workspace: FolderWorkspace, request: ImageRequest | None = None) -> Finished:
    handle = await begun(provider, workspace, request)
    while True:
        outcome = await polled(provider, handle, call(request or ask(), workspace))
        if isinstance(outcome, Finished):
            return outcome


async def graph_of(
    provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace, request: ImageRequest
) -> dict[str, Any]:
    """Start it, and take the inputs of all nodes by class."""
    await provider.start(call(request, workspace))
    graph = simulator.exchanges[-1].fields["prompt"]
    return {node["class_type"]: node["inputs"] for node in graph.values()}


class TestBuiltIn:
    async def test_a_generation(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        said: dict[str, Any] = {
            "size": "832x1216",
            "seed": 2**63 - 1,
            "negative_prompt": "fog",
            "num_inference_steps": 8,
        }
        request = ask(**said, n=3, prompt="a {{model}} fox", extra={"cfg": 4, "sampler_name": "dpmpp_2m"})
        accepted = await provider.start(call(request, workspace))
        assert isinstance(accepted, Accepted)
        [exchange] = simulator.exchanges
        assert exchange.fields.keys() == {"prompt", "prompt_id", "client_id"}
        assert exchange.fields["client_id"] == exchange.fields["prompt_id"]
        prompt_id = exchange.fields["prompt_id"]
        nodes = exchange.fields["prompt"]
        assert nodes["4"]["inputs"] == {"ckpt_name": MODEL}
        assert nodes["5"]["inputs"] == {"width": 832, "height": 1216, "batch_size": 3}
        assert (nodes["6"]["inputs"]["text"], nodes["7"]["inputs"]["text"]) == ("a {{model}} fox", "fog")
        assert nodes["9"]["inputs"] == {"images": ["8", 0], "filename_prefix": f"safelight/{prompt_id}"}
        sampler = {name: value for name, value in nodes["3"]["inputs"].items() if not isinstance(value, list)}
        assert sampler == {
            "seed": 2**63 - 1,
            "steps": 8,
            "cfg": 4,
            "sampler_name": "dpmpp_2m",
            "scheduler": "normal",
            "denoise": 1.0,
        }
        assert msgspec.json.decode(accepted.handle) == {"prompt_id": prompt_id, "output": "9", "accepted_at": START}

    @pytest.mark.parametrize(
        ("model", "more", "size"),
        [
            (MODEL, {}, (1024, 1024)),
            (MODEL, {"size": "auto"}, (1024, 1024)),
            (OLD_MODEL, {}, (512, 512)),
            (MODEL, {"aspect_ratio": "16:9"}, (1360, 768)),
            (OLD_MODEL, {"aspect_ratio": "16:9"}, (680, 384)),
            ("private/secret-model.safetensors", {}, (1024, 1024)),
        ],
    )
    async def test_the_size_is_the_models_or_the_ratios(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        model: str,
        more: dict[str, Any],
        size: tuple[int, int],
    ) -> None:
        nodes = await graph_of(provider, simulator, workspace, ask(model, **more))
        assert (nodes["EmptyLatentImage"]["width"], nodes["EmptyLatentImage"]["height"]) == size

    async def test_a_seed_is_always_sent_and_is_the_attempts_own(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        for request, token in ((ask(), "a"), (ask(seed=-1), "a"), (ask(), "b")):
            await provider.start(call(request, workspace, token=token))
        sent = [
            (each.fields["prompt_id"], each.fields["prompt"]["3"]["inputs"]["seed"]) for each in simulator.exchanges
        ]
        assert sent[0] == sent[1] != sent[2]
        assert all(0 <= seed < 2**63 for _, seed in sent)

    async def test_an_edit_uploads_its_picture(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, n=2)
        nodes = await graph_of(provider, simulator, workspace, request)
        upload = simulator.exchanges[0]
        name = f"{request.images[0].image.sha256[:32]}.png"
        assert (upload.method, upload.path, upload.fields) == (
            "POST",
            "/upload/image",
            {"type": "input", "subfolder": "safelight"},
        )
        [file] = upload.files
        assert (file.name, file.filename, file.content_type) == ("image", name, "image/png")
        assert file.sha256 == request.images[0].image.sha256
        assert nodes["LoadImage"] == {"image": f"safelight/{name}"}
        assert (nodes["ImageScale"]["width"], nodes["ImageScale"]["height"]) == (304, 256)
        assert nodes["RepeatImageBatch"]["amount"] == 2
        assert nodes["KSampler"]["denoise"] == 0.75
        assert simulator.submissions == 1

    async def test_a_large_source_is_drawn_over_smaller_and_an_asked_size_wins(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        large = (workspace.put(image_bytes(4000, 3000)),)
        nodes = await graph_of(provider, simulator, workspace, edit(workspace, images=large))
        assert (nodes["ImageScale"]["width"], nodes["ImageScale"]["height"]) == (2368, 1776)
        nodes = await graph_of(provider, simulator, workspace, edit(workspace, images=large, size="512x768"))
        assert (nodes["ImageScale"]["width"], nodes["ImageScale"]["height"]) == (512, 768)

    @pytest.mark.parametrize("kind", ["alpha", "grey"])
    async def test_what_the_mask_marks_is_transparent_and_white(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace, kind: str
    ) -> None:
        grey = Image.new("L", (300, 260), 0)
        grey.paste(255, (0, 0, 150, 260))
        stream = io.BytesIO()
        grey.save(stream, "PNG")
        content = mask_bytes(300, 260) if kind == "alpha" else stream.getvalue()
        await provider.start(call(edit(workspace, mask=workspace.put(content)), workspace))
        graph = simulator.exchanges[-1].fields["prompt"]
        with Image.open(io.BytesIO(simulator.inputs[graph["14"]["inputs"]["image"]])) as mask:
            assert (mask.mode, mask.size) == ("LA", (300, 260))
            assert (mask.getpixel((0, 0)), mask.getpixel((299, 0))) == ((255, 0), (0, 255))
        assert graph["15"]["inputs"]["mask"] == ["14", 1]
        assert graph["3"]["inputs"]["denoise"] == 1.0
        assert graph["9"]["inputs"]["images"] == ["16", 0]

    async def test_a_variation_draws_over_without_a_mask(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace, operation=Operation.VARIATION, prompt=None)
        nodes = await graph_of(provider, simulator, workspace, request)
        assert nodes["KSampler"]["denoise"] == 0.6
        assert simulator.exchanges[-1].fields["prompt"]["6"]["inputs"]["text"] == ""
        assert (await ended(provider, workspace, request)).via == "edit"

    async def test_an_upload_under_another_name_is_used_under_that(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        request = edit(workspace)
        name = request.images[0].image.sha256[:32]
        simulator.inputs[f"safelight/{name}.png"] = b"something else"
        nodes = await graph_of(provider, simulator, workspace, request)
        assert nodes["LoadImage"] == {"image": f"safelight/{name} (1).png"}

    @pytest.mark.parametrize("model", [MODEL, "unknown.safetensors"])
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"quality": "high"}, "quality"),
            ({"style": "vivid"}, "style"),
            ({"background": "transparent"}, "background"),
            ({"resolution": "2K"}, "resolution"),
            ({"size": "1000x1001"}, "size"),
            ({"size": "1K"}, "size"),
            ({"size": "64x64", "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"aspect_ratio": "wide"}, "aspect_ratio"),
            ({"output_format": "gif"}, "output_format"),
            ({"output_compression": 50}, "output_compression"),
            ({"seed": -2}, "seed"),
            ({"extra": {"lora": "x"}}, "lora"),
            ({"extra": {"prompt": {"1": {}}}}, "prompt"),
            ({"extra": {"model": "private/secret-model.safetensors"}}, "model"),
            ({"extra": {"prefix": "../../x"}}, "prefix"),
            ({"extra": {"cfg": ["4", 0]}}, "cfg"),
        ],
    )
    async def test_what_has_no_place_is_refused_before_any_exchange(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
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
        ("more", "param"),
        [
            ({"edit_type": "outpainting"}, "type"),
            ({"images": 2}, "image"),
            ({"extra": {"image": "x"}}, "image"),
            ({"extra": {"mask": "x"}}, "mask"),
        ],
    )
    async def test_what_an_edit_cannot_express(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        param: str,
    ) -> None:
        if "images" in more:
            more = {"images": (workspace.put(image_bytes()), workspace.put(image_bytes(80, 80)))}
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, "unknown.safetensors", **more), workspace))
        assert caught.value.param == param
        assert simulator.exchanges == []

    async def test_a_variation_has_no_mask(self, provider: ComfyUI, workspace: FolderWorkspace) -> None:
        request = edit(workspace, operation=Operation.VARIATION, mask=workspace.put(mask_bytes()))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(request, workspace))
        assert caught.value.param == "mask"

    def test_the_shipped_workflows_say_what_they_take(self) -> None:
        shipped = built_in()
        assert {task: workflow.images for task, workflow in shipped.items()} == {
            "generate": 0,
            "edit": 1,
            "inpaint": 1,
            "vary": 1,
        }
        assert all(workflow.output == "9" for workflow in shipped.values())


class TestOwnWorkflows:
    async def test_slots_are_filled_and_keep_their_types(
        self,
        simulator: ComfyUISimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        time: Time,
        tmp_path: Path,
    ) -> None:
        provider = opened(simulator, sessions, time, options=files(tmp_path, generate=PORTRAIT))
        request = ask("portrait", prompt="a girl, {{light}}", num_inference_steps=4, extra={"light": "noon"})
        await provider.start(call(request, workspace))
        graph = simulator.exchanges[0].fields["prompt"]
        assert graph["2"]["inputs"]["text"] == "portrait of a girl, {{light}}, noon"
        sampler = graph["5"]["inputs"]
        assert (sampler["steps"], sampler["cfg"], sampler["sampler_name"]) == (4, 6.5, "euler")
        assert graph["4"]["inputs"] == PORTRAIT["4"]["inputs"]
        finished = await ended(provider, workspace, ask("portrait"))
        assert (finished.model, stored(finished)[0].dimensions.height) == ("portrait", 80)

    def test_the_model_is_described_by_its_slots(
        self, simulator: ComfyUISimulator, sessions: HttpSessions, time: Time, tmp_path: Path
    ) -> None:
        described = {"name": "portrait", "max_prompt_chars": 9, "wire": {"slots": {"light": "dawn"}}}
        options = files(tmp_path, generate=PORTRAIT)
        spec = opened(simulator, sessions, time, options=options, models=(described,)).spec("portrait")
        assert spec is not None
        assert spec.operations == {Operation.GENERATION}
        assert spec.fields == {"seed", "num_inference_steps", "output_format", "output_compression", "partial_images"}
        assert (spec.max_n, spec.max_images, spec.max_prompt_chars) == (1, None, 9)

    def test_the_shipped_files_serve_as_examples(
        self, simulator: ComfyUISimulator, sessions: HttpSessions, time: Time
    ) -> None:
        shipped = Path(comfyui.__file__).parent / "catalogue" / "comfyui"
        for task, operation in (("inpaint", Operation.EDIT), ("vary", Operation.VARIATION)):
            paths = WorkflowFiles(**{task: str(shipped / f"{task}.json")})
            spec = opened(simulator, sessions, time, options=Options(workflows={"mine": paths})).spec("mine")
            assert spec is not None
            assert spec.operations == {operation}
            assert {"size", "aspect_ratio", "negative_prompt"} <= spec.fields
            assert (spec.max_n, spec.max_images) == (None, 1)

    async def test_settings_may_fill_slots(
        self,
        simulator: ComfyUISimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        time: Time,
        tmp_path: Path,
    ) -> None:
        described = {"name": "portrait", "wire": {"slots": {"light": "dawn", "cfg": 2}}}
        options = files(tmp_path, generate=PORTRAIT)
        provider = opened(simulator, sessions, time, options=options, models=(described,))
        await provider.start(call(ask("portrait"), workspace))
        graph = simulator.exchanges[0].fields["prompt"]
        assert graph["2"]["inputs"]["text"] == "portrait of a red fox, dawn"
        assert graph["5"]["inputs"]["cfg"] == 2

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"size": "64x64"}, "size"),
            ({"aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"negative_prompt": "fog"}, "negative_prompt"),
            ({"operation": Operation.EDIT}, "model"),
            ({"operation": Operation.VARIATION}, "model"),
        ],
    )
    async def test_what_has_no_slot_is_refused(
        self,
        simulator: ComfyUISimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        time: Time,
        tmp_path: Path,
        more: dict[str, Any],
        param: str,
    ) -> None:
        provider = opened(simulator, sessions, time, options=files(tmp_path, generate=PORTRAIT))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(ask("portrait", **more), workspace))
        assert caught.value.param == param

    async def test_several_pictures_have_numbered_slots(
        self,
        simulator: ComfyUISimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        time: Time,
        tmp_path: Path,
    ) -> None:
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "{{image}}"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "{{image_2}}"}},
            "3": {
                "class_type": "ImageCompositeMasked",
                "inputs": {
                    "destination": ["1", 0],
                    "source": ["2", 0],
                    "x": 0,
                    "y": 0,
                    "resize_source": True,
                    "mask": ["2", 1],
                },
            },
            "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
            "5": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "{{prefix}}"}},
        }
        provider = opened(simulator, sessions, time, options=files(tmp_path, edit=graph))
        pictures = (workspace.put(image_bytes()), workspace.put(image_bytes(80, 64, "WEBP")))
        request = edit(workspace, "portrait", images=pictures, prompt=None)
        finished = await ended(provider, workspace, request)
        assert [image.dimensions.width for image in stored(finished)] == [64]
        spec = provider.spec("portrait")
        assert spec is not None
        assert spec.operations == {Operation.EDIT, Operation.VARIATION}
        assert spec.max_images == 2
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(edit(workspace, "portrait", prompt=None), workspace))
        assert caught.value.param == "image_2"

    async def test_a_generation_cannot_be_done_by_a_workflow_on_pictures(
        self,
        simulator: ComfyUISimulator,
        sessions: HttpSessions,
        workspace: FolderWorkspace,
        time: Time,
        tmp_path: Path,
    ) -> None:
        graph = {**PORTRAIT, "8": {"class_type": "LoadImage", "inputs": {"image": "{{image}}"}}}
        provider = opened(simulator, sessions, time, options=files(tmp_path, generate=graph))
        with pytest.raises(UnsupportedFeature) as caught:
            await provider.start(call(ask("portrait"), workspace))
        assert caught.value.param == "image"

    @pytest.mark.parametrize(
        ("text", "output", "told"),
        [
            (b'{"nodes": [], "links": []}', None, "API format"),
            (b"\xff", None, "API format"),
            (b"{}", None, "0 nodes SaveImage"),
            (b'{"1": {"class_type": "SaveImage"}, "2": {"class_type": "SaveImage"}}', None, "2 nodes SaveImage"),
            (b'{"1": {"class_type": "SaveImage"}}', "9", "no node '9'"),
        ],
    )
    def test_a_file_that_is_no_use(self, text: bytes, output: str | None, told: str) -> None:
        with pytest.raises(ConfigurationError, match=told):
            Workflow.read(text, where="f.json", output=output)

    def test_the_output_may_be_named_and_slots_may_lie_deep(self) -> None:
        text = (
            b'{"1": {"class_type": "X", "inputs": {"a": {"b": ["{{colour=0x}}"]}}}, "2": {"class_type": "SaveImage"}}'
        )
        workflow = Workflow.read(text, where="f.json", output="1")
        assert (workflow.output, workflow.slots) == ("1", frozenset({"colour"}))
        assert not workflow.open_slots
        assert workflow.filled({})["1"]["inputs"] == {"a": {"b": ["0x"]}}

    @pytest.mark.parametrize("paths", [WorkflowFiles(), WorkflowFiles(generate="/no/such/file.json")])
    def test_a_file_that_is_not_there(
        self, simulator: ComfyUISimulator, sessions: HttpSessions, time: Time, paths: WorkflowFiles
    ) -> None:
        with pytest.raises(ConfigurationError, match=r"providers\.comfyui\.workflows\.portrait"):
            opened(simulator, sessions, time, options=Options(workflows={"portrait": paths}))

    def test_a_wire_that_is_none(self, simulator: ComfyUISimulator, sessions: HttpSessions, time: Time) -> None:
        broken = {"name": "m", "operations": ["image_generation"], "wire": {"slots": {"steps": [1]}}}
        provider = opened(simulator, sessions, time, models=(broken,))
        with pytest.raises(ConfigurationError, match="model m: wire"):
            provider._model("m")


class TestHandles:
    @pytest.mark.parametrize("jobs_api", [True, False])
    async def test_from_the_start_to_the_pictures(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        time: Time,
        *,
        jobs_api: bool,
    ) -> None:
        simulator.jobs_api = jobs_api
        request = ask(n=2, size="64x48")
        handle = await begun(provider, workspace, request)
        assert await polled(provider, handle, call(request, workspace)) == Running(poll_after_s=0.5)
        time.now_s += 20
        assert await polled(provider, handle, call(request, workspace)) == Running(poll_after_s=4.0)
        finished = await polled(provider, handle, call(request, workspace))
        assert isinstance(finished, Finished)
        images = stored(finished)
        assert [(image.content_type, image.dimensions.width) for image in images] == [("image/png", 64)] * 2
        views = [each for each in simulator.exchanges if each.path == "/view"]
        assert [each.outputs_sha256[0] for each in views] == [image.sha256 for image in images]
        prompt_id = msgspec.json.decode(handle)["prompt_id"]
        assert views[0].query == {"filename": f"{prompt_id}_00001_.png", "subfolder": "safelight", "type": "output"}
        assert (finished.model, finished.charged, finished.cost_micros) == (MODEL, Charged.NO, None)
        assert finished.created == (1_795_400_009 if jobs_api else None)
        assert all(each.headers["authorization"] == f"Bearer {KEY}" for each in simulator.exchanges)
        assert simulator.submissions == 1

    @pytest.mark.parametrize(
        ("more", "preview"),
        [
            ({"output_format": "jpeg"}, "jpeg;90"),
            ({"output_format": "webp", "output_compression": 0}, "webp;0"),
            ({"output_format": "png"}, None),
        ],
    )
    async def test_the_server_converts(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        more: dict[str, Any],
        preview: str | None,
    ) -> None:
        finished = await ended(provider, workspace, ask(**more))
        assert simulator.exchanges[-1].query.get("preview") == preview
        assert stored(finished)[0].content_type == f"image/{more['output_format']}"

    async def test_another_process_goes_on_polling(
        self, provider: ComfyUI, simulator: ComfyUISimulator, sessions: HttpSessions, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        other = open_provider("comfyui", sessions, simulator.base_url)
        for _ in simulator.stages:
            assert isinstance(await other.poll(handle, call(ask(), workspace)), Running)
        assert isinstance(await other.poll(handle, call(ask(), workspace)), Finished)

    async def test_an_id_of_the_servers_own_is_kept(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.own_ids = True
        handle = await begun(provider, workspace)
        assert msgspec.json.decode(handle)["prompt_id"] in simulator.runs

    @pytest.mark.parametrize("jobs_api", [True, False])
    async def test_a_run_that_failed_is_final(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace, *, jobs_api: bool
    ) -> None:
        simulator.jobs_api = jobs_api
        with pytest.raises(ProviderRejected) as caught:
            await ended(provider, workspace, ask(prompt="[fails]"))
        assert caught.value.message == (
            "the run failed in KSampler: mat1 and mat2 shapes cannot be multiplied in [path]"
        )
        assert (caught.value.provider_code, caught.value.provider_type) == ("execution_error", "RuntimeError")
        assert simulator.freed == []

    @pytest.mark.parametrize(("attempt", "expected"), [(1, ProviderUnavailable), (2, ProviderRejected)])
    async def test_want_of_memory_is_tried_once_more_after_clearing_it(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        attempt: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.stages = ()
        request = ask(prompt="[memory]")
        handle = await begun(provider, workspace, request)
        simulator.faults.push(Fault(kind="status", status=500, path="/free"))
        for _ in range(2):
            with pytest.raises(ProviderError) as caught:
                await polled(provider, handle, call(request, workspace, attempt=attempt))
            assert type(caught.value) is expected
            assert caught.value.charged is not None
        freed = [{"unload_models": True, "free_memory": True}]
        assert simulator.freed == (freed if attempt == 1 else [])

    @pytest.mark.parametrize("jobs_api", [True, False])
    async def test_a_run_that_is_gone_may_be_run_again(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace, *, jobs_api: bool
    ) -> None:
        simulator.jobs_api = jobs_api
        handle = await begun(provider, workspace)
        simulator.runs.clear()
        with pytest.raises(ProviderUncertain, match="lost the run") as caught:
            await polled(provider, handle, call(ask(), workspace))
        assert caught.value.charged is Charged.UNKNOWN
        assert PROVIDER.repeatable(
            ProviderSettings(name=ProviderName("c"), type="comfyui", base_url="https://gpu.example")
        )

    async def test_unknown_words_are_running(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        prompt_id = msgspec.json.decode(handle)["prompt_id"]
        bodies: list[dict[str, Any]] = [
            {"status": "dreaming"},
            {prompt_id: {"status": {"status_str": "odd", "messages": [1, ["x"]]}}},
        ]
        simulator.faults.push(Fault(kind="status", status=200, body=bodies[0], path="/api/jobs/*"))
        simulator.faults.push(Fault(kind="status", status=404, path="/api/jobs/*"))
        simulator.faults.push(Fault(kind="status", status=200, body=bodies[1], path="/history/*"))
        for _ in bodies:
            with capture_logs() as logs:
                assert isinstance(await polled(provider, handle, call(ask(), workspace)), Running)
            assert [(entry["event"], entry["log_level"]) for entry in logs] == [("unknown_job_status", "warning")]

    async def test_a_history_without_a_status_is_an_end(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        prompt_id = msgspec.json.decode(handle)["prompt_id"]
        simulator.saved["a b.png", "", "output"] = image_bytes()
        outputs = {"9": {"images": [{"filename": "a b.png"}, {"no": "file"}], "text": ["x"]}, "8": {"images": []}}
        simulator.faults.push(Fault(kind="status", status=404, path="/api/jobs/*"))
        simulator.faults.push(
            Fault(kind="status", status=200, body={prompt_id: {"outputs": outputs}}, path="/history/*")
        )
        finished = await polled(provider, handle, call(ask(), workspace))
        assert isinstance(finished, Finished)
        assert len(finished.pictures) == 1

    @pytest.mark.parametrize(
        "outputs", [None, {}, {"9": {}}, {"9": {"images": 1}}, {"8": {"images": [{"filename": "x"}]}}]
    )
    async def test_an_end_without_a_picture(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace, outputs: Any
    ) -> None:
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=200, body={"status": "completed", "outputs": outputs}))
        with pytest.raises(ProviderProtocolError, match="without a picture"):
            await polled(provider, handle, call(ask(), workspace))

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderProtocolError),
            (401, ProviderAuthError),
            (403, ProviderAuthError),
            (429, ProviderBusy),
            (500, ProviderUnavailable),
            (502, ProviderUnavailable),
        ],
    )
    async def test_a_poll_that_is_refused(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(ask(), workspace))
        assert type(caught.value) is expected

    @pytest.mark.parametrize(("status", "expected"), [(404, ProviderProtocolError), (500, ProviderUnavailable)])
    async def test_a_picture_that_cannot_be_had(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.stages = ()
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=status, path="/view"))
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(ask(), workspace))
        assert type(caught.value) is expected
        assert isinstance(await polled(provider, handle, call(ask(), workspace)), Finished)

    async def test_a_large_picture_is_never_held(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.stages = ()
        handle = await begun(provider, workspace)
        place = (f"{msgspec.json.decode(handle)['prompt_id']}_00001_.png", "safelight", "output")
        simulator._look(next(iter(simulator.runs.values())))
        simulator.saved[place] = image_bytes() + bytes(5_000_000)
        finished = await polled(provider, handle, call(ask(), workspace))
        assert isinstance(finished, Finished)
        assert stored(finished)[0].size_bytes > 5_000_000
        assert workspace.sinks[-1].largest_chunk_bytes <= 64 * 1024


class TestCancel:
    @pytest.mark.parametrize("jobs_api", [True, False])
    @pytest.mark.parametrize("stage", ["pending", "in_progress"])
    async def test_takes_out_or_stops(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace, stage: str, *, jobs_api: bool
    ) -> None:
        simulator.jobs_api, simulator.stages = jobs_api, (stage,)
        handle = await begun(provider, workspace)
        assert await provider.cancel(None, call(ask(), workspace)) is True
        assert await provider.cancel(handle, call(ask(), workspace)) is False
        assert simulator.interrupts == (0 if jobs_api or stage == "pending" else 1)
        with pytest.raises(ProviderError) as caught:
            await polled(provider, handle, call(ask(), workspace))
        stopped = ProviderRejected if stage == "in_progress" else ProviderUncertain
        assert type(caught.value) is stopped

    async def test_never_stops_anothers_run_at_an_older_server(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.jobs_api, simulator.stages = False, ("in_progress",)
        mine = await begun(provider, workspace)
        simulator.runs.clear()
        await provider.start(call(ask(), workspace, token="another"))
        assert await provider.cancel(mine, call(ask(), workspace)) is False
        assert simulator.interrupts == 0

    async def test_a_refusal_is_told(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        handle = await begun(provider, workspace)
        simulator.faults.push(Fault(kind="status", status=503))
        with pytest.raises(ProviderUnavailable):
            await provider.cancel(handle, call(ask(), workspace))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, ProviderRejected),
            (401, ProviderAuthError),
            (413, ProviderRejected),
            (500, ProviderUncertain),
            (502, ProviderUnavailable),
            (503, ProviderUnavailable),
            (504, ProviderUncertain),
        ],
    )
    async def test_each_is_of_its_class(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(ask(), workspace))
        assert type(caught.value) is expected

    async def test_a_checkpoint_that_is_not_there(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        with pytest.raises(ProviderModelGone) as caught:
            await provider.start(call(ask("nothing.safetensors"), workspace))
        assert caught.value.message == (
            "Prompt outputs failed validation; node 4 (CheckpointLoaderSimple), ckpt_name: Value not in list"
        )
        assert caught.value.provider_code == "prompt_outputs_failed_validation"
        assert simulator.charged == 0

    async def test_a_value_that_a_node_does_not_take(self, provider: ComfyUI, workspace: FolderWorkspace) -> None:
        with pytest.raises(ProviderRejected, match="sampler_name: Value not in list"):
            await provider.start(call(ask(extra={"sampler_name": "magic"}), workspace))

    @pytest.mark.parametrize(
        ("node", "kind", "expected"),
        [
            ("9", "value_not_in_list", ProviderModelGone),
            ("9", "invalid_input_type", ProviderRejected),
            ("20", "value_not_in_list", None),
        ],
    )
    async def test_a_graph_that_is_queued_in_part(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        node: str,
        kind: str,
        expected: type[ProviderError] | None,
    ) -> None:
        fault = {"type": kind, "message": "Odd", "details": "vae_name: x"}
        errors = {"4": {"errors": [fault], "dependent_outputs": [node], "class_type": "VAELoader"}}
        body = {"prompt_id": "x", "number": 1, "node_errors": errors}
        simulator.faults.push(Fault(kind="status", status=200, body=body))
        if expected is None:
            await begun(provider, workspace)
            return
        with pytest.raises(expected, match=r"^node 4 \(VAELoader\), vae_name: Odd$"):
            await begun(provider, workspace)

    @pytest.mark.parametrize(
        ("status", "expected"), [(400, ProviderRejected), (413, ProviderRejected), (500, ProviderUnavailable)]
    )
    async def test_an_upload_that_is_refused(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        status: int,
        expected: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status, path="/upload/*"))
        with pytest.raises(ProviderError) as caught:
            await provider.start(call(edit(workspace), workspace))
        assert type(caught.value) is expected
        assert simulator.submissions == 0

    async def test_a_lost_answer_leaves_the_outcome_unknown(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.faults.push(Fault(kind="reset_after_read"))
        with pytest.raises(ProviderUncertain):
            await provider.start(call(ask(), workspace))


class TestKeys:
    async def test_none_is_needed(self, sessions: HttpSessions, workspace: FolderWorkspace, time: Time) -> None:
        async with ComfyUISimulator(stages=()) as simulator:
            no_key = ProviderKey(name=None, value=None)
            await opened(simulator, sessions, time).start(call(ask(), workspace, key=no_key))
            assert "authorization" not in simulator.exchanges[0].headers

    async def test_a_user_and_password_are_basic(
        self, sessions: HttpSessions, workspace: FolderWorkspace, time: Time
    ) -> None:
        async with ComfyUISimulator(key="ann:söcret", stages=()) as simulator:
            key = ProviderKey(name="proxy", value="ann:söcret")
            await opened(simulator, sessions, time).start(call(ask(), workspace, key=key))
            assert simulator.exchanges[0].headers["authorization"].startswith("Basic ")

    async def test_where_a_repeat_costs_a_run_is_charged(
        self, simulator: ComfyUISimulator, sessions: HttpSessions, workspace: FolderWorkspace, time: Time
    ) -> None:
        provider = opened(simulator, sessions, time, repeatable=False)
        assert (await ended(provider, workspace)).charged is Charged.YES


class TestWatching:
    """The socket is open before the graph is queued: what it tells is told once."""

    async def test_steps_and_pictures_of_the_own_run(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        simulator.stages = ("pending", "in_progress", "in_progress")
        told = Told()
        mine = call(ask(partial_images=3), workspace, report=told)
        watching = asyncio.create_task(provider.watch(mine))
        await simulator.wait_for_listeners(1)
        accepted = await provider.start(mine)
        assert isinstance(accepted, Accepted)
        handle = accepted.handle
        prompt_id = msgspec.json.decode(handle)["prompt_id"]
        socket = simulator.exchanges[0]
        assert (socket.path, socket.query) == ("/ws", {"clientId": prompt_id})
        assert socket.headers["authorization"] == f"Bearer {KEY}"
        await simulator.tell("another-run", "progress", client=prompt_id, value=1, max=1)
        await simulator.show(prompt_id, image_bytes())
        while not isinstance(await provider.poll(handle, mine), Finished):
            pass
        assert await watching is None
        assert told.shares == [0.5, 1.0]
        assert [index for index, _ in told.previews] == [0, 0]
        assert all(workspace.bytes_of(preview) for _, preview in told.previews)

    async def test_a_picture_that_nobody_wants_is_not_stored(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        told = Told(wants=False)
        mine = call(ask(), workspace, report=told)
        watching = asyncio.create_task(provider.watch(mine))
        await simulator.wait_for_listeners(1)
        [prompt_id] = simulator.sockets
        await simulator.tell(prompt_id, "execution_start")
        await simulator.show(prompt_id, image_bytes())
        await simulator.tell(prompt_id, "executing", node=None)
        assert await watching is None
        assert (told.previews, workspace.sinks) == ([], [])

    async def test_what_cannot_be_read_is_passed_over(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        told = Told()
        watching = asyncio.create_task(provider.watch(call(ask(), workspace, report=told)))
        await simulator.wait_for_listeners(1)
        [prompt_id] = simulator.sockets
        await simulator.sockets[prompt_id].send_str("[]")
        await simulator.tell(prompt_id, "progress", value="x", max=None)
        await simulator.tell(prompt_id, "progress", value=1, max=0)
        await simulator.show(prompt_id, b"no picture")
        await simulator.show(prompt_id, image_bytes(), kind=3)
        await simulator.sockets[prompt_id].send_bytes(b"\x00")
        await simulator.tell(prompt_id, "execution_error")
        assert await watching is None
        assert (told.shares, told.previews) == ([], [])

    async def test_a_socket_that_closes_is_opened_again(
        self, provider: ComfyUI, simulator: ComfyUISimulator, workspace: FolderWorkspace
    ) -> None:
        watching = asyncio.create_task(provider.watch(call(ask(), workspace)))
        await simulator.wait_for_listeners(1)
        await simulator.leave(next(iter(simulator.sockets)))
        assert await watching == 2.0

    @pytest.mark.parametrize(("status", "error"), [(404, ProviderProtocolError), (502, ProviderUnavailable)])
    async def test_a_proxy_may_let_no_socket_through(
        self,
        provider: ComfyUI,
        simulator: ComfyUISimulator,
        workspace: FolderWorkspace,
        status: int,
        error: type[ProviderError],
    ) -> None:
        simulator.faults.push(Fault(kind="status", status=status))
        with pytest.raises(error):
            await provider.watch(call(ask(), workspace))

    async def test_nobody_may_be_there(self, sessions: HttpSessions, workspace: FolderWorkspace, time: Time) -> None:
        async with ComfyUISimulator() as simulator:
            provider = opened(simulator, sessions, time)
        with pytest.raises(ProviderUnavailable):
            await provider.watch(call(ask(), workspace))
