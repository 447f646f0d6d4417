"""Signatures for AWS (Signature Version 4), through the `botocore` package: given credentials, and this machine's own.

The package is an extra (`pip install safelight[aws]`). It may block, so it runs in a thread; nothing of it is loaded
before a signature is wanted. Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html, read
2026-11-23.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import msgspec
from yarl import URL

from safelight.adapters.providers._inline import InlinePictures
from safelight.base64_json import render
from safelight.domain.errors import ConfigurationError, ProviderAuthError, ProviderUnavailable

MISSING = "AWS credentials need the botocore package: pip install safelight[aws]"
_NONE_FOUND = "this machine has no AWS credentials: give the provider a key, or set AWS_PROFILE or AWS_ACCESS_KEY_ID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a request is signed with. Only the access key's id ever prints."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    """Goes with temporary ones, and travels with each request."""


class _Given(msgspec.Struct, rename="pascal"):
    """Credentials as `aws configure export-credentials` and `aws sts` print them."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


def require_botocore() -> None:
    """Raise `ConfigurationError` unless the package is there."""
    try:
        _load("botocore.session")
    except ProviderAuthError as exc:
        raise ConfigurationError(MISSING) from exc


def given_credentials(text: str) -> Credentials:
    """Read credentials from JSON; raises `ProviderAuthError`."""
    try:
        given = msgspec.json.decode(text, type=_Given)
    except msgspec.DecodeError:  # its message could quote a part of them
        given = None
    if given is None:
        raise ProviderAuthError("the key is no JSON with AccessKeyId and SecretAccessKey")
    return Credentials(
        access_key=given.access_key_id, secret_key=given.secret_access_key, token=given.session_token or None
    )


class MachineCredentials:
    """This machine's credentials (environment, profile, container, instance); botocore renews temporary ones."""

    def __init__(self, profile: str | None = None) -> None:
        """Fetch nothing yet."""
        self._profile = profile
        self._lock = asyncio.Lock()
        self._found: Any = None
        self._last: Credentials | None = None

    async def take(self) -> tuple[Credentials, bool]:
        """Take what is valid now, and whether it is new since the last call; raises `ProviderError`."""
        async with self._lock:
            taken = await asyncio.to_thread(self._take)
            fresh = taken != self._last
            self._last = taken
            return taken, fresh

    def forget(self, credentials: Credentials) -> None:
        """Drop what was refused: the next call looks for credentials anew."""
        if self._last == credentials:
            self._found = self._last = None

    def _take(self) -> Credentials:
        """Look for credentials, unless that is done, and renew them if they are about to expire; blocks."""
        session, faults = _load("botocore.session"), _load("botocore.exceptions")
        try:
            if self._found is None:
                self._found = session.Session(profile=self._profile).get_credentials()
            frozen = self._found.get_frozen_credentials() if self._found else None
        except (faults.HTTPClientError, faults.ConnectionError) as exc:
            raise ProviderUnavailable("the service that gives AWS credentials could not be reached") from exc
        except (faults.BotoCoreError, faults.ClientError, RuntimeError) as exc:
            raise ProviderAuthError(f"AWS credentials could not be had: {type(exc).__name__}") from exc
        if frozen is None or not frozen.access_key:
            raise ProviderAuthError(_NONE_FOUND)
        return Credentials(access_key=frozen.access_key, secret_key=frozen.secret_key, token=frozen.token)


class SignedPictures(InlinePictures):
    """A JSON body that can be hashed before it is sent: a signature covers it, and it is too large to be held."""

    async def sha256(self, value: Any) -> str:
        """Hash what `body(value)` will send; reads the pictures once more."""
        text, digest = msgspec.json.encode(value), hashlib.sha256()
        used = {name: insert for name, insert in self._inserts.items() if name.encode() in text}
        async for chunk in render(text, used).chunks:
            digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Signs for one service in one region."""

    service: str
    region: str

    async def headers(
        self, url: URL, headers: Mapping[str, str], *, body_sha256: str, credentials: Credentials
    ) -> dict[str, str]:
        """Sign a POST; gives `headers` with the signature and what belongs to it. Raises `ProviderAuthError`."""
        return await asyncio.to_thread(self._sign, str(url), dict(headers), body_sha256, credentials)

    def _sign(self, url: str, headers: dict[str, str], body_sha256: str, credentials: Credentials) -> dict[str, str]:
        auth, requests = _load("botocore.auth"), _load("botocore.awsrequest")
        request = requests.AWSRequest(method="POST", url=url, headers=headers)
        signer = auth.SigV4Auth(credentials, self.service, self.region)
        signer.payload = lambda _request: body_sha256  # botocore's own way would need the whole body
        signer.add_auth(request)
        return dict(request.headers.items())


def _load(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as exc:
        raise ProviderAuthError(MISSING) from exc
