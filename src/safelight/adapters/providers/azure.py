"""Azure OpenAI (Microsoft Foundry): OpenAI's GPT image models behind deployments that the operator names.

Sources: https://learn.microsoft.com/azure/foundry/openai/how-to/dall-e and
https://github.com/Azure/azure-rest-api-specs (OpenAI.v1, 2025-04-01-preview), read 2026-11-23.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from yarl import URL

from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._body import json_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._gpt_images import buy_pictures, plain_fields, quality_of
from safelight.adapters.providers._http import Dialect, bearer
from safelight.adapters.providers._openai_shape import edit_form
from safelight.adapters.providers._rules import (
    compression_needs_lossy_format,
    edits_inpaint,
    edits_need_prompt,
    transparency_needs_alpha,
)
from safelight.application.ports import Call, Finished, ProviderKey
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderRejected,
    ProviderUnavailable,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation

_TAKEN_IMAGES = frozenset({"image/png", "image/jpeg"})
_POLICY = frozenset(
    {
        "content_filter",
        "content_policy_violation",
        "contentfilter",
        "image_generation_user_error",
        "moderation_blocked",
        "responsibleaipolicyviolation",
    }
)
"""All the spellings of a block by the content filter, in lower case. A blocked *resource* (403 `Forbidden`) is none."""
_API_VERSIONS: Mapping[str, str] = {"v1": "preview", "deployments": "2025-04-01-preview"}
_INSTALL = "providers of type azure with entra_id: true need azure-identity: pip install safelight[azure]"


def _read(body: bytes) -> Complaint:
    """See the content filter in its many spellings, two of which stand in an inner error."""
    complaint = read_complaint(body)
    words = {complaint.code, complaint.type, _inner_code(body)}
    blocked = any(word.lower() in _POLICY for word in words if word)
    return replace(complaint, meaning=ProviderRejected) if blocked else complaint


def _inner_code(body: bytes) -> str | None:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    match said:
        case {"error": {"inner_error": {"code": str(code)}}} | {"error": {"innererror": {"code": str(code)}}}:
            return code
        case _:
            return None


def _api_key(key: ProviderKey) -> Mapping[str, str]:
    """Show a resource key; as a bearer token it is refused behind API Management."""
    return {"api-key": key.value} if key.value else {}


_ERRORS = ErrorTable(read=_read)
_REQUEST_IDS = ("apim-request-id", "x-request-id")
_WITH_KEY = Dialect(authorise=_api_key, errors=_ERRORS, request_id_headers=_REQUEST_IDS)
_WITH_TOKEN = Dialect(authorise=bearer, errors=_ERRORS, request_id_headers=_REQUEST_IDS)


def _edits_take_png_and_jpeg(request: ImageRequest) -> UnsupportedFeature | None:
    if any(image.image.content_type not in _TAKEN_IMAGES for image in request.images):
        return UnsupportedFeature("Azure takes input images as PNG or JPEG", param="image")
    return None


_RULES = (
    transparency_needs_alpha,
    compression_needs_lossy_format,
    edits_inpaint,
    edits_need_prompt,
    _edits_take_png_and_jpeg,
)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of the two address shapes is spoken, what the deployments are called, and who asks.

    `api_version` is by default `preview` on `v1` and `2025-04-01-preview` on `deployments`; empty, it is left out.
    """

    api: Literal["v1", "deployments"] = "v1"
    api_version: str | None = None
    deployments: dict[str, str] = {}
    """Model to deployment, where they are not called the same."""
    quality: Literal["low", "medium", "high"] = "medium"
    """What is sent where the caller leaves it open: Azure itself would draw (and bill) `high`."""
    entra_id: bool = False
    """Take access tokens of this machine's identity in the place of resource keys."""
    scope: str = "https://ai.azure.com/.default"


class _Tokens:
    """Access tokens of this machine's identity; azure-identity keeps them and renews them in time."""

    def __init__(self, scope: str) -> None:
        """Fetch nothing yet; raises `ConfigurationError` where azure-identity is not installed."""
        self._scope = scope
        try:
            self._identity: Any = import_module("azure.identity.aio")
            self._faults: Any = import_module("azure.core.exceptions")
        except ImportError as exc:
            raise ConfigurationError(_INSTALL) from exc
        self._credential: Any = None
        self._proven = False

    async def key(self, name: str | None) -> ProviderKey:
        """Take a token that is valid now; raises `ProviderAuthError`, `ProviderUnavailable`."""
        if self._credential is None:
            self._credential = self._identity.DefaultAzureCredential()
        try:
            token = await self._credential.get_token(self._scope)
        except self._faults.ClientAuthenticationError as exc:
            raise ProviderAuthError("Entra ID gave no access token to this machine's identity") from exc
        except self._faults.AzureError as exc:
            raise ProviderUnavailable("no access token could be fetched from Entra ID") from exc
        return ProviderKey(name=name, value=token.token)

    def accepted(self) -> None:
        """Hear that a token was good."""
        self._proven = True

    async def refused(self) -> bool:
        """Forget a token that was refused; whether a new one may do, because earlier ones did."""
        proven, self._proven = self._proven, False
        await self.close()
        return proven

    async def close(self) -> None:
        """Let go of connections."""
        credential, self._credential = self._credential, None
        if credential is not None:
            await credential.close()


class Azure(BaseProvider):
    """Answers at once, with base64; no handle and no idempotency key, so a lost answer stays unknown."""

    max_n = 10

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the addresses; raises `ConfigurationError`."""
        super().__init__(entry.settings, load_catalogue("azure"), rules=_RULES)
        _check_base_url(entry)
        self._options = entry.options
        self._tokens = _Tokens(entry.options.scope) if entry.options.entra_id else None
        self._http = entry.http(_WITH_TOKEN if self._tokens else _WITH_KEY)
        version = entry.options.api_version
        version = _API_VERSIONS[entry.options.api] if version is None else version
        self._query = f"?api-version={quote(version, safe='')}" if version else ""

    async def submit(self, call: Call) -> Finished:
        """Generate, or edit. There is no variation call: an edit with a neutral prompt stands in for it."""
        if self._tokens is None:
            return await self._exchange(call)
        call = msgspec.structs.replace(call, key=await self._tokens.key(call.key.name))
        try:
            done = await self._exchange(call)
        except ProviderAuthError as exc:
            if exc.status == 401 and await self._tokens.refused():
                raise ProviderUnavailable("the access token was refused; the next try takes a new one") from exc
            raise
        self._tokens.accepted()
        return done

    async def _exchange(self, call: Call) -> Finished:
        fields = self._fields(call)
        if call.request.operation is Operation.GENERATION:
            done = await buy_pictures(self._http, call, self._url(call.model, "generations"), json_body(fields))
        else:
            done = await buy_pictures(self._http, call, self._url(call.model, "edits"), edit_form(call, fields))
        return msgspec.structs.replace(
            done, model=call.model
        )  # what the deployment is called is the operator's business

    def _url(self, model: str, route: str) -> URL:
        if self._options.api == "v1":
            return self._http.url(f"openai/v1/images/{route}{self._query}")
        deployment = quote(self._deployment(model), safe="")
        return self._http.url(f"openai/deployments/{deployment}/images/{route}{self._query}")

    def _deployment(self, model: str) -> str:
        return self._options.deployments.get(model, model)

    def _fields(self, call: Call) -> dict[str, object]:
        """Name the fields as Azure does."""
        request = call.request
        fields = {**plain_fields(call, self.spec(call.model)), "quality": self._quality(request)}
        if self._options.api == "v1":  # on the other path a model in the body breaks some deployments
            fields["model"] = self._deployment(call.model)
        if request.user:
            fields["user"] = hashlib.sha256(request.user.encode()).hexdigest()
        return {**fields, **request.extra}

    def _quality(self, request: ImageRequest) -> str:
        """Always say it: whether Azure knows `auto` is not documented."""
        return self._options.quality if request.quality in {None, "auto"} else quality_of(request.quality)

    async def close(self) -> None:
        """Let go of the identity's connections."""
        if self._tokens is not None:
            await self._tokens.close()


def _check_base_url(entry: Entry[Options]) -> None:
    """Catch what is pasted from OpenAI's own client, which wants more of the address."""
    if "/openai" in URL(entry.settings.base_url or "").path:
        raise ConfigurationError(
            f"providers.{entry.settings.name}.base_url must end before /openai; the setting api says what follows"
        )


PROVIDER = ProviderModule(
    name="azure",
    doc="Azure OpenAI's GPT image deployments; base_url is the resource, such as https://NAME.openai.azure.com",
    create=Azure,
    options=Options,
)
