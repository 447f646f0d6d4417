"""Signed links to images: whoever holds one may fetch that image until the link ends."""

import hashlib
from datetime import datetime

from itsdangerous import Signer

from safelight.domain.ids import BlobKey
from safelight.domain.image import StoredImage

PREFIX = "/v1/files/"

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}


class Links:
    """Makes and checks links. The same image and the same end give the same link."""

    def __init__(self, secret: bytes, *, public_url: str | None) -> None:
        """`public_url` is how clients reach the gateway; without it, the address that they used."""
        self._signer = Signer(secret, salt="files", digest_method=hashlib.sha256)
        self._public_url = public_url.rstrip("/") if public_url else None

    def url(self, image: StoredImage, *, expires_at: datetime, base_url: str) -> str:
        """The whole address of an image."""
        name = f"{image.blob}.{EXTENSIONS[image.content_type]}"
        expires = str(int(expires_at.timestamp()))
        signature = self._signature(image.blob, expires)
        base = self._public_url or base_url.rstrip("/")
        return f"{base}{PREFIX}{name}?expires={expires}&signature={signature}"

    def valid(self, blob: BlobKey, *, expires: str, signature: str) -> bool:
        """Whether we signed this; says nothing of the time. Compares in constant time."""
        return self._signer.verify_signature(f"{blob}:{expires}", signature)

    def _signature(self, blob: BlobKey, expires: str) -> str:
        return self._signer.get_signature(f"{blob}:{expires}").decode("ascii")
