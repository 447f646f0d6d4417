"""Gemini's models on Vertex AI as a strict server on loopback. `python -m tests.simulators.vertex --port 9104`.

Source: the provider sheet read from Google's public documents (generateContent on Google Cloud, service accounts),
2026-11-23. It also plays Google's token service, at `/token`. Bodies and scripted words are those of `gemini.py`.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from tests.simulators._base import Call, Exchange, Refusal, Reply, json_reply
from tests.simulators.gemini import (
    BODY,
    CONTENT,
    GENERATION_CONFIG,
    HARMS,
    IMAGE_CONFIG,
    SAFETY,
    TEXT,
    GeminiSimulator,
    Rule,
    bad_field,
    error_info,
    harms,
    items,
    refusal,
    start_by_hand,
    struct,
)

CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ROUTE = re.compile(
    r"/(?:v1|v1beta1)/(?:projects/(?P<project>[a-z0-9:.-]+)/locations/(?P<location>[a-z0-9-]+)/)?"
    r"publishers/google/models/(?P<model>[\w.-]+):(?P<method>\w+)"
)
IMAGE_HARMS = ("IMAGE_HATE", "IMAGE_DANGEROUS_CONTENT", "IMAGE_HARASSMENT", "IMAGE_SEXUALLY_EXPLICIT")
CLOUD_IMAGE_CONFIG = {
    **IMAGE_CONFIG,
    "personGeneration": Rule(kind=str, choices=("ALLOW_ALL", "ALLOW_ADULT", "ALLOW_NONE")),
    "prominentPeople": Rule(kind=str, choices=("ALLOW_PROMINENT_PEOPLE", "BLOCK_PROMINENT_PEOPLE")),
    "imageOutputOptions": struct(
        {
            "mimeType": Rule(kind=str, choices=("image/png", "image/jpeg")),
            "compressionQuality": Rule(kind=int, smallest=0, largest=100),
        }
    ),
}
CLOUD_CONTENT = {**CONTENT, "role": Rule(kind=str, choices=("user", "model"), required=True)}
CLOUD_BODY = {name: rule for name, rule in BODY.items() if name not in {"serviceTier", "store"}} | {
    "contents": items(struct(CLOUD_CONTENT), required=True),
    "generationConfig": struct({**GENERATION_CONFIG, "imageConfig": struct(CLOUD_IMAGE_CONFIG)}, required=True),
    "safetySettings": items(struct({**SAFETY, "category": harms(*HARMS, *IMAGE_HARMS), "method": TEXT})),
    "labels": Rule(kind=dict),
}


class VertexSimulator(GeminiSimulator):
    """Takes its key as an API key (express mode) and as an access token, and the tokens that it has given out.

    `public_key` (PEM) is that of the one service account, whose e-mail is `client_email`.
    """

    body_rules: Mapping[str, Rule] = CLOUD_BODY
    default_format = "png"

    def __init__(
        self,
        *,
        key: str | None = None,
        project: str | None = None,
        public_key: str | None = None,
        client_email: str = "gateway@p1.iam.gserviceaccount.com",
        image_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(key=key, image_bytes=image_bytes, host=host, port=port)
        self._project = project
        self._public_key = public_key
        self._client_email = client_email
        self._tokens: set[str] = set()
        self.tokens_given = 0

    def revoke_tokens(self) -> None:
        """Take back all tokens before their time."""
        self._tokens.clear()

    async def _read(self, request: web.Request, exchange: Exchange) -> Call:
        call = await super()._read(request, exchange)
        if request.content_type == "application/x-www-form-urlencoded":
            exchange.fields = dict(parse_qsl(await request.text()))
        return call

    async def answer(self, call: Call) -> Reply:
        if call.path == "/token":
            return self._grant(call)
        return await super().answer(call)

    def route(self, path: str) -> tuple[str, str] | None:
        match = ROUTE.fullmatch(path)
        return (match["model"], match["method"]) if match else None

    def authorise(self, call: Call) -> None:
        match = ROUTE.fullmatch(call.path)
        if match is None or match["project"] is None:
            super().authorise(call)
            return
        if call.exchange.query:
            raise refusal("Invalid JSON payload received. Unknown query parameters.")
        scheme, _, token = call.exchange.headers.get("authorization", "").partition(" ")
        known = self._tokens | {self._key or token}
        if scheme != "Bearer" or token not in known or "x-goog-api-key" in call.exchange.headers:
            details = [error_info("ACCESS_TOKEN_TYPE_UNSUPPORTED")]
            raise refusal("Request had invalid authentication credentials.", status=401, details=details)
        if self._project not in {None, match["project"]}:
            message = "Permission 'aiplatform.endpoints.predict' denied on resource."
            raise refusal(message, status=403, details=[error_info("IAM_PERMISSION_DENIED")])

    def output_format(self, config: Mapping[str, Any]) -> str:
        options = config.get("imageOutputOptions", {})
        file_format: str = options.get("mimeType", "image/png").removeprefix("image/")
        if "compressionQuality" in options and file_format != "jpeg":
            raise bad_field("generation_config.image_config.image_output_options", "quality is for JPEG")
        return file_format

    def _frame(self, call: Call, name: str, made: int, inputs: int) -> dict[str, Any]:
        frame = super()._frame(call, name, made, inputs)
        frame["usageMetadata"]["trafficType"] = "ON_DEMAND"
        return frame

    def _grant(self, call: Call) -> Reply:
        """Give a token for a signed assertion, as https://oauth2.googleapis.com/token does."""
        form = call.fields
        if call.method != "POST" or form.keys() != {"grant_type", "assertion"} or form["grant_type"] != GRANT:
            raise Refusal(json_reply({"error": "unsupported_grant_type"}, status=400))
        try:
            claims = import_module("google.auth.jwt").decode(form["assertion"], certs=self._public_key)
        except ValueError as cause:
            said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            raise Refusal(json_reply(said, status=400)) from cause
        if (
            claims["iss"] != self._client_email
            or claims["scope"] != CLOUD_SCOPE
            or claims["exp"] - claims["iat"] > 3600
        ):
            raise Refusal(json_reply({"error": "invalid_grant", "error_description": "Invalid claims."}, status=400))
        self.tokens_given += 1
        token = f"ya29.simulated-{self.tokens_given}"
        self._tokens.add(token)
        return json_reply({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})


def main() -> None:
    start_by_hand(
        __doc__,
        9104,
        VertexSimulator,
        lambda url, key: (
            f"providers:\n  vertex:\n    base_url: {url}\n    project: p1\n    access_token: {key}\n"
            f"# or in express mode, without project and access_token:\n"
            f"#   keys: [{{name: simulated, value: {key}}}]\n"
        ),
    )


if __name__ == "__main__":
    main()
