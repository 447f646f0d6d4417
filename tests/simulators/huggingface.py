"""Hugging Face's Hub and router as strict servers on one loopback port. `python -m tests.simulators.huggingface`.

Source: the provider sheet read from the client's source and the pages on Inference Providers, 2026-11-23. Each partner
takes the fields that the sheet names and no others. What the sheet leaves open (wordings, sizes) is chosen here.
A prompt may ask for trouble: `[fail]` ends as failed, `[odd]` shows a status nobody knows, `[flagged]` is blackened by
fal, `[slow]` outlasts Replicate's wait, `[loading]` answers 503 at hf-inference.
"""

import base64
import binascii
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pybase64
from aiohttp import web
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import (
    Call,
    Exchange,
    FilePart,
    Refusal,
    Reply,
    Simulator,
    argument_parser,
    json_reply,
    run_by_hand,
)
from tests.simulators._pictures import picture, picture_of_bytes, stamped

FILES = "/files/"
QUEUE = {"_subdomain": "queue"}
FLUX, KONTEXT, LORA, STAGED = (
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.1-Kontext-dev",
    "artist/ink-lora",
    "lab/next",
)
VERSION = "382cf8959fb0f0d665b26e7e80b8d6dc3faaef1510f14ce017e8c732bb3d1eb7"


def line(there: str, task: str = "text-to-image", status: str = "live", **more: str) -> dict[str, str]:
    return {"status": status, "providerId": there, "task": task, **more}


MAPPINGS: Mapping[str, Any] = {
    FLUX: {
        "fireworks-ai": line("accounts/x", "conversational"),
        "fal-ai": line("fal-ai/flux/dev"),
        "replicate": line("black-forest-labs/flux-dev"),
        "together": line("black-forest-labs/FLUX.1-dev"),
        "nscale": line("black-forest-labs/FLUX.1-dev"),
        "wavespeed": line("wavespeed-ai/flux-dev"),
        "zai-org": line("flux-dev"),
    },
    KONTEXT: {
        "wavespeed": line("wavespeed-ai/flux-kontext-dev", "image-to-image", "error"),
        "fal-ai": line("fal-ai/flux-kontext/dev", "image-to-image"),
        "replicate": line("black-forest-labs/flux-kontext-dev", "image-to-image"),
        "together": line("black-forest-labs/FLUX.1-kontext-dev", "image-to-image"),
    },
    LORA: [
        {"provider": "fal-ai", **line("fal-ai/flux-lora", adapter="lora", adapterWeightsPath="ink v1.safetensors")},
        {"provider": "replicate", **line(f"lab/flux-lora:{VERSION}", adapter="lora", adapterWeightsPath="i.st")},
    ],
    STAGED: {
        "fal-ai": line("fal-ai/next", status="staging"),
        "together": line("lab/next-edit", "image-to-image"),
    },
}
TEXT, NUMBER, OBJECT, LIST = (str,), (int, float), (dict,), (list,)
SHARED = {
    "prompt": TEXT,
    "seed": (int,),
    "negative_prompt": TEXT,
    "num_inference_steps": (int,),
    "guidance_scale": NUMBER,
}
BY_MODEL = {
    **SHARED,
    "quality": TEXT,
    "style": TEXT,
    "background": TEXT,
    "aspect_ratio": TEXT,
    "resolution": TEXT,
    "output_format": TEXT,
}
Kinds = Mapping[str, tuple[type, ...]]
GENERATION_PARAMETERS: Kinds = {
    "negative_prompt": TEXT,
    "width": (int,),
    "height": (int,),
    "num_inference_steps": (int,),
    "guidance_scale": NUMBER,
    "scheduler": TEXT,
    "seed": (int,),
}
EDIT_PARAMETERS: Kinds = {
    "prompt": TEXT,
    "negative_prompt": TEXT,
    "guidance_scale": NUMBER,
    "num_inference_steps": (int,),
    "target_size": OBJECT,
}
FAL: Kinds = {
    **BY_MODEL,
    "image_size": OBJECT,
    "num_images": (int,),
    "image_url": TEXT,
    "image_urls": LIST,
    "loras": LIST,
}
REPLICATE: Kinds = {
    **BY_MODEL,
    "width": (int,),
    "height": (int,),
    "image": TEXT,
    "images": LIST,
    "input_image": TEXT,
    "input_images": LIST,
    "lora_weights": TEXT,
}
TOGETHER: Kinds = {
    "model": TEXT,
    "prompt": TEXT,
    "response_format": TEXT,
    "width": (int,),
    "height": (int,),
    "steps": (int,),
    "n": (int,),
    "seed": (int,),
    "negative_prompt": TEXT,
    "output_format": TEXT,
    "image_url": TEXT,
    "reference_images": LIST,
}
NSCALE: Kinds = {"model": TEXT, "prompt": TEXT, "response_format": TEXT, "size": TEXT}
WAVESPEED: Kinds = {**BY_MODEL, "size": TEXT, "image": TEXT}
ZAI: Kinds = {"model": TEXT, "prompt": TEXT, "size": TEXT, "quality": TEXT}


def refusal(message: str, status: int = 422) -> Refusal:
    return Refusal(json_reply({"error": message}, status=status))


@dataclass(kw_only=True)
class Work:
    """Something a partner accepted. It shows `running` before its end."""

    partner: str
    pictures: list[bytes]
    prompt: str
    running: int
    answers: int = field(default=0)

    @property
    def failed(self) -> bool:
        return "[fail]" in self.prompt

    def word(self, running: str, done: str, failed: str) -> str:
        """The status now; each asking brings the end nearer."""
        self.answers += 1
        if self.answers <= self.running:
            return "THINKING" if "[odd]" in self.prompt else running
        return failed if self.failed else done


class HuggingFaceSimulator(Simulator):
    """`key` None accepts any token, but one must be there; `running` polls of accepted work find it not finished."""

    prefix: ClassVar[str] = ""

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
        self._accepted: dict[str, Work] = {}
        self._ids = itertools.count(1)
        self._routes: list[tuple[str, str, Callable[[Call, re.Match[str]], Reply]]] = [
            ("GET", r"/api/models/(.+/.+)", self._mapping),
            ("POST", r"/hf-inference/models/(.+/.+)", self._hf_inference),
            ("POST", r"/fal-ai/(.+)", self._fal_submit),
            ("GET", r"/fal-ai/(fal-ai/[^/]+)/requests/([^/]+)/status", self._fal_status),
            ("GET", r"/fal-ai/(fal-ai/[^/]+)/requests/([^/]+)", self._fal_result),
            ("POST", r"/replicate/v1/models/(.+/.+)/predictions", self._replicate),
            ("POST", r"/replicate/v1/predictions", self._replicate),
            ("GET", r"/replicate/v1/predictions/([^/]+)", self._replicate_poll),
            ("POST", r"/together/v1/images/generations", self._together),
            ("POST", r"/nscale/v1/images/generations", self._nscale),
            ("POST", r"/wavespeed/api/v3/(.+)", self._wavespeed),
            ("GET", r"/wavespeed/api/v3/predictions/([^/]+)/result", self._wavespeed_poll),
            ("POST", r"/zai-org/api/paas/v4/async/images/generations", self._zai),
            ("GET", r"/zai-org/api/paas/v4/async-result/([^/]+)", self._zai_poll),
        ]

    def is_submission(self, method: str, path: str) -> bool:
        del path
        return method == "POST"

    def error_body(self, status: int) -> dict[str, Any]:
        return {"error": f"Simulated failure {status}."}

    def unreadable(self, message: str) -> Refusal:
        return refusal(message, 400)

    async def _read(self, request: web.Request, exchange: Exchange) -> Call:
        """Take a picture that is the whole body, which the base would not keep."""
        if not request.content_type.startswith("image/"):
            return await super()._read(request, exchange)
        body = await request.read()
        exchange.body_read = True
        digest = hashlib.sha256(body).hexdigest()
        exchange.files = (
            FilePart(name="", filename=None, content_type=request.content_type, size_bytes=len(body), sha256=digest),
        )
        return Call(exchange=exchange, content_type=request.content_type, contents=(body,))

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith(FILES):
            return self._file(call)
        self._authorize(call.exchange.headers.get("authorization", ""))
        if call.method == "POST" and not (call.content_type == "application/json" or call.contents):
            raise refusal("the body must be JSON", 415)
        for method, pattern, route in self._routes:
            found = re.fullmatch(pattern, call.path)
            if found and method == call.method:
                return route(call, found)
        raise refusal("Not Found", 404)

    def _authorize(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise refusal("Invalid username or password.", 401)

    def _file(self, call: Call) -> Reply:
        content = self._files.get(call.path.removeprefix(FILES))
        if content is None or call.method != "GET" or "authorization" in call.exchange.headers:
            raise refusal("Not Found", 404)
        return Reply(body=content, headers={"Content-Type": "image/png"})

    def _mapping(self, call: Call, found: re.Match[str]) -> Reply:
        if call.exchange.query != {"expand[]": "inferenceProviderMapping"}:
            raise refusal("unknown query", 400)
        if found[1] not in MAPPINGS:
            raise refusal("Repository not found", 404)
        return json_reply({"id": found[1], "inferenceProviderMapping": MAPPINGS[found[1]]})

    def _hf_inference(self, call: Call, found: re.Match[str]) -> Reply:
        if found[1] not in MAPPINGS or call.exchange.query:
            raise refusal(f"Model {found[1]} does not exist", 404)
        if call.exchange.headers.get("accept") not in {"image/png", "image/jpeg"}:
            raise refusal("this task answers a picture", 406)
        fields, size = call.fields, (64, 64)
        if call.contents:
            check_picture(call.contents[0])
        else:
            check(fields, {"inputs": TEXT, "parameters": OBJECT}, required=("inputs",))
            size = self._checked_parameters(fields, found[1])
        output = self._picture(*size)
        return Reply(body=output, headers={"Content-Type": "image/png"}, outputs=(output,))

    @staticmethod
    def _checked_parameters(fields: dict[str, Any], model: str) -> tuple[int, int]:
        parameters = fields.get("parameters", {})
        if "[loading]" in fields["inputs"]:
            body = {"error": f"Model {model} is currently loading", "estimated_time": 20.5}
            raise Refusal(json_reply(body, status=503))
        if model == KONTEXT:
            check(parameters, EDIT_PARAMETERS)
            check_base64(fields["inputs"])
            size = parameters.get("target_size", {})
            check(size, {"width": (int,), "height": (int,)})
        else:
            check(parameters, GENERATION_PARAMETERS)
            size = parameters
        return size.get("width", 64), size.get("height", 64)

    def _fal_submit(self, call: Call, found: re.Match[str]) -> Reply:
        fields = call.fields
        check(fields, FAL, required=("prompt",))
        if call.exchange.query != QUEUE:
            raise refusal("the simulator knows fal's queue alone", 404)
        check(fields.get("image_size", {}), {"width": (int,), "height": (int,)})
        check_model(found[1], "fal-ai")
        if "image_urls" in fields:
            check_data_urls(fields["image_urls"])
            if fields.get("image_url") != fields["image_urls"][0]:
                raise refusal("image_url and image_urls differ")
        number = self._accept("fal-ai", fields["prompt"], fields.get("num_images", 1))
        app = "/".join(found[1].split("/")[:2])
        root = f"https://queue.fal.run/{app}/requests/{number}"
        urls = {"response_url": root, "status_url": f"{root}/status", "cancel_url": f"{root}/cancel"}
        return json_reply({"status": "IN_QUEUE", "request_id": number, "queue_position": 0, **urls})

    def _fal_status(self, call: Call, found: re.Match[str]) -> Reply:
        work = self._asked(call, found[2], "fal-ai", QUEUE)
        word = work.word("IN_PROGRESS", "COMPLETED", "COMPLETED")
        over = word == "COMPLETED"
        fault = {"error": "runner died", "error_type": "runner_disconnected"} if over and work.failed else {}
        return json_reply({"status": word, "request_id": found[2], **fault}, status=200 if over else 202)

    def _fal_result(self, call: Call, found: re.Match[str]) -> Reply:
        work = self._asked(call, found[2], "fal-ai", QUEUE)
        if "[invalid]" in work.prompt:
            fault = {"loc": ["body", "prompt"], "msg": "not allowed", "type": "content_policy_violation"}
            raise Refusal(json_reply({"detail": [fault]}, status=422))
        flags = ["[flagged]" in work.prompt for _ in work.pictures]
        images = [{"url": url, "content_type": "image/png"} for url in self._links(found[2], work)]
        return json_reply({"images": images, "seed": 1, "has_nsfw_concepts": flags})

    def _replicate(self, call: Call, found: re.Match[str]) -> Reply:
        general = not found.groups()
        check(call.fields, {"input": OBJECT, **({"version": TEXT} if general else {})}, required=("input",))
        if general and call.fields.get("version") != VERSION:
            raise refusal("Invalid version")
        if not general:
            check_model(found[1], "replicate")
        if call.exchange.headers.get("prefer") != "wait":
            raise refusal("the simulator waits")
        fields = call.fields["input"]
        check(fields, REPLICATE, required=("prompt",))
        sources = [fields[name] for name in ("image", "input_image") if name in fields]
        check_data_urls([*sources, *fields.get("images", []), *fields.get("input_images", [])])
        number = self._accept("replicate", fields["prompt"], 1)
        if "[slow]" in fields["prompt"]:
            return json_reply(prediction(number, "processing"), status=202)
        return self._replicate_end(number)

    def _replicate_poll(self, call: Call, found: re.Match[str]) -> Reply:
        work = self._asked(call, found[1], "replicate")
        if (word := work.word("processing", "succeeded", "failed")) not in {"succeeded", "failed"}:
            return json_reply(prediction(found[1], word))
        return self._replicate_end(found[1])

    def _replicate_end(self, number: str) -> Reply:
        work = self._accepted[number]
        if work.failed:
            return json_reply(prediction(number, "failed") | {"error": "NSFW content detected"}, status=201)
        links = self._links(number, work)
        output: Any = links if "[list]" in work.prompt else links[0]
        return json_reply(prediction(number, "succeeded") | {"output": output}, status=201)

    def _together(self, call: Call, _found: re.Match[str]) -> Reply:
        fields = call.fields
        check(fields, TOGETHER, required=("model", "prompt"))
        check_model(fields["model"], "together")
        if fields.get("response_format") != "base64":
            raise refusal("response_format must be base64 here")
        if ("kontext" in fields["model"] and "reference_images" in fields) or (
            "kontext" not in fields["model"] and "image_url" in fields
        ):
            raise refusal("this model names its images otherwise", 400)
        check_data_urls([fields["image_url"]] if "image_url" in fields else fields.get("reference_images", []))
        size = fields.get("width", 64), fields.get("height", 64)
        return self._inline([self._picture(*size) for _ in range(fields.get("n", 1))])

    def _nscale(self, call: Call, _found: re.Match[str]) -> Reply:
        fields = call.fields
        check(fields, NSCALE, required=("model", "prompt"))
        check_model(fields["model"], "nscale")
        if fields.get("response_format") != "b64_json":
            raise refusal("response_format must be b64_json")
        return self._inline([self._picture(*sides(fields.get("size", "64x64"), "x"))])

    def _inline(self, outputs: list[bytes]) -> Reply:
        data = [{"b64_json": pybase64.b64encode(each).decode()} for each in outputs]
        return json_reply({"data": data}, outputs=tuple(outputs))

    def _wavespeed(self, call: Call, found: re.Match[str]) -> Reply:
        fields = call.fields
        check(fields, WAVESPEED, required=("prompt",))
        check_model(found[1], "wavespeed")
        check_data_urls([fields["image"]] if "image" in fields else [])
        sides(fields.get("size", "64*64"), "*")
        number = self._accept("wavespeed", fields["prompt"], 1)
        urls = {"get": f"https://api.wavespeed.ai/api/v3/predictions/{number}/result"}
        return json_reply({"code": 200, "data": {"id": number, "status": "created", "urls": urls}})

    def _wavespeed_poll(self, call: Call, found: re.Match[str]) -> Reply:
        work = self._asked(call, found[1], "wavespeed")
        word = work.word("processing", "completed", "failed")
        data: dict[str, Any] = {"id": found[1], "status": word, "outputs": [], "error": ""}
        if word == "completed":
            data["outputs"] = self._links(found[1], work)
        elif word == "failed":
            data["error"] = "out of memory"
        else:
            data["urls"] = {"get": f"https://api.wavespeed.ai{call.path.removeprefix('/wavespeed')}"}
        return json_reply({"code": 200, "data": data})

    def _zai(self, call: Call, _found: re.Match[str]) -> Reply:
        fields = call.fields
        check(fields, ZAI, required=("model", "prompt"))
        check_model(fields["model"], "zai-org")
        check_zai_headers(call)
        sides(fields.get("size", "64x64"), "x")
        number = self._accept("zai-org", fields["prompt"], 1)
        return json_reply({"id": number, "request_id": "r", "model": fields["model"], "task_status": "PROCESSING"})

    def _zai_poll(self, call: Call, found: re.Match[str]) -> Reply:
        work = self._asked(call, found[1], "zai-org")
        word = work.word("PROCESSING", "SUCCESS", "FAIL")
        result = [{"url": url} for url in self._links(found[1], work)] if word == "SUCCESS" else None
        return json_reply({"id": found[1], "task_status": word, **({"image_result": result} if result else {})})

    def _accept(self, partner: str, prompt: str, count: int) -> str:
        number = f"{partner}-{next(self._ids)}"
        pictures = [self._picture(64, 64) for _ in range(count)]
        self._accepted[number] = Work(partner=partner, pictures=pictures, prompt=prompt, running=self._running)
        return number

    def _asked(self, call: Call, number: str, partner: str, query: Mapping[str, str] | None = None) -> Work:
        work = self._accepted.get(number)
        if work is None or work.partner != partner or call.exchange.query != (query or {}):
            raise refusal("Not Found", 404)
        return work

    def _links(self, number: str, work: Work) -> list[str]:
        names = [f"{number}-{place}.png" for place in range(len(work.pictures))]
        self._files.update(zip(names, work.pictures, strict=True))
        return [f"{self.root_url}{FILES}{name}" for name in names]

    def _picture(self, width: int, height: int) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        return stamped(picture(width, height, "png"), f"picture {next(self._ids)}")


def prediction(number: str, status: str) -> dict[str, Any]:
    urls = {"get": f"https://api.replicate.com/v1/predictions/{number}"}
    return {"id": number, "status": status, "output": None, "error": None, "logs": "", "urls": urls}


def check(fields: Any, known: Kinds, *, required: tuple[str, ...] = ()) -> None:
    if type(fields) is not dict:
        raise refusal("not an object")
    for name, value in fields.items():
        if name not in known:
            raise refusal(f"unknown field {name}")
        if type(value) not in known[name]:
            raise refusal(f"{name}: wrong type")
    for name in required:
        if not fields.get(name):
            raise refusal(f"{name}: missing")


def check_model(there: str, partner: str) -> None:
    lines = [each for mapping in MAPPINGS.values() if type(mapping) is dict for each in mapping.items()]
    lines += [(each["provider"], each) for mapping in MAPPINGS.values() if type(mapping) is list for each in mapping]
    if not any(name == partner and each["providerId"] == there for name, each in lines):
        raise refusal(f"model {there} is not offered here", 404)


def check_zai_headers(call: Call) -> None:
    headers = call.exchange.headers
    if headers.get("x-source-channel") != "hugging_face" or headers.get("accept-language") != "en-US,en":
        raise refusal("headers are missing", 400)


def check_data_urls(urls: Any) -> None:
    for url in urls:
        found = re.match(r"data:image/(png|jpeg|webp);base64,", url)
        if found is None:
            raise refusal("the simulator knows data URLs alone", 400)
        check_base64(url[found.end() :])


def check_base64(text: str) -> None:
    try:
        check_picture(base64.b64decode(text, validate=True))
    except binascii.Error as cause:
        raise refusal("not base64", 400) from cause


def check_picture(content: bytes) -> None:
    try:
        Image.open(io.BytesIO(content)).load()
    except (UnidentifiedImageError, OSError) as cause:
        raise refusal("not a picture", 400) from cause


def sides(size: str, sign: str) -> tuple[int, int]:
    found = re.fullmatch(rf"([1-9]\d{{0,4}}){re.escape(sign)}([1-9]\d{{0,4}})", size)
    if found is None:
        raise refusal(f"size: expected WIDTH{sign}HEIGHT")
    return int(found[1]), int(found[2])


def main() -> None:
    options = argument_parser(__doc__, port=9117).parse_args()

    def make() -> Simulator:
        return HuggingFaceSimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "hf_any"
        return f"providers:\n  huggingface:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
