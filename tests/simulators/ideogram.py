"""Ideogram's API v2 as a strict server on loopback. `python -m tests.simulators.ideogram --port 9121`.

Source: the provider sheet read from Ideogram's public documents and the requests of its clients, 2026-11-23. What they
leave open (the wording of refusals, the size of an answer to `auto`) is chosen here; routes, fields and statuses are not.
A prompt may ask for trouble: `[blocked]` is refused, `[unsafe]` and `[half]` complete without (all) pictures.
"""

import io
import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, stamped

FILES = "/api/images/ephemeral/"
PATH = re.compile(r"/v2/image/(generate|precise-edit|remix|inpaint)/([a-z0-9-]+)")
SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}")
LARGEST_SEED = 2_147_483_647
COMMON = {"prompt", "num_images", "seed", "async", "webhook_url", "magic_prompt"}
V45 = COMMON | {"quality", "size", "enable_copyright_detection"}
V4 = COMMON | {"resolution", "rendering_speed"}
V3 = V4 | {"negative_prompt", "style_type", "aspect_ratio"}
ROUTES: dict[tuple[str, str], set[str]] = {
    ("generate", "ideogram-4-6"): V45,
    ("generate", "ideogram-4-5"): V45,
    ("generate", "gpt-image-2"): COMMON | {"quality", "size"},
    ("generate", "ideogram-4"): V4,
    ("generate", "ideogram-4-transparent"): V4,
    ("generate", "ideogram-3"): V3,
    ("generate", "ideogram-3-transparent"): V3,
    ("generate", "p-image-ideogram"): COMMON | {"resolution", "aspect_ratio", "custom_width", "custom_height"},
    ("precise-edit", "ideogram-4-5"): COMMON - {"magic_prompt"} | {"quality"},
    ("remix", "ideogram-4"): V4 - {"magic_prompt"} | {"image_weight"},
    ("remix", "ideogram-3"): V3 | {"image_weight"},
    ("inpaint", "ideogram-3"): V3 - {"resolution", "aspect_ratio"},
}
WITH_SOURCES = {"ideogram-4-5", "ideogram-4-6", "gpt-image-2"}
MASKED = {("generate", "ideogram-4-5"), ("generate", "ideogram-4-6"), ("precise-edit", "ideogram-4-5")}
MASKED |= {("inpaint", "ideogram-3"), ("generate", "gpt-image-2")}

CHOICES: dict[str, set[Any]] = {
    "quality": {"very_low", "low", "medium", "high"},
    "rendering_speed": {"turbo", "default", "quality"},
    "style_type": {"auto", "general", "realistic", "design", "fiction"},
    "magic_prompt": {"auto", "on", "off"},
    "async": {True, False},
}


def refusal(message: str, status: int = 400, reason: str | None = None) -> Refusal:
    return Refusal(json_reply({"error": message, "reject_reason": reason}, status=status))


@dataclass(kw_only=True)
class Generation:
    """`words` are answered one after the other; the last one stays."""

    number: int
    action: str
    model: str
    fields: dict[str, Any]
    words: list[str]
    polls: int = 0
    pictures: int = 0
    mask: Image.Image | None = None
    outputs: list[bytes] = field(default_factory=list)


class IdeogramSimulator(Simulator):
    """`key` None accepts any key, but one must be there. `words` is what polls of new generations are answered."""

    def __init__(
        self,
        *,
        key: str | None = None,
        words: tuple[str, ...] = ("pending", "completed"),
        failure_reason: str | None = None,
        cost_micros: Any = 60_000,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.words = words
        self.failure_reason = failure_reason
        self.cost_micros = cost_micros
        self.generations: dict[str, Generation] = {}
        self._numbers_of_generations = itertools.count(1)

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.startswith("/v2/image/")

    def error_body(self, status: int) -> dict[str, Any]:
        return {"error": f"simulated failure {status}", "reject_reason": None}

    def unreadable(self, message: str) -> Refusal:
        return refusal(message)

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES):
            return self._file(call)
        headers = call.exchange.headers
        shown = headers.get("api-key")
        if not shown or (self._key is not None and shown != self._key) or "authorization" in headers:
            raise refusal("Invalid API key.", 401)
        if call.method == "GET" and call.path.startswith("/v2/generations/"):
            return self._poll(call)
        found = PATH.fullmatch(call.path)
        if found is None or (found[1], found[2]) not in ROUTES:
            raise refusal("Not found.", 404)
        if call.method != "POST" or call.exchange.query:
            raise refusal("Method not allowed.", 405)
        return self._start(call, found[1], found[2])

    def _start(self, call: Call, action: str, model: str) -> Reply:
        fields = typed(call)
        check_fields(fields, ROUTES[action, model])
        generation = Generation(
            number=next(self._numbers_of_generations), action=action, model=model, fields=fields, words=list(self.words)
        )
        check_files(call, generation)
        check_together(generation)
        if "[blocked]" in fields["prompt"]:
            raise refusal("The prompt is unsafe.", 422, "prompt_unsafe")
        name = f"gen{generation.number:019d}"
        self.generations[name] = generation
        said: dict[str, Any] = {"generation_id": name, "generation_kind": "sampling", "seed": fields.get("seed", 12345)}
        if not fields.get("async"):
            generation.words = ["completed"]
            said |= self._said(name, generation)
        return json_reply(said)

    def _poll(self, call: Call) -> Reply:
        name = call.path.removeprefix("/v2/generations/")
        generation = self.generations.get(name)
        if generation is None or call.exchange.query:
            raise refusal("Generation not found.", 404)
        return json_reply(self._said(name, generation))

    def _said(self, name: str, generation: Generation) -> dict[str, Any]:
        word = generation.words[min(generation.polls, len(generation.words) - 1)]
        generation.polls += 1
        said: dict[str, Any] = {
            "generation_id": name,
            "status": word,
            "created": "2026-11-23T06:00:00Z",
            "response_type": "url",
        }
        if word == "failed":
            said["failure_reason"] = self.failure_reason
        if word != "completed":
            return said
        return {**said, "usage_cost_usd_micros": self.cost_micros, "data": self._items(name, generation)}

    def _items(self, name: str, generation: Generation) -> list[dict[str, Any]]:
        fields = generation.fields
        prompt, items = fields["prompt"], []
        asked = fields.get("size", fields.get("resolution", "96x64"))
        size = asked if SIZE.fullmatch(asked) else "96x64"
        size = f"{fields['custom_width']}x{fields['custom_height']}" if "custom_width" in fields else size
        for index in range(fields.get("num_images", 1)):
            unsafe = "[unsafe]" in prompt or ("[half]" in prompt and index % 2)
            item: dict[str, Any] = {
                "object_type": "image",
                "prompt": f"{prompt}, at dusk",
                "resolution": size,
                "seed": 1,
            }
            if not unsafe:
                width, height = (int(side) for side in size.split("x"))
                generation.outputs.append(stamped(picture(width, height, "png"), f"{name}, image {index}"))
                item["url"] = f"{self.root_url}{FILES}{name}-{len(generation.outputs) - 1}.png"
            items.append({**item, "is_image_safe": not unsafe})
        return items

    def _file(self, call: Call) -> Reply:
        name, _, index = call.path.removeprefix(FILES).removesuffix(".png").rpartition("-")
        generation = self.generations.get(name)
        if generation is None or call.method != "GET" or "api-key" in call.exchange.headers:
            raise refusal("Not found.", 404)
        content = generation.outputs[int(index)]
        return Reply(body=content, headers={"Content-Type": "image/png"}, outputs=(content,))


def typed(call: Call) -> dict[str, Any]:
    """Read the numbers and booleans of a form; what is neither stays text, to be refused."""
    if call.content_type == "application/json":
        return call.fields
    if call.content_type != "multipart/form-data":
        raise refusal("The body must be JSON, or a form where files are sent.")
    fields: dict[str, Any] = {}
    for name, value in call.fields.items():
        number = isinstance(value, str) and re.fullmatch(r"\d{1,10}", value)
        fields[name] = int(value) if number else {"true": True, "false": False}.get(value, value)
    return fields


def check_fields(fields: dict[str, Any], known: set[str]) -> None:
    for name in fields:
        if name not in known:
            raise refusal(f"Unknown field {name!r}.")
    prompt = fields.get("prompt")
    if type(prompt) is not str or not 1 <= len(prompt) <= 10_000:
        raise refusal("prompt must have 1 to 10000 characters.")
    for name, low, high in (("num_images", 1, 8), ("seed", 0, LARGEST_SEED), ("image_weight", 1, 100)):
        if name in fields and not (type(fields[name]) is int and low <= fields[name] <= high):
            raise refusal(f"{name} must be {low} to {high}.")
    for name, allowed in CHOICES.items():
        if name in fields and fields[name] not in allowed:
            raise refusal(f"{name} is not one of its values.")
    check_sizes(fields)


def check_sizes(fields: dict[str, Any]) -> None:
    if "aspect_ratio" in fields and not re.fullmatch(r"\d{1,2}x\d{1,2}", fields["aspect_ratio"]):
        raise refusal("aspect_ratio must be like 16x9.")
    if "resolution" in fields and not SIZE.fullmatch(fields["resolution"]):
        raise refusal("resolution is not one of its values.")
    if "custom_width" in fields and (fields["custom_width"] % 16 or fields.get("custom_height", 1) % 16):
        raise refusal("custom sides must be multiples of 16.")


def check_files(call: Call, generation: Generation) -> None:
    allowed = {
        "generate": {"images"} if generation.model in WITH_SOURCES else set(),
        "precise-edit": {"image", "reference_images"},
        "remix": {"image"},
        "inpaint": {"image"},
    }[generation.action]
    first: Image.Image | None = None
    for part, content in zip(call.exchange.files, call.contents, strict=True):
        image = opened(content)
        if part.name == "mask" and (generation.action, generation.model) in MASKED:
            generation.mask = image
        elif part.name in allowed:
            first, generation.pictures = first or image, generation.pictures + 1
        else:
            raise refusal(f"Unknown file {part.name!r}.")
    names = [part.name for part in call.exchange.files]
    if generation.action != "generate" and names.count("image") != 1:
        raise refusal("image is required.")
    if generation.action == "inpaint" and generation.mask is None:
        raise refusal("mask is required.")
    if generation.pictures > 5:
        raise refusal("At most 5 images.")
    mask = generation.mask
    if mask is not None and (
        first is None or mask.size != first.size or mask.mode != "L" or len(set(mask.tobytes())) < 2
    ):
        raise refusal("The mask must be black and white, and as large as the image.")


def check_together(generation: Generation) -> None:
    fields, sources = generation.fields, generation.pictures
    size = fields.get("size")
    if fields.get("quality") == "very_low" and not sources:
        raise refusal("quality very_low needs source images.")
    if size is None or size == "auto":
        return
    if generation.mask is not None:
        raise refusal("size is not allowed with a mask.")
    if not (SIZE.fullmatch(size) or (size == "source" and sources)):
        raise refusal("size is not one of its values.")


def opened(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "WEBP"])
        image.load()
    except (UnidentifiedImageError, OSError) as cause:
        raise refusal("The image cannot be read.") from cause
    return image


def main() -> None:
    options = argument_parser(__doc__, port=9121).parse_args()

    def make() -> Simulator:
        return IdeogramSimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  ideogram:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
