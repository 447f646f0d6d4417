"""Black Forest Labs' API as a strict server on loopback. `python -m tests.simulators.bfl --port 9105`.

Source: the provider sheet read from BFL's public documents (tasks, polling, errors), 2026-11-23. What the sheet leaves
open (the wording of refusals, the HTTP status of a task that is not found) is chosen here.
"""

import binascii
import hashlib
import hmac
import io
import itertools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import (
    Call,
    Refusal,
    Reply,
    Simulator,
    argument_parser,
    is_callback,
    json_reply,
    run_by_hand,
)
from tests.simulators._pictures import picture, stamped

BLOCKED_WORD = "[blocked]"
"""A prompt with this word is refused by moderation."""
MOST_PIXELS = 16_000_000
MOST_BASE64_CHARS = 20_000_000
STRICT_RATIOS = (
    "auto",
    "21:9",
    "2:1",
    "16:9",
    "3:2",
    "7:5",
    "4:3",
    "5:4",
    "1:1",
    "4:5",
    "3:4",
    "5:7",
    "2:3",
    "9:16",
    "1:2",
    "9:21",
)
TIERS = {"768sq": 768, "1k": 1024, "1.5k": 1536, "2k": 2048, "4k": 4096}
FORMATS = {"jpeg", "png", "webp"}
SAMPLES = "/samples/"

Check = Callable[[str, Any], None]


def refusal(name: str, message: str, kind: str = "value_error") -> Refusal:
    return Refusal(json_reply({"detail": [{"loc": ["body", name], "msg": message, "type": kind}]}, status=422))


def text(name: str, value: Any) -> None:
    if type(value) is not str:
        raise refusal(name, "Input should be a valid string", "string_type")


def filled(name: str, value: Any) -> None:
    text(name, value)
    if not value.strip():
        raise refusal(name, "must not be blank")


def boolean(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise refusal(name, "Input should be a valid boolean", "bool_type")


def integer(low: int, high: int, step: int = 1) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not int:
            raise refusal(name, "Input should be a valid integer", "int_type")
        if not low <= value <= high or value % step:
            raise refusal(name, f"must be {low} to {high} in steps of {step}")

    return check


def number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) not in {int, float} or not low <= value <= high:
            raise refusal(name, f"must be {low} to {high}")

    return check


def choice(*allowed: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value not in allowed:
            raise refusal(name, f"Input should be one of {', '.join(allowed)}", "literal_error")

    return check


def ratio(name: str, value: Any) -> None:
    found = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
    if found is None or not 9 / 21 - 1e-9 <= int(found[1]) / int(found[2]) <= 21 / 9 + 1e-9:
        raise refusal(name, "must lie between 21:9 and 9:21")


def opened(name: str, value: Any, *, smallest: int = 1) -> Image.Image:
    text(name, value)
    try:
        image = Image.open(io.BytesIO(pybase64.b64decode(value, validate=True)))
        image.load()
    except (binascii.Error, UnidentifiedImageError, OSError) as cause:
        raise Refusal(json_reply({"detail": f"{name} is no image"}, status=400)) from cause
    if image.width * image.height > MOST_PIXELS or len(value) > MOST_BASE64_CHARS:
        raise Refusal(json_reply({"detail": f"{name} is too large"}, status=400))
    if min(image.size) < smallest:
        raise Refusal(json_reply({"detail": f"{name} is too small"}, status=400))
    return image


def image(name: str, value: Any) -> None:
    opened(name, value)


def several(name: str, value: Any) -> None:
    listed = [value] if isinstance(value, str) else value
    if type(listed) is not list or not 1 <= len(listed) <= 10:
        raise refusal(name, "1 to 10 images")
    for each in listed:
        opened(name, each, smallest=256)


def nothing_or(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


COMMON: Mapping[str, Check] = {
    "webhook_url": text,
    "webhook_secret": text,
    "seed": nothing_or(integer(0, 2**63)),
    "output_format": choice(*sorted(FORMATS)),
}


def inputs(count: int) -> dict[str, Check]:
    return {"input_image" if index == 1 else f"input_image_{index}": image for index in range(1, count + 1)}


def flux2(images: int, **more: Check) -> dict[str, Check]:
    sides = {"width": integer(64, 16_384, 16), "height": integer(64, 16_384, 16)}
    return {**COMMON, "prompt": filled, "safety_tolerance": integer(0, 5), **inputs(images), **sides, **more}


def flux1(**more: Check) -> dict[str, Check]:
    shared = {"prompt": text, "image_prompt": image, "prompt_upsampling": boolean, "safety_tolerance": integer(0, 6)}
    return {**COMMON, **shared, **more}


def tools(**more: Check) -> dict[str, Check]:
    shared: dict[str, Check] = {"image": image, "steps": integer(15, 50), "guidance": number(1.5, 100)}
    return {name: check for name, check in flux1(**shared, **more).items() if name != "image_prompt"}


SIDES: Mapping[str, Check] = {"width": integer(256, 1440, 32), "height": integer(256, 1440, 32)}
FLUX3: Mapping[str, Check] = {
    "prompt": filled,
    "images": several,
    "aspect_ratio": choice(*STRICT_RATIOS),
    "resolution": choice(*TIERS),
    "safety_tolerance": integer(0, 4),
    "grounding": boolean,
    "version": choice("latest"),
}
KONTEXT: Mapping[str, Check] = {
    **COMMON,
    "prompt": filled,
    **inputs(4),
    "aspect_ratio": ratio,
    "prompt_upsampling": boolean,
    "safety_tolerance": integer(0, 6),
}
FLEX: Mapping[str, Check] = flux2(8, prompt_upsampling=boolean, guidance=number(1.5, 10), steps=integer(1, 50))
ULTRA: Mapping[str, Check] = flux1(aspect_ratio=ratio, raw=boolean, image_prompt_strength=number(0, 1))
MODELS: Mapping[str, Mapping[str, Check]] = {
    "flux-3-image": FLUX3,
    "flux-2-max": flux2(8),
    "flux-2-pro": flux2(8),
    "flux-2-pro-preview": flux2(8),
    "flux-2-flex": FLEX,
    "flux-2-klein-4b": flux2(4),
    "flux-2-klein-9b": flux2(4),
    "flux-2-klein-9b-preview": flux2(4),
    "flux-kontext-pro": KONTEXT,
    "flux-kontext-max": KONTEXT,
    "flux-pro-1.1": flux1(**SIDES),
    "flux-dev": flux1(**SIDES, steps=integer(1, 50), guidance=number(1.5, 5)),
    "flux-pro-1.1-ultra": ULTRA,
    "flux-pro-1.1-ultra-finetuned": {**ULTRA, "finetune_id": text, "finetune_strength": number(0, 2)},
    "flux-pro-1.0-fill": tools(mask=image),
    "flux-pro-1.0-expand": tools(**{side: integer(0, 2048) for side in ("top", "bottom", "left", "right")}),
}
REQUIRED: Mapping[str, tuple[str, ...]] = {"flux-pro-1.0-fill": ("image",), "flux-pro-1.0-expand": ("image",)}


@dataclass(kw_only=True)
class Task:
    """`words` are answered one after the other; the last one stays."""

    number: int
    model: str
    fields: dict[str, Any]
    words: list[str]
    polls: int = 0
    content: bytes = b""
    started_at: float = field(default_factory=time.time)


class BFLSimulator(Simulator):
    """`key` None accepts any key, but one must be there. `words` is what polls of new tasks are answered, in order.

    `failure_status` is the HTTP status that comes with the word of a failed task. `polling_root` replaces this server
    in the addresses to poll.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        words: tuple[str, ...] = ("Pending", "Ready"),
        details: Any = None,
        failure_status: int = 200,
        cost: float | None = 3.0,
        polling_root: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.words = words
        self.details = details
        self.failure_status = failure_status
        self.cost = cost
        self.polling_root = polling_root
        self.tasks: dict[str, Task] = {}
        self._task_numbers = itertools.count(1)

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.startswith("/v1/")

    def error_body(self, status: int) -> dict[str, Any]:
        return {"detail": "Not authenticated" if status in {401, 403} else f"Simulated failure {status}."}

    def unreadable(self, message: str) -> Refusal:
        return refusal("body", message, "json_invalid")

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(SAMPLES) and call.method == "GET":
            return self._sample(call)
        self._authorize(call.exchange.headers)
        model = call.path.removeprefix("/v1/")
        if model == "credits" and call.method == "GET":
            return json_reply({"credits": 123.4})
        if model == "get_result" and call.method == "GET":
            return self._result(call)
        if not call.path.startswith("/v1/") or model not in MODELS:
            raise Refusal(json_reply({"detail": "Not Found"}, status=404))
        if call.method != "POST":
            raise Refusal(json_reply({"detail": "Method Not Allowed"}, status=405))
        if call.exchange.query:
            raise refusal("query", "no query is taken")
        return self._start(call, model)

    def _authorize(self, headers: Mapping[str, str]) -> None:
        shown = headers.get("x-key")
        if not shown or (self._key is not None and shown != self._key) or "authorization" in headers:
            raise Refusal(json_reply({"detail": "Not authenticated"}, status=403))

    def _start(self, call: Call, model: str) -> Reply:
        if call.content_type != "application/json":
            raise refusal("body", "Input should be a valid dictionary", "model_attributes_type")
        check_fields(model, call.fields)
        number = next(self._task_numbers)
        words = ["Request Moderated"] if BLOCKED_WORD in call.fields.get("prompt", "") else list(self.words)
        task = Task(number=number, model=model, fields=call.fields, words=words)
        name = f"6f1d0000-{number:08d}"
        self.tasks[name] = task
        said = {"id": name, "cost": self.cost, "input_mp": 0.0, "output_mp": 1.05}
        if "webhook_url" in call.fields:
            if not is_callback(call.fields["webhook_url"]):
                raise refusal("webhook_url", "URL scheme should be 'https'", "url_scheme")
            return json_reply({**said, "status": "Pending", "webhook_url": call.fields["webhook_url"]})
        return json_reply({**said, "polling_url": f"{self.polling_root or self.root_url}/v1/get_result?id={name}"})

    async def tell(self, name: str, *, secret: str | None = None, header: str = "X-BFL-Signature") -> int:
        """End a task and call its webhook; the status of the answer."""
        task = self.tasks[name]
        key = (secret or task.fields["webhook_secret"]).encode()
        body = msgspec.json.encode({"id": name, "status": "SUCCESS", "timestamp": time.time()})
        digest = hmac.new(key, body, hashlib.sha256).hexdigest()
        shown = f"sha256={digest}" if header == "X-BFL-Signature" else key.decode()
        task.polls = len(task.words) - 1
        return await self.call_back(task.fields["webhook_url"], body, {header: shown})

    def _result(self, call: Call) -> Reply:
        if set(call.exchange.query) != {"id"}:
            raise refusal("id", "Field required", "missing")
        name = call.exchange.query["id"]
        task = self.tasks.get(name)
        said: dict[str, Any] = {"id": name, "result": None, "progress": None, "details": None, "preview": None}
        if task is None:
            return json_reply({**said, "status": "Task not found"}, status=404)
        word = task.words[min(task.polls, len(task.words) - 1)]
        task.polls += 1
        said["status"] = word
        if word == "Ready":
            said["result"] = self._drawn(name, task)
        elif word not in {"Pending", "Reasoning", "Generating"}:
            said["details"] = self.details
            return json_reply(said, status=self.failure_status)
        return json_reply(said)

    def _drawn(self, name: str, task: Task) -> dict[str, Any]:
        file_format = task.fields.get("output_format", "png" if "kontext" in task.model else "jpeg")
        content = picture(*size_of(task.fields), file_format)
        task.content = stamped(content, f"task {task.number}") if file_format == "png" else content
        prompt = task.fields.get("prompt", "")
        return {
            "sample": f"{self.root_url}{SAMPLES}{name}.{file_format}?sig=abc",
            "prompt": f"{prompt}, in detail" if task.model == "flux-3-image" else prompt,
            "seed": task.fields.get("seed", 42),
            "start_time": task.started_at,
            "end_time": task.started_at + 4.8,
            "duration": 4.8,
        }

    def _sample(self, call: Call) -> Reply:
        name, _, file_format = call.path.removeprefix(SAMPLES).rpartition(".")
        task = self.tasks.get(name)
        if task is None or call.exchange.query != {"sig": "abc"} or "x-key" in call.exchange.headers:
            return Reply(status=403, body=b"<Error><Code>AuthenticationFailed</Code></Error>")
        return Reply(body=task.content, headers={"Content-Type": f"image/{file_format}"}, outputs=(task.content,))


def check_fields(model: str, fields: Mapping[str, Any]) -> None:
    """Raise the refusal of the first field that is unknown, missing, of another type or out of range."""
    known = MODELS[model]
    for name, value in fields.items():
        if name not in known:
            raise refusal(name, "Extra inputs are not permitted", "extra_forbidden")
        known[name](name, value)
    required = REQUIRED.get(model) or (("prompt",) if known["prompt"] is filled else ())
    for name in required:
        if name not in fields:
            raise refusal(name, "Field required", "missing")
    if fields.get("width", 0) * fields.get("height", 0) > 2048 * 2048:
        raise refusal("width", "at most 4 megapixels")
    if "mask" in fields and opened("mask", fields["mask"]).size != opened("image", fields["image"]).size:
        raise Refusal(json_reply({"detail": "mask and image differ in size"}, status=400))


def size_of(fields: Mapping[str, Any]) -> tuple[int, int]:
    """Choose a size that could be that of the result."""
    if "width" in fields and "height" in fields:
        return fields["width"], fields["height"]
    side = TIERS[fields.get("resolution", "1k")]
    asked = fields.get("aspect_ratio", "auto")
    across, down = (1, 1) if asked == "auto" else (int(part) for part in asked.split(":"))
    return round(side * (across / down) ** 0.5), round(side * (down / across) ** 0.5)


def main() -> None:
    parser = argument_parser(__doc__, port=9105)
    parser.add_argument("--polls", type=int, default=3, help="how often a task is pending before it is ready")
    options = parser.parse_args()

    def make() -> Simulator:
        words = ("Pending",) * options.polls + ("Ready",)
        return BFLSimulator(key=options.key, words=words, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  bfl:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
