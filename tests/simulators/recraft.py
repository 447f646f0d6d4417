"""Recraft's image API as a strict server on loopback. `python -m tests.simulators.recraft --port 9122`.

Source: the provider sheet read from Recraft's public documents, 2026-11-23. What it leaves open (the wording of refusals) is
chosen here; routes, fields and statuses are not. A prompt with `[blocked]` is refused.
"""

import base64
import binascii
import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, stamped

PREFIX = "/v1/images/"
FILES = "/files/"
RATIOS = ["1:1", "2:1", "1:2", "3:2", "2:3", "4:3", "3:4", "5:4", "4:5", "6:10", "14:10", "10:14", "16:9", "9:16"]
SIZES = {
    "recraftv4_1": ["1024x1024", "1536x768", "768x1536", "1280x832", "832x1280", "1216x896", "896x1216", "1344x768"],
    "recraftv4_1_pro": ["2048x2048", "3072x1536", "1536x3072", "2688x1536", "1536x2688"],
    "recraftv3": ["1024x1024", "1365x1024", "1024x1365", "1536x1024", "1024x1536", "1820x1024", "1024x1820"],
}
STYLES = {"realistic_image", "digital_illustration", "vector_illustration", "icon", "logo_raster", "any"}
OUTPUT = {"response_format", "image_format", "random_seed", "expire"}
STYLED = {"style", "substyle", "style_id", "style_match", "negative_prompt", "controls", "text_layout"}
MAKING = OUTPUT | STYLED | {"prompt", "model", "n", "block_nsfw", "calculate_features"}
EXPANSION = {"expand_left", "expand_right", "expand_top", "expand_bottom", "zoom_out_percentage"}


@dataclass(frozen=True, kw_only=True)
class Route:
    fields: set[str]
    required: tuple[str, ...]
    credits: int
    single: bool = False
    """Whether the answer has `image` in the place of `data`."""


ROUTES: Mapping[str, Route] = {
    "generations": Route(fields=MAKING | {"size"}, required=("prompt",), credits=35),
    "imageToImage": Route(
        fields=MAKING | {"strength", "image_url"}, required=("prompt", "strength", "image_url"), credits=40
    ),
    "inpaint": Route(
        fields=MAKING | {"image_url", "mask_url"}, required=("prompt", "image_url", "mask_url"), credits=40
    ),
    "outpaint": Route(fields=MAKING | EXPANSION | {"image_url", "size"}, required=("prompt", "image_url"), credits=40),
    "variateImage": Route(fields=OUTPUT | {"image_url", "size", "n"}, required=("image_url", "size"), credits=40),
    "removeBackground": Route(
        fields={"image_url", "response_format"}, required=("image_url",), credits=10, single=True
    ),
}


def refusal(message: str, status: int = 400, code: str = "invalid_request") -> Refusal:
    return Refusal(json_reply({"code": code, "message": message}, status=status))


class RecraftSimulator(Simulator):
    """`key` None accepts any key, but one must be there. `balance` is what is left, in credits."""

    prefix: ClassVar[str] = "/v1"

    def __init__(
        self, *, key: str | None = None, balance: float = 1_000_000, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.balance = balance
        self.credits: Any = None
        """What is told of the cost, in the place of the truth."""
        self.masks: list[Image.Image] = []
        self._files: dict[str, bytes] = {}

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.startswith(PREFIX)

    def error_body(self, status: int) -> dict[str, Any]:
        return {"code": "simulated", "message": f"simulated failure {status}"}

    def empty_body(self) -> dict[str, Any]:
        return {"created": int(time.time()), "credits": 35, "data": []}

    def unreadable(self, message: str) -> Refusal:
        return refusal(message)

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES):
            return self._file(call)
        scheme, _, key = call.exchange.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise refusal("The token is invalid.", 401, "unauthorized")
        if call.method == "GET" and call.path == "/v1/users/me":
            return json_reply({"credits": self.balance, "email": "fox@example.com", "id": "u", "name": "fox"})
        name = call.path.removeprefix(PREFIX)
        if name not in ROUTES or not call.path.startswith(PREFIX):
            raise refusal("Not found.", 404, "not_found")
        if call.method != "POST" or call.exchange.query:
            raise refusal("Method not allowed.", 405)
        if call.content_type != "application/json":
            raise refusal("The simulator reads JSON alone.")
        return self._make(call, ROUTES[name])

    def _file(self, call: Call) -> Reply:
        content = self._files.get(call.path.removeprefix(FILES))
        if content is None or call.method != "GET" or "authorization" in call.exchange.headers:
            raise refusal("Not found.", 404)
        return Reply(body=content, headers={"Content-Type": "image/png"})

    def _make(self, call: Call, route: Route) -> Reply:
        fields = call.fields
        check_fields(fields, route)
        if "size" in fields:
            check_size(fields["size"], fields.get("model", "recraftv4_1"))
        source = opened(fields["image_url"]) if "image_url" in fields else None
        if "mask_url" in fields and source is not None:
            self.masks.append(checked_mask(opened(fields["mask_url"]), source))
        if "[blocked]" in fields.get("prompt", ""):
            raise refusal("The prompt is not allowed.", 400, "invalid_prompt")
        count = fields.get("n", 1)
        if self.balance < route.credits * count:
            raise refusal("not enough credits", 400, "not_enough_credits")
        self.balance -= route.credits * count
        outputs = tuple(self._output(call, fields, source, index) for index in range(count))
        items = [self._item(call, fields, output, index) for index, output in enumerate(outputs)]
        told = route.credits * count if self.credits is None else self.credits
        body = {"created": 1795400000, "credits": told}
        return json_reply(body | ({"image": items[0]} if route.single else {"data": items}), outputs=outputs)

    def _output(self, call: Call, fields: dict[str, Any], source: Image.Image | None, index: int) -> bytes:
        width, height = source.size if source else (96, 64)
        if found := re.fullmatch(r"(\d+)x(\d+)", fields.get("size", "")):
            width, height = int(found[1]), int(found[2])
        file_format = fields.get("image_format", "webp")
        content = picture(width, height, file_format)
        return stamped(content, f"call {call.exchange.number}, image {index}") if file_format == "png" else content

    def _item(self, call: Call, fields: dict[str, Any], content: bytes, index: int) -> dict[str, Any]:
        name = f"{call.exchange.number}-{index}.{fields.get('image_format', 'webp')}"
        item: dict[str, Any] = {"image_id": name, "revised_prompt": "a red fox, in detail"}
        if fields.get("response_format", "url") == "b64_json":
            return {**item, "b64_json": pybase64.b64encode(content).decode()}
        self._files[name] = content
        return {**item, "url": f"{self.root_url}{FILES}{name}"}


def check_fields(fields: dict[str, Any], route: Route) -> None:
    for name in fields:
        if name not in route.fields:
            raise refusal(f"unknown field {name!r}")
    for name in route.required:
        if name not in fields:
            raise refusal(f"{name} is required")
    model = fields.get("model", "recraftv4_1")
    if model not in SIZES:
        raise refusal(f"model {model!r} is not known")
    if "prompt" in fields and not 1 <= len(fields["prompt"]) <= (1000 if model == "recraftv3" else 10_000):
        raise refusal("prompt is empty or too long")
    if model != "recraftv3" and fields.keys() & {"style", "substyle", "style_id", "negative_prompt"}:
        raise refusal("this model takes no style and no negative prompt")
    check_values(fields)


def check_values(fields: dict[str, Any]) -> None:
    choices: dict[str, set[str]] = {
        "response_format": {"url", "b64_json"},
        "image_format": {"png", "webp"},
        "style": STYLES,
    }
    for name, allowed in choices.items():
        if name in fields and fields[name] not in allowed:
            raise refusal(f"{name} is not one of its values")
    for name, kinds, low, high in (
        ("n", (int,), 1, 6),
        ("random_seed", (int,), 0, 2**32 - 1),
        ("strength", (int, float), 0, 1),
    ):
        if name in fields and not (type(fields[name]) in kinds and low <= fields[name] <= high):
            raise refusal(f"{name} must be {low} to {high}")


def check_size(size: Any, model: str) -> None:
    if size not in RATIOS and size not in SIZES[model]:
        raise refusal(f"size {size!r} is not one of this model's")


def opened(link: Any) -> Image.Image:
    """Read a data URL (the simulator fetches nothing)."""
    found = re.match(r"data:image/(?:png|jpeg|webp);base64,", link) if isinstance(link, str) else None
    if found is None:
        raise refusal("the image cannot be fetched")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(link[found.end() :], validate=True)))
        image.load()
    except (binascii.Error, UnidentifiedImageError, OSError) as cause:
        raise refusal("the image cannot be read") from cause
    return image


def checked_mask(mask: Image.Image, source: Image.Image) -> Image.Image:
    if mask.mode != "L" or mask.size != source.size or not set(mask.tobytes()) <= {0, 255}:
        raise refusal("the mask must be of pure black and white, and as large as the image")
    return mask


def main() -> None:
    options = argument_parser(__doc__, port=9122).parse_args()

    def make() -> Simulator:
        return RecraftSimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  recraft:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
