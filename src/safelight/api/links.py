"""Signed links to images: whoever holds one may fetch that image until the link ends."""

import hashlib
import hmac
import math
from datetime import datetime
from functools import lru_cache

from itsdangerous import Signer
from itsdangerous.signer import SigningAlgorithm
from starlette.datastructures import URL
from starlette.requests import Request

from safelight.domain.ids import blob_job, blob_name
from safelight.domain.image import StoredImage

PREFIX = "/v1/files/"

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}


class _Hmac(SigningAlgorithm):
    """HMAC-SHA256 with the key already taken in: itsdangerous' own begins anew for each link."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        """Sign `value`; the key is always the one."""
        del key
        mac = self._keyed.copy()
        mac.update(value)
        return mac.digest()


class Links:
    """Makes and checks links. The same image and the same end give the same link."""

    def __init__(self, secret: bytes, *, public_url: str | None) -> None:
        """`public_url` is how clients reach the gateway; without it, the address that they used."""
        derived = hmac.digest(secret, b"files", hashlib.sha256)  # once, not for each link
        self._signer = Signer(derived, key_derivation="none", algorithm=_Hmac(derived))
        self._public_url = public_url.rstrip("/") if public_url else None

    def url(self, image: StoredImage, *, expires_at: datetime, base_url: str) -> str:
        """The whole address of an image."""
        job_id, name = blob_job(image.blob), blob_name(image.blob)
        expires = str(math.ceil(expires_at.timestamp()))  # the job itself ends the rest of that second
        signature = self._signer.get_signature(_signed(job_id, name, expires)).decode("ascii")
        base = self._public_url or base_url.rstrip("/")
        extension = EXTENSIONS[image.content_type]
        return f"{base}{PREFIX}{job_id}/{name}.{extension}?expires={expires}&signature={signature}"

    def valid(self, job_id: str, name: str, *, expires: str, signature: str) -> bool:
        """Whether we signed this; says nothing of the time. Compares in constant time."""
        return self._signer.verify_signature(_signed(job_id, name, expires), signature)


def _signed(job_id: str, name: str, expires: str) -> str:
    return f"{job_id}/{name}:{expires}"


def used_address(request: Request) -> str:
    """The address of the gateway that a caller used, as far as his request tells."""
    return _address(request.scope["scheme"], request.headers.get("host"), request.scope["server"])


@lru_cache(maxsize=64)
def _address(scheme: str, host: str | None, server: tuple[str, int | None] | None) -> str:
    """Starlette's reading of it: most requests name the same few hosts, and it costs as much as all other words of a link."""
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    return str(URL(scope={"scheme": scheme, "server": server, "path": "/", "headers": headers}))
