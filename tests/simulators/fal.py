"""fal's queue as a strict server on loopback. `python -m tests.simulators.fal --port 9108`.

Source: the provider sheet read from fal's public documents (queue, webhooks, errors), 2026-11-23, and the input schemas
that fal's model pages give. The wording of refusals is chosen here; the statuses and shapes are not. A request is in the
queue when it is made, in progress for so many questions as `running_polls` says, and then over. Words in the prompt end
it otherwise: see `ENDINGS`. Output files are served by the simulator itself.
"""

import base64
import hashlib
import itertools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
from tests.simulators._hosted import InputFault, Rule, check_inputs, check_mask, from_data_url, opened, sides
from tests.simulators._pictures import picture, stamped

NAMED_SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
RATIOS = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16")
PROMPT = Rule(required=True)
SEED = Rule(kind="int")
COUNT = Rule(kind="int", smallest=1, largest=4)
FORMAT = Rule(choices=("jpeg", "png"))
FORMATS = Rule(choices=("jpeg", "png", "webp"))
FLUX: Mapping[str, Rule] = {
    "prompt": PROMPT,
    "image_size": Rule(kind="size"),
    "num_images": COUNT,
    "seed": SEED,
    "num_inference_steps": Rule(kind="int", smallest=1, largest=50),
    "guidance_scale": Rule(kind="number", smallest=1, largest=20),
    "enable_safety_checker": Rule(kind="bool"),
    "output_format": FORMAT,
    "acceleration": Rule(choices=("none", "regular", "high")),
}
BANANA: Mapping[str, Rule] = {
    "prompt": PROMPT,
    "num_images": COUNT,
    "aspect_ratio": Rule(choices=("auto", *RATIOS)),
    "output_format": FORMATS,
}
BANANA_2 = {**BANANA, "resolution": Rule(choices=("0.5K", "1K", "2K", "4K")), "seed": SEED}
SOURCES = {"image_urls": Rule(kind="pictures", most=10, required=True)}
GPT: Mapping[str, Rule] = {
    "prompt": PROMPT,
    "image_size": Rule(choices=("1024x1024", "1536x1024", "1024x1536")),
    "background": Rule(choices=("auto", "transparent", "opaque")),
    "quality": Rule(choices=("low", "medium", "high")),
    "num_images": COUNT,
    "output_format": FORMATS,
}
MODELS: Mapping[str, Mapping[str, Rule]] = {
    "fal-ai/flux/schnell": {**FLUX, "num_inference_steps": Rule(kind="int", smallest=1, largest=12)},
    "fal-ai/flux/dev": FLUX,
    "fal-ai/flux/dev/image-to-image": {
        **{name: rule for name, rule in FLUX.items() if name != "image_size"},
        "image_url": Rule(kind="picture", required=True),
        "strength": Rule(kind="number", smallest=0, largest=1),
    },
    "fal-ai/flux-pro/kontext": {
        "prompt": PROMPT,
        "image_url": Rule(kind="picture", required=True),
        "aspect_ratio": Rule(choices=("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")),
        "num_images": COUNT,
        "seed": SEED,
        "output_format": FORMAT,
        "safety_tolerance": Rule(choices=("1", "2", "3", "4", "5", "6")),
    },
    "fal-ai/nano-banana": BANANA,
    "fal-ai/nano-banana/edit": {**BANANA, **SOURCES},
    "fal-ai/nano-banana-2": BANANA_2,
    "fal-ai/nano-banana-2/edit": {**BANANA_2, **SOURCES},
    "fal-ai/gpt-image-1.5": GPT,
    "fal-ai/gpt-image-1.5/edit": {
        **GPT,
        **SOURCES,
        "image_size": Rule(choices=("auto", "1024x1024", "1536x1024", "1024x1536")),
        "mask_image_url": Rule(kind="mask"),
        "input_fidelity": Rule(choices=("low", "high")),
    },
    "fal-ai/fast-sdxl/inpainting": {
        **FLUX,
        "negative_prompt": Rule(),
        "image_url": Rule(kind="picture", required=True),
        "mask_url": Rule(kind="mask", required=True),
    },
    "fal-ai/birefnet": {"image_url": Rule(kind="picture", required=True), "prompt": Rule()},
    "workflows/acme/fox": {"prompt": PROMPT},
}
SUBMIT_HEADERS: Mapping[str, str] = {
    "x-fal-request-timeout": r"\d+(\.\d+)?",
    "x-fal-queue-priority": "normal|low",
    "x-fal-no-retry": "1",
    "x-fal-runner-hint": ".+",
    "x-fal-store-io": "0",
    "x-fal-object-lifecycle-preference": r'\{"expiration_duration_seconds": ?(\d+|null)\}',
}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a request is over: what the status says, and what the result answers (200: pictures)."""

    error: str | None = None
    error_type: str | None = None
    status: int = 200
    body: Any = None
    nsfw: tuple[bool, ...] = ()


def model_fault(kind: str, status: int, name: str = "prompt") -> Ending:
    fault = {"loc": ["body", name], "msg": f"Simulated {kind}.", "type": kind, "input": "secret"}
    return Ending(error=f"Simulated {kind}.", status=status, body={"detail": [fault]})


def platform_fault(kind: str, status: int) -> Ending:
    body = {"detail": f"Simulated {kind}.", "error_type": kind}
    return Ending(error=f"Simulated {kind}.", error_type=kind, status=status, body=body)


ENDINGS: Mapping[str, Ending] = {
    "[blocked]": model_fault("content_policy_violation", 422),
    "[fail]": platform_fault("runner_disconnected", 503),
    "[broken]": model_fault("internal_server_error", 500),
    "[nsfw]": Ending(nsfw=(True, True, True, True)),
}


@dataclass(kw_only=True)
class Request:
    id: str
    model: str
    inputs: dict[str, Any]
    webhook: str | None = None
    polls: int = 0
    status: str = "IN_QUEUE"
    ending: Ending = Ending()
    contents: tuple[bytes, ...] = ()

    @property
    def root(self) -> str:
        """Only owner and app, after a namespace: the rest of the model's path is gone."""
        parts = self.model.split("/")
        return "/".join(parts[: 3 if parts[0] in {"workflows", "comfy"} else 2])


SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS_PATH = "/.well-known/jwks.json"


def public_key(signer: Ed25519PrivateKey) -> dict[str, str]:
    x = base64.urlsafe_b64encode(signer.public_key().public_bytes_raw()).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": x}


def signed(
    body: bytes, request_id: str = "r1", *, signer: Ed25519PrivateKey = SIGNER, at: float | None = None
) -> dict[str, str]:
    """The headers of a webhook call."""
    moment = str(int(time.time() if at is None else at))
    message = "\n".join((request_id, "user", moment, hashlib.sha256(body).hexdigest())).encode()
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": "user",
        "X-Fal-Webhook-Timestamp": moment,
        "X-Fal-Webhook-Signature": signer.sign(message).hex(),
    }


def detail(status: int, text: str) -> Refusal:
    return Refusal(json_reply({"detail": text}, status=status))


class FalSimulator(Simulator):
    """`key` None accepts any key, but one must be there."""

    def __init__(
        self, *, key: str | None = None, running_polls: int = 0, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._ids = itertools.count(1)
        self.running_polls = running_polls
        self.requests: dict[str, Request] = {}
        self.ending: Ending | None = None
        """How requests end from now on, whatever their prompt says."""
        self.running_word = "IN_PROGRESS"
        self.announced_url: str | None = None
        """The host in the addresses that a submit answers, where a proxy stands before the service."""
        self._routes: tuple[tuple[str, str, Callable[..., Reply]], ...] = (
            ("GET", r"/(.+)/requests/([^/]+)/status", self._status),
            ("PUT", r"/(.+)/requests/([^/]+)/cancel", self._cancel),
            ("GET", r"/(.+)/requests/([^/]+)", self._result),
            ("POST", r"/((?!.*/requests/).+)", self._submit),
        )

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and "/requests/" not in path

    def error_body(self, status: int) -> dict[str, Any]:
        return {"detail": f"Simulated failure {status}."}

    def reply_headers(self, exchange: Any) -> dict[str, str]:
        return {"x-fal-request-id": f"req_{exchange.number:08d}"}

    async def tell(self, request_id: str, *, signer: Ed25519PrivateKey | None = None, at: float | None = None) -> int:
        """End a request and call its webhook; the status of the answer."""
        found = self.requests[request_id]
        assert found.webhook is not None
        found.status = "COMPLETED"
        body = msgspec.json.encode({"request_id": request_id, "status": "OK", "payload": {}})
        return await self.call_back(found.webhook, body, signed(body, request_id, signer=signer or SIGNER, at=at))

    async def answer(self, call: Call) -> Reply:
        if call.path == KEYS_PATH:
            if "authorization" in call.exchange.headers:
                raise detail(400, "a key was shown where none is wanted")
            return json_reply({"keys": [public_key(Ed25519PrivateKey.generate()), public_key(SIGNER)]})
        if call.path.startswith("/files/"):
            return self._file(call.path)
        self._authorize(call.exchange.headers.get("authorization", ""))
        for method, pattern, handler in self._routes:
            if method == call.method and (found := re.fullmatch(pattern, call.path)):
                return handler(call, *found.groups())
        raise detail(405, "Method Not Allowed")

    def _authorize(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if scheme != "Key" or not key or (self._key is not None and key != self._key):
            raise detail(401, "Cannot access application. Authentication is required to access this application.")

    def _submit(self, call: Call, model: str) -> Reply:
        if call.content_type != "application/json":
            raise detail(415, "Unsupported media type")
        if call.exchange.query.keys() - {"fal_webhook", "fal_max_queue_length"}:
            raise detail(400, "Unknown query parameter")
        self._check_headers(call.exchange.headers)
        rules = MODELS.get(model)
        if rules is None:
            raise detail(404, f"Application '{model}' not found")
        try:
            check_inputs(call.fields, rules)
            self._check_pictures(call.fields, rules)
        except InputFault as fault:
            found = {"loc": ["body", fault.name], "msg": fault.message, "type": fault.type, "input": "secret"}
            raise Refusal(json_reply({"detail": [found]}, status=422)) from fault
        made = Request(
            id=f"764cabcf-b745-4b3e-ae38-{next(self._ids):012d}",
            model=model,
            inputs=call.fields,
            webhook=call.exchange.query.get("fal_webhook"),
        )
        if made.webhook is not None and not is_callback(made.webhook):
            raise detail(400, "fal_webhook must be an HTTPS URL")
        made.ending = self.ending or next(
            (end for word, end in ENDINGS.items() if word in self._prompt(made)), Ending()
        )
        self.requests[made.id] = made
        return json_reply({**self._shown(made), "queue_position": 0})

    @staticmethod
    def _check_headers(headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            if name.startswith("x-fal-") and not re.fullmatch(SUBMIT_HEADERS.get(name, "(?!)"), value):
                raise detail(400, f"Invalid header {name}")

    @staticmethod
    def _check_pictures(inputs: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
        size = inputs.get("image_size")
        if rules.get("image_size", Rule()).kind == "size" and size is not None:
            _check_size(size)
        kinds = {name: rules[name].kind for name in inputs}
        links = [(name, link) for name, kind in kinds.items() if kind == "pictures" for link in inputs[name]]
        links += [(name, inputs[name]) for name, kind in kinds.items() if kind == "picture"]
        pictures = [opened(_fetched(link, name), name) for name, link in links]
        for name in (name for name, kind in kinds.items() if kind == "mask"):
            check_mask(opened(_fetched(inputs[name], name), name), pictures[0], name)

    def _find(self, root: str, request_id: str) -> Request:
        found = self.requests.get(request_id)
        if found is None or found.root != root:
            raise detail(404, "Request not found")
        return found

    def _status(self, call: Call, root: str, request_id: str) -> Reply:
        if call.exchange.query.keys() - {"logs"}:
            raise detail(400, "Unknown query parameter")
        found = self._find(root, request_id)
        if found.status != "COMPLETED":
            found.polls += 1
            found.status = self.running_word if found.polls <= self.running_polls else "COMPLETED"
        shown = self._shown(found)
        if found.status == "IN_PROGRESS" and call.exchange.query.get("logs") == "1":
            line = f" {found.polls * 25}%|███       | {found.polls}/4"
            shown["logs"] = [{"message": line, "level": "INFO", "timestamp": "2026-11-23T06:00:00Z"}]
        if found.status != "COMPLETED":
            return json_reply(shown, status=202)
        told = {"error": found.ending.error, "error_type": found.ending.error_type}
        shown |= {name: value for name, value in told.items() if value is not None}
        return json_reply({**shown, "metrics": {"inference_time": 1.9}})

    def _result(self, _call: Call, root: str, request_id: str) -> Reply:
        found = self._find(root, request_id)
        if found.status != "COMPLETED":
            raise detail(400, "Request is still in progress")
        if found.ending.status != 200:
            return json_reply(found.ending.body, status=found.ending.status)
        if found.ending.body is not None:
            return json_reply(found.ending.body)
        self._draw(found)
        return json_reply(self._output(found))

    def _draw(self, found: Request) -> None:
        file_format = found.inputs.get("output_format", "png")
        content = picture(*_sides(found.inputs), file_format)
        count = found.inputs.get("num_images", 1)
        found.contents = tuple(
            stamped(content, f"{found.id} {index}") if file_format == "png" else content for index in range(count)
        )

    def _output(self, found: Request) -> dict[str, Any]:
        width, height = _sides(found.inputs)
        images = [
            {
                "url": f"{self.root_url}/files/{found.id}/{index}",
                "content_type": f"image/{found.inputs.get('output_format', 'png')}",
                "width": width,
                "height": height,
                "file_size": len(content),
            }
            for index, content in enumerate(found.contents)
        ]
        if found.model == "fal-ai/birefnet":
            return {"image": images[0]}
        flags = found.ending.nsfw or (False,) * len(images)
        return {
            "images": images,
            "seed": found.inputs.get("seed", 42),
            "has_nsfw_concepts": list(flags[: len(images)]),
            "prompt": self._prompt(found),
            "timings": {"inference": 1.2},
        }

    def _cancel(self, _call: Call, root: str, request_id: str) -> Reply:
        found = self._find(root, request_id)
        if found.status == "COMPLETED":
            raise Refusal(json_reply({"status": "ALREADY_COMPLETED"}, status=400))
        return json_reply({"status": "CANCELLATION_REQUESTED"}, status=202)

    def _file(self, path: str) -> Reply:
        _, _, request_id, index = path.split("/")
        content = self.requests[request_id].contents[int(index)]
        return Reply(body=content, headers={"Content-Type": "application/octet-stream"}, outputs=(content,))

    def _shown(self, made: Request) -> dict[str, Any]:
        link = f"{self.announced_url or self.root_url}/{made.root}/requests/{made.id}"
        return {
            "status": made.status,
            "request_id": made.id,
            "response_url": link,
            "status_url": f"{link}/status",
            "cancel_url": f"{link}/cancel",
        }

    @staticmethod
    def _prompt(made: Request) -> str:
        return str(made.inputs.get("prompt", ""))


def _check_size(size: str | dict[str, Any]) -> None:
    if isinstance(size, str):
        good = size in NAMED_SIZES
    else:
        good = size.keys() == {"width", "height"} and all(type(side) is int and side > 0 for side in size.values())
    if not good:
        raise InputFault(name="image_size", message="Input should be a valid size", type="literal_error")


def _fetched(link: Any, name: str) -> bytes:
    content = from_data_url(link, name) if isinstance(link, str) else None
    if content is None:
        raise InputFault(name=name, message="Failed to download the file.", type="file_download_error")
    return content


def _sides(inputs: Mapping[str, Any]) -> tuple[int, int]:
    size = inputs.get("image_size")
    if isinstance(size, dict):
        return size["width"], size["height"]
    if size in NAMED_SIZES:
        return NAMED_SIZES[size]
    if size:
        width, height = size.split("x")
        return int(width), int(height)
    return sides(inputs.get("aspect_ratio", "1:1"))


def main() -> None:
    parser = argument_parser(__doc__, port=9108)
    parser.add_argument("--running-polls", type=int, default=2, help="questions until a request is over (default 2)")
    options = parser.parse_args()

    def make() -> Simulator:
        return FalSimulator(key=options.key, running_polls=options.running_polls, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  fal:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
