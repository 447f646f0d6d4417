"""Stability AI's v2beta image services as a strict server on loopback. `python -m tests.simulators.stability --port 9110`.

Source: the provider sheet read from Stability's public documents (services, parts, results, errors), 2026-11-23. What
the sheet leaves open (the names of some errors, which of two faults is told first) is chosen here.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Exchange, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped

SERVICES = "/v2beta/stable-image/"
RESULTS = "/v2beta/results/"
BLOCKED_WORD, BLURRED_WORD = "[blocked]", "[blurred]"
"""A prompt with the first is refused, one with the second answered with a blurred picture."""
LARGEST_BODY_BYTES = 10 * 1024 * 1024
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
RATIOS = ("1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
STYLES = (
    *("3d-model", "analog-film", "anime", "cinematic", "comic-book", "digital-art", "enhance", "fantasy-art"),
    *("isometric", "line-art", "low-poly", "modeling-compound", "neon-punk", "origami", "photographic", "pixel-art"),
    "tile-texture",
)
NAMES = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "content_moderation",
    404: "not_found",
    413: "payload_too_large",
    422: "invalid_language",
    429: "rate_limit_exceeded",
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one text part may hold: a text of so many characters, one of `choices`, or a number."""

    longest: int = 10_000
    choices: tuple[str, ...] = ()
    numbers: tuple[float, float] | None = None
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one service takes. `files` that end in `?` may be left out, as may fields that are not `required`."""

    fields: Mapping[str, Rule] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("png", "jpeg", "webp")
    later: bool = False

    def all_fields(self) -> Mapping[str, Rule]:
        return {**self.fields, "output_format": Rule(choices=self.formats)}


def span(low: float, high: float, *, whole: bool = False) -> Rule:
    return Rule(numbers=(low, high), whole=whole)


TEXT = Rule()
SEED = {"seed": span(0, 4_294_967_294, whole=True)}
NEGATIVE = {"negative_prompt": TEXT}
STYLE = {"style_preset": Rule(choices=STYLES)}
RATIO = {"aspect_ratio": Rule(choices=RATIOS)}
MAKING = {"prompt": TEXT, **NEGATIVE, **SEED, **STYLE, **RATIO}
PROMPTED = {"prompt": TEXT, **NEGATIVE, **SEED}
SD3 = {
    "model": Rule(choices=("sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "sd3.5-flash")),
    "mode": Rule(choices=("text-to-image", "image-to-image")),
    "strength": span(0, 1),
    "cfg_scale": span(1, 10),
}
RELIGHT = {
    **SEED,
    **NEGATIVE,
    "background_prompt": TEXT,
    "foreground_prompt": TEXT,
    "preserve_original_subject": span(0, 1),
    "original_background_depth": span(0, 1),
    "keep_original_background": Rule(choices=("true", "false")),
    "light_source_direction": Rule(choices=("above", "below", "left", "right")),
    "light_source_strength": span(0, 1),
}
OUTPAINT = {side: span(0, 2000, whole=True) for side in ("left", "right", "up", "down")}
CONTROL = {**PROMPTED, **STYLE, "control_strength": span(0, 1)}
TRANSFER = {"style_strength": span(0, 1), "composition_fidelity": span(0, 1), "change_strength": span(0.1, 1)}
KNOWN: Mapping[str, Service] = {
    "generate/core": Service(fields=MAKING, required=("prompt",)),
    "generate/ultra": Service(fields={**MAKING, "strength": span(0, 1)}, required=("prompt",), files=("image?",)),
    "generate/sd3": Service(fields={**MAKING, **SD3}, required=("prompt",), files=("image?",), formats=("png", "jpeg")),
    "edit/inpaint": Service(
        fields={**PROMPTED, **STYLE, "grow_mask": span(0, 100)}, required=("prompt",), files=("image", "mask?")
    ),
    "edit/erase": Service(fields={**SEED, "grow_mask": span(0, 20)}, files=("image", "mask?")),
    "edit/outpaint": Service(
        fields={**SEED, **STYLE, **OUTPAINT, "creativity": span(0, 1), "prompt": TEXT}, files=("image",)
    ),
    "edit/search-and-replace": Service(
        fields={**PROMPTED, **STYLE, "search_prompt": TEXT, "grow_mask": span(0, 20)},
        required=("prompt", "search_prompt"),
        files=("image",),
    ),
    "edit/search-and-recolor": Service(
        fields={**PROMPTED, **STYLE, "select_prompt": TEXT, "grow_mask": span(0, 20)},
        required=("prompt", "select_prompt"),
        files=("image",),
    ),
    "edit/remove-background": Service(files=("image",), formats=("png", "webp")),
    "edit/replace-background-and-relight": Service(
        fields=RELIGHT, files=("subject_image", "background_reference?", "light_reference?"), later=True
    ),
    "upscale/fast": Service(files=("image",)),
    "upscale/conservative": Service(
        fields={**PROMPTED, "creativity": span(0.2, 0.5)}, required=("prompt",), files=("image",)
    ),
    "upscale/creative": Service(
        fields={**PROMPTED, **STYLE, "creativity": span(0.1, 0.5)}, required=("prompt",), files=("image",), later=True
    ),
    "control/sketch": Service(fields=CONTROL, required=("prompt",), files=("image",)),
    "control/structure": Service(fields=CONTROL, required=("prompt",), files=("image",)),
    "control/style": Service(
        fields={**PROMPTED, **RATIO, "fidelity": span(0, 1)}, required=("prompt",), files=("image",)
    ),
    "control/style-transfer": Service(fields={**PROMPTED, **TRANSFER}, files=("init_image", "style_image")),
}


def fault(message: str, status: int = 400) -> dict[str, Any]:
    number = hashlib.sha256(message.encode()).hexdigest()[:32]
    return {"id": number, "name": NAMES.get(status, "internal_error"), "errors": [message]}


def refusal(message: str, status: int = 400) -> Refusal:
    return Refusal(json_reply(fault(message, status), status=status))


@dataclass(kw_only=True)
class Work:
    """One piece of work that is fetched later."""

    key: str
    reply: Reply
    polls: int = 0


class StabilitySimulator(Simulator):
    """`key` None accepts any key, but one must be there. A result is there after `polls` questions for it."""

    def __init__(
        self,
        *,
        key: str | None = None,
        polls: int = 1,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._polls = polls
        self._image_bytes = image_bytes
        self._works: dict[str, Work] = {}

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.startswith(SERVICES)

    def error_body(self, status: int) -> dict[str, Any]:
        return fault(f"Simulated failure {status}.", status)

    def empty_body(self) -> dict[str, Any]:
        return {"seed": 1, "finish_reason": "SUCCESS"}

    def unreadable(self, message: str) -> Refusal:
        return refusal(message)

    def reply_headers(self, exchange: Exchange) -> dict[str, str]:
        """Stability's id of an exchange stands in the body of an error alone."""
        del exchange
        return {}

    async def answer(self, call: Call) -> Reply:
        key = self._authorize(call.exchange.headers)
        if call.exchange.query:
            raise refusal("no query is taken")
        if (call.method, call.path) == ("GET", "/v1/user/balance"):
            return json_reply({"credits": 12.3})
        accepts = call.exchange.headers.get("accept")
        if accepts not in {"application/json", "image/*"}:
            raise refusal("accept: must be image/* or application/json")
        if call.method == "GET" and call.path.startswith(RESULTS):
            return self._result(call.path.removeprefix(RESULTS), key)
        service = KNOWN.get(call.path.removeprefix(SERVICES)) if call.path.startswith(SERVICES) else None
        if service is None or call.method != "POST":
            raise refusal("no such route", 404)
        return self._work_for(call, service, key, as_json=accepts == "application/json")

    def _authorize(self, headers: Mapping[str, str]) -> str:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise refusal("missing or wrong API key", 401)
        return key

    def _result(self, name: str, key: str) -> Reply:
        work = self._works.get(name)
        if work is None or work.key != key:
            raise refusal("no such result", 404)
        work.polls += 1
        if work.polls <= self._polls:
            return json_reply({"id": name, "status": "in-progress"}, status=202)
        return work.reply

    def _work_for(self, call: Call, service: Service, key: str, *, as_json: bool) -> Reply:
        if call.content_type != "multipart/form-data":
            raise refusal("content-type: must be multipart/form-data")
        if int(call.exchange.headers.get("content-length", "0")) > LARGEST_BODY_BYTES:
            raise refusal("the request is larger than 10 MiB", 413)
        check_fields(call.fields, service)
        check_files(call, service)
        check_together(call)
        prompt = call.fields.get("prompt", "") + call.fields.get("background_prompt", "")
        if BLOCKED_WORD in prompt:
            raise refusal("your request was flagged", 403)
        reply = self._picture(call, as_json=as_json, reason="CONTENT_FILTERED" if BLURRED_WORD in prompt else "SUCCESS")
        if not service.later:
            return reply
        name = hashlib.sha256(str(call.exchange.number).encode()).hexdigest()
        self._works[name] = Work(key=key, reply=reply)
        return json_reply({"id": name})

    def _picture(self, call: Call, *, as_json: bool, reason: str) -> Reply:
        file_format = call.fields.get("output_format", "png")
        across, down = (int(part) for part in call.fields.get("aspect_ratio", "1:1").split(":"))
        side = 64
        content = picture(side * across // down or 1, side, file_format)
        if self._image_bytes is not None:
            content = picture_of_bytes(self._image_bytes)
        elif file_format == "png":
            content = stamped(content, f"call {call.exchange.number}")
        seed = int(call.fields.get("seed", "0")) or 343_940_597
        if as_json:
            body = {"image": pybase64.b64encode(content).decode(), "seed": seed, "finish_reason": reason}
            return json_reply(body, outputs=(content,))
        headers = {"Content-Type": f"image/{file_format}", "finish-reason": reason, "seed": str(seed)}
        return Reply(body=content, headers=headers, outputs=(content,))


def check_fields(fields: Mapping[str, Any], service: Service) -> None:
    """Raise the refusal of the first text part that is unknown, missing or out of range."""
    known = service.all_fields()
    for name, value in fields.items():
        if name not in known:
            raise refusal(f"{name}: unknown part")
        if not isinstance(value, str):
            raise refusal(f"{name}: sent more than once")
        _check_text(name, value, known[name])
    for name in service.required:
        if name not in fields:
            raise refusal(f"{name}: cannot be blank")


def _check_text(name: str, value: str, rule: Rule) -> None:
    if rule.choices and value not in rule.choices:
        raise refusal(f"{name}: must be one of {', '.join(rule.choices)}")
    if not 1 <= len(value) <= rule.longest:
        raise refusal(f"{name}: must be 1 to {rule.longest} characters")
    if rule.numbers is None:
        return
    try:
        number = msgspec.json.decode(value, type=int if rule.whole else float)
    except msgspec.DecodeError as cause:
        raise refusal(f"{name}: must be a number") from cause
    if not rule.numbers[0] <= number <= rule.numbers[1]:
        raise refusal(f"{name}: must be {rule.numbers[0]} to {rule.numbers[1]}")


def check_files(call: Call, service: Service) -> None:
    """Raise the refusal of the first file that is unknown, missing or no picture of the right size."""
    allowed = {name.removesuffix("?") for name in service.files}
    sent = [part.name for part in call.exchange.files]
    for name in sent:
        if name not in allowed or sent.count(name) > 1:
            raise refusal(f"{name}: unknown part")
    for name in service.files:
        if not name.endswith("?") and name not in sent:
            raise refusal(f"{name}: required")
    for part, content in zip(call.exchange.files, call.contents, strict=True):
        try:
            image = Image.open(io.BytesIO(content), formats=list(MEDIA_TYPES))
            image.load()
        except (UnidentifiedImageError, OSError) as cause:
            raise refusal(f"{part.name}: no picture") from cause
        if not part.filename or part.content_type != MEDIA_TYPES[image.format or ""]:
            raise refusal(f"{part.name}: the type of the part is not that of the picture")
        _check_size(part.name, image)


def _check_size(name: str, image: Image.Image) -> None:
    short, long = sorted(image.size)
    if short < 64 or long > 2.5 * short or not 4_096 <= short * long <= 9_437_184:
        raise refusal(f"{name}: 64 pixels a side at least, 4096 to 9437184 in all, 1:2.5 to 2.5:1")


def check_together(call: Call) -> None:
    """Check what depends on two parts."""
    fields, sent = call.fields, {part.name for part in call.exchange.files}
    service = call.path.removeprefix(SERVICES)
    if service == "generate/sd3" and (fields.get("mode") == "image-to-image") != ("image" in sent):
        raise refusal("mode: image-to-image and an image go together")
    if service.startswith("generate/") and ("strength" in fields) != ("image" in sent):
        raise refusal("strength: goes with an image, and an image with it")
    if service == "generate/sd3" and "image" in sent and "aspect_ratio" in fields:
        raise refusal("aspect_ratio: for text-to-image alone")
    if service == "edit/outpaint" and not any(int(fields.get(side, "0")) for side in OUTPAINT):
        raise refusal("at least one of left, right, up and down must be more than 0")
    if service.endswith("relight") and "background_prompt" not in fields and "background_reference" not in sent:
        raise refusal("background_prompt or background_reference is required")


def main() -> None:
    parser = argument_parser(__doc__, port=9110)
    options = parser.parse_args()

    def make() -> Simulator:
        return StabilitySimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "sk-any"
        return f"providers:\n  stability:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
