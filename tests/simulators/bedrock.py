"""Amazon Bedrock's runtime with Stability AI's models as a strict server. `python -m tests.simulators.bedrock --port 9114`.

Source: the provider sheet read from AWS's public documents (models, fields, answers, errors, signatures), 2026-11-23.
What the sheet leaves open (the words of most messages, which of two faults is told first) is chosen here. Signatures
are computed anew with botocore, over the bytes that came.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pybase64
from aiohttp import web
from PIL import Image, UnidentifiedImageError

from tests.simulators._base import Call, Exchange, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped

ROUTE = re.compile(r"/model/(?P<model>.+)/invoke")
RAW_ROUTE = re.compile(r"/model/[A-Za-z0-9._~%-]+/invoke")
CREDENTIAL = re.compile(r"(?P<id>[^/]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9-]+)/aws4_request")
LARGEST_BODY_BYTES = 25_000_000
LONGEST_SKEW_S = 300
GENERATION_REGION = "us-west-2"
SERVICE_REGIONS = ("us-east-1", "us-east-2", "us-west-2")
FILTERS = {
    "[blocked]": "Filter reason: prompt",
    "[input]": "Filter reason: input image",
    "[output]": "Filter reason: output image",
    "[failing]": "Inference error",
}
"""A prompt with one of these words is answered with 200 and that reason."""
POLICY_WORD = "[policy]"
RATIOS = ("16:9", "1:1", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
STYLES = (
    *("3d-model", "analog-film", "anime", "cinematic", "comic-book", "digital-art", "enhance", "fantasy-art"),
    *("isometric", "line-art", "low-poly", "modeling-compound", "neon-punk", "origami", "photographic", "pixel-art"),
    "tile-texture",
)
STATUSES = {
    "ValidationException": 400,
    "ServiceQuotaExceededException": 400,
    "ConflictException": 400,
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "ResourceNotFoundException": 404,
    "ModelTimeoutException": 408,
    "ModelErrorException": 424,
    "ThrottlingException": 429,
    "ModelNotReadyException": 429,
    "InternalServerException": 500,
    "ServiceUnavailableException": 503,
}
NAMES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
ENDED = ("amazon.nova-canvas-v1:0", "amazon.titan-image-generator-v2:0", "stability.sd3-large-v1:0")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one member may hold."""

    kind: type = str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 10_000
    """Of a number; of a text, its length."""
    image: bool = False


TEXT = Rule(low=1)
NEGATIVE = {"negative_prompt": Rule()}
SEED = {"seed": Rule(kind=int, high=4_294_967_294)}
STYLE = {"style_preset": Rule(choices=STYLES)}
RATIO = {"aspect_ratio": Rule(choices=RATIOS)}
PICTURE = {"image": Rule(image=True)}
GROW = {"grow_mask": Rule(kind=int, high=20)}
MASK = {"mask": Rule(image=True), **GROW}
PROMPT = {"prompt": TEXT}


def share(low: float = 0, high: float = 1) -> Rule:
    return Rule(kind=float, low=low, high=high)


def formats(*names: str) -> Mapping[str, Rule]:
    return {"output_format": Rule(choices=names)}


F = formats("png", "jpeg", "webp")
N, S, P = NEGATIVE, SEED, STYLE
SD3 = {"mode": Rule(choices=("text-to-image", "image-to-image")), "strength": share(), **PICTURE}
SIDES = {side: Rule(kind=int, high=2000) for side in ("left", "right", "up", "down")}
CONTROL = {**PICTURE, **PROMPT, "control_strength": share(), **N, **S, **F, **P}
TRANSFER = {name: share() for name in ("composition_fidelity", "style_strength", "change_strength")}
GENERATING: Mapping[str, Mapping[str, Rule]] = {
    "stability.sd3-5-large-v1:0": {**PROMPT, **N, **RATIO, **S, **F, **SD3},
    "stability.stable-image-core-v1:1": {**PROMPT, **N, **RATIO, **S, **formats("png", "jpeg")},
    "stability.stable-image-ultra-v1:1": {**PROMPT, **N, **RATIO, **S, **formats("png", "jpeg")},
}
EDITING: Mapping[str, Mapping[str, Rule]] = {
    "stable-image-inpaint": {**PICTURE, **PROMPT, **MASK, **N, **S, **F, **P},
    "stable-image-erase-object": {**PICTURE, **MASK, **S, **F},
    "stable-outpaint": {**PICTURE, **SIDES, **PROMPT, "creativity": share(), **N, **S, **F, **P},
    "stable-image-search-replace": {**PICTURE, **PROMPT, "search_prompt": TEXT, **GROW, **N, **S, **F, **P},
    "stable-image-search-recolor": {**PICTURE, **PROMPT, "select_prompt": TEXT, **GROW, **N, **S, **F, **P},
    "stable-image-remove-background": {**PICTURE, **F},
    "stable-image-control-sketch": CONTROL,
    "stable-image-control-structure": CONTROL,
    "stable-image-style-guide": {**PICTURE, **PROMPT, "fidelity": share(), **RATIO, **N, **S, **F, **P},
    "stable-style-transfer": {
        "init_image": Rule(image=True),
        "style_image": Rule(image=True),
        **PROMPT,
        **TRANSFER,
        **N,
        **S,
        **F,
    },
    "stable-creative-upscale": {**PICTURE, **PROMPT, "creativity": share(0.1, 0.5), **N, **S, **F, **P},
    "stable-conservative-upscale": {**PICTURE, **PROMPT, "creativity": share(), **N, **S, **F},
    "stable-fast-upscale": {**PICTURE, **F},
}
SERVICES = {f"us.stability.{name}-v1:0": rules for name, rules in EDITING.items()}
MODELS = {**GENERATING, **SERVICES}
OPTIONAL_PROMPT = frozenset({"us.stability.stable-outpaint-v1:0", "us.stability.stable-style-transfer-v1:0"})


def refusal(message: str, name: str = "ValidationException", **more: Any) -> Refusal:
    reply = json_reply({"message": message, **more}, status=STATUSES[name])
    headers = {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    return Refusal(Reply(status=reply.status, body=reply.body, headers={**reply.headers, **headers}))


@dataclass(frozen=True, kw_only=True)
class Account:
    """Credentials that the server knows."""

    secret_key: str
    token: str | None = None


class BedrockSimulator(Simulator):
    """`key` None accepts any API key. `accounts` by access key id; `region` is where the server stands."""

    def __init__(
        self,
        *,
        key: str | None = None,
        accounts: Mapping[str, Account] | None = None,
        region: str = GENERATION_REGION,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self._key = key
        self.accounts = dict(accounts or {})
        self._region = region
        self.image_bytes = image_bytes
        self._raw: dict[int, tuple[str, bytes]] = {}

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and ROUTE.fullmatch(path) is not None

    def error_body(self, status: int) -> dict[str, Any]:
        return {"message": f"Simulated failure {status}.", "__type": NAMES.get(status, "InternalFailure")}

    def empty_body(self) -> dict[str, Any]:
        return {"seeds": [1], "finish_reasons": [None]}

    def unreadable(self, message: str) -> Refusal:
        return refusal(f"Malformed input request: {message}")

    def reply_headers(self, exchange: Exchange) -> dict[str, str]:
        return {"x-amzn-RequestId": f"00000000-0000-4000-8000-{exchange.number:012d}"}

    async def _read(self, request: web.Request, exchange: Exchange) -> Call:
        self._raw[exchange.number] = (request.raw_path, await request.read())
        return await super()._read(request, exchange)

    async def answer(self, call: Call) -> Reply:
        raw_path, body = self._raw.pop(call.exchange.number)
        self._authorise(call, raw_path, body)
        if call.method != "POST" or call.exchange.query or not RAW_ROUTE.fullmatch(raw_path):
            raise refusal("no such operation", "ResourceNotFoundException")
        if call.content_type != "application/json" or call.exchange.headers.get("accept") != "application/json":
            raise refusal("Content-Type and Accept must be application/json")
        if len(body) > LARGEST_BODY_BYTES:
            raise refusal("the request is larger than 25000000 bytes")
        model = self._model(call.path)
        images = check_members(call.fields, model)
        check_together(call.fields, model)
        return self._answer(call, model, images)

    def _model(self, path: str) -> str:
        """Find the model: an id, or the ARN of one."""
        match = ROUTE.fullmatch(path)
        asked = match["model"] if match else ""
        model = asked.rpartition("/")[2] if asked.startswith("arn:aws:bedrock:") else asked
        if model in ENDED:
            raise refusal("This model version has reached the end of its life.", "ResourceNotFoundException")
        if f"us.{model}" in SERVICES:
            raise refusal(
                f"Invocation of model ID {model} with on-demand throughput isn\u2019t supported. Retry your request with "
                "the ID or ARN of an inference profile that contains this model."
            )
        here = self._region in SERVICE_REGIONS if model in SERVICES else self._region == GENERATION_REGION
        if model not in MODELS or not here:
            raise refusal("The provided model identifier is invalid.")
        return model

    def _answer(self, call: Call, model: str, images: list[Image.Image]) -> Reply:
        prompt = call.fields.get("prompt", "")
        if POLICY_WORD in prompt:
            raise refusal("Your request was flagged by our content filters.")
        for word, reason in FILTERS.items():
            if word in prompt:
                return json_reply({"finish_reasons": [reason]})
        file_format = call.fields.get("output_format", "png")
        content = self._picture(call, model, images, file_format)
        body = {
            "seeds": [call.fields.get("seed") or 2_463_971_821],
            "finish_reasons": [None],
            "images": [pybase64.b64encode(content).decode()],
        }
        return json_reply(body, outputs=(content,))

    def _picture(self, call: Call, model: str, images: list[Image.Image], file_format: str) -> bytes:
        if self.image_bytes is not None:
            return picture_of_bytes(self.image_bytes)
        if images and "style-guide" not in model:
            width, height = images[0].size
        else:
            across, down = (int(part) for part in call.fields.get("aspect_ratio", "1:1").split(":"))
            width, height = 64 * across // down or 1, 64
        content = picture(width, height, file_format)
        return stamped(content, f"call {call.exchange.number}") if file_format == "png" else content

    def _authorise(self, call: Call, raw_path: str, body: bytes) -> None:
        scheme, _, shown = call.exchange.headers.get("authorization", "").partition(" ")
        match scheme:
            case "Bearer" if shown and self._key in {None, shown}:
                return
            case "Bearer":
                raise Refusal(json_reply({"Message": "Please make sure your API Key is valid."}, status=403))
            case "AWS4-HMAC-SHA256":
                self._verify(call, shown, raw_path, body)
            case _:
                raise refusal("Missing Authentication Token", "AccessDeniedException")

    def _verify(self, call: Call, shown: str, raw_path: str, body: bytes) -> None:
        """Compute the signature anew, as AWS would, and compare."""
        said = dict(part.strip().split("=", 1) for part in shown.split(","))
        scope = CREDENTIAL.fullmatch(said.get("Credential", ""))
        if scope is None or said.keys() != {"Credential", "SignedHeaders", "Signature"}:
            raise refusal("the Authorization header is incomplete", "InvalidSignatureException")
        headers = call.exchange.headers
        account = self.accounts.get(scope["id"])
        if account is None or headers.get("x-amz-security-token") != account.token:
            raise refusal("The security token included in the request is invalid.", "UnrecognizedClientException")
        signed = said["SignedHeaders"].split(";")
        _check_signed(signed, headers)
        if (scope["region"], scope["service"]) != (self._region, "bedrock"):
            raise refusal(f"Credential should be scoped to {self._region}/bedrock", "InvalidSignatureException")
        _check_date(headers["x-amz-date"], scope["date"])
        names = {name: headers[name] for name in signed}
        wanted, canonical = _signature(account, self._region, raw_path, body, names)
        if wanted != said["Signature"]:
            raise refusal(
                "The request signature we calculated does not match the signature you provided."
                f"\n\nThe Canonical String for this request should have been\n'{canonical}'",
                "InvalidSignatureException",
            )


def _check_signed(signed: list[str], headers: Mapping[str, str]) -> None:
    must = {name for name in headers if name.startswith("x-amz") or name in {"host", "content-type", "accept"}}
    if signed != sorted(signed) or not must | {"x-amz-date"} <= set(signed) <= headers.keys():
        raise refusal("not every header that must be is signed", "InvalidSignatureException")


def _check_date(stamp: str, day: str) -> None:
    then = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs((datetime.now(UTC) - then).total_seconds()) > LONGEST_SKEW_S or not stamp.startswith(day):
        raise refusal(f"Signature expired: {stamp} is now too far away", "InvalidSignatureException")


def _signature(
    account: Account, region: str, raw_path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[str, str]:
    auth, requests = import_module("botocore.auth"), import_module("botocore.awsrequest")
    credentials = import_module("botocore.credentials").Credentials("unused", account.secret_key, account.token)
    url = f"http://{headers['host']}{raw_path}"
    request = requests.AWSRequest(method="POST", url=url, headers=dict(headers), data=body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = auth.SigV4Auth(credentials, "bedrock", region)
    canonical = signer.canonical_request(request)
    return signer.signature(signer.string_to_sign(request, canonical), request), canonical


def check_members(fields: Mapping[str, Any], model: str) -> list[Image.Image]:
    """Raise the refusal of the first member that is unknown, missing or out of range; gives the pictures."""
    rules = MODELS[model]
    for name in fields:
        if name not in rules:
            raise refusal(f"extraneous key [{name}] is not permitted")
    images = []
    for name, rule in rules.items():
        if name not in fields:
            _check_missing(name, rule, model)
        elif rule.image:
            images.append(_decoded(name, fields[name]))
        else:
            _check_value(name, fields[name], rule)
    return images


def _check_missing(name: str, rule: Rule, model: str) -> None:
    if name in {"prompt", "search_prompt", "select_prompt"}:
        required = model not in OPTIONAL_PROMPT
    else:
        required = rule.image and model not in GENERATING and not (name == "mask" and "inpaint" in model)
    if required:
        raise refusal(f"required key [{name}] not found")


def _check_value(name: str, value: Any, rule: Rule) -> None:
    kinds = (int, float) if rule.kind is float else (rule.kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise refusal(f"{name}: expected type {rule.kind.__name__}")
    if rule.choices and value not in rule.choices:
        raise refusal(f"{name}: {value} is not one of {', '.join(rule.choices)}")
    measure: Any = len(value) if isinstance(value, str) else value
    if not rule.low <= measure <= rule.high:
        raise refusal(f"{name}: out of range")


def _decoded(name: str, value: Any) -> Image.Image:
    try:
        content = pybase64.b64decode(value, validate=True)
        image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "WEBP"])
        image.load()
    except (TypeError, ValueError, UnidentifiedImageError, OSError) as cause:
        raise refusal(f"{name}: no base64 of a PNG, JPEG or WebP") from cause
    if min(image.size) < 64:
        raise refusal(f"{name}: every side must have 64 pixels")
    if name == "mask" and image.mode != "L":
        raise refusal("mask: must be grey")
    return image


def check_together(fields: Mapping[str, Any], model: str) -> None:
    """Check what depends on two members."""
    if model == "stability.sd3-5-large-v1:0":
        redraws = fields.get("mode") == "image-to-image"
        if redraws != ("image" in fields) or redraws != ("strength" in fields):
            raise refusal("mode image-to-image, image and strength go together")
        if redraws and "aspect_ratio" in fields:
            raise refusal("aspect_ratio is for text-to-image alone")
    if "outpaint" in model and not any(fields.get(side) for side in SIDES):
        raise refusal("one of left, right, up and down must be more than 0")


def main() -> None:
    parser = argument_parser(__doc__, port=9114)
    parser.add_argument("--access-key", help="an access key id that may sign")
    parser.add_argument("--secret-key", help="its secret")
    parser.add_argument("--region", default=GENERATION_REGION, help=f"default {GENERATION_REGION}")
    options = parser.parse_args()
    accounts = {options.access_key: Account(secret_key=options.secret_key)} if options.access_key else {}

    def make() -> Simulator:
        return BedrockSimulator(
            key=options.key, accounts=accounts, region=options.region, host=options.host, port=options.port
        )

    def settings(base_url: str) -> str:
        key = options.key or "any"
        return f"providers:\n  bedrock:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
