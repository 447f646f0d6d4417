"""Runware's one route as a strict server on loopback. `python -m tests.simulators.runware --port 9118`.

Source: the provider sheet read from Runware's public documents and its SDK, 2026-11-23. What the sheet leaves open (the
status of a conflict, the wording and code of some refusals) is chosen here; shapes and fields are not.
A prompt may ask for trouble: `[blocked]` is refused at once; of the pictures `[fail]` fails all, `[half]` every second,
`[flagged]` flags all; `[odd]` shows a status nobody knows; `[forgotten]` is known to the records alone.
"""

import base64
import binascii
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pybase64
from aiohttp import web
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import (
    Call,
    Exchange,
    Refusal,
    Reply,
    Simulator,
    argument_parser,
    json_reply,
    run_by_hand,
)
from tests.simulators._pictures import picture, picture_of_bytes, stamped

FILES = "/files/"
PATH = "/v1"
TEXT, WHOLE, NUMBER, OBJECT, LIST = (str,), (int,), (int, float), (dict,), (list,)
Kinds = Mapping[str, tuple[type, ...]]
FIELDS: Kinds = {
    "taskType": TEXT,
    "taskUUID": TEXT,
    "model": TEXT,
    "positivePrompt": TEXT,
    "negativePrompt": TEXT,
    "width": WHOLE,
    "height": WHOLE,
    "numberResults": WHOLE,
    "outputType": TEXT,
    "outputFormat": TEXT,
    "outputQuality": WHOLE,
    "ttl": WHOLE,
    "seed": WHOLE,
    "strength": NUMBER,
    "includeCost": (bool,),
    "deliveryMethod": TEXT,
    "webhookURL": TEXT,
    "safety": OBJECT,
    "checkNSFW": (bool,),
}
OPEN: Kinds = {
    **FIELDS,
    "steps": WHOLE,
    "CFGScale": NUMBER,
    "scheduler": TEXT,
    "clipSkip": WHOLE,
    "acceleration": TEXT,
    "vae": TEXT,
    "seedImage": TEXT,
    "maskImage": TEXT,
    "maskMargin": WHOLE,
    "outpaint": OBJECT,
    "lora": LIST,
    "controlNet": LIST,
}
HOSTED: Kinds = {**FIELDS, "referenceImages": LIST, "maskImage": TEXT, "providerSettings": OBJECT}
NEWER: Kinds = {**FIELDS, "steps": WHOLE, "inputs": OBJECT, "settings": OBJECT}
MODELS: Mapping[str, Kinds] = {
    "runware:100@1": OPEN,
    "runware:101@1": OPEN,
    "runware:400@1": NEWER,
    "civitai:1@2": OPEN,
    "openai:1@1": HOSTED,
    "ideogram:4.5@precise-edit": NEWER,
}
PRICE = "0.0038"
SHADES = {0, 255}


def refusal(
    code: str, message: str, *, status: int = 400, parameter: str | None = None, task: Mapping[str, Any] | None = None
) -> Refusal:
    about = {"taskType": task.get("taskType"), "taskUUID": task.get("taskUUID")} if task else {}
    fault = {"code": code, "message": message, "parameter": parameter, "type": "string", **about}
    return Refusal(json_reply({"errors": [fault]}, status=status))


@dataclass(kw_only=True)
class Work:
    """A task that was accepted; `running` more questions find it unfinished."""

    request: dict[str, Any]
    pictures: tuple[bytes, ...]
    running: int

    @property
    def prompt(self) -> str:
        prompt: str = self.request.get("positivePrompt", "")
        return prompt


class RunwareSimulator(Simulator):
    """`key` None accepts any key, but one must be there; `running` polls of a task find it not finished."""

    prefix: ClassVar[str] = PATH

    def __init__(
        self,
        *,
        key: str | None = None,
        running: int = 1,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._running = running
        self._image_bytes = image_bytes
        self._files: dict[str, bytes] = {}
        self._numbers_of_pictures = itertools.count(1)
        self.tasks: dict[str, Work] = {}

    def is_submission(self, method: str, path: str) -> bool:
        """One route for all: what was asked shows once the body is there."""
        return method == "POST" and path == PATH

    def error_body(self, status: int) -> dict[str, Any]:
        return {"errors": [{"code": f"simulated{status}", "message": f"Simulated failure {status}."}]}

    def empty_body(self) -> dict[str, Any]:
        return {"data": []}

    def unreadable(self, message: str) -> Refusal:
        return refusal("invalidJSON", message)

    async def _read(self, request: web.Request, exchange: Exchange) -> Call:
        call = await super()._read(request, exchange)
        tasks = exchange.fields.get("tasks", [])
        exchange.submission = any(type(task) is dict and task.get("taskType") == "imageInference" for task in tasks)
        return call

    def _json_object(self, body: bytes) -> dict[str, Any]:
        """The body is always an array; the record keeps it as `tasks`."""
        try:
            return {"tasks": msgspec.json.decode(body, type=list[Any])}
        except msgspec.DecodeError as error:
            raise self.unreadable(f"the body is not an array: {error}") from error

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES):
            return self._file(call)
        if call.path != PATH or call.method != "POST" or call.exchange.query:
            raise refusal("notFound", "no such route", status=404)
        if call.content_type != "application/json":
            raise refusal("invalidContentType", "the body must be JSON", status=415)
        scheme, _, key = call.exchange.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise refusal("invalidApiKey", "Invalid API key.", status=401, parameter="apiKey")
        if len(call.fields["tasks"]) != 1:
            raise refusal("invalidRequest", "the simulator takes one task at a time")
        return self._task(call.fields["tasks"][0])

    def _file(self, call: Call) -> Reply:
        content = self._files.get(call.path.removeprefix(FILES))
        if content is None or call.method != "GET" or "authorization" in call.exchange.headers:
            raise refusal("notFound", "no such file", status=404)
        return Reply(body=content, headers={"Content-Type": "image/png"})

    def _task(self, task: Any) -> Reply:
        if type(task) is not dict:
            raise refusal("invalidTask", "a task is an object")
        check_id(task)
        match task.get("taskType"):
            case "imageInference":
                return self._accept(task)
            case "getResponse":
                check(task, {"taskType": TEXT, "taskUUID": TEXT})
                return self._status(task["taskUUID"])
            case "getTaskDetails":
                check(task, {"taskType": TEXT, "taskUUID": TEXT})
                return self._details(task["taskUUID"])
            case _:
                raise refusal("invalidTaskType", "unknown task type", parameter="taskType", task=task)

    def _accept(self, task: dict[str, Any]) -> Reply:
        if task.get("model") not in MODELS:
            raise refusal("invalidModel", "no such model", status=404, parameter="model", task=task)
        check(task, MODELS[task["model"]], required=("taskUUID", "model", "positivePrompt"))
        check_values(task)
        check_pictures(task)
        if task["taskUUID"] in self.tasks:
            raise refusal("conflictTaskUUID", "this id has been used", status=400, parameter="taskUUID", task=task)
        if "[blocked]" in task["positivePrompt"]:
            raise refusal("contentModeration", "the vendor refuses this", parameter="positivePrompt", task=task)
        count = task.get("numberResults", 1)
        pictures = tuple(self._picture(task) for _ in range(count))
        self.tasks[task["taskUUID"]] = Work(request=task, pictures=pictures, running=self._running)
        if task.get("deliveryMethod", "sync") == "sync":
            self.tasks[task["taskUUID"]].running = 0
            return self._status(task["taskUUID"])
        return json_reply({"data": [{"taskType": "imageInference", "taskUUID": task["taskUUID"]}]})

    def _status(self, task_id: str) -> Reply:
        work = self.tasks.get(task_id)
        if work is None or "[forgotten]" in work.prompt:
            return json_reply({"data": []})
        shared = {"taskType": "imageInference", "taskUUID": task_id}
        if work.running > 0:
            work.running -= 1
            word = "thinking" if "[odd]" in work.prompt else "processing"
            first = self._elements(task_id, work)[: len(work.pictures) // 2]
            rest = [{**shared, "status": word}] * (len(work.pictures) - len(first))
            return json_reply({"data": [*first, *rest]})
        return json_reply(self._ended(task_id, work))

    def _ended(self, task_id: str, work: Work) -> dict[str, Any]:
        fault = {
            "code": "contentModeration",
            "message": "the vendor refuses this",
            "taskType": "imageInference",
            "taskUUID": task_id,
        }
        elements = self._elements(task_id, work)
        if "[fail]" in work.prompt:
            return {"errors": [fault]}
        if "[half]" in work.prompt:
            return {"data": elements[::2], "errors": [fault] * len(elements[1::2])}
        return {"data": elements}

    def _details(self, task_id: str) -> Reply:
        work = self.tasks.get(task_id)
        if work is None:
            return json_reply({"data": []})
        record = {"taskType": "getTaskDetails", "taskUUID": task_id, "request": work.request}
        return json_reply({"data": [{**record, "response": self._ended(task_id, work)}]})

    def _elements(self, task_id: str, work: Work) -> list[dict[str, Any]]:
        made = []
        for place, content in enumerate(work.pictures):
            element = {
                "taskType": "imageInference",
                "taskUUID": task_id,
                "status": "success",
                "imageUUID": f"{task_id}-{place}",
                "seed": work.request.get("seed", 1) + place,
                "NSFWContent": "[flagged]" in work.prompt,
                **self._output(work.request.get("outputType", "URL"), f"{task_id}-{place}.png", content),
            }
            made.append(element | ({"cost": msgspec.Raw(PRICE.encode())} if work.request.get("includeCost") else {}))
        return made

    def _output(self, kind: str, name: str, content: bytes) -> dict[str, str]:
        text = pybase64.b64encode(content).decode()
        match kind:
            case "base64Data":
                return {"imageBase64Data": text}
            case "dataURI":
                return {"imageDataURI": f"data:image/png;base64,{text}"}
            case _:
                self._files[name] = content
                return {"imageURL": f"{self.root_url}{FILES}{name}"}

    def _picture(self, task: dict[str, Any]) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        drawn = picture(task.get("width", 128), task.get("height", 128), "png")
        return stamped(drawn, f"picture {next(self._numbers_of_pictures)}")


def check_id(task: dict[str, Any]) -> None:
    try:
        valid = UUID(task["taskUUID"]).version == 4
    except (KeyError, TypeError, AttributeError, ValueError):
        valid = False
    if not valid:
        raise refusal("invalidTaskUUID", "taskUUID must be a UUID v4", parameter="taskUUID", task=task)


def check(task: dict[str, Any], known: Kinds, *, required: tuple[str, ...] = ()) -> None:
    for name, value in task.items():
        if name not in known:
            raise refusal("unsupportedParameter", f"unknown parameter {name}", parameter=name, task=task)
        if type(value) not in known[name]:
            raise refusal("invalidType", f"{name}: wrong type", parameter=name, task=task)
    for name in required:
        if not task.get(name):
            raise refusal("missingParameter", f"{name} is missing", parameter=name, task=task)


def check_values(task: dict[str, Any]) -> None:
    choices: dict[str, set[str]] = {
        "outputType": {"URL", "base64Data", "dataURI"},
        "outputFormat": {"JPG", "PNG", "WEBP"},
        "deliveryMethod": {"sync", "async"},
    }
    for name, allowed in choices.items():
        if name in task and task[name] not in allowed:
            raise refusal("invalidValue", f"{name}: unknown value", parameter=name, task=task)
    ranges = {"numberResults": (1, 20), "outputQuality": (20, 99), "strength": (0, 1)}
    for name, (least, most) in ranges.items():
        if name in task and not least <= task[name] <= most:
            raise refusal("invalidValue", f"{name}: out of range", parameter=name, task=task)
    if not 2 <= len(task["positivePrompt"]) <= 3000:
        raise refusal("invalidValue", "positivePrompt: wrong length", parameter="positivePrompt", task=task)
    check_sides(task)


def check_sides(task: dict[str, Any]) -> None:
    if ("width" in task) != ("height" in task):
        raise refusal("missingParameter", "width and height go together", parameter="width", task=task)
    open_model = MODELS[task["model"]] is OPEN
    for name in {"width", "height"} & task.keys():
        if open_model and (task[name] % 64 or not 128 <= task[name] <= 2048):
            raise refusal("invalidValue", f"{name}: multiples of 64 from 128 to 2048", parameter=name, task=task)


def check_pictures(task: dict[str, Any]) -> None:
    inputs: dict[str, Any] = task.get("inputs", {})
    for name in inputs:
        if name not in {"image", "mask", "referenceImages"}:
            raise refusal("unsupportedParameter", f"unknown parameter inputs.{name}", parameter=name, task=task)
    sources = [task.get("seedImage"), inputs.get("image")]
    sources += [*task.get("referenceImages", []), *inputs.get("referenceImages", [])]
    for source in sources:
        if source is not None:
            opened(source, task)
    for mask in (task.get("maskImage"), inputs.get("mask")):
        if mask is not None:
            check_mask(opened(mask, task), task)


def check_mask(mask: Image.Image, task: dict[str, Any]) -> None:
    """White is what changes: a mask that speaks by its transparency is a mistake."""
    shades = {shade for _, shade in mask.convert("L").getcolors() or []}
    if "A" in mask.getbands() or not shades <= SHADES:
        raise refusal("invalidMask", "the mask must be black and white", parameter="maskImage", task=task)


def opened(source: Any, task: dict[str, Any]) -> Image.Image:
    found = re.match(r"data:image/(png|jpeg|webp);base64,", source) if type(source) is str else None
    if found is None:
        raise refusal("invalidImage", "the simulator knows data URIs alone", parameter="seedImage", task=task)
    try:
        image = Image.open(io.BytesIO(base64.b64decode(source[found.end() :], validate=True)))
        image.load()
    except (binascii.Error, UnidentifiedImageError, OSError) as cause:
        raise refusal("invalidImage", "the image cannot be read", parameter="seedImage", task=task) from cause
    return image


def main() -> None:
    options = argument_parser(__doc__, port=9118).parse_args()

    def make() -> Simulator:
        return RunwareSimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  runware:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
