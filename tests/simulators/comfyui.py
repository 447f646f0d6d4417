"""ComfyUI as a strict server on loopback. `python -m tests.simulators.comfyui --port 9124`.

Source: the provider sheet read from ComfyUI's documents and server code (routes, graphs, history, jobs), 2026-11-23. It
knows the nodes below with their inputs and types, checks every graph against them, and works out sizes and counts along
its links; it draws one colour. What the sheet leaves open (wording, the proxy's refusals) is chosen here.
"""

import asyncio
import base64
import io
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import (
    WAIT_S,
    Call,
    Refusal,
    Reply,
    Simulator,
    argument_parser,
    json_reply,
    run_by_hand,
)
from tests.simulators._pictures import picture, stamped

CHECKPOINTS = (
    "sd_xl_base_1.0.safetensors",
    "v1-5-pruned-emaonly-fp16.safetensors",
    "private/secret-model.safetensors",
)
SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m")
SCHEDULERS = ("normal", "karras", "simple")
FAILS_WORD = "[fails]"
MEMORY_WORD = "[memory]"
"""A prompt with one of these words fails when it runs; the second for want of memory."""
LONGEST_ID_CHARS = 36

Fault = tuple[str, str, str]
"""Of an input: type, message, details."""
Check = Callable[[Any], Fault | None]


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> Fault | None:
        if type(value) is not int:
            return ("invalid_input_type", "Failed to convert an input value to a INT value", repr(value))
        if value < low:
            return ("value_smaller_than_min", f"Value {value} smaller than min of {low}", "")
        return ("value_bigger_than_max", f"Value {value} bigger than max of {high}", "") if value > high else None

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> Fault | None:
        if type(value) not in {int, float}:
            return ("invalid_input_type", "Failed to convert an input value to a FLOAT value", repr(value))
        return None if low <= value <= high else ("value_bigger_than_max", f"Value {value} out of range", "")

    return check


def text(value: Any) -> Fault | None:
    return None if type(value) is str else ("invalid_input_type", "not a STRING value", repr(value))


def boolean(value: Any) -> Fault | None:
    return None if type(value) is bool else ("invalid_input_type", "not a BOOLEAN value", repr(value))


def one_of(*allowed: str) -> Check:
    def check(value: Any) -> Fault | None:
        return None if value in allowed else ("value_not_in_list", "Value not in list", f"{value!r} not in {allowed}")

    return check


SIDE = integer(16, 16_384)
NODES: Mapping[str, tuple[Mapping[str, str | Check], tuple[str, ...]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": one_of(*CHECKPOINTS)}, ("MODEL", "CLIP", "VAE")),
    "CLIPTextEncode": ({"text": text, "clip": "CLIP"}, ("CONDITIONING",)),
    "EmptyLatentImage": ({"width": SIDE, "height": SIDE, "batch_size": integer(1, 4096)}, ("LATENT",)),
    "KSampler": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "seed": integer(0, 2**64 - 1),
            "steps": integer(1, 10_000),
            "cfg": number(0, 100),
            "sampler_name": one_of(*SAMPLERS),
            "scheduler": one_of(*SCHEDULERS),
            "denoise": number(0, 1),
        },
        ("LATENT",),
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ("IMAGE",)),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, ("LATENT",)),
    "SetLatentNoiseMask": ({"samples": "LATENT", "mask": "MASK"}, ("LATENT",)),
    "LoadImage": ({"image": text}, ("IMAGE", "MASK")),
    "ImageScale": (
        {
            "image": "IMAGE",
            "upscale_method": one_of("nearest-exact", "bilinear", "area", "bicubic", "lanczos"),
            "width": integer(0, 16_384),
            "height": integer(0, 16_384),
            "crop": one_of("disabled", "center"),
        },
        ("IMAGE",),
    ),
    "RepeatImageBatch": ({"image": "IMAGE", "amount": integer(1, 4096)}, ("IMAGE",)),
    "ImageCompositeMasked": (
        {
            "destination": "IMAGE",
            "source": "IMAGE",
            "x": integer(0, 16_384),
            "y": integer(0, 16_384),
            "resize_source": boolean,
            "mask": "MASK",
        },
        ("IMAGE",),
    ),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": text}, ()),
    "PreviewImage": ({"images": "IMAGE"}, ()),
}
OUTPUTS = {"SaveImage", "PreviewImage"}
BATCH_INPUTS = ("latent_image", "samples", "pixels", "image", "images", "destination")


def error(kind: str, message: str, *, node_errors: Mapping[str, Any] | None = None, status: int = 400) -> Reply:
    said = {"type": kind, "message": message, "details": "", "extra_info": {}}
    return json_reply({"error": said, "node_errors": node_errors or {}}, status=status)


@dataclass(kw_only=True)
class Run:
    """`looks` is how often somebody asked. It ends once the stages are over."""

    number: int
    prompt_id: str
    client_id: str | None = None
    graph: Mapping[str, Any]
    stages: tuple[str, ...]
    looks: int = 0
    ended: str | None = None
    """`completed`, `failed` or `cancelled`."""
    failure: dict[str, Any] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)


class ComfyUISimulator(Simulator):
    """`stages` are the words that each look at a new run finds, before it ends. `jobs_api` False: an older server.

    The server itself knows no key; `key` stands for a proxy before it, Basic where it has a colon, else Bearer.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        stages: tuple[str, ...] = ("pending", "in_progress"),
        jobs_api: bool = True,
        own_ids: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.stages = stages
        self.jobs_api = jobs_api
        self.own_ids = own_ids
        """Very old servers choose ids themselves."""
        self.runs: dict[str, Run] = {}
        self.inputs: dict[str, bytes] = {}
        """The folder `input`: `subfolder/name` to content."""
        self.saved: dict[tuple[str, str, str], bytes] = {}
        self.interrupts = 0
        self.freed: list[dict[str, Any]] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        """Those who listen, by the client id that they gave."""
        self.listening = asyncio.Condition()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await (self._listened(request) if request.path == "/ws" else super()._handle(request))

    async def _listened(self, request: web.Request) -> web.StreamResponse:
        """Tell a listener what happens, until it leaves."""
        fault = self.faults.take(request.method, request.path)
        exchange = self._record(request, fault)
        try:
            self._authorize(exchange.headers)
        except Refusal as refusal:
            return await self._send(request, exchange, refusal.reply)
        if fault.kind == "status":
            return web.Response(status=fault.status)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        name = request.query["clientId"]
        await socket.send_json(
            {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": name}}
        )
        async with self.listening:
            self.sockets[name] = socket
            self.listening.notify_all()
        async for _ in socket:
            pass
        self.sockets.pop(name, None)
        return socket

    async def wait_for_listeners(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S), self.listening:
            await self.listening.wait_for(lambda: len(self.sockets) >= count)

    async def tell(self, prompt_id: str, kind: str, *, client: str | None = None, **data: Any) -> None:
        """Send a message about a run to the client that queued it, or to another."""
        socket = self.sockets.get(client or prompt_id)
        if socket is not None:
            await socket.send_json({"type": kind, "data": {**data, "prompt_id": prompt_id}})

    async def show(self, client: str, content: bytes, *, kind: int = 1) -> None:
        """Send a picture of what is being drawn, or another binary message."""
        socket = self.sockets.get(client)
        if socket is not None:
            await socket.send_bytes(struct.pack(">II", kind, 2) + content)

    async def leave(self, client: str) -> None:
        """Close a listener's socket."""
        await self.sockets[client].close()

    async def _tell_of(self, run: Run) -> None:
        """Tell what a look has found: a step of the sampler with a picture, or the end."""
        client = run.client_id or run.prompt_id
        if run.ended is None and self._stage(run) == "in_progress":
            done = run.stages[: run.looks].count("in_progress")
            most = run.stages.count("in_progress")
            await self.tell(run.prompt_id, "progress", client=client, value=done, max=most, node="3")
            await self.show(client, picture(64, 64, "png"))
        elif run.ended is not None:
            kind = {"completed": "execution_success", "failed": "execution_error"}
            await self.tell(run.prompt_id, kind.get(run.ended, "execution_interrupted"), client=client)

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path == "/prompt"

    def error_body(self, status: int) -> dict[str, Any]:
        said = {"type": "simulated", "message": f"Simulated failure {status}.", "details": "", "extra_info": {}}
        return {"error": said, "node_errors": {}}

    def unreadable(self, message: str) -> Refusal:
        return Refusal(error("invalid_prompt", message))

    async def answer(self, call: Call) -> Reply:
        self._authorize(call.exchange.headers)
        match call.method, call.path.strip("/").split("/"):
            case "GET", ["api", "jobs", name] if self.jobs_api:
                return await self._told(name, self._job)
            case "POST", ["api", "jobs", name, "cancel"] if self.jobs_api:
                return json_reply({"cancelled": self._stop(name, {"pending", "in_progress"})})
            case "GET", ["history", name]:
                return await self._told(name, self._history)
        routes: dict[tuple[str, str], Callable[[Call], Reply]] = {
            ("POST", "/prompt"): self._prompt,
            ("POST", "/upload/image"): self._upload,
            ("GET", "/queue"): self._queue,
            ("POST", "/queue"): self._unqueue,
            ("POST", "/interrupt"): self._interrupt,
            ("GET", "/view"): self._view,
            ("POST", "/free"): self._free,
        }
        route = routes.get((call.method, call.path))
        if route is None:
            status = 404 if call.method == "GET" else 405
            raise Refusal(Reply(status=status, body=b"404: Not Found" if status == 404 else b"405: Method Not Allowed"))
        return route(call)

    async def _told(self, name: str, look: Callable[[str], Reply]) -> Reply:
        """Look at a run, and tell those who listen what was found."""
        reply = look(name)
        if (run := self.runs.get(name)) is not None:
            await self._tell_of(run)
        return reply

    def _authorize(self, headers: Mapping[str, str]) -> None:
        shown = headers.get("authorization")
        if self._key is None:
            return
        basic = f"Basic {base64.b64encode(self._key.encode()).decode()}"
        if shown != (basic if ":" in self._key else f"Bearer {self._key}"):
            raise Refusal(
                Reply(status=401, body=b"<html><head><title>401 Authorization Required</title></head></html>")
            )

    def _check_body(self, call: Call, names: set[str]) -> None:
        if call.content_type != "application/json" or call.exchange.query or not call.fields.keys() <= names:
            raise Refusal(Reply(status=500, body=b"500 Internal Server Error"))

    def _upload(self, call: Call) -> Reply:
        fields, uploaded = call.fields, call.exchange.files
        if [part.name for part in uploaded] != ["image"] or not fields.keys() <= {"type", "subfolder", "overwrite"}:
            raise Refusal(Reply(status=400))
        name, subfolder, kind = uploaded[0].filename or "", fields.get("subfolder", ""), fields.get("type", "input")
        if kind not in {"input", "temp", "output"} or not re.fullmatch(r"[\w.-]+", name) or ".." in subfolder:
            raise Refusal(Reply(status=400))
        stem, dot, ending = name.rpartition(".")
        for number in range(100):
            candidate = f"{stem} ({number}){dot}{ending}" if number else name
            place = f"{subfolder}/{candidate}" if subfolder else candidate
            if self.inputs.setdefault(place, call.contents[0]) == call.contents[0]:
                return json_reply({"name": candidate, "subfolder": subfolder, "type": kind})
        raise Refusal(Reply(status=400))

    def _prompt(self, call: Call) -> Reply:
        self._check_body(call, {"prompt", "prompt_id", "client_id", "number", "front", "extra_data"})
        graph, asked = call.fields.get("prompt"), call.fields.get("prompt_id")
        if graph is None:
            raise Refusal(error("no_prompt", "No prompt provided"))
        if asked is not None and not _is_canonical(asked):
            raise Refusal(error("invalid_prompt_id", "prompt_id must be a valid UUID"))
        self._check_graph(graph)
        prompt_id = str(uuid.uuid4()) if self.own_ids or asked is None else asked
        run = Run(
            number=len(self.runs) + 1,
            prompt_id=prompt_id,
            client_id=call.fields.get("client_id"),
            graph=graph,
            stages=self.stages,
        )
        self.runs[prompt_id] = run
        return json_reply({"prompt_id": prompt_id, "number": run.number, "node_errors": {}})

    def _check_graph(self, graph: Any) -> None:
        if not isinstance(graph, dict) or not all(isinstance(node, dict) for node in graph.values()):
            raise Refusal(error("invalid_prompt", "the prompt is no graph"))
        for name, node in graph.items():
            if node.get("class_type") not in NODES:
                raise Refusal(error("invalid_prompt", f"Cannot execute because node {name} does not exist."))
            if not node.keys() <= {"class_type", "inputs", "_meta"}:
                raise Refusal(error("invalid_prompt", f"node {name} has unknown members"))
        outputs = [name for name, node in graph.items() if node["class_type"] in OUTPUTS]
        if not outputs:
            raise Refusal(error("prompt_no_outputs", "Prompt has no outputs"))
        faulty = {name: found for name in graph if (found := self._faults(name, graph))}
        if faulty:
            node_errors = {
                name: {"errors": found, "dependent_outputs": outputs, "class_type": graph[name]["class_type"]}
                for name, found in faulty.items()
            }
            raise Refusal(
                error("prompt_outputs_failed_validation", "Prompt outputs failed validation", node_errors=node_errors)
            )

    def _faults(self, name: str, graph: Mapping[str, Any]) -> list[dict[str, Any]]:
        node: dict[str, Any] = graph[name]
        found: list[tuple[str, Fault]] = []
        inputs, _ = NODES[node["class_type"]]
        given = node.get("inputs", {})
        unknown = ("custom_validation_failed", "Unknown input (the real server ignores it)", "")
        found += [(label, unknown) for label in given.keys() - inputs.keys()]
        for label, wanted in inputs.items():
            if label not in given:
                found.append((label, ("required_input_missing", "Required input is missing", "")))
            elif (fault := self._fault(given[label], wanted, graph)) is not None:
                found.append((label, fault))
            elif node["class_type"] == "LoadImage" and given[label] not in self.inputs:
                found.append((label, ("custom_validation_failed", "Invalid image file", "")))
        return [
            {"type": kind, "message": message, "details": f"{label}: {details}", "extra_info": {"input_name": label}}
            for label, (kind, message, details) in found
        ]

    def _fault(self, value: Any, wanted: str | Check, graph: Mapping[str, Any]) -> Fault | None:
        if not isinstance(wanted, str):
            return wanted(value)
        match value:
            case [str(source), int(index)] if source in graph:
                outputs = NODES[graph[source]["class_type"]][1]
                fits = index < len(outputs) and outputs[index] == wanted
                return None if fits else ("return_type_mismatch", "Return type mismatch between linked nodes", "")
            case _:
                return ("bad_linked_input", "Bad linked input, must be a length-2 list of [node_id, slot]", "")

    def _look(self, run: Run) -> str:
        """Move a run on by one stage; where it stands before that."""
        if run.ended is not None:
            return run.ended
        if run.looks < len(run.stages):
            run.looks += 1
            return run.stages[run.looks - 1]
        return self._end(run)

    def _end(self, run: Run) -> str:
        words = " ".join(str(node["inputs"].get("text", "")) for node in run.graph.values())
        failures = {
            FAILS_WORD: (
                "RuntimeError",
                "mat1 and mat2 shapes cannot be multiplied in /home/ann/ComfyUI/comfy/ops.py",
            ),
            MEMORY_WORD: (
                "torch.OutOfMemoryError",
                "Allocation on device 0 would exceed allowed memory. (out of memory)",
            ),
        }
        for word, (kind, message) in failures.items():
            if word in words:
                run.ended = "failed"
                run.failure = {
                    "prompt_id": run.prompt_id,
                    "node_id": "3",
                    "node_type": "KSampler",
                    "exception_message": message,
                    "exception_type": kind,
                    "traceback": ['  File "/home/ann/ComfyUI/execution.py", line 1'],
                }
                return run.ended
        run.ended = "completed"
        for name, node in run.graph.items():
            if node["class_type"] in OUTPUTS:
                run.outputs[name] = {"images": self._save(run, node)}
        return run.ended

    def _save(self, run: Run, node: Mapping[str, Any]) -> list[dict[str, str]]:
        width, height, count = self._measure(node["inputs"]["images"], run.graph)
        kind = "output" if node["class_type"] == "SaveImage" else "temp"
        folder, _, prefix = node["inputs"].get("filename_prefix", "ComfyUI_temp").rpartition("/")
        files = []
        for number in range(1, count + 1):
            filename = f"{prefix}_{number:05d}_.png"
            content = stamped(picture(width, height, "png"), f"run {run.number}, picture {number}")
            self.saved[filename, folder, kind] = content
            files.append({"filename": filename, "subfolder": folder, "type": kind})
        return files

    def _measure(self, link: list[Any], graph: Mapping[str, Any]) -> tuple[int, int, int]:
        """Width, height and count of what a link carries."""
        node = graph[link[0]]
        inputs = node["inputs"]
        match node["class_type"]:
            case "EmptyLatentImage":
                return inputs["width"], inputs["height"], inputs["batch_size"]
            case "LoadImage":
                with Image.open(io.BytesIO(self.inputs[inputs["image"]])) as image:
                    return image.width, image.height, 1
        width, height, count = self._measure(next(inputs[name] for name in BATCH_INPUTS if name in inputs), graph)
        if node["class_type"] == "ImageScale":
            return inputs["width"], inputs["height"], count
        return width, height, count * inputs.get("amount", 1)

    def _job(self, name: str) -> Reply:
        run = self.runs.get(name)
        if run is None:
            raise Refusal(json_reply({"error": "Job not found"}, status=404))
        word = self._look(run)
        said: dict[str, Any] = {"id": name, "status": word, "priority": run.number, "create_time": 1_795_400_000_000}
        if run.ended is None:
            return json_reply({**said, "outputs_count": 0, "workflow": {"prompt": run.graph, "extra_data": {}}})
        said |= {"outputs": run.outputs, "execution_end_time": 1_795_400_009_500, "execution_status": self._status(run)}
        return json_reply({**said, **({"execution_error": run.failure} if run.failure else {})})

    def _status(self, run: Run) -> dict[str, Any]:
        end = {
            "completed": ["execution_success", {"prompt_id": run.prompt_id}],
            "failed": ["execution_error", run.failure],
            "cancelled": ["execution_interrupted", {"prompt_id": run.prompt_id}],
        }[run.ended or "completed"]
        return {
            "status_str": "success" if run.ended == "completed" else "error",
            "completed": run.ended == "completed",
            "messages": [["execution_start", {"prompt_id": run.prompt_id}], end],
        }

    def _history(self, name: str) -> Reply:
        run = self.runs.get(name)
        if run is None or self._look(run) in {"pending", "in_progress"}:
            return json_reply({})
        item = [run.number, name, run.graph, {}, list(run.outputs)]
        return json_reply({name: {"prompt": item, "outputs": run.outputs, "status": self._status(run), "meta": {}}})

    def _queue(self, _call: Call) -> Reply:
        standing: dict[str, list[Any]] = {"pending": [], "in_progress": []}
        for run in self.runs.values():
            if run.ended is None:
                standing[self._stage(run)].append([run.number, run.prompt_id, run.graph, {}, []])
        return json_reply({"queue_running": standing["in_progress"], "queue_pending": standing["pending"]})

    def _unqueue(self, call: Call) -> Reply:
        self._check_body(call, {"delete"})
        for name in call.fields["delete"]:
            self._stop(name, {"pending"})
        return Reply()

    def _free(self, call: Call) -> Reply:
        self._check_body(call, {"unload_models", "free_memory"})
        self.freed.append(call.fields)
        return Reply()

    def _stage(self, run: Run) -> str:
        """Where the last look found it."""
        return run.stages[max(0, run.looks - 1)] if run.stages else "in_progress"

    def _stop(self, name: str, stages: set[str]) -> bool:
        run = self.runs.get(name)
        if run is None or run.ended is not None or self._stage(run) not in stages:
            return False
        if self._stage(run) == "pending":
            del self.runs[name]
        else:
            run.ended = "cancelled"
        return True

    def _interrupt(self, call: Call) -> Reply:
        self._check_body(call, {"prompt_id"})
        self.interrupts += 1
        wanted = call.fields.get("prompt_id")
        for name, run in self.runs.items():
            if (not self.jobs_api or wanted in {None, name}) and run.ended is None:
                self._stop(name, {"in_progress"})
        return Reply()

    def _view(self, call: Call) -> Reply:
        query = call.exchange.query
        if not {"filename"} <= query.keys() <= {"filename", "subfolder", "type", "preview", "channel"}:
            raise Refusal(Reply(status=400))
        content = self.saved.get((query["filename"], query.get("subfolder", ""), query.get("type", "output")))
        if content is None:
            raise Refusal(Reply(status=404))
        if "preview" not in query:
            return Reply(body=content, headers={"Content-Type": "image/png"}, outputs=(content,))
        content, file_format = _encoded(content, query["preview"])
        return Reply(body=content, headers={"Content-Type": f"image/{file_format}"}, outputs=(content,))


def _encoded(content: bytes, asked: str) -> tuple[bytes, str]:
    file_format, _, quality = asked.partition(";")
    file_format = file_format if file_format in {"webp", "jpeg"} else "webp"
    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(stream, file_format.upper(), quality=int(quality) if quality.isdigit() else 90)
    except UnidentifiedImageError as cause:
        raise Refusal(Reply(status=500)) from cause
    return stream.getvalue(), file_format


def _is_canonical(name: Any) -> bool:
    try:
        return isinstance(name, str) and str(uuid.UUID(name)) == name
    except ValueError:
        return False


def main() -> None:
    parser = argument_parser(__doc__, port=9124)
    parser.add_argument("--looks", type=int, default=3, help="how often a run is found at work before it is done")
    parser.add_argument("--older", action="store_true", help="a server without the jobs routes")
    options = parser.parse_args()

    def make() -> Simulator:
        return ComfyUISimulator(
            key=options.key,
            stages=("pending",) + ("in_progress",) * options.looks,
            jobs_api=not options.older,
            host=options.host,
            port=options.port,
        )

    def settings(base_url: str) -> str:
        keys = (
            f"\n    keys: [{{name: proxy, value: {msgspec.json.encode(options.key).decode()}}}]" if options.key else ""
        )
        return f"providers:\n  comfyui:\n    base_url: {base_url}{keys}\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
