"""Gemini's image models in a Google Cloud project (Vertex AI, now the Gemini Enterprise Agent Platform).

Sources: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/image/overview,
https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/model-versions and
https://github.com/googleapis/python-genai, read 2026-11-23.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import msgspec

from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._gemini_frames import load_models
from safelight.adapters.providers._gemini_shape import (
    FIELDS,
    RULES,
    api_key,
    finished,
    generate_body,
    model_path,
    refuse_imagen,
    refuse_unsendable,
    version_path,
)
from safelight.adapters.providers._google_auth import GoogleTokens, Grant, require_google_auth
from safelight.adapters.providers._google_errors import GOOGLE_ERRORS
from safelight.adapters.providers._http import Dialect, ProviderHttp
from safelight.adapters.providers._rules import compression_needs_lossy_format
from safelight.application.ports import Call, Finished, ProviderKey
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderUnavailable,
)
from safelight.domain.image import ImageRequest

_ADDRESS = "https://aiplatform.googleapis.com"
_FIELDS = FIELDS | {"output_format", "output_compression"}
_RULES = (*RULES, compression_needs_lossy_format)
_LOCATION = re.compile(r"[a-z0-9-]+")
_MULTI_REGIONS = frozenset({"us", "eu"})


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and for whom to draw. A key is a service account's JSON, or an API key (express mode, without a project).

    Without a key, `credentials_file` (a service account) or the default credentials of the machine count.
    """

    project: str | None = None
    """By default the credentials' own."""
    location: str = "global"
    api_version: str = "v1"
    credentials_file: str | None = None
    access_token: str | None = None
    """A token of yours, in the place of all credentials; it lives an hour. For tests."""
    quota_project: str | None = None
    """Which project pays for the quota, if another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How one call goes: to which address, shown which secret."""

    http: ProviderHttp
    path: str
    key: ProviderKey
    headers: Mapping[str, str] = field(default_factory=dict)
    kept: bool = False
    """Whether the secret is a token that was made for an earlier call."""


class Vertex(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency key, so a lost answer stays unknown."""

    max_n = 1

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the addresses. Raises `ConfigurationError`."""
        super().__init__(entry.settings, tuple(load_models("vertex", entry.settings)), rules=_RULES)
        self._options = entry.options
        _check(entry.options)
        entry = replace(entry, settings=replace(entry.settings, base_url=_address(entry)))
        self._cloud = entry.http(Dialect(errors=GOOGLE_ERRORS))
        self._express = entry.http(Dialect(authorise=api_key, errors=GOOGLE_ERRORS))
        self._version = version_path(self._cloud, entry.options.api_version)
        self._tokens = GoogleTokens(entry.options.credentials_file)

    async def submit(self, call: Call) -> Finished:
        """Generate or edit, which is one method here. A variation is an edit with a neutral prompt."""
        refuse_imagen(call.model)
        refuse_unsendable(call, _FIELDS, _RULES)
        body = generate_body(call, self.spec(call.model), output=_output(call.request))
        way = await self._way(call.key)
        url = way.http.url(f"{self._version}{way.path}publishers/google/{model_path(call.model)}")
        try:
            answer = await way.http.buy(msgspec.structs.replace(call, key=way.key), url, body, headers=way.headers)
        except ProviderAuthError as exc:
            if exc.status == 401 and way.kept:
                raise self._outdated(exc, way, call.key) from exc
            raise
        return await finished(answer, call)

    async def _way(self, key: ProviderKey) -> _Way:
        """Find the way for a key: express for an API key, else through the project with a token."""
        options = self._options
        if options.access_token is None and key.value and not _is_account(key):
            return _Way(http=self._express, path="", key=key)
        grant = await self._grant(key)
        project = options.project or grant.project
        if project is None:
            raise ProviderAuthError("the credentials name no project: set the option project")
        quota_project = options.quota_project or grant.quota_project
        return _Way(
            http=self._cloud,
            path=f"projects/{quote(project, safe=':')}/locations/{options.location}/",
            key=replace(key, value=grant.token),
            headers={"x-goog-user-project": quota_project} if quota_project else {},
            kept=not grant.fresh,
        )

    async def _grant(self, key: ProviderKey) -> Grant:
        if self._options.access_token is not None:
            return Grant(token=self._options.access_token)
        return await self._tokens.grant(key.value or None)

    def _outdated(self, exc: ProviderAuthError, way: _Way, key: ProviderKey) -> ProviderUnavailable:
        """Drop a token that was refused before its time: only a fresh one that is refused speaks against the key."""
        self._tokens.forget(key.value or None, way.key.value)
        return ProviderUnavailable(
            "the access token was refused before its time; the next try gets a new one",
            status=exc.status,
            provider_code=exc.provider_code,
            request_id=exc.request_id,
        )


def _is_account(key: ProviderKey) -> bool:
    return (key.value or "").lstrip().startswith("{")


def _output(request: ImageRequest) -> Mapping[str, object]:
    """Choose the kind of file; `output_compression` counts as OpenAI has it, 100 is the best quality."""
    options: dict[str, object] = {}
    if request.output_format is not None:
        options["mimeType"] = f"image/{request.output_format}"
    if request.output_compression is not None:
        options["compressionQuality"] = request.output_compression
    return {"imageOutputOptions": options} if options else {}


def _check(options: Options) -> None:
    if not _LOCATION.fullmatch(options.location):
        raise ConfigurationError("vertex: location must be global, us, eu or a region such as us-central1")
    if options.access_token is not None:
        if options.project is None:
            raise ConfigurationError("vertex: access_token needs project")
    elif options.project is not None or options.credentials_file is not None:
        require_google_auth()


def _address(entry: Entry[Options]) -> str | None:
    """Where the location is; an address of the operator's own stays as it is."""
    location = entry.options.location
    if entry.settings.base_url != _ADDRESS or location == "global":
        return entry.settings.base_url
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


PROVIDER = ProviderModule(
    name="vertex",
    doc="Google's Gemini image models in a Cloud project, by service account or default credentials",
    create=Vertex,
    options=Options,
    base_url=_ADDRESS,
)
