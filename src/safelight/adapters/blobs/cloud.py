"""Image bytes in S3, Google Cloud Storage or Azure, by URL."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store, from_url

from safelight.adapters.blobs.object_store import ObjectBlobStore, Writer, unreadable
from safelight.application.ports import BlobWriter
from safelight.domain.errors import ConfigurationError
from safelight.domain.ids import BlobKey

_PART_BYTES = 5 * 1024 * 1024
"""S3 takes no smaller parts, but for the last one."""
_CONNECT_TIMEOUT = timedelta(seconds=5)
_ANSWER_TIMEOUT = timedelta(seconds=30)
_BRISK = {"max_retries": 4, "retry_timeout": timedelta(seconds=10)}
_PATIENT = {"max_retries": 40, "retry_timeout": timedelta(minutes=2)}
"""Pictures that are paid for are worth the wait. Within it comes each part of a picture, however often it must be sent."""
_BACKOFF = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}

Signer = S3Store | GCSStore | AzureStore


class CloudBlobStore(ObjectBlobStore):
    """A bucket. obstore tries again where it answers 5xx, or not at all."""

    def __init__(self, store: ObjectStore, patient: ObjectStore, *, signs: bool) -> None:
        """`patient` is the same bucket, tried for longer. `signs`: whether clients may be sent to it."""
        super().__init__(store, part_bytes=_PART_BYTES)
        self._patient = patient
        self._signs = signs

    def writer(self, key: BlobKey, *, patient: bool = False) -> BlobWriter:
        """See `BlobStore.writer`."""
        return Writer(self._patient if patient else self._store, key, part_bytes=_PART_BYTES, typed=True)

    async def link(self, key: BlobKey, *, lifetime_s: float) -> str | None:
        """See `BlobStore.link`. Credentials that cannot sign, such as an anonymous one, are a fault of the storage."""
        if not self._signs or not isinstance(self._store, Signer):
            return None
        try:
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=lifetime_s))
        except (BaseError, OSError) as error:
            raise unreadable(error) from error

    async def close(self) -> None:
        """Nothing is open."""


def open_cloud(url: str, options: Mapping[str, str], *, signs: bool) -> CloudBlobStore:
    """Make a store of `s3://BUCKET/PREFIX`, `gs://…` or `az://…`. Sends nothing. Raises `ConfigurationError`.

    `options` are obstore's names, such as `endpoint` and `region`. What they leave out comes from the vendor's usual
    variables and files.
    """
    # Without TLS only where the endpoint says so, as those within one network may.
    client: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _ANSWER_TIMEOUT, "allow_http": True}
    try:
        stores: list[Any] = [
            from_url(
                url, config=dict(options) or None, client_options=client, retry_config={**patience, "backoff": _BACKOFF}
            )  # type: ignore[call-overload] # the options are the operator's
            for patience in (_BRISK, _PATIENT)
        ]
    except (BaseError, ValueError, OSError) as error:
        where = urlsplit(url)
        raise ConfigurationError(
            f"storage.blob_url: {where.scheme}://{where.netloc}{where.path} cannot be used: {error}"
        ) from error
    return CloudBlobStore(*stores, signs=signs)
