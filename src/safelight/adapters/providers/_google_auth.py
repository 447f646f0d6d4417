"""Access tokens for Google Cloud, through the `google-auth` package: default credentials and service accounts.

The package is an extra (`pip install safelight[google]`). It blocks, so it runs in a thread; nothing of it is loaded
before a token is wanted. Source: https://googleapis.dev/python/google-auth/latest/user-guide.html, read 2026-11-23.
"""

import asyncio
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import msgspec

from safelight.domain.errors import ConfigurationError, ProviderAuthError, ProviderError, ProviderUnavailable

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
MISSING = "Google Cloud credentials need the google-auth package: pip install safelight[google]"


class _Credentials(Protocol):
    """What we use of google-auth's credentials."""

    token: str | None
    quota_project_id: str | None

    @property
    def valid(self) -> bool:
        """Whether the token will hold for some minutes more."""
        ...

    def refresh(self, request: object) -> None:
        """Get a new token; blocks."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A token that lives about an hour, and the projects that its credentials name."""

    token: str = field(repr=False)
    project: str | None = None
    quota_project: str | None = None
    fresh: bool = True
    """Whether it was made for this very call."""


def require_google_auth() -> None:
    """Raise `ConfigurationError` unless the package is there."""
    try:
        import_module("google.auth.transport.requests")
    except ImportError as exc:
        raise ConfigurationError(MISSING) from exc


class GoogleTokens:
    """The tokens of a provider entry's accounts, each kept until shortly before its end."""

    def __init__(self, credentials_file: str | None = None) -> None:
        """Take a service account's file in the place of the default credentials, where there is one."""
        self._file = credentials_file
        self._accounts: dict[str | None, _Account] = {}

    async def grant(self, secret: str | None) -> Grant:
        """Give a token for a service account's JSON, or for the credentials of this machine.

        Raises `ProviderAuthError`, or `ProviderUnavailable` when Google cannot be reached; nothing is charged.
        """
        account = self._accounts.setdefault(secret, _Account(secret, self._file))
        return await account.grant()

    def forget(self, secret: str | None, token: str | None) -> None:
        """Drop a token that was refused before its time: the next grant is a fresh one."""
        account = self._accounts.get(secret)
        if account is not None and account.token == token:
            del self._accounts[secret]


class _Account:
    def __init__(self, secret: str | None, file: str | None) -> None:
        self._secret = secret
        self._file = file
        self._lock = asyncio.Lock()
        self._credentials: _Credentials | None = None
        self._project: str | None = None

    @property
    def token(self) -> str | None:
        """The token as it is, whether it still holds or not."""
        return self._credentials.token if self._credentials else None

    async def grant(self) -> Grant:
        async with self._lock:
            fresh = self._credentials is None or not self._credentials.valid
            if fresh:
                await asyncio.to_thread(self._refresh)
            return self._grant(fresh=fresh)

    def _grant(self, *, fresh: bool) -> Grant:
        if self._credentials is None or not self._credentials.token:
            raise ProviderAuthError("Google's credentials gave no access token")
        return Grant(
            token=self._credentials.token,
            project=self._project,
            quota_project=self._credentials.quota_project_id,
            fresh=fresh,
        )

    def _refresh(self) -> None:
        """Load the credentials, unless that is done, and get a token; blocks."""
        try:
            transport = import_module("google.auth.transport.requests")
        except ImportError as exc:
            raise ProviderAuthError(MISSING) from exc
        errors = import_module("google.auth.exceptions")
        try:
            if self._credentials is None:
                self._credentials, self._project = self._load()
            self._credentials.refresh(transport.Request())
        except errors.TransportError as exc:
            raise ProviderUnavailable("Google's token service cannot be reached") from exc
        except errors.DefaultCredentialsError as exc:
            raise ProviderAuthError(
                "no usable Google credentials: set GOOGLE_APPLICATION_CREDENTIALS, credentials_file or a key"
            ) from exc
        except errors.GoogleAuthError as exc:
            raise _refused(exc) from exc

    def _load(self) -> tuple[_Credentials, str | None]:
        if self._secret is None and self._file is None:
            credentials, project = import_module("google.auth").default(scopes=SCOPES)
            return credentials, project
        info = self._info()
        accounts = import_module("google.oauth2.service_account")
        try:
            found = accounts.Credentials.from_service_account_info(info, scopes=SCOPES)
        except (ValueError, TypeError, KeyError) as exc:
            raise ProviderAuthError("the service account's JSON lacks a member, or its private key is damaged") from exc
        return found, found.project_id

    def _info(self) -> dict[str, Any]:
        try:
            text = self._secret if self._secret is not None else Path(self._file or "").read_text(encoding="utf-8")
            return msgspec.json.decode(text, type=dict[str, Any])
        except OSError as exc:
            raise ProviderAuthError(f"credentials_file cannot be read: {exc.strerror}") from exc
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ProviderAuthError("the service account's key is not JSON") from exc


def _refused(exc: Exception) -> ProviderError:
    """Bring a refused token into the tree. The service's own word is kept, its text is not."""
    word = next((said.get("error") for said in exc.args if isinstance(said, dict)), None)
    code = word if isinstance(word, str) else None
    if getattr(exc, "retryable", False):
        return ProviderUnavailable("Google's token service failed", provider_code=code)
    return ProviderAuthError(
        f"Google gives no access token for these credentials{f' ({code})' if code else ''}; is the clock right?",
        provider_code=code,
    )
