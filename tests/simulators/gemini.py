"""Google's Gemini API as a strict server on loopback. `python -m tests.simulators.gemini --port 9103`.

Source: the provider sheet read from Google's public documents (generateContent, image generation, errors),
2026-11-23. What the sheet leaves open (the wording of some refusals) is chosen here; statuses and shapes are not.

Words in a prompt steer the answer: `[blocked]` and `[blocked:OTHER]` block the prompt, `[finish:NO_IMAGE]` (or any
other reason) ends without a picture, `[words]` answers in words alone, `[sketch]` thinks in pictures first.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped

TEN = {"1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"}
FOURTEEN = TEN | {"1:4", "4:1", "1:8", "8:1"}
SIDES = {
    "1:1": (1024, 1024),
    "1:4": (512, 2048),
    "1:8": (384, 3072),
    "2:3": (848, 1264),
    "3:4": (896, 1200),
    "4:5": (928, 1152),
    "9:16": (768, 1376),
    "21:9": (1584, 672),
}
SCALES = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}
INPUT_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
MODALITIES = ("TEXT", "IMAGE")
THRESHOLDS = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")
HARMS = ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """`tiers` empty: it takes no imageSize at all."""

    ratios: frozenset[str]
    tiers: tuple[str, ...]
    most_images: int | None = None


MODELS: Mapping[str, Model] = {
    "gemini-nano-banana-2.1": Model(ratios=frozenset(FOURTEEN), tiers=("1K", "2K", "4K"), most_images=14),
    "gemini-3.1-flash-lite-image": Model(ratios=frozenset(TEN), tiers=("1K",)),
    "gemini-3.1-flash-image": Model(ratios=frozenset(FOURTEEN), tiers=("512", "1K", "2K", "4K")),
    "gemini-3-pro-image": Model(ratios=frozenset(TEN), tiers=("1K", "2K", "4K")),
    "gemini-2.5-flash-image": Model(ratios=frozenset(TEN), tiers=(), most_images=3),
}


def error(message: str, *, status: int = 400, word: str | None = None, details: list[Any] | None = None) -> Any:
    said = {"code": status, "message": message, "status": word or STATUSES.get(status, "UNKNOWN")}
    return {"error": said | ({"details": details} if details else {})}


def refusal(message: str, *, status: int = 400, word: str | None = None, details: list[Any] | None = None) -> Refusal:
    return Refusal(json_reply(error(message, status=status, word=word, details=details), status=status))


def error_info(reason: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}


def bad_field(field: str, description: str) -> Refusal:
    violation = {"field": field, "description": description}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return refusal(f"Invalid value at '{field}': {description}", details=details)


def quota_error(*, quota_id: str, delay: str | None = None, value: str | None = None) -> dict[str, Any]:
    """The body of a 429: which quota, and how long to wait."""
    violation = {"quotaMetric": "generativelanguage.googleapis.com/generate_requests", "quotaId": quota_id}
    violation |= {"quotaValue": value} if value is not None else {}
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}
    ]
    if delay is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    body: dict[str, Any] = error("You exceeded your current quota.", status=429, details=details)
    return body


# What a body may hold: a type, a check of a value, or the members of an object


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one member may hold."""

    kind: type | tuple[type, ...]
    choices: tuple[str, ...] = ()
    members: Mapping[str, "Rule"] | None = None
    items: "Rule | None" = None
    smallest: float | None = None
    largest: float | None = None
    required: bool = False


TEXT = Rule(kind=str)
FLAG = Rule(kind=bool)
NUMBER = Rule(kind=(int, float))
INT32 = Rule(kind=int, smallest=-(2**31), largest=2**31 - 1)


def struct(members: Mapping[str, Rule], *, required: bool = False) -> Rule:
    return Rule(kind=dict, members=members, required=required)


def items(rule: Rule, *, required: bool = False) -> Rule:
    return Rule(kind=list, items=rule, required=required)


NEEDED_TEXT = Rule(kind=str, required=True)
PART = {
    "text": TEXT,
    "inlineData": struct({"mimeType": NEEDED_TEXT, "data": NEEDED_TEXT}),
    "fileData": struct({"mimeType": TEXT, "fileUri": NEEDED_TEXT}),
}
CONTENT = {"role": Rule(kind=str, choices=("user", "model")), "parts": items(struct(PART), required=True)}
IMAGE_CONFIG = {"aspectRatio": TEXT, "imageSize": TEXT}
GENERATION_CONFIG = {
    "responseModalities": items(Rule(kind=str, choices=MODALITIES), required=True),
    "seed": INT32,
    "candidateCount": Rule(kind=int, smallest=1, largest=1),
    "thinkingConfig": struct({"thinkingLevel": TEXT, "includeThoughts": FLAG}),
    "temperature": NUMBER,
    "topP": NUMBER,
}
SAFETY = {"threshold": Rule(kind=str, choices=THRESHOLDS, required=True)}


def harms(*names: str) -> Rule:
    return Rule(kind=str, choices=tuple(f"HARM_CATEGORY_{name}" for name in names), required=True)


BODY = {
    "contents": items(struct(CONTENT), required=True),
    "systemInstruction": struct(CONTENT),
    "generationConfig": struct({**GENERATION_CONFIG, "imageConfig": struct(IMAGE_CONFIG)}, required=True),
    "safetySettings": items(struct({**SAFETY, "category": harms(*HARMS)})),
    "tools": items(struct({"googleSearch": struct({})})),
    "serviceTier": Rule(kind=str, choices=("standard", "flex", "priority")),
    "store": FLAG,
}


def camel_case(value: Any) -> Any:
    """Spell names as the API does; it takes those of its protocol buffers (`mime_type`) as well."""
    if isinstance(value, list):
        return [camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub(r"_([a-z])", lambda match: match[1].upper(), name): camel_case(item) for name, item in value.items()}


def check(value: Any, rule: Rule, place: str) -> None:
    """Refuse what the API does not know or takes in another type."""
    kinds = rule.kind if isinstance(rule.kind, tuple) else (rule.kind,)
    if type(value) not in kinds:
        raise bad_field(place, f"expected {' or '.join(kind.__name__ for kind in kinds)}")
    if rule.choices and value not in rule.choices:
        raise bad_field(place, f"unknown value {value!r}")
    if (rule.smallest is not None and value < rule.smallest) or (rule.largest is not None and value > rule.largest):
        raise bad_field(place, f"{value} is out of range")
    if rule.members is not None:
        check_members(value, rule.members, place)
    if rule.items is not None:
        for index, item in enumerate(value):
            check(item, rule.items, f"{place}[{index}]")


def check_members(value: Mapping[str, Any], members: Mapping[str, Rule], place: str) -> None:
    for name in value:
        if name not in members:
            where = f" at '{place}'" if place else ""
            raise refusal(f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.')
    for name, rule in members.items():
        if name in value:
            check(value[name], rule, f"{place}.{name}".lstrip("."))
        elif rule.required:
            raise bad_field(f"{place}.{name}".lstrip("."), "is required")


class GeminiSimulator(Simulator):
    """`key` None takes any. `image_bytes` answers a PNG of that length, whatever is asked."""

    body_rules: Mapping[str, Rule] = BODY
    default_format = "jpeg"

    def __init__(
        self,
        *,
        key: str | None = None,
        models: Mapping[str, Model] = MODELS,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._known_models = models
        self._image_bytes = image_bytes

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.endswith((":generateContent", ":predict"))

    def error_body(self, status: int) -> dict[str, Any]:
        body: dict[str, Any] = error(f"Simulated failure {status}.", status=status)
        return body

    def unreadable(self, message: str) -> Refusal:
        return refusal(f"Invalid JSON payload received. {message}")

    async def answer(self, call: Call) -> Reply:
        self.authorise(call)
        found = self.route(call.path)
        if found is None:
            raise Refusal(Reply(status=404, body=b"<html><title>Error 404 (Not Found)!!1</title></html>"))
        name, method = found
        if method == "" and call.method == "GET":
            return json_reply({"name": f"models/{name}", "supportedGenerationMethods": ["generateContent"]})
        if name not in self._known_models or method != "generateContent" or call.method != "POST":
            raise refusal(f"models/{name} is not found, or is not supported for {method}.", status=404)
        return self.generate(call, name)

    def route(self, path: str) -> tuple[str, str] | None:
        """Model and method of a path."""
        match = re.fullmatch(r"/(?:v1beta|v1)/models/([\w.-]+)(?::(\w+))?", path)
        return (match[1], match[2] or "") if match else None

    def authorise(self, call: Call) -> None:
        if call.exchange.query:
            raise refusal("Invalid JSON payload received. Unknown query parameters.")
        key = call.exchange.headers.get("x-goog-api-key")
        if key is None or "authorization" in call.exchange.headers:
            raise refusal("Method doesn't allow unregistered callers.", status=403)
        if self._key not in {None, key}:
            message = "API key not valid. Please pass a valid API key."
            raise refusal(message, details=[error_info("API_KEY_INVALID")])

    def generate(self, call: Call, name: str) -> Reply:
        if call.content_type != "application/json":
            raise refusal("Invalid JSON payload received.")
        model = self._known_models[name]
        call = replace(
            call, exchange=replace(call.exchange, fields=camel_case(call.fields))
        )  # the record stays as sent
        check_members(call.fields, self.body_rules, "")
        inputs = check_parts(call.fields, model)
        config = call.fields["generationConfig"]
        check_image_config(config.get("imageConfig", {}), model)
        said = self._scripted(call, name)
        return said or self._drawn(call, name, inputs)

    def _scripted(self, call: Call, name: str) -> Reply | None:
        prompt = " ".join(part.get("text", "") for part in all_parts(call.fields))
        if match := re.search(r"\[blocked(?::(\w+))?\]", prompt):
            feedback = {"blockReason": match[1] or "PROHIBITED_CONTENT"}
            return json_reply({"promptFeedback": feedback, **self._frame(call, name, 0, 0)})
        if match := re.search(r"\[finish:(\w+)\]", prompt):
            candidate = {"index": 0, "finishReason": match[1], "finishMessage": "Unable to show the picture."}
            return json_reply({"candidates": [candidate], **self._frame(call, name, 0, 0)})
        if "[words]" in prompt:
            content = {"role": "model", "parts": [{"text": "Which fox do you mean?"}]}
            candidate = {"index": 0, "content": content, "finishReason": "STOP"}
            return json_reply({"candidates": [candidate], **self._frame(call, name, 0, 0)})
        return None

    def _drawn(self, call: Call, name: str, inputs: list[Image.Image]) -> Reply:
        config = call.fields["generationConfig"].get("imageConfig", {})
        output, mime_type = self._picture(call, config, inputs)
        parts: list[dict[str, Any]] = [{"text": "Here it is."}]
        if any("[sketch]" in part.get("text", "") for part in all_parts(call.fields)):
            sketch = {"mimeType": "image/png", "data": text(picture(64, 64, "png"))}
            parts = [{"text": "Let me think.", "thought": True}, {"inlineData": sketch, "thought": True}]
        parts.append({"inlineData": {"mimeType": mime_type, "data": text(output)}, "thoughtSignature": "c2ln" * 2000})
        candidate = {
            "index": 0,
            "content": {"role": "model", "parts": parts},
            "finishReason": "STOP",
            "safetyRatings": [],
        }
        body = {"candidates": [candidate], **self._frame(call, name, 1120, len(inputs))}
        return json_reply(body, outputs=(output,))

    def _picture(self, call: Call, config: dict[str, Any], inputs: list[Image.Image]) -> tuple[bytes, str]:
        if self._image_bytes is not None:
            return stamped(picture_of_bytes(self._image_bytes), f"call {call.exchange.number}"), "image/png"
        width, height = sides(config, inputs)
        file_format = self.output_format(config)
        mark = commented if file_format == "jpeg" else stamped
        return mark(picture(width, height, file_format), f"call {call.exchange.number}"), f"image/{file_format}"

    def output_format(self, config: Mapping[str, Any]) -> str:
        """The API chooses the kind of file itself."""
        del config
        return self.default_format

    def _frame(self, call: Call, name: str, made: int, inputs: int) -> dict[str, Any]:
        words = sum(len(part.get("text", "").split()) for part in all_parts(call.fields))
        seen = 258 * inputs
        prompt = [{"modality": "TEXT", "tokenCount": words}]
        prompt += [{"modality": "IMAGE", "tokenCount": seen}] if inputs else []
        usage: dict[str, Any] = {
            "promptTokenCount": words + seen,
            "candidatesTokenCount": made,
            "thoughtsTokenCount": 7,
            "totalTokenCount": words + seen + made + 7,
            "promptTokensDetails": prompt,
        }
        if made:
            usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": made}]
        return {"usageMetadata": usage, "modelVersion": name, "responseId": f"resp-{call.exchange.number}"}


def all_parts(fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for content in fields["contents"]:
        yield from content["parts"]


def check_parts(fields: Mapping[str, Any], model: Model) -> list[Image.Image]:
    """Check the parts of all contents; give the pictures among them."""
    pictures = []
    for part in all_parts(fields):
        if len(part) != 1:
            raise refusal("A part must hold exactly one of text, inlineData and fileData.")
        if "fileData" in part:
            raise refusal("No such file (the simulator keeps none).", status=403)
        if "inlineData" in part:
            pictures.append(opened(part["inlineData"]))
    if not any(part.get("text") for part in all_parts(fields)):
        raise refusal("The request holds no text.")
    if model.most_images is not None and len(pictures) > model.most_images:
        raise refusal(f"At most {model.most_images} images can be given.")
    return pictures


def opened(inline: Mapping[str, str]) -> Image.Image:
    try:
        content = base64.b64decode(inline["data"], validate=True)
    except binascii.Error as cause:
        raise bad_field("contents.parts.inlineData.data", "Base64 decoding failed") from cause
    try:
        image = Image.open(io.BytesIO(content), formats=list(INPUT_FORMATS))
        image.load()
    except (UnidentifiedImageError, OSError) as cause:
        raise refusal("Unable to process input image.") from cause
    if inline["mimeType"] != INPUT_FORMATS[image.format or ""]:
        raise refusal(f"Unsupported MIME type: {inline['mimeType']}")
    return image


def check_image_config(config: Mapping[str, Any], model: Model) -> None:
    ratio, tier = config.get("aspectRatio"), config.get("imageSize")
    if ratio is not None and ratio not in model.ratios:
        raise bad_field("generation_config.image_config.aspect_ratio", f"unsupported aspect ratio {ratio}")
    if tier is not None and tier not in model.tiers:
        raise bad_field("generation_config.image_config.image_size", f"unsupported image size {tier}")


def sides(config: Mapping[str, Any], inputs: list[Image.Image]) -> tuple[int, int]:
    """Pixels of the picture; without a ratio, that of the last picture given."""
    ratio = config.get("aspectRatio")
    if ratio is None and inputs:
        width, height = inputs[-1].size
        ratio = min(map_of_sides(), key=lambda name: abs(_shape(name) - width / height))
    width, height = map_of_sides()[ratio or "1:1"]
    scale = SCALES[config.get("imageSize", "1K")]
    return int(width * scale), int(height * scale)


def _shape(ratio: str) -> float:
    width, height = map_of_sides()[ratio]
    return width / height


def map_of_sides() -> dict[str, tuple[int, int]]:
    turned = {":".join(reversed(ratio.split(":"))): (height, width) for ratio, (width, height) in SIDES.items()}
    return {**turned, **SIDES}


def commented(jpeg: bytes, comment: str) -> bytes:
    """Put a text into a JPEG, so that no two answers are the same bytes."""
    content = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(content) + 2).to_bytes(2) + content + jpeg[2:]


def text(content: bytes) -> str:
    return pybase64.b64encode(content).decode()


def start_by_hand(
    description: str | None, port: int, make: Callable[..., Simulator], settings: Callable[[str, str], str]
) -> None:
    """Run a simulator of this family from the command line."""
    parser = argument_parser(description, port=port)
    parser.add_argument("--image-bytes", type=int, help="answer a PNG of this many bytes, whatever size is asked")
    options = parser.parse_args()
    named = {"key": options.key, "image_bytes": options.image_bytes, "host": options.host, "port": options.port}
    run_by_hand(lambda: make(**named), lambda base_url: settings(base_url, options.key or "any-key"))


def main() -> None:
    start_by_hand(
        __doc__,
        9103,
        GeminiSimulator,
        lambda url, key: f"providers:\n  gemini:\n    base_url: {url}\n    keys: [{{name: simulated, value: {key}}}]\n",
    )


if __name__ == "__main__":
    main()
