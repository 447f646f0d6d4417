"""Image bytes in an object store, through obstore."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from safelight.application.ports import BlobWriter
from safelight.domain.errors import NotFound, StorageError
from safelight.domain.ids import BlobKey, blob_hour

WRITE_BUFFER_BYTES = 256 * 1024
_READ_CHUNK_BYTES = 192 * 1024
_PARTS_AT_ONCE = 2
_MAGIC_BYTES = 12
_KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
"""By their first bytes; nothing but images is fetched from the store itself."""


class ObjectBlobStore:
    """Blobs in any store that obstore knows."""

    def __init__(self, store: ObjectStore, *, part_bytes: int = WRITE_BUFFER_BYTES) -> None:
        """`store` is rooted at the gateway's own prefix. Blobs above `part_bytes` are sent in parts of that size."""
        self._store = store
        self._part_bytes = part_bytes

    def writer(self, key: BlobKey, *, patient: bool = False) -> BlobWriter:
        """See `BlobStore.writer`."""
        del patient
        return Writer(self._store, key, part_bytes=self._part_bytes)

    async def link(self, key: BlobKey, *, lifetime_s: float) -> str | None:
        """See `BlobStore.link`: there is nobody to fetch from."""
        del key, lifetime_s
        return None

    async def read(self, key: BlobKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See `BlobStore.read`."""
        try:
            options: obstore.GetOptions = {"range": (start, end) if end is not None else {"offset": start}}
            result = await obstore.get_async(self._store, key, options=options if start or end else None)
            async for chunk in result.stream(min_chunk_size=_READ_CHUNK_BYTES):
                yield bytes(chunk)
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise NotFound("the image is gone") from error
        except (BaseError, OSError) as error:
            raise unreadable(error) from error

    async def delete(self, keys: Sequence[BlobKey]) -> None:
        """See `BlobStore.delete`."""
        if not keys:
            return
        try:
            await obstore.delete_async(self._store, list(keys))
        except FileNotFoundError:
            await self._delete_one_by_one(keys)
        except (BaseError, OSError) as error:
            raise unwritable(error) from error

    async def _delete_one_by_one(self, keys: Sequence[BlobKey]) -> None:
        for key in keys:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise unwritable(error) from error

    async def written_before(self, moment: datetime) -> AsyncIterator[Sequence[BlobKey]]:
        """See `BlobStore.written_before`."""
        try:
            hours = (await obstore.list_with_delimiter_async(self._store))["common_prefixes"]
            for hour in sorted(hours):
                if hour >= blob_hour(moment):
                    return
                async for batch in obstore.list(self._store, hour, chunk_size=1000):
                    yield [BlobKey(entry["path"]) for entry in batch]
        except (BaseError, OSError) as error:
            raise unreadable(error) from error

    async def check(self) -> None:
        """See `BlobStore.check`."""
        try:
            await obstore.put_async(self._store, "check", b"ok")
        except (BaseError, OSError) as error:
            raise unreadable(error) from error


class Writer:
    """Collects bytes; small blobs are put at once, larger ones streamed."""

    def __init__(self, store: ObjectStore, key: BlobKey, *, part_bytes: int, typed: bool = False) -> None:
        """`typed`: the store keeps what kind of content a blob has, and tells those who fetch it."""
        self._store = store
        self._key = key
        self._part_bytes = part_bytes
        self._typed = typed
        self._head = bytearray()
        self._stream: obstore.AsyncWritableFile | None = None

    async def write(self, chunk: bytes) -> None:
        """See `BlobWriter.write`."""
        try:
            if self._stream is None and len(self._head) + len(chunk) <= self._part_bytes:
                self._head += chunk
                return
            if self._stream is None:
                self._stream = obstore.open_writer_async(
                    self._store,
                    self._key,
                    attributes=self._attributes(bytes(self._head[:_MAGIC_BYTES]) or chunk[:_MAGIC_BYTES]),
                    buffer_size=self._part_bytes,
                    max_concurrency=_PARTS_AT_ONCE,
                )
                await self._stream.write(bytes(self._head))
                self._head.clear()
            await self._stream.write(chunk)
        except (BaseError, OSError) as error:
            raise unwritable(error) from error

    def _attributes(self, begins: bytes) -> "obstore.Attributes | None":
        found = [kind for magic, kind in _KINDS.items() if self._typed and begins.startswith(magic)]
        return {"Content-Type": found[0]} if found else None

    async def close(self) -> None:
        """See `BlobWriter.close`."""
        try:
            if self._stream is not None:
                await self._stream.close()
            else:
                content = bytes(self._head)
                kind = self._attributes(content[:_MAGIC_BYTES])
                await obstore.put_async(self._store, self._key, content, use_multipart=False, attributes=kind)
        except (BaseError, OSError) as error:
            raise unwritable(error) from error

    async def abort(self) -> None:
        """Drop it; obstore cannot abort a stream, so that one is closed, and what came of it removed."""
        self._head.clear()
        if self._stream is None:
            return
        try:
            await self._stream.close()
            await obstore.delete_async(self._store, self._key)
        except (BaseError, OSError) as error:
            raise unwritable(error) from error


def unreadable(error: Exception) -> StorageError:
    """What callers see of a fault in reading; it names no path."""
    return StorageError(f"the image store cannot be read: {type(error).__name__}")


def unwritable(error: Exception) -> StorageError:
    """What callers see of a fault in writing; it names no path."""
    return StorageError(f"the image store cannot be written: {type(error).__name__}")
