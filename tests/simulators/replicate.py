"""Replicate's predictions API as a strict server on loopback. `python -m tests.simulators.replicate --port 9107`.

Source: the provider sheet read from Replicate's public documents (HTTP reference, lifecycle, error codes, webhooks),
2026-11-23. The wording of refusals is chosen here; the statuses and shapes are not. A prediction is `starting` when it
is made, `processing` for so many questions as `running_polls` says, and then over. Words in the prompt end it otherwise:
see `ENDINGS`. Output files are served by the simulator itself.
"""

import base64
import hashlib
import hmac
import itertools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import msgspec

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

MEGABYTE = 10**6
LARGEST_FILE_BYTES = 100 * MEGABYTE
SDXL_VERSION = "7762fd07cf82c948538e41f63f77d685e02b063e37e496e96eefd46c929f9bdc"
SECRET = "whsec_" + base64.b64encode(b"a secret of the simulator").decode()
ENDINGS: Mapping[str, tuple[str, str | None]] = {
    "[blocked]": (
        "failed",
        "The input or output was flagged as sensitive. Please try again with different inputs. (E005)",
    ),
    "[fail]": ("failed", "Director: unexpected error handling prediction (E1000)"),
    "[oom]": ("failed", "Model ran out of memory (E1001)"),
    "[broken]": ("failed", "list index out of range"),
    "[canceled]": ("canceled", None),
    "[aborted]": ("aborted", None),
}
RATIOS = ("1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21")
MORE_RATIOS = (*RATIOS, "2:1", "1:2")
PROMPT = Rule(required=True)
SEED = Rule(kind="int")
COUNT = Rule(kind="int", smallest=1, largest=4)
FORMAT = Rule(choices=("webp", "jpg", "png"))
PERCENT = Rule(kind="int", smallest=0, largest=100)
SCHNELL: Mapping[str, Rule] = {
    "prompt": PROMPT,
    "aspect_ratio": Rule(choices=RATIOS),
    "num_outputs": COUNT,
    "num_inference_steps": Rule(kind="int", smallest=1, largest=4),
    "seed": SEED,
    "output_format": FORMAT,
    "output_quality": PERCENT,
    "go_fast": Rule(kind="bool"),
    "megapixels": Rule(choices=("1", "0.25")),
    "disable_safety_checker": Rule(kind="bool"),
}
KONTEXT: Mapping[str, Rule] = {
    "prompt": PROMPT,
    "input_image": Rule(kind="picture"),
    "aspect_ratio": Rule(choices=("match_input_image", *MORE_RATIOS)),
    "seed": SEED,
    "output_format": Rule(choices=("png", "jpg")),
    "safety_tolerance": Rule(kind="int", smallest=0, largest=6),
    "prompt_upsampling": Rule(kind="bool"),
}
FLUX_2: Mapping[str, Rule] = {
    "prompt": PROMPT,
    "input_images": Rule(kind="pictures", most=8),
    "aspect_ratio": Rule(choices=("match_input_image", "custom", *RATIOS)),
    "resolution": Rule(choices=("match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP")),
    "width": Rule(kind="int", smallest=256, largest=2048),
    "height": Rule(kind="int", smallest=256, largest=2048),
    "seed": SEED,
    "output_format": FORMAT,
    "output_quality": PERCENT,
    "safety_tolerance": Rule(kind="int", smallest=1, largest=5),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    rules: Mapping[str, Rule]
    output: str = "string"
    """`string`, `list` or `object`."""


MODELS: Mapping[str, Model] = {
    "black-forest-labs/flux-schnell": Model(rules=SCHNELL, output="list"),
    "black-forest-labs/flux-dev": Model(
        rules={
            **SCHNELL,
            "num_inference_steps": Rule(kind="int", smallest=1, largest=50),
            "image": Rule(kind="picture"),
            "prompt_strength": Rule(kind="number", smallest=0, largest=1),
            "guidance": Rule(kind="number", smallest=0, largest=10),
        },
        output="list",
    ),
    "black-forest-labs/flux-1.1-pro": Model(
        rules={
            "prompt": PROMPT,
            "aspect_ratio": Rule(choices=("custom", *RATIOS)),
            "width": Rule(kind="int", smallest=256, largest=1440),
            "height": Rule(kind="int", smallest=256, largest=1440),
            "seed": SEED,
            "output_format": FORMAT,
            "safety_tolerance": Rule(kind="int", smallest=1, largest=6),
        }
    ),
    "black-forest-labs/flux-kontext-pro": Model(rules=KONTEXT),
    "black-forest-labs/flux-kontext-max": Model(rules=KONTEXT),
    "black-forest-labs/flux-2-pro": Model(rules=FLUX_2),
    "black-forest-labs/flux-2-max": Model(rules=FLUX_2),
    "black-forest-labs/flux-2-flex": Model(rules=FLUX_2),
    "ideogram-ai/ideogram-4-5": Model(
        rules={
            "prompt": PROMPT,
            "images": Rule(kind="pictures", most=5),
            "mask": Rule(kind="mask"),
            "size": Rule(),
            "quality": Rule(),
            "num_images": Rule(kind="int", smallest=1, largest=8),
            "seed": Rule(kind="int", smallest=0, largest=2147483647),
        },
        output="list",
    ),
    SDXL_VERSION: Model(
        rules={
            "prompt": Rule(),
            "negative_prompt": Rule(),
            "image": Rule(kind="picture"),
            "mask": Rule(kind="mask"),
            "width": Rule(kind="int"),
            "height": Rule(kind="int"),
            "num_outputs": COUNT,
            "seed": SEED,
            "num_inference_steps": Rule(kind="int", smallest=1, largest=500),
            "prompt_strength": Rule(kind="number"),
        },
        output="list",
    ),
    "acme/fox": Model(rules={"prompt": PROMPT}, output="object"),
}
"""By `owner/name` those that are official or (acme's) a deployment, by version those that are not."""
CREATE_FIELDS = {"version", "input", "webhook", "webhook_events_filter", "stream"}
DURATION = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


@dataclass(kw_only=True)
class Prediction:
    id: str
    model: str
    version: str
    input: dict[str, Any]
    lifetime_s: float | None
    webhook: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    polls: int = 0
    status: str = "starting"
    error: str | None = None
    output: Any = None
    data_removed: bool = False
    contents: tuple[bytes, ...] = ()


def problem(status: int, title: str, detail: str, **more: Any) -> Refusal:
    return Refusal(json_reply({"title": title, "detail": detail, "status": status, **more}, status=status))


def invalid(detail: str, status: int = 422) -> Refusal:
    fields = [{"type": "invalid", "field": detail.partition(":")[0], "description": detail}]
    return problem(status, "Input validation failed", f"- {detail}\n", invalid_fields=fields)


class ReplicateSimulator(Simulator):
    """`key` None accepts any key, but one must be there."""

    prefix: ClassVar[str] = "/v1"

    def __init__(
        self, *, key: str | None = None, running_polls: int = 0, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self._ids = itertools.count(1)
        self.running_polls = running_polls
        self.predictions: dict[str, Prediction] = {}
        self.uploads: dict[str, bytes] = {}
        self.ending: tuple[str, str | None] | None = None
        """How predictions end from now on: status and error, whatever their prompt says."""
        self.created_at: str | None = None
        """What predictions say of their beginning from now on."""
        self.output: Any = None
        """What predictions give from now on, as it is."""
        self._routes: tuple[tuple[str, str, Callable[..., Reply]], ...] = (
            ("POST", r"/v1/predictions", self._create_by_version),
            ("POST", r"/v1/models/([^/]+/[^/]+)/predictions", self._create_official),
            ("POST", r"/v1/deployments/([^/]+/[^/]+)/predictions", self._create_deployed),
            ("GET", r"/v1/predictions", self._list),
            ("GET", r"/v1/predictions/([^/]+)", self._get),
            ("POST", r"/v1/predictions/([^/]+)/cancel", self._cancel),
            ("POST", r"/v1/files", self._upload),
            ("GET", r"/v1/account", self._account),
            ("GET", r"/v1/webhooks/default/secret", self._secret),
        )

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and path.endswith("/predictions")

    def error_body(self, status: int) -> dict[str, Any]:
        if status == 429:
            return {"detail": "Request was throttled. Your rate limit resets in ~30s."}
        return {"title": f"Simulated failure {status}", "detail": f"Simulated failure {status}.", "status": status}

    async def answer(self, call: Call) -> Reply:
        if call.path.startswith("/delivery/"):
            return self._deliver(call.path)
        self._authorize(call.exchange.headers.get("authorization", ""))
        for method, pattern, handler in self._routes:
            if method == call.method and (found := re.fullmatch(pattern, call.path)):
                return handler(call, *found.groups())
        raise problem(404, "Not found", "The requested resource could not be found.")

    def _authorize(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if scheme != "Bearer" or not key or (self._key is not None and key != self._key):
            raise problem(401, "Unauthenticated", "You did not pass a valid authentication token")

    def _create_by_version(self, call: Call) -> Reply:
        version = call.fields.get("version")
        if not isinstance(version, str):
            raise invalid("version: version is required")
        name, _, tag = version.rpartition(":")
        if re.fullmatch("[0-9a-f]{64}", tag):
            return self._create(call, name or "stability-ai/sdxl", tag, MODELS.get(tag))
        return self._create(call, version, "hidden", MODELS.get(version))

    def _create_official(self, call: Call, name: str) -> Reply:
        self._refuse_version(call)
        return self._create(call, name, "hidden", MODELS.get(name) if not name.startswith("acme/") else None)

    def _create_deployed(self, call: Call, name: str) -> Reply:
        self._refuse_version(call)
        return self._create(call, name, "hidden", MODELS.get(name) if name.startswith("acme/") else None)

    @staticmethod
    def _refuse_version(call: Call) -> None:
        if "version" in call.fields:
            raise invalid("version: Additional property version is not allowed")

    def _create(self, call: Call, name: str, version: str, model: Model | None) -> Reply:
        if call.content_type != "application/json":
            raise problem(415, "Unsupported media type", "Content-Type must be application/json")
        lifetime_s = self._check_envelope(call)
        if model is None:
            raise problem(404, "Not found", f"The model {name} or its version could not be found.")
        inputs = call.fields["input"]
        try:
            check_inputs(inputs, model.rules)
            self._check_pictures(inputs, model.rules)
        except InputFault as fault:
            raise invalid(f"input.{fault.name}: {fault.message}") from fault
        made = Prediction(
            id=f"p{next(self._ids):025d}",
            model=name,
            version=version,
            input=inputs,
            lifetime_s=lifetime_s,
            webhook=call.fields.get("webhook"),
        )
        self.predictions[made.id] = made
        return json_reply(self._shown(made), status=201)

    @staticmethod
    def _check_envelope(call: Call) -> float | None:
        for name in call.fields.keys() - CREATE_FIELDS:
            raise invalid(f"{name}: Additional property {name} is not allowed", status=400)
        if not isinstance(call.fields.get("input"), dict):
            raise invalid("input: input is required")
        webhook = call.fields.get("webhook", "https://x")
        if not is_callback(webhook):
            raise invalid("webhook: must be an HTTPS URL")
        if not set(call.fields.get("webhook_events_filter", ())) <= {"start", "output", "logs", "completed"}:
            raise invalid("webhook_events_filter: unknown event")
        prefer = call.exchange.headers.get("prefer", "wait")
        if not re.fullmatch(r"wait(=([1-9]|[1-5]\d|60))?", prefer):
            raise problem(400, "Bad request", "Prefer must be wait or wait=1 to wait=60")
        asked = call.exchange.headers.get("cancel-after")
        if asked is None:
            return None
        found = DURATION.fullmatch(asked)
        seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
        if seconds < 5:
            raise problem(400, "Bad request", "Cancel-After must be a duration of at least 5 seconds")
        return float(seconds)

    async def tell(self, prediction_id: str, *, secret: str = SECRET, at: float | None = None) -> int:
        """End a prediction and call its webhook; the status of the answer."""
        found = self.predictions[prediction_id]
        assert found.webhook is not None
        while found.status in {"starting", "processing"}:
            self._step(found)
        body = msgspec.json.encode(self._shown(found))
        return await self.call_back(found.webhook, body, signed(body, secret=secret, at=at))

    def _check_pictures(self, inputs: dict[str, Any], rules: Mapping[str, Rule]) -> None:
        kinds = {name: rules[name].kind for name in inputs}
        links = [(name, link) for name, kind in kinds.items() if kind == "pictures" for link in inputs[name]]
        links += [(name, inputs[name]) for name, kind in kinds.items() if kind == "picture"]
        pictures = [opened(self._fetched(link, name), name) for name, link in links]
        for name in (name for name, kind in kinds.items() if kind == "mask"):
            if not pictures:
                raise InputFault(name=name, message="a mask needs an image", type="missing")
            check_mask(opened(self._fetched(inputs[name], name), name), pictures[0], name)

    def _fetched(self, link: Any, name: str) -> bytes:
        if not isinstance(link, str):
            raise InputFault(name=name, message="Invalid type. Expected: string", type="type_error")
        content = from_data_url(link, name)
        if content is None:
            content = self.uploads.get(link.removeprefix(f"{self.base_url}/files/"))
        if content is None:
            raise InputFault(name=name, message="Does not match format 'uri'", type="file_download_error")
        return content

    def _list(self, _call: Call) -> Reply:
        results = [self._shown(each) for each in reversed(self.predictions.values())]
        return json_reply({"next": None, "previous": None, "results": results})

    def _find(self, prediction_id: str) -> Prediction:
        found = self.predictions.get(prediction_id)
        if found is None:
            raise problem(404, "Prediction not found", "The prediction does not exist, or is not yours.")
        return found

    def _get(self, _call: Call, prediction_id: str) -> Reply:
        found = self._find(prediction_id)
        if found.status in {"starting", "processing"}:
            self._step(found)
        return json_reply(self._shown(found))

    def _step(self, found: Prediction) -> None:
        found.polls += 1
        prompt = str(found.input.get("prompt", ""))
        status, error = self.ending or next(
            (end for word, end in ENDINGS.items() if word in prompt), ("succeeded", None)
        )
        if found.polls <= self.running_polls:
            found.status = "processing"
        else:
            found.status, found.error = status, error
            if status == "succeeded":
                self._draw(found)

    def _draw(self, found: Prediction) -> None:
        file_format = {"jpg": "jpeg", "webp": "webp"}.get(found.input.get("output_format", "png"), "png")
        ratio = found.input.get("aspect_ratio", "1:1")
        size = (found.input.get("width", 96), found.input.get("height", 96)) if ratio == "custom" else sides(ratio)
        content = picture(*size, file_format)
        count = found.input.get("num_outputs", found.input.get("num_images", 1))
        found.contents = tuple(
            stamped(content, f"{found.id} {index}") if file_format == "png" else content for index in range(count)
        )
        links = [f"{self.root_url}/delivery/{found.id}/{index}" for index in range(count)]
        model = MODELS.get(found.model) or MODELS[found.version]
        shapes = {"string": links[0], "list": links, "object": {"image": links[0], "kind": "fox"}}
        found.output = shapes[model.output] if self.output is None else self.output

    def _deliver(self, path: str) -> Reply:
        _, _, prediction_id, index = path.split("/")
        content = self._find(prediction_id).contents[int(index)]
        return Reply(body=content, headers={"Content-Type": "application/octet-stream"}, outputs=(content,))

    def _cancel(self, call: Call, prediction_id: str) -> Reply:
        if call.fields or call.contents:
            raise problem(400, "Bad request", "A cancel has no body.")
        found = self._find(prediction_id)
        if found.status == "starting":
            found.status = "aborted"
        elif found.status == "processing":
            found.status = "canceled"
        return json_reply(self._shown(found))

    def _upload(self, call: Call) -> Reply:
        if call.content_type != "multipart/form-data":
            raise problem(400, "Bad request", "Files are uploaded as multipart/form-data.")
        if [part.name for part in call.exchange.files] != ["content"] or call.fields.keys() - {
            "filename",
            "type",
            "metadata",
        }:
            raise problem(400, "Bad request", "Missing content")
        [content] = call.contents
        if len(content) > LARGEST_FILE_BYTES:
            raise problem(413, "Content too large", "Files may have 100 MB.")
        file_id = hashlib.sha256(content).hexdigest()[:24]
        self.uploads[file_id] = content
        expires = datetime.now(UTC) + timedelta(days=1)
        links = {"get": f"{self.base_url}/files/{file_id}"}
        return json_reply({"id": file_id, "urls": links, "expires_at": expires.isoformat()}, status=201)

    def _account(self, _call: Call) -> Reply:
        return json_reply({"type": "organization", "username": "acme", "name": "Acme"})

    def _secret(self, _call: Call) -> Reply:
        return json_reply({"key": SECRET})

    def _shown(self, made: Prediction) -> dict[str, Any]:
        link = f"{self.base_url}/predictions/{made.id}"
        done = made.polls * 25
        shown: dict[str, Any] = {
            "id": made.id,
            "model": made.model,
            "version": made.version,
            "input": {} if made.data_removed else made.input,
            "output": None if made.data_removed else made.output,
            "error": made.error,
            "logs": "" if made.status == "starting" else f"Using seed: 7\n {done}%|███       | {made.polls}/4\n",
            "status": made.status,
            "source": "api",
            "data_removed": made.data_removed,
            "created_at": self.created_at or made.created_at.isoformat().replace("+00:00", "Z"),
            "urls": {"get": link, "cancel": f"{link}/cancel", "web": f"https://replicate.com/p/{made.id}"},
        }
        if made.lifetime_s is not None:
            shown["deadline"] = (made.created_at + timedelta(seconds=made.lifetime_s)).isoformat()
        return shown


def signed(body: bytes, *, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a webhook call, made without the library that the adapter checks them with."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    moment = str(int(time.time() if at is None else at))
    digest = hmac.new(key, b".".join((b"msg_1", moment.encode(), body)), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(bytes(32)).decode()} v1,{base64.b64encode(digest).decode()}"
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": moment, "Webhook-Signature": signature}


def main() -> None:
    parser = argument_parser(__doc__, port=9107)
    parser.add_argument("--running-polls", type=int, default=2, help="questions until a prediction is over (default 2)")
    options = parser.parse_args()

    def make() -> Simulator:
        return ReplicateSimulator(
            key=options.key, running_polls=options.running_polls, host=options.host, port=options.port
        )

    def settings(base_url: str) -> str:
        key = options.key or "r8_any"
        return f"providers:\n  replicate:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
