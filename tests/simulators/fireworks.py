"""Fireworks' image workflows as a strict server on loopback. `python -m tests.simulators.fireworks --port 9125`.

Source: the provider sheet read from Fireworks' public documents and one of its clients, 2026-11-23. What they leave open
(the wording of refusals, sizes, the format of an answer in JSON) is chosen here; routes, fields and statuses are not.
A prompt with `[filtered]` is withheld: by FLUX in the answer, by Kontext at the end of its task.
"""

import base64
import binascii
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._hosted import sides
from tests.simulators._pictures import picture, stamped

PREFIX = "/inference/v1/"
SAMPLES = "/samples/"
MODELS = "accounts/fireworks/models/"
FLUX = {"flux-1-schnell-fp8", "flux-1-dev-fp8"}
KONTEXT = {"flux-kontext-pro", "flux-kontext-max"}
OLDER = {"playground-v2"}
RATIOS = {"1:1", "21:9", "16:9", "3:2", "5:4", "4:5", "2:3", "9:16", "9:21", "4:3", "3:4"}
FLUX_FIELDS: Mapping[str, tuple[type, ...]] = {
    "prompt": (str,),
    "aspect_ratio": (str,),
    "guidance_scale": (int, float),
    "num_inference_steps": (int,),
    "seed": (int,),
    "samples": (int,),
}
OLDER_FIELDS: Mapping[str, tuple[type, ...]] = {**FLUX_FIELDS, "width": (int, str), "height": (int, str)}
KONTEXT_FIELDS: Mapping[str, tuple[type, ...]] = {
    "prompt": (str,),
    "input_image": (str,),
    "seed": (int,),
    "aspect_ratio": (str,),
    "output_format": (str,),
    "safety_tolerance": (int,),
    "prompt_upsampling": (bool,),
}


@dataclass(kw_only=True)
class Task:
    """`words` are answered one after the other; the last one stays."""

    number: int
    model: str
    fields: dict[str, Any]
    words: list[str]
    polls: int = 0
    content: bytes = b""


def refusal(message: str, status: int = 400) -> Refusal:
    return Refusal(json_reply({"error": {"message": message, "type": "invalid_request_error"}}, status=status))


class FireworksSimulator(Simulator):
    """`key` None accepts any key, but one must be there. `words` is what polls of new tasks are answered, in order.

    `loose` gives the base64 of an answer as a bare string, a data URL.
    """

    prefix: ClassVar[str] = "/inference/v1"

    def __init__(
        self,
        *,
        key: str | None = None,
        words: tuple[str, ...] = ("Pending", "Ready"),
        details: str | None = None,
        loose: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.words = words
        self.details = details
        self.loose = loose
        self.tasks: dict[str, Task] = {}
        self._task_numbers = itertools.count(1)

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.startswith(PREFIX) and not path.endswith("/get_result")

    def error_body(self, status: int) -> dict[str, Any]:
        return {"error": {"message": f"simulated failure {status}", "type": "error"}}

    def unreadable(self, message: str) -> Refusal:
        return refusal(message)

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(SAMPLES):
            return self._sample(call)
        scheme, _, key = call.exchange.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise refusal("The API key you provided is invalid.", 401)
        family, _, rest = call.path.removeprefix(PREFIX).partition("/")
        model, _, action = rest.removeprefix(MODELS).partition("/")
        if not rest.startswith(MODELS):
            raise refusal("Not found.", 404)
        if call.method != "POST" or call.exchange.query or call.content_type != "application/json":
            raise refusal("Method not allowed.", 405)
        match family, action:
            case "workflows", "text_to_image" if model in FLUX:
                return self._draw(call, FLUX_FIELDS)
            case "image_generation", "" if model in OLDER:
                return self._draw(call, OLDER_FIELDS)
            case "workflows", "" if model in KONTEXT:
                return self._start(call, model)
            case "workflows", "get_result" if model in KONTEXT:
                return self._result(call, model)
        raise refusal(f"Model {model!r} not found.", 404)

    def _draw(self, call: Call, known: Mapping[str, tuple[type, ...]]) -> Reply:
        fields = call.fields
        check_fields(fields, known)
        filtered = "[filtered]" in fields["prompt"]
        accept = call.exchange.headers.get("accept", "application/json")
        width, height = size_of(fields)
        if accept in {"image/png", "image/jpeg"}:
            if fields.get("samples", 1) != 1:
                raise refusal("samples must be 1 for this Accept.")
            content = self._content(call, width, height, accept.removeprefix("image/"))
            reason = "CONTENT_FILTERED" if filtered else "SUCCESS"
            return Reply(body=content, headers={"Content-Type": accept, "finish-reason": reason}, outputs=(content,))
        if accept != "application/json":
            raise refusal("Accept must be application/json, image/png or image/jpeg.", 406)
        outputs = tuple(self._content(call, width, height, "jpeg") for _ in range(fields.get("samples", 1)))
        texts: Any = [pybase64.b64encode(output).decode() for output in outputs]
        if self.loose:
            texts = f"data:image/jpeg;base64,{texts[0]}"
        reason = "CONTENT_FILTERED" if filtered else "SUCCESS"
        body = {"id": f"gen-{call.exchange.number}", "base64": texts, "finishReason": reason, "seed": 123}
        return json_reply(body, outputs=outputs)

    def _content(self, call: Call, width: int, height: int, file_format: str) -> bytes:
        content = picture(width, height, file_format)
        return stamped(content, f"call {call.exchange.number}") if file_format == "png" else content

    def _start(self, call: Call, model: str) -> Reply:
        fields = call.fields
        check_fields(fields, KONTEXT_FIELDS)
        if "input_image" in fields:
            check_image(fields["input_image"])
        number = next(self._task_numbers)
        name = f"req-{number:08d}"
        words = ["Request Moderated"] if "[filtered]" in fields["prompt"] else list(self.words)
        self.tasks[name] = Task(number=number, model=model, fields=fields, words=words)
        return json_reply({"request_id": name})

    def _result(self, call: Call, model: str) -> Reply:
        if set(call.fields) != {"id"}:
            raise refusal("id is required, alone.")
        name = call.fields["id"]
        said: dict[str, Any] = {"id": name, "result": None, "progress": None, "details": None}
        task = self.tasks.get(name)
        if task is None or task.model != model:
            return json_reply({**said, "status": "Task not found"})
        word = task.words[min(task.polls, len(task.words) - 1)]
        task.polls += 1
        said["status"] = word
        if word == "Ready":
            file_format = task.fields.get("output_format", "jpeg")
            content = picture(*size_of(task.fields), file_format)
            task.content = stamped(content, name) if file_format == "png" else content
            said["result"] = {"sample": f"{self.root_url}{SAMPLES}{name}.{file_format}"}
        elif word == "Pending":
            said["progress"] = 0.5
        else:
            said["details"] = self.details
        return json_reply(said)

    def _sample(self, call: Call) -> Reply:
        name, _, file_format = call.path.removeprefix(SAMPLES).rpartition(".")
        task = self.tasks.get(name)
        if task is None or call.method != "GET" or "authorization" in call.exchange.headers:
            raise refusal("Not found.", 404)
        return Reply(body=task.content, headers={"Content-Type": f"image/{file_format}"}, outputs=(task.content,))


def check_fields(fields: dict[str, Any], known: Mapping[str, tuple[type, ...]]) -> None:
    for name, value in fields.items():
        if name not in known:
            raise refusal(f"unknown field {name!r}")
        if type(value) not in known[name]:
            raise refusal(f"{name}: wrong type")
    if not fields.get("prompt"):
        raise refusal("prompt is required")
    if "aspect_ratio" in fields and fields["aspect_ratio"] not in RATIOS:
        raise refusal("aspect_ratio is not one of its values")
    if fields.get("output_format", "png") not in {"png", "jpeg"}:
        raise refusal("output_format is not one of its values")
    if not 1 <= fields.get("num_inference_steps", 4) <= 50 or not 0 <= fields.get("seed", 0) < 2**63:
        raise refusal("num_inference_steps or seed out of range")


def check_image(link: str) -> None:
    found = re.match(r"data:image/(?:png|jpeg|webp);base64,", link)
    if found is None:
        raise refusal("input_image cannot be fetched")
    try:
        Image.open(io.BytesIO(base64.b64decode(link[found.end() :], validate=True))).load()
    except (binascii.Error, UnidentifiedImageError, OSError) as cause:
        raise refusal("input_image cannot be read") from cause


def size_of(fields: dict[str, Any]) -> tuple[int, int]:
    if "width" in fields:
        return int(fields["width"]), int(fields.get("height", fields["width"]))
    return sides(fields.get("aspect_ratio", "1:1"))


def main() -> None:
    options = argument_parser(__doc__, port=9125).parse_args()

    def make() -> Simulator:
        return FireworksSimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  fireworks:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
