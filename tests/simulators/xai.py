"""xAI's image endpoints as a strict server on loopback. `python -m tests.simulators.xai --port 9109`.

Source: the provider sheet read from xAI's public documents and the reports of its clients, 2026-11-23. What the sheet
leaves open (the wording of refusals, the size of the answer) is chosen here; statuses, shapes and fields are not.
A prompt may ask for trouble: `[blocked]` is refused, `[withheld]` and `[half]` come back moderated, `[empty]` empty.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes

FILES = "/files/"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
RATIOS = ["1:1", "3:4", "4:3", "9:16", "16:9", "2:3", "3:2", "9:19.5", "19.5:9", "9:20", "20:9", "1:2", "2:1", "auto"]
NEWER_RATIOS = ["21:9", "5:2"]
NEWEST = "grok-imagine-image-2.0"
OLDER = ("grok-imagine-image", "grok-imagine-image-2026-03-02")
RETIRED = (
    "grok-imagine-image-quality",
    "grok-imagine-image-quality-latest",
    "grok-imagine-image-quality-20260403",
    "grok-imagine-image-pro",
)
SHARED_FIELDS: Mapping[str, type] = {
    "prompt": str,
    "model": str,
    "n": int,
    "aspect_ratio": str,
    "resolution": str,
    "quality": str,
    "response_format": str,
    "user": str,
    "storage_options": dict,
}
EDIT_FIELDS: Mapping[str, type] = {**SHARED_FIELDS, "image": dict, "images": list}
MICRO = 10_000  # ticks


def refusal(message: str, status: int = 400, *, code: str = "Client specified an invalid argument") -> Refusal:
    return Refusal(json_reply({"code": code, "error": message}, status=status))


class XAISimulator(Simulator):
    """`key` None accepts any key, but one must be there; `image_bytes` makes every picture that many bytes large."""

    prefix: ClassVar[str] = "/v1"

    def __init__(
        self, *, key: str | None = None, image_bytes: int | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._image_bytes = image_bytes
        self._files: dict[str, bytes] = {}
        self._routes: dict[str, tuple[str, Callable[[Call], Reply]]] = {
            GENERATIONS: ("POST", self._generate),
            EDITS: ("POST", self._edit),
            "/v1/image-generation-models": ("GET", self._models),
        }

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path in {GENERATIONS, EDITS}

    def error_body(self, status: int) -> dict[str, Any]:
        return {"error": f"Simulated failure {status}."}

    def empty_body(self) -> dict[str, Any]:
        return {"data": [], "usage": {"cost_in_usd_ticks": 40_000 * MICRO}}

    def unreadable(self, message: str) -> Refusal:
        return refusal(f"Failed to parse the request body: {message}.", 422)

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES):
            return self._file(call)
        self._authorize(call.exchange.headers.get("authorization", ""))
        method, route = self._routes.get(call.path, ("", None))
        if route is None:
            raise refusal("The requested resource was not found.", 404, code="Some requested entity was not found")
        if call.method != method:
            raise refusal("Method not allowed.", 405)
        if call.exchange.query:
            raise refusal("Unknown query parameter.", 422)
        return route(call)

    def _authorize(self, header: str) -> None:
        """A key that is missing is answered in another way than one that is wrong."""
        scheme, _, key = header.partition(" ")
        if scheme != "Bearer" or not key:
            raise refusal("No authentication provided.", 401, code="Unauthenticated")
        if self._key is not None and key != self._key:
            message = (
                f"Incorrect API key provided: {key[:2]}***{key[-2:]}. You can obtain one from https://console.x.ai."
            )
            raise refusal(message)

    def _file(self, call: Call) -> Reply:
        content = self._files.get(call.path.removeprefix(FILES))
        if content is None or call.method != "GET" or "authorization" in call.exchange.headers:
            raise refusal("Not found.", 404)
        return Reply(body=content, headers={"Content-Type": "image/jpeg"})

    def _models(self, _call: Call) -> Reply:
        models = [{"id": NEWEST, "aliases": []}, {"id": OLDER[0], "aliases": [OLDER[1]]}]
        shared = {"input_modalities": ["text", "image"], "output_modalities": ["image"], "max_prompt_length": 1024}
        return json_reply({"models": [{**model, **shared} for model in models]})

    def _generate(self, call: Call) -> Reply:
        check_fields(call, SHARED_FIELDS)
        return self._pictures(call, inputs=0)

    def _edit(self, call: Call) -> Reply:
        check_fields(call, EDIT_FIELDS)
        sources = call.fields.get("images", [call.fields.get("image")])
        if ("image" in call.fields) == ("images" in call.fields):
            raise refusal("Give exactly one of image and images.")
        if not 1 <= len(sources) <= (3 if call.fields["model"] in OLDER else 5):
            raise refusal("Too many images, or none.")
        for source in sources:
            check_source(source)
        return self._pictures(call, inputs=len(sources))

    def _pictures(self, call: Call, *, inputs: int) -> Reply:
        fields = call.fields
        prompt: str = fields["prompt"]
        if "[blocked]" in prompt:
            raise Refusal(json_reply({"error": {"message": "Content violates moderation.", "code": "400"}}, status=400))
        count = 0 if "[empty]" in prompt else fields.get("n", 1)
        held_back = count if "[withheld]" in prompt else count // 2 if "[half]" in prompt else 0
        outputs = tuple(self._output(call, number) for number in range(count))
        data = [
            self._item(fields.get("response_format", "url"), f"{call.exchange.number}-{number}.jpg", content)
            | {"respect_moderation": number >= held_back}
            for number, content in enumerate(outputs)
        ]
        model = fields["model"] if fields["model"] in OLDER else NEWEST
        ticks = price_micros(fields, inputs) * (fields.get("n", 1)) * MICRO
        return json_reply(
            {"data": data, "model": model, "usage": {"cost_in_usd_ticks": ticks}}, outputs=outputs[held_back:]
        )

    def _output(self, call: Call, number: int) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        side = 128 if call.fields.get("resolution") == "2k" else 64
        return commented(picture(side, side, "jpeg"), f"call {call.exchange.number}, image {number}")

    def _item(self, form: str, name: str, content: bytes) -> dict[str, Any]:
        shared = {"mime_type": "image/jpeg", "revised_prompt": ""}
        if form == "b64_json":
            return {"b64_json": pybase64.b64encode(content).decode(), **shared}
        self._files[name] = content
        return {"url": f"{self.root_url}{FILES}{name}", **shared}


def commented(jpeg: bytes, text: str) -> bytes:
    """Put a comment into a JPEG, so that no two answers are the same bytes."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text.encode() + jpeg[2:]


def check_fields(call: Call, known: Mapping[str, type]) -> None:
    if call.content_type != "application/json":
        raise refusal("Expected request with `Content-Type: application/json`.", 415)
    for name, value in call.fields.items():
        if name in {"size", "style"}:
            raise refusal(f"Argument not supported: {name}")
        if name not in known:
            raise refusal(f"Failed to deserialize the JSON body: unknown field `{name}`.", 422)
        if type(value) is not known[name]:
            raise refusal(f"Failed to deserialize the JSON body: {name}: invalid type.", 422)
    check_values(call.fields)


def check_values(fields: Mapping[str, Any]) -> None:
    if not fields.get("prompt"):
        raise refusal("prompt is missing.")
    model = fields.get("model")
    if model != NEWEST and model not in OLDER and model not in RETIRED:
        message = f"The model {model} does not exist or your team does not have access to it."
        raise refusal(message, 404, code="Some requested entity was not found")
    newest = model == NEWEST
    if not 1 <= fields.get("n", 1) <= 10:
        raise refusal("n must be between 1 and 10.")
    choices: dict[str, list[str]] = {
        "aspect_ratio": RATIOS + (NEWER_RATIOS if newest else []),
        "resolution": ["1k", "2k"],
        "quality": ["low", "medium", "auto"] if newest else [],
        "response_format": ["url", "b64_json"],
    }
    for name, allowed in choices.items():
        if name in fields and fields[name] not in allowed:
            raise refusal(f"Invalid {name}: {fields[name]}.")


def check_source(source: Any) -> None:
    if type(source) is not dict or source.keys() not in ({"url", "type"}, {"file_id"}):
        raise refusal("A source has a url and a type, or a file_id.", 422)
    match = re.match(r"data:image/(png|jpeg|webp);base64,", source.get("url", ""))
    if match is None or source.get("type") != "image_url":
        raise refusal("Failed to fetch the image (the simulator knows data URLs alone).")
    try:
        content = base64.b64decode(source["url"][match.end() :], validate=True)
        Image.open(io.BytesIO(content), formats=[match[1].upper()]).load()
    except (binascii.Error, UnidentifiedImageError, OSError) as cause:
        raise refusal("The image cannot be read.") from cause


def price_micros(fields: Mapping[str, Any], inputs: int) -> int:
    """What one picture costs."""
    if fields["model"] in OLDER:
        return 20_000 + 2_000 * inputs
    usual = "medium" if inputs else "low"
    quality = "low" if fields["model"] in RETIRED else fields.get("quality", usual)
    medium = (usual if quality == "auto" else quality) == "medium"
    return (60_000 if medium else 40_000) + 10_000 * inputs


def main() -> None:
    options = argument_parser(__doc__, port=9109).parse_args()

    def make() -> Simulator:
        return XAISimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "xai-any"
        return f"providers:\n  xai:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
