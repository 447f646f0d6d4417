"""Signed links to images: whoever holds one may fetch that image until the link ends."""

import hashlib
import hmac
import math
from datetime import datetime

from itsdangerous import Signer

from safelight.domain.ids import blob_job, blob_name
from safelight.domain.image import StoredImage

PREFIX = "/v1/files/"

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}


class Links:
    """Makes and checks links. The same image and the same end give the same link."""

    def __init__(self, secret: bytes, *, public_url: str | None) -> None:
        """`public_url` is how clients reach the gateway; without it, the address that they used."""
        derived = hmac.digest(secret, b"files", hashlib.sha256)  # once, not for each link
        self._signer = Signer(derived, key_derivation="none", digest_method=hashlib.sha256)
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
