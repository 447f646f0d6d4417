"""OpenAI's image endpoints as a strict server on loopback. `python -m tests.simulators.openai --port 9101`.

Source: the provider sheet read from OpenAI's public documents (generations, edits, models, errors), 2026-11-23.
What the sheet leaves open (the wording and code of some refusals) is chosen here; the statuses and shapes are not.
"""

import base64
import binascii
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, FilePart, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped

MEGABYTE = 10**6
LARGEST_IMAGE_BYTES = 50 * MEGABYTE
LARGEST_MASK_BYTES = 4 * MEGABYTE
LARGEST_IMAGE_URL_CHARS = 20_971_520
IMAGE_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
FIXED_SIZES = {"1024x1024", "1536x1024", "1024x1536"}
SIDE_STEP, LONGEST_EDGE, LARGEST_RATIO = 16, 3840, 3
FEWEST_PIXELS, MOST_PIXELS = 655_360, 8_294_400
BLOCKED_WORD = "[blocked]"
"""A prompt with this word is refused by moderation."""
LATE_FAULTS: Mapping[str, tuple[str, str]] = {
    "[late block]": ("image_generation_user_error", "moderation_blocked"),
    "[late fault]": ("server_error", "server_error"),
}
"""With these words a stream ends in an error of this type and code, after its first preview."""


@dataclass(frozen=True, kw_only=True)
class Model:
    family: float
    shutdown_date: str | None = None


MODELS: Mapping[str, Model] = {
    "gpt-image-1-mini": Model(family=1.0, shutdown_date="2026-12-01"),
    "gpt-image-1.5": Model(family=1.5, shutdown_date="2026-12-01"),
    "gpt-image-1.5-2025-12-16": Model(family=1.5, shutdown_date="2026-12-01"),
    "chatgpt-image-latest": Model(family=1.5, shutdown_date="2026-12-01"),
    "gpt-image-2": Model(family=2.0),
    "gpt-image-2-2026-04-21": Model(family=2.0),
    "gpt-image-2.5-sunburst": Model(family=2.5),
    "gpt-image-2.5-sunburst-2026-09-08": Model(family=2.5),
    "gpt-image-2.5-flare": Model(family=2.5),
    "gpt-image-2.5-flare-2026-09-08": Model(family=2.5),
    "gpt-image-2.6-sunburst": Model(family=2.6),
    "gpt-image-2.6-flare": Model(family=2.6),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one field may hold."""

    kind: type
    choices: tuple[str, ...] = ()
    smallest: int | None = None
    largest: int | None = None
    longest: int | None = None
    required: bool = False


TYPE_NAMES = {str: "a string", int: "an integer", bool: "a boolean", dict: "an object", list: "an array"}

SHARED_RULES: Mapping[str, Rule] = {
    "prompt": Rule(kind=str, longest=32_000, required=True),
    "model": Rule(kind=str, required=True),
    "n": Rule(kind=int, smallest=1, largest=10),
    "size": Rule(kind=str),
    "quality": Rule(kind=str, choices=("auto", "low", "medium", "high", "xhigh", "max")),
    "background": Rule(kind=str, choices=("auto", "transparent", "opaque")),
    "output_format": Rule(kind=str, choices=("png", "jpeg", "webp", "gif", "svg")),
    "output_compression": Rule(kind=int, smallest=0, largest=100),
    "stream": Rule(kind=bool),
    "partial_images": Rule(kind=int, smallest=0, largest=3),
    "user": Rule(kind=str),
}
NEWER_RULES: Mapping[str, Rule] = {
    "complexity": Rule(kind=str, choices=("low", "medium", "high")),
    "frame_count": Rule(kind=int, smallest=2, largest=16),
    "frame_duration_ms": Rule(kind=int, smallest=1, largest=655_350),
    "safety_identifier": Rule(kind=str),
}
MODERATION: Mapping[str, Rule] = {"moderation": Rule(kind=str, choices=("auto", "low"))}
FIDELITY: Mapping[str, Rule] = {"input_fidelity": Rule(kind=str, choices=("high", "low"))}
GENERATION_RULES = {**SHARED_RULES, **NEWER_RULES, **MODERATION, "svg": Rule(kind=dict)}
FORM_EDIT_RULES = {
    **SHARED_RULES,
    **NEWER_RULES,
    **FIDELITY,
    "svg[model]": Rule(kind=str),
    "svg[reasoning][effort]": Rule(kind=str),
}
JSON_EDIT_RULES = {
    **SHARED_RULES,
    **FIDELITY,
    **MODERATION,
    "images": Rule(kind=list, required=True),
    "mask": Rule(kind=dict),
}
GIF_ALONE = ("frame_count", "frame_duration_ms")
CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded", 500: "server_error"}


def error(message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(
    message: str, *, param: str | None = None, code: str | None = "invalid_value", status: int = 400
) -> Refusal:
    return Refusal(json_reply(error(message, param=param, code=code), status=status))


class OpenAISimulator(Simulator):
    """`key` None accepts any key, but one must be there; `image_bytes` makes every picture a PNG of that many bytes."""

    prefix: ClassVar[str] = "/v1"

    def __init__(
        self,
        *,
        key: str | None = None,
        image_bytes: int | None = None,
        preview: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._image_bytes = image_bytes
        self._preview = preview
        self._routes: dict[str, dict[str, Callable[[Call], Reply]]] = {
            "/v1/images/generations": {"POST": self._generate},
            "/v1/images/edits": {"POST": self._edit},
            "/v1/models": {"GET": self._models},
        }

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path in {"/v1/images/generations", "/v1/images/edits"}

    def error_body(self, status: int) -> dict[str, Any]:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body: dict[str, Any] = error(f"Simulated failure {status}.", kind=kind, code=CODES.get(status))
        return body

    def empty_body(self) -> dict[str, Any]:
        return {"created": int(time.time()), "data": []}

    def unreadable(self, message: str) -> Refusal:
        return refusal(f"We could not parse your request: {message}.", code=None)

    async def answer(self, call: Call) -> Reply:
        self._authorize(call.exchange.headers.get("authorization", ""))
        route = self._routes.get(call.path)
        if route is None:
            raise refusal(f"Invalid URL ({call.method} {call.path})", code=None, status=404)
        if call.method not in route:
            raise refusal(f"Not allowed to {call.method} on {call.path}.", code="method_not_supported", status=405)
        for name in call.exchange.query:
            raise refusal(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        return route[call.method](call)

    def _authorize(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise refusal("Incorrect API key provided.", code="invalid_api_key", status=401)

    def _models(self, _call: Call) -> Reply:
        data = [
            {"id": name, "object": "model", "created": 1_770_000_000, "owned_by": "system"}
            | {"shutdown_date": model.shutdown_date}
            for name, model in MODELS.items()
        ]
        return json_reply({"object": "list", "data": data})

    def _generate(self, call: Call) -> Reply:
        if call.content_type != "application/json":
            raise refusal(f"Unsupported content type '{call.content_type}'.", code="unsupported_content_type")
        check_fields(call.fields, GENERATION_RULES)
        model = check_together(call.fields, preview=self._preview)
        return self._pictures(call, call.fields, model, inputs=0, event="image_generation")

    def _edit(self, call: Call) -> Reply:
        if call.content_type == "multipart/form-data":
            fields = typed_form(call.fields, FORM_EDIT_RULES)
            check_fields(fields, FORM_EDIT_RULES)
            model = check_together(fields, preview=self._preview)
            inputs = check_files(call.exchange.files, call.contents, model)
        elif call.content_type == "application/json":
            fields = call.fields
            check_fields(fields, JSON_EDIT_RULES)
            model = check_together(fields, preview=self._preview)
            inputs = check_references(fields)
        else:
            raise refusal(f"Unsupported content type '{call.content_type}'.", code="unsupported_content_type")
        check_fidelity(fields, model)
        if fields.get("output_format") == "gif" and (
            "mask" in fields or any(part.name == "mask" for part in call.exchange.files)
        ):
            raise refusal("A mask cannot be used with output format 'gif'.", param="mask")
        return self._pictures(call, fields, model, inputs=inputs, event="image_edit")

    def _pictures(self, call: Call, fields: dict[str, Any], model: Model, *, inputs: int, event: str) -> Reply:
        if BLOCKED_WORD in fields["prompt"]:
            raise moderation_blocked()
        outputs = tuple(self._output(call, fields, index) for index in range(fields.get("n", 1)))
        if fields.get("stream"):
            return streamed(event, fields, outputs, inputs)
        body = {"created": int(time.time()), **echoed(fields), "data": [{"b64_json": text(each)} for each in outputs]}
        body["usage"] = usage(fields, len(outputs), inputs)
        if fields.get("output_format") == "svg":
            body["svg_usage"] = {"model": f"author-{model.family}", "input_tokens": 10, "output_tokens": 200}
            body["svg_usage"] |= {"reasoning_tokens": 0, "total_tokens": 210}
        return json_reply(body, outputs=outputs)

    def _output(self, call: Call, fields: dict[str, Any], index: int) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        file_format = fields.get("output_format", "png")
        width, height = (int(side) for side in real_size(fields).split("x"))
        if file_format == "svg":
            return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"/>'.encode()
        content = picture(width, height, file_format, transparent=fields.get("background") == "transparent")
        return stamped(content, f"call {call.exchange.number}, image {index}") if file_format == "png" else content


def check_fields(fields: dict[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise the refusal of the first field that is unknown, missing, of another type or out of range."""
    for name in fields:
        if name not in rules:
            raise refusal(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    for name, rule in rules.items():
        if name in fields:
            _check_field(name, fields[name], rule)
        elif rule.required:
            raise refusal(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def _check_field(name: str, value: Any, rule: Rule) -> None:
    given = type(value)
    if given is not rule.kind:  # a boolean is no integer here
        message = f"Invalid type for '{name}': expected {TYPE_NAMES[rule.kind]}."
        raise refusal(message, param=name, code="invalid_type")
    if rule.kind is str:
        _check_text(name, value, rule)
    elif rule.kind is int:
        _check_number(name, value, rule)


def _check_text(name: str, value: str, rule: Rule) -> None:
    if not value:
        raise refusal(f"Invalid '{name}': empty string.", param=name, code="empty_string")
    if rule.longest is not None and len(value) > rule.longest:
        raise refusal(f"Invalid '{name}': string too long.", param=name, code="string_above_max_length")
    if rule.choices and value not in rule.choices:
        raise refusal(f"Invalid value: '{value}'. Supported values are: {', '.join(rule.choices)}.", param=name)


def _check_number(name: str, value: int, rule: Rule) -> None:
    if rule.smallest is not None and value < rule.smallest:
        raise refusal(f"Invalid '{name}': below {rule.smallest}.", param=name, code="integer_below_min_value")
    if rule.largest is not None and value > rule.largest:
        raise refusal(f"Invalid '{name}': above {rule.largest}.", param=name, code="integer_above_max_value")


def typed_form(fields: dict[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Read the numbers and booleans of a form; what is neither stays text, to be refused."""
    return {name: _typed(value, rules[name].kind) if name in rules else value for name, value in fields.items()}


def _typed(value: Any, kind: type) -> Any:
    if kind is int and isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value):
        return int(value)
    if kind is bool and value in {"true", "false"}:
        return value == "true"
    return value


def check_together(fields: dict[str, Any], *, preview: bool) -> Model:
    """Check what depends on the model or on two fields."""
    model = MODELS.get(fields["model"])
    if model is None:
        message = f"The model '{fields['model']}' does not exist or you do not have access to it."
        raise refusal(message, param="model", code="model_not_found", status=404)
    check_size(fields.get("size", "auto"), model)
    if fields.get("quality") in {"xhigh", "max"} and model.family < 2.5:
        raise refusal(f"Quality '{fields['quality']}' needs a 2.5 model or later.", param="quality")
    if "complexity" in fields and model.family < 2.6:
        raise refusal("Unknown parameter: 'complexity'.", param="complexity", code="unknown_parameter")
    check_format(fields, model, preview=preview)
    if fields.get("partial_images") and not fields.get("stream"):
        raise refusal("'partial_images' needs 'stream'.", param="partial_images")
    return model


def check_size(size: str, model: Model) -> None:
    if size == "auto" or size in FIXED_SIZES:
        return
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if match is None or model.family < 2:
        raise refusal(f"Invalid size '{size}'.", param="size")
    width, height = int(match[1]), int(match[2])
    if width % SIDE_STEP or height % SIDE_STEP:
        raise refusal(f"Invalid size '{size}': both sides must be divisible by {SIDE_STEP}.", param="size")
    if max(width, height) > LONGEST_EDGE or max(width, height) > LARGEST_RATIO * min(width, height):
        raise refusal(f"Invalid size '{size}': edge or ratio out of range.", param="size")
    if not FEWEST_PIXELS <= width * height <= MOST_PIXELS:
        raise refusal(f"Invalid size '{size}': pixels out of range.", param="size")


def check_format(fields: dict[str, Any], model: Model, *, preview: bool) -> None:
    file_format = fields.get("output_format", "png")
    if file_format in {"gif", "svg"} and (model.family < 2.6 or not preview):
        raise refusal(f"Output format '{file_format}' is not available.", param="output_format")
    if fields.get("background") == "transparent" and file_format == "jpeg":
        raise refusal("Transparent background needs png or webp.", param="background")
    if "output_compression" in fields and file_format not in {"jpeg", "webp"}:
        raise refusal("Compression needs jpeg or webp.", param="output_compression")
    for name in GIF_ALONE:
        if name in fields and file_format != "gif":
            raise refusal(f"'{name}' needs output format 'gif'.", param=name)
    for name in fields:
        if name.startswith("svg") and file_format != "svg":
            raise refusal(f"'{name}' needs output format 'svg'.", param=name)
    if file_format in {"gif", "svg"} and fields.get("stream"):
        raise refusal(f"Output format '{file_format}' cannot be streamed.", param="stream")
    if file_format == "svg" and fields.get("n", 1) != 1:
        raise refusal("Output format 'svg' makes one image.", param="n")


def check_fidelity(fields: dict[str, Any], model: Model) -> None:
    fidelity = fields.get("input_fidelity")
    if fidelity is not None and (model.family >= 2 or (model.family == 1.0 and fidelity == "high")):
        raise refusal(f"The model does not take input_fidelity '{fidelity}'.", param="input_fidelity")


def check_files(parts: tuple[FilePart, ...], contents: tuple[bytes, ...], model: Model) -> int:
    """Check the files of an edit; return how many images came."""
    named = list(zip(parts, contents, strict=True))
    for part, _ in named:
        if part.name not in {"image", "image[]", "mask", "markup"}:
            raise refusal(f"Unknown parameter: '{part.name}'.", param=part.name, code="unknown_parameter")
    images = [(part, content) for part, content in named if part.name in {"image", "image[]"}]
    _check_image_count([part.name for part, _ in images])
    opened = [_opened_part(part, content) for part, content in images]
    masks = [(part, content) for part, content in named if part.name == "mask"]
    markups = [(part, content) for part, content in named if part.name == "markup"]
    if len(masks) > 1 or len(markups) > 1 or (masks and markups):
        raise refusal("At most one mask or one markup.", param="mask")
    if markups and model.family < 2.5:
        raise refusal("Unknown parameter: 'markup'.", param="markup", code="unknown_parameter")
    for part, content in masks + markups:
        _check_mask(_opened_part(part, content), content, opened[0], part.name)
    return len(images)


def _check_image_count(names: list[str]) -> None:
    if not names:
        raise refusal("Missing required parameter: 'image'.", param="image", code="missing_required_parameter")
    if len(set(names)) > 1 or (names[0] == "image" and len(names) > 1):
        raise refusal("Send one 'image', or several as 'image[]'.", param="image")
    if len(names) > 16:
        raise refusal("At most 16 images.", param="image", code="array_above_max_length")


def _opened_part(part: FilePart, content: bytes) -> Image.Image:
    if not part.filename:
        raise refusal("A file needs a name.", param=part.name, code="invalid_image_file")
    image = _opened(content, part.name)
    if part.content_type != IMAGE_FORMATS[image.format or ""]:
        message = f"The type '{part.content_type}' is not that of the file ({image.format})."
        raise refusal(message, param=part.name, code="unsupported_file_mimetype")
    return image


def _opened(content: bytes, param: str) -> Image.Image:
    if len(content) >= LARGEST_IMAGE_BYTES:
        raise refusal("The image is too large.", param=param, code="image_too_large")
    try:
        image = Image.open(io.BytesIO(content), formats=list(IMAGE_FORMATS))
        image.load()
    except (UnidentifiedImageError, OSError) as cause:
        raise refusal("Invalid image file or mode.", param=param, code="invalid_image_file") from cause
    return image


def _check_mask(mask: Image.Image, content: bytes, first: Image.Image, name: str) -> None:
    if mask.format != "PNG" or "A" not in mask.getbands():
        raise refusal(f"The {name} must be a PNG with an alpha channel.", param=name, code="invalid_image_file")
    if name == "mask" and len(content) >= LARGEST_MASK_BYTES:
        raise refusal("The mask must be less than 4 MB.", param=name, code="image_too_large")
    if mask.size != first.size:
        raise refusal(f"The {name} must have the size of the first image.", param=name, code="invalid_image_file")


def check_references(fields: dict[str, Any]) -> int:
    """Check the images of an edit's JSON form; return how many came."""
    if not 1 <= len(fields["images"]) <= 16:
        raise refusal("Send 1 to 16 images.", param="images", code="invalid_array_length")
    opened = [_referenced(item, f"images[{index}]")[0] for index, item in enumerate(fields["images"])]
    if "mask" in fields:
        mask, content = _referenced(fields["mask"], "mask")
        _check_mask(mask, content, opened[0], "mask")
    return len(opened)


def _referenced(item: Any, param: str) -> tuple[Image.Image, bytes]:
    if type(item) is not dict or len(item) != 1 or not item.keys() <= {"image_url", "file_id"}:
        raise refusal("Give exactly one of image_url and file_id.", param=param)
    url = item.get("image_url")
    if type(url) is not str or len(url) > LARGEST_IMAGE_URL_CHARS:
        raise refusal("No such file, or the URL is too long.", param=param)
    match = re.match(r"data:image/(png|jpeg|webp);base64,", url)
    if match is None:
        raise refusal("Failed to download the image (the simulator knows data URLs alone).", param=param)
    try:
        content = base64.b64decode(url[match.end() :], validate=True)
    except binascii.Error as cause:
        raise refusal("The data URL is not base64.", param=param) from cause
    return _opened(content, param), content


def moderation_blocked() -> Refusal:
    body = error("Your request was rejected.", kind="image_generation_user_error", code="moderation_blocked")
    body["error"]["moderation_details"] = {"moderation_stage": "input", "categories": ["simulated"]}
    return Refusal(json_reply(body, status=400))


def real_size(fields: dict[str, Any]) -> str:
    size: str = fields.get("size", "auto")
    return "1024x1024" if size == "auto" else size


def echoed(fields: dict[str, Any]) -> dict[str, Any]:
    """What an answer tells of the choices made for `auto`."""
    background = fields.get("background", "auto")
    quality = fields.get("quality", "auto")
    return {
        "background": "opaque" if background == "auto" else background,
        "output_format": fields.get("output_format", "png"),
        "quality": "medium" if quality == "auto" else quality,
        "size": real_size(fields),
    }


def usage(fields: dict[str, Any], outputs: int, inputs: int) -> dict[str, Any]:
    words, seen, made = len(fields["prompt"].split()), inputs * 194, outputs * 439
    return {
        "input_tokens": words + seen,
        "input_tokens_details": {"text_tokens": words, "image_tokens": seen},
        "output_tokens": made,
        "output_tokens_details": {"image_tokens": made, "text_tokens": 0},
        "total_tokens": words + seen + made,
    }


def streamed(event: str, fields: dict[str, Any], outputs: tuple[bytes, ...], inputs: int) -> Reply:
    """Answer as server-sent events: the partial pictures, then one completed event for each picture."""
    shared = {"created_at": int(time.time()), **echoed(fields)}
    events: list[dict[str, Any]] = []
    for output in outputs:
        image = {"b64_json": text(output), **shared}
        events.extend(
            {"type": f"{event}.partial_image", **image, "partial_image_index": index}
            for index in range(fields.get("partial_images", 0))
        )
        events.append({"type": f"{event}.completed", **image, "usage": usage(fields, 1, inputs)})
    for word, (kind, code) in LATE_FAULTS.items():
        if word in fields["prompt"]:
            events[1:] = [{"type": "error", **error("Your request failed late.", kind=kind, code=code)}]
    return Reply(body=b"".join(_lines(events)), headers={"Content-Type": "text/event-stream"}, outputs=outputs)


def _lines(events: Iterable[dict[str, Any]]) -> Iterable[bytes]:
    for event in events:
        yield b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def text(content: bytes) -> str:
    return pybase64.b64encode(content).decode()


def main() -> None:
    parser = argument_parser(__doc__, port=9101)
    parser.add_argument("--image-bytes", type=int, help="answer a PNG of this many bytes, whatever size is asked")
    options = parser.parse_args()

    def make() -> Simulator:
        return OpenAISimulator(key=options.key, image_bytes=options.image_bytes, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "sk-any"
        return f"providers:\n  openai:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
