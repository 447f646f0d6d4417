"""Near-OpenAI image servers as one strict server on loopback. `python -m tests.simulators.profiles together --port 9120`.

Source: the provider sheet read from the documentation and the source code of each, 2026-11-23. Stricter than most of
them: a field that the real server would ignore is refused. What the sheet leaves open (the wording of refusals) is
chosen here; routes, fields, statuses and shapes are not.
"""

import base64
import binascii
import io
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pybase64
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, stamped

FILES = "/generated-images/"
RATIOS = [
    "1:1",
    "1:2",
    "1:4",
    "1:8",
    "2:1",
    "2:3",
    "3:2",
    "3:4",
    "4:1",
    "4:3",
    "4:5",
    "5:4",
    "8:1",
    "9:16",
    "16:9",
    "9:19.5",
    "19.5:9",
    "9:20",
    "20:9",
    "9:21",
    "21:9",
    "auto",
]
TAG = re.compile(r"<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>")
SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")


@dataclass(frozen=True, kw_only=True)
class Field:
    """What one field may hold."""

    kind: type | tuple[type, ...] = str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    pattern: re.Pattern[str] | None = None
    required: bool = False


TEXT, NEEDED, INT, NUMBER = Field(), Field(required=True), Field(kind=int), Field(kind=(int, float))
TEN = Field(kind=int, low=1, high=10)
PIXELS = Field(pattern=SIZE)
PERCENT = Field(kind=int, low=0, high=100)
STEPS = Field(kind=int, low=1, high=200)
LIST = Field(kind=list)


def one_of(*choices: str) -> Field:
    return Field(choices=choices)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One route. Without `files` it takes JSON, else a form with those parts."""

    fields: Mapping[str, Field]
    files: frozenset[str] = frozenset()
    png: bool = False
    mask: str = ""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One kind of server."""

    prefix: str = "/v1"
    endpoints: Mapping[str, Endpoint]
    hosted: bool = False
    refused: int = 400
    """The status of a request that it does not like."""
    error: Callable[[int, str], dict[str, Any]]
    answer: Callable[["ProfileSimulator", Call, dict[str, Any], tuple[bytes, ...]], dict[str, Any]]
    default_format: str = "b64_json"
    default_size: str = "1024x1024"


def openai_error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": status}}


def openrouter_error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "metadata": {}}}


def detail(_status: int, message: str) -> dict[str, Any]:
    return {"detail": message}


def localai_error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": ""}}


def text(content: bytes) -> str:
    return pybase64.b64encode(content).decode()


def now() -> int:
    return int(time.time())


def together_answer(
    simulator: "ProfileSimulator", call: Call, fields: dict[str, Any], outputs: tuple[bytes, ...]
) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for index, output in enumerate(outputs):
        if fields.get("response_format", "url") == "base64":
            data.append({"index": index, "type": "b64_json", "b64_json": text(output)})
        else:
            data.append(
                {"index": index, "type": "url", "url": simulator.link(f"{call.exchange.number}-{index}", output)}
            )
    return {"id": f"o-{call.exchange.number}", "model": fields["model"], "object": "list", "data": data}


def openrouter_answer(
    simulator: "ProfileSimulator", _call: Call, fields: dict[str, Any], outputs: tuple[bytes, ...]
) -> dict[str, Any]:
    kind = "image/" + fields.get("output_format", "png")
    usage = {"prompt_tokens": 0, "completion_tokens": 4175, "total_tokens": 4175}
    return {
        "created": 1748372400,
        "data": [{"b64_json": text(output), "media_type": kind} for output in outputs],
        "usage": {**usage, "cost": simulator.cost, "is_byok": False},
    }


def plain_answer(
    simulator: "ProfileSimulator", call: Call, fields: dict[str, Any], outputs: tuple[bytes, ...]
) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for index, output in enumerate(outputs):
        if fields.get("response_format", simulator.service.default_format) == "url":
            data.append({"url": simulator.link(f"{call.exchange.number}-{index}", output)})
        else:
            data.append({"b64_json": text(output)})
    return {"created": now(), "data": data}


def vllm_answer(
    _simulator: "ProfileSimulator", _call: Call, fields: dict[str, Any], outputs: tuple[bytes, ...]
) -> dict[str, Any]:
    data = [{"b64_json": text(output), "url": None, "revised_prompt": None} for output in outputs]
    size = fields.get("size", "1024x1024")
    return {
        "created": now(),
        "data": data,
        "output_format": fields.get("output_format", "png"),
        "size": size,
        "metrics": {"stage_0": {"ms": 5}},
    }


def sglang_answer(
    simulator: "ProfileSimulator", call: Call, fields: dict[str, Any], outputs: tuple[bytes, ...]
) -> dict[str, Any]:
    if fields.get("response_format", "url") == "url":
        raise simulator.refusal("response_format='url' requires cloud storage to be configured.", 400)
    path = "/srv/outputs/secret.png"
    data = [{"b64_json": text(output), "revised_prompt": fields["prompt"], "file_path": path} for output in outputs]
    usage = {"prompt_tokens": None, "image_count": len(outputs)}
    return {"id": f"img-{call.exchange.number}", "created": now(), "data": data, "usage": usage, "inference_time_s": 1}


def sdcpp_answer(
    _simulator: "ProfileSimulator", _call: Call, fields: dict[str, Any], outputs: tuple[bytes, ...]
) -> dict[str, Any]:
    data = [{"b64_json": text(output)} for output in outputs]
    return {"created": now(), "output_format": fields.get("output_format", "png"), "data": data}


VLLM_SAMPLING: Mapping[str, Field] = {
    "negative_prompt": TEXT,
    "num_inference_steps": STEPS,
    "guidance_scale": Field(kind=(int, float), low=0, high=20),
    "true_cfg_scale": Field(kind=(int, float), low=0, high=20),
    "seed": INT,
    "output_format": one_of("png", "jpeg", "webp"),
}
SGLANG: Mapping[str, Field] = {
    "model": TEXT,
    "prompt": NEEDED,
    "n": TEN,
    "size": PIXELS,
    "quality": TEXT,
    "background": one_of("auto", "transparent", "opaque"),
    "output_format": one_of("png", "jpeg", "webp"),
    "output_compression": PERCENT,
    "response_format": one_of("url", "b64_json"),
    "user": TEXT,
    "seed": INT,
    "num_inference_steps": INT,
    "guidance_scale": NUMBER,
    "negative_prompt": TEXT,
}
SDCPP: Mapping[str, Field] = {
    "model": TEXT,
    "prompt": NEEDED,
    "n": Field(kind=int, low=1, high=8),
    "size": PIXELS,
    "output_compression": PERCENT,
}
LEMONADE: Mapping[str, Field] = {
    "model": NEEDED,
    "prompt": NEEDED,
    "size": PIXELS,
    "n": TEN,
    "steps": STEPS,
    "cfg_scale": NUMBER,
    "seed": INT,
}
SERVICES: Mapping[str, Service] = {
    "together": Service(
        hosted=True,
        error=openai_error,
        answer=together_answer,
        endpoints={
            "images/generations": Endpoint(
                fields={
                    "model": NEEDED,
                    "prompt": NEEDED,
                    "n": Field(kind=int, low=1, high=4),
                    "width": Field(kind=int, low=64, high=4096),
                    "height": Field(kind=int, low=64, high=4096),
                    "steps": Field(kind=int, low=1, high=50),
                    "seed": INT,
                    "negative_prompt": TEXT,
                    "guidance_scale": NUMBER,
                    "response_format": one_of("url", "base64"),
                    "output_format": one_of("jpeg", "png"),
                    "image_url": TEXT,
                    "reference_images": LIST,
                    "image_loras": LIST,
                    "disable_safety_checker": Field(kind=bool),
                }
            )
        },
    ),
    "openrouter": Service(
        prefix="/api/v1",
        hosted=True,
        error=openrouter_error,
        answer=openrouter_answer,
        endpoints={
            "images": Endpoint(
                fields={
                    "model": NEEDED,
                    "prompt": NEEDED,
                    "n": TEN,
                    "size": Field(pattern=re.compile(r"[124]K|[1-9]\d{1,4}x[1-9]\d{1,4}")),
                    "aspect_ratio": one_of(*RATIOS),
                    "resolution": one_of("512", "1K", "2K", "4K"),
                    "quality": one_of("auto", "low", "medium", "high"),
                    "background": one_of("auto", "transparent", "opaque"),
                    "output_format": one_of("png", "jpeg", "webp", "svg"),
                    "output_compression": PERCENT,
                    "seed": INT,
                    "input_references": LIST,
                    "provider": Field(kind=dict),
                    "stream": Field(kind=bool),
                }
            )
        },
    ),
    "nebius": Service(
        hosted=True,
        error=openai_error,
        answer=plain_answer,
        default_format="url",
        endpoints={
            "images/generations": Endpoint(
                fields={
                    "model": NEEDED,
                    "prompt": NEEDED,
                    "width": Field(kind=int, low=64, high=2048),
                    "height": Field(kind=int, low=64, high=2048),
                    "num_inference_steps": INT,
                    "negative_prompt": TEXT,
                    "seed": INT,
                    "response_format": one_of("url", "b64_json"),
                    "response_extension": one_of("png", "jpg", "webp"),
                    "loras": LIST,
                }
            )
        },
    ),
    "vllm_omni": Service(
        refused=422,
        error=detail,
        answer=vllm_answer,
        endpoints={
            "images/generations": Endpoint(
                fields={
                    "model": TEXT,
                    "prompt": NEEDED,
                    "n": TEN,
                    "size": PIXELS,
                    "response_format": one_of("b64_json", "file"),
                    "user": TEXT,
                    **VLLM_SAMPLING,
                }
            ),
            "images/edits": Endpoint(
                fields={
                    "model": TEXT,
                    "prompt": NEEDED,
                    "n": TEN,
                    "size": Field(pattern=re.compile(r"auto|[1-9]\d{1,4}x[1-9]\d{1,4}")),
                    "response_format": one_of("b64_json"),
                    "background": one_of("auto", "transparent", "opaque"),
                    "output_compression": PERCENT,
                    "user": TEXT,
                    **VLLM_SAMPLING,
                },
                files=frozenset({"image"}),
                mask="mask_image",
            ),
        },
    ),
    "sglang": Service(
        refused=422,
        error=detail,
        answer=sglang_answer,
        endpoints={
            "images/generations": Endpoint(fields=SGLANG),
            "images/edits": Endpoint(fields=SGLANG, files=frozenset({"image", "image[]"})),
        },
    ),
    "localai": Service(
        refused=500,  # for nearly everything
        error=localai_error,
        answer=plain_answer,
        default_format="url",
        default_size="512x512",
        endpoints={
            "images/generations": Endpoint(
                fields={
                    "model": TEXT,
                    "prompt": NEEDED,
                    "n": TEN,
                    "size": PIXELS,
                    "step": STEPS,
                    "mode": INT,
                    "seed": INT,
                    "response_format": one_of("url", "b64_json"),
                    "file": TEXT,
                    "ref_images": LIST,
                }
            ),
            "images/inpainting": Endpoint(
                fields={"model": TEXT, "prompt": NEEDED, "steps": STEPS}, files=frozenset({"image"}), mask="mask"
            ),
        },
    ),
    "sdcpp": Service(
        error=lambda _status, message: {"error": message},
        answer=sdcpp_answer,
        default_size="512x512",
        endpoints={
            "images/generations": Endpoint(fields={**SDCPP, "output_format": one_of("png", "jpeg", "webp")}),
            "images/edits": Endpoint(
                fields={**SDCPP, "output_format": one_of("png", "jpeg")},
                files=frozenset({"image[]"}),
                mask="mask",
            ),
        },
    ),
    "lemonade": Service(
        error=openai_error,
        answer=plain_answer,
        default_size="512x512",
        endpoints={
            "images/generations": Endpoint(
                fields={**LEMONADE, "n": Field(kind=int, low=1, high=1), "response_format": one_of("b64_json")}
            ),
            "images/edits": Endpoint(
                fields={**LEMONADE, "user": TEXT}, files=frozenset({"image", "image[]"}), png=True, mask="mask"
            ),
            "images/variations": Endpoint(
                fields={name: LEMONADE[name] for name in ("model", "size", "n")}, files=frozenset({"image"}), png=True
            ),
        },
    ),
}


@dataclass(kw_only=True)
class Seen:
    """What became of one request, as the server understood it."""

    prompt: str = ""
    negative_prompt: str = ""
    native: dict[str, Any] = field(default_factory=dict)
    mask: Image.Image | None = None
    pictures: list[Image.Image] = field(default_factory=list)


class ProfileSimulator(Simulator):
    """`key` None asks for none, but a hosted service wants one. `key` at a server without keys: a proxy before it."""

    def __init__(
        self,
        name: str,
        *,
        key: str | None = None,
        models: tuple[str, ...] = (),
        cost: float = 0.04,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.service = SERVICES[name]
        self.name = name
        self.cost = cost
        self.seen: list[Seen] = []
        self._models_served = models
        self._key = key
        self._files: dict[str, bytes] = {}

    @property
    def base_url(self) -> str:
        return self.root_url + self.service.prefix

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.removeprefix(f"{self.service.prefix}/") in self.service.endpoints

    def error_body(self, status: int) -> dict[str, Any]:
        return self.service.error(status, f"simulated failure {status}")

    def empty_body(self) -> dict[str, Any]:
        return {"created": now(), "data": []}

    def refusal(self, message: str, status: int | None = None) -> Refusal:
        status = self.service.refused if status is None else status
        return Refusal(json_reply(self.service.error(status, message), status=status))

    def unreadable(self, message: str) -> Refusal:
        return self.refusal(message)

    def link(self, name: str, content: bytes) -> str:
        self._files[f"{name}.png"] = content
        return f"{self.root_url}{FILES}{name}.png"

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES):
            return self._file(call)
        self._authorize(call.exchange.headers.get("authorization", ""))
        endpoint = self.service.endpoints.get(call.path.removeprefix(f"{self.service.prefix}/"))
        if endpoint is None or not call.path.startswith(f"{self.service.prefix}/"):
            raise self.refusal("Not Found", 404)
        if call.method != "POST" or call.exchange.query:
            raise self.refusal("Method Not Allowed", 405)
        return self._draw(call, endpoint)

    def _authorize(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        shown = key if scheme == "Bearer" else ""
        if (self.service.hosted and not shown) or (self._key is not None and shown != self._key):
            raise self.refusal("Invalid API key.", 401)

    def _file(self, call: Call) -> Reply:
        content = self._files.get(call.path.removeprefix(FILES))
        if content is None or call.method != "GET":
            raise self.refusal("Not Found", 404)
        return Reply(body=content, headers={"Content-Type": "image/png"})

    def _draw(self, call: Call, endpoint: Endpoint) -> Reply:
        if call.content_type != ("multipart/form-data" if endpoint.files else "application/json"):
            raise self.refusal(f"unsupported content type {call.content_type!r}")
        fields = self._checked(call.fields, endpoint)
        if self._models_served and fields.get("model") not in self._models_served:
            raise self.refusal(f"The model {fields.get('model')!r} does not exist.", 404)
        seen = self._understood(call, fields, endpoint)
        outputs = tuple(self._output(call, fields, index) for index in range(fields.get("n", 1)))
        body = self.service.answer(self, call, fields, outputs)
        self.seen.append(seen)
        return json_reply(body, outputs=outputs)

    def _checked(self, given: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
        fields = {}
        for name, value in given.items():
            if name not in endpoint.fields:
                raise self.refusal(f"unknown field {name!r}")
            rule = endpoint.fields[name]
            fields[name] = typed(value, rule) if endpoint.files else value
            if (why := fault(fields[name], rule)) is not None:
                raise self.refusal(f"{name}: {why}")
        missing = [name for name, rule in endpoint.fields.items() if rule.required and not fields.get(name)]
        if missing:
            raise self.refusal(f"{missing[0]} is required")
        return fields

    def _understood(self, call: Call, fields: dict[str, Any], endpoint: Endpoint) -> Seen:
        seen = Seen(prompt=fields.get("prompt", ""), negative_prompt=fields.get("negative_prompt", ""))
        for part, content in zip(call.exchange.files, call.contents, strict=True):
            if part.name == endpoint.mask:
                seen.mask = self._opened(content)
            elif part.name in endpoint.files:
                seen.pictures.append(self._opened(content, png=endpoint.png))
            else:
                raise self.refusal(f"unknown part {part.name!r}")
        seen.pictures += [self._linked(link) for link in references(self.name, fields)]
        if endpoint.files and not seen.pictures:
            raise self.refusal("image is required")
        if seen.mask is not None and (seen.mask.mode != "L" or seen.mask.size != seen.pictures[0].size):
            raise self.refusal("the mask must be grey and as large as the image")
        self._read_prompt(seen)
        return seen

    def _read_prompt(self, seen: Seen) -> None:
        """Do with the prompt what these servers do behind the caller's back."""
        if self.name == "localai":
            parts = seen.prompt.split("|")
            seen.prompt, seen.negative_prompt = parts[0], parts[1] if len(parts) > 1 else ""
        if self.name in {"sdcpp", "lemonade"} and (found := TAG.search(seen.prompt)):
            seen.native = msgspec.json.decode(found[1])
            seen.prompt = TAG.sub("", seen.prompt)
            seen.negative_prompt = seen.native.get("negative_prompt", "")

    def _opened(self, content: bytes, *, png: bool = False) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(content), formats=["PNG"] if png else ["PNG", "JPEG", "WEBP"])
            image.load()
        except (UnidentifiedImageError, OSError) as cause:
            raise self.refusal("the image cannot be read") from cause
        return image

    def _linked(self, link: Any) -> Image.Image:
        """Read a data URL, or at LocalAI the bare base64 that it wants."""
        prefix = "" if self.name == "localai" else r"data:image/(?:png|jpeg|webp);base64,"
        found = re.match(prefix, link) if isinstance(link, str) else None
        try:
            content = base64.b64decode(link[found.end() :], validate=True) if found else b""
        except binascii.Error as cause:
            raise self.refusal("illegal base64 data") from cause
        return self._opened(content)

    def _output(self, call: Call, fields: dict[str, Any], index: int) -> bytes:
        found = SIZE.fullmatch(fields.get("size", self.service.default_size))
        width, height = (int(found[1]), int(found[2])) if found else (64, 64)
        width, height = fields.get("width", width), fields.get("height", height)
        file_format = fields.get("output_format", fields.get("response_extension", "png")).replace("jpg", "jpeg")
        content = picture(width, height, file_format)
        return stamped(content, f"call {call.exchange.number}, image {index}") if file_format == "png" else content


def references(name: str, fields: Mapping[str, Any]) -> list[Any]:
    """Find the pictures of a JSON body."""
    match name:
        case "together":
            return [*([fields["image_url"]] if "image_url" in fields else []), *fields.get("reference_images", [])]
        case "openrouter":
            given = fields.get("input_references", [])
            return [each["image_url"]["url"] if each.get("type") == "image_url" else None for each in given]
        case "localai":
            return [*([fields["file"]] if "file" in fields else []), *fields.get("ref_images", [])]
        case _:
            return []


def typed(value: Any, rule: Field) -> Any:
    """Read the numbers of a form; what is none stays text, to be refused."""
    if rule.kind is not str and isinstance(value, str) and re.fullmatch(r"-?\d{1,12}(\.\d+)?", value):
        return float(value) if "." in value else int(value)
    return value


def fault(value: Any, rule: Field) -> str | None:
    kinds = rule.kind if isinstance(rule.kind, tuple) else (rule.kind,)
    if type(value) not in kinds:  # a boolean is no integer here
        return "wrong type"
    if rule.choices and value not in rule.choices:
        return f"must be one of {', '.join(rule.choices)}"
    if rule.pattern and not rule.pattern.fullmatch(value):
        return "wrong form"
    if (rule.low is not None and value < rule.low) or (rule.high is not None and value > rule.high):
        return "out of range"
    return None


def main() -> None:
    parser = argument_parser(__doc__, port=9120)
    parser.add_argument("service", choices=sorted(SERVICES))
    options = parser.parse_args()

    def make() -> Simulator:
        return ProfileSimulator(options.service, key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        wanted = options.key or SERVICES[options.service].hosted
        keys = f"\n    keys: [{{name: simulated, value: {options.key or 'any'}}}]" if wanted else ""
        return f"providers:\n  {options.service}:\n    base_url: {base_url}{keys}\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
