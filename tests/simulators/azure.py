"""Azure OpenAI's image endpoints, both address shapes, as a strict server. `python -m tests.simulators.azure --port 9106`.

Source: the provider sheet read from Microsoft's public documents and REST files, 2026-11-23. What they do not confirm
(WebP, `moderation`, quality `auto`, `xhigh` and `max`) is refused here; the wording of refusals is chosen here.
"""

import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.simulators._base import Call, Exchange, Refusal, Reply, Simulator, argument_parser, json_reply, run_by_hand
from tests.simulators._pictures import picture, picture_of_bytes, stamped
from tests.simulators.openai import (
    BLOCKED_WORD,
    FIDELITY,
    SHARED_RULES,
    Model,
    Rule,
    check_fidelity,
    check_fields,
    check_files,
    check_size,
    error,
    real_size,
    refusal,
    streamed,
    text,
    typed_form,
    usage,
)

MODELS: Mapping[str, Model] = {
    "gpt-image-1-mini": Model(family=1.0),
    "gpt-image-1.5": Model(family=1.5),
    "gpt-image-2": Model(family=2.0),
    "gpt-image-2.5-flare": Model(family=2.5),
    "gpt-image-2.5-sunburst": Model(family=2.5),
}
RULES: Mapping[str, Rule] = {
    **{name: rule for name, rule in SHARED_RULES.items() if name != "model"},
    "quality": Rule(kind=str, choices=("low", "medium", "high")),
    "output_format": Rule(kind=str, choices=("png", "jpeg")),
}
V1_RULES = {**RULES, "model": Rule(kind=str, required=True)}
PATH = re.compile(r"/openai/(?:v1|deployments/(?P<deployment>[^/]+))/images/(?P<route>generations|edits)")
V1_VERSIONS = {"v1", "preview", "latest"}
FIRST_VERSION = "2025-04-01-preview"
CODES = {401: "401", 404: "DeploymentNotFound", 429: "429", 500: "InternalServerError"}
FILTER_RESULTS = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


class AzureSimulator(Simulator):
    """`key` is the resource key (None accepts any), `tokens` are good access tokens.

    `deployments` says which deployment runs which model; without it every model has one of its own name.
    """

    prefix: ClassVar[str] = ""

    def __init__(
        self,
        *,
        key: str | None = None,
        tokens: tuple[str, ...] = (),
        deployments: Mapping[str, str] | None = None,
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.tokens = tokens
        self._key = key
        self._deployments = deployments or {name: name for name in MODELS}
        self._image_bytes = image_bytes

    def is_submission(self, method: str, path: str) -> bool:
        return method == "POST" and PATH.fullmatch(path) is not None

    def error_body(self, status: int) -> dict[str, Any]:
        return {"error": {"code": CODES.get(status, str(status)), "message": f"Simulated failure {status}."}}

    def empty_body(self) -> dict[str, Any]:
        return {"created": int(time.time()), "data": []}

    def reply_headers(self, exchange: Exchange) -> dict[str, str]:
        return {"apim-request-id": f"apim-{exchange.number:08d}", "x-ms-region": "Simulated"}

    async def answer(self, call: Call) -> Reply:
        self._authorize(call.exchange.headers)
        match = PATH.fullmatch(call.path)
        if match is None or call.method != "POST":
            raise Refusal(json_reply({"error": {"code": "404", "message": "Resource not found"}}, status=404))
        deployment = match["deployment"]
        check_version(call.exchange.query, v1=deployment is None)
        rules = V1_RULES if deployment is None else RULES
        if match["route"] == "generations":
            return self._generate(call, rules, deployment)
        return self._edit(call, rules, deployment)

    def _authorize(self, headers: Mapping[str, str]) -> None:
        """A bearer that is no token is taken for a missing subscription, as API Management does."""
        key, bearer = headers.get("api-key"), headers.get("authorization", "")
        if key is not None and bearer:
            raise refusal("Send a key or a token, not both.", code="401", status=401)
        if key and self._key in {None, key}:
            return
        if bearer.removeprefix("Bearer ") in self.tokens:
            return
        body = {"statusCode": 401, "message": "Access denied due to missing or invalid subscription key or token."}
        raise Refusal(json_reply(body, status=401))

    def _model(self, deployment: str) -> Model:
        name = self._deployments.get(deployment)
        if name is None:
            body = {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}
            raise Refusal(json_reply(body, status=404))
        return MODELS[name]

    def _generate(self, call: Call, rules: Mapping[str, Rule], deployment: str | None) -> Reply:
        if call.content_type != "application/json":
            raise refusal(f"Unsupported content type '{call.content_type}'.", code="unsupported_content_type")
        check_fields(call.fields, rules)
        check_together(call.fields, self._model(unquote(deployment or call.fields["model"])))
        return self._pictures(call, call.fields, inputs=0, event="image_generation")

    def _edit(self, call: Call, rules: Mapping[str, Rule], deployment: str | None) -> Reply:
        if call.content_type != "multipart/form-data":
            raise refusal(f"Unsupported content type '{call.content_type}'.", code="unsupported_content_type")
        fields = typed_form(call.fields, {**rules, **FIDELITY})
        check_fields(fields, {**rules, **FIDELITY})
        model = self._model(unquote(deployment or fields["model"]))
        check_together(fields, model)
        check_fidelity(fields, model)
        for part in call.exchange.files:
            if part.name == "markup" or part.content_type not in {"image/png", "image/jpeg"}:
                raise refusal(f"Part '{part.name}' is not taken.", param=part.name)
        inputs = check_files(call.exchange.files, call.contents, model)
        return self._pictures(call, fields, inputs=inputs, event="image_edit")

    def _pictures(self, call: Call, fields: dict[str, Any], *, inputs: int, event: str) -> Reply:
        if BLOCKED_WORD in fields["prompt"]:
            raise content_filter()
        outputs = tuple(self._output(call, fields, index) for index in range(fields.get("n", 1)))
        if fields.get("stream"):
            return streamed(event, fields, outputs, inputs)
        counted = usage(fields, len(outputs), inputs)
        del counted["output_tokens_details"]
        data = [{"b64_json": text(output), "content_filter_results": FILTER_RESULTS} for output in outputs]
        return json_reply({"created": int(time.time()), "data": data, "usage": counted}, outputs=outputs)

    def _output(self, call: Call, fields: dict[str, Any], index: int) -> bytes:
        if self._image_bytes is not None:
            return picture_of_bytes(self._image_bytes)
        file_format = fields.get("output_format", "png")
        width, height = (int(side) for side in real_size(fields).split("x"))
        content = picture(width, height, file_format, transparent=fields.get("background") == "transparent")
        return stamped(content, f"call {call.exchange.number}, image {index}") if file_format == "png" else content


def check_version(query: Mapping[str, str], *, v1: bool) -> None:
    for name in query:
        if name != "api-version":
            raise refusal(f"Unknown query parameter '{name}'.", param=name)
    version = query.get("api-version")
    if v1 and version is not None and version not in V1_VERSIONS:
        raise refusal(f"API version '{version}' is not supported.", code="UnsupportedApiVersion")
    if not v1 and (version is None or version < FIRST_VERSION):
        raise Refusal(json_reply({"error": {"code": "404", "message": "Resource not found"}}, status=404))


def check_together(fields: dict[str, Any], model: Model) -> None:
    check_size(fields.get("size", "auto"), model)
    file_format = fields.get("output_format", "png")
    if fields.get("background") == "transparent" and file_format != "png":
        raise refusal("Transparent background needs png.", param="background")
    if "output_compression" in fields and file_format != "jpeg":
        raise refusal("Compression needs jpeg.", param="output_compression")
    if fields.get("partial_images") and not fields.get("stream"):
        raise refusal("'partial_images' needs 'stream'.", param="partial_images")


def content_filter() -> Refusal:
    body = error("Your request was rejected by the safety system.", kind="", code="contentFilter")
    body["error"]["inner_error"] = {"code": "ResponsibleAIPolicyViolation", "content_filter_results": FILTER_RESULTS}
    return Refusal(json_reply(body, status=400))


def main() -> None:
    parser = argument_parser(__doc__, port=9106)
    options = parser.parse_args()

    def make() -> Simulator:
        return AzureSimulator(key=options.key, host=options.host, port=options.port)

    def settings(base_url: str) -> str:
        key = options.key or "any-key"
        return f"providers:\n  azure:\n    base_url: {base_url}\n    keys: [{{name: simulated, value: {key}}}]\n"

    run_by_hand(make, settings)


if __name__ == "__main__":
    main()
