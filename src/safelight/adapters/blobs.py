"""Image bytes in a folder or an object store, through obstore.

A job's images lie in one folder, `<shard>/<job id>/<name>`, so that removing a job is removing a folder.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from safelight.domain.errors import NotFound, StorageError
from safelight.domain.ids import BlobKey, JobId

_SHARD_CHARS = 2
_SHARDS = tuple(f"{number:02x}" for number in range(16**_SHARD_CHARS))
_WRITE_BUFFER_BYTES = 256 * 1024
_READ_CHUNK_BYTES = 192 * 1024
"""Divisible by three, so that base64 of the chunks can be joined."""


def _path(key: str) -> str:
    return f"{key[:_SHARD_CHARS]}/{key}"


class ObjectBlobStore:
    """Blobs in any store that obstore knows. `folder` is set for a local one: its files are synced to disk."""

    def __init__(self, store: ObjectStore, *, folder: Path | None = None) -> None:
        """Use `open_folder` for a local folder."""
        self._store = store
        self._folder = folder

    @classmethod
    def open_folder(cls, folder: Path) -> "ObjectBlobStore":
        """Keep blobs in a local folder, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(LocalStore(folder, automatic_cleanup=True), folder=folder)

    def writer(self, key: BlobKey) -> "_Writer":
        """See `BlobStore.writer`."""
        return _Writer(self._store, _path(key), self._folder)

    async def read(self, key: BlobKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See `BlobStore.read`."""
        try:
            options: obstore.GetOptions = {"range": (start, end) if end is not None else {"offset": start}}
            result = await obstore.get_async(self._store, _path(key), options=options if start or end else None)
            async for chunk in result.stream(min_chunk_size=_READ_CHUNK_BYTES):
                yield bytes(chunk)
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise NotFound("the image is gone") from error
        except (BaseError, OSError) as error:
            raise _unreadable(error) from error

    async def delete_job(self, job_id: JobId) -> None:
        """See `BlobStore.delete_job`."""
        try:
            async for batch in obstore.list(self._store, f"{_path(job_id)}/"):
                await obstore.delete_async(self._store, [entry["path"] for entry in batch])
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise _unreadable(error) from error

    async def job_ids(self, *, older_than: datetime) -> AsyncIterator[Sequence[JobId]]:
        """See `BlobStore.job_ids`."""
        for shard in _SHARDS:
            newest: dict[JobId, datetime] = {}
            try:
                async for batch in obstore.list(self._store, f"{shard}/"):
                    for entry in batch:
                        job_id = JobId(entry["path"].split("/")[1])
                        newest[job_id] = max(entry["last_modified"], newest.get(job_id, entry["last_modified"]))
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise _unreadable(error) from error
            yield [job_id for job_id, moment in newest.items() if moment < older_than]

    async def check(self) -> None:
        """See `BlobStore.check`."""
        try:
            await obstore.put_async(self._store, "check", b"ok")
        except (BaseError, OSError) as error:
            raise _unreadable(error) from error


class _Writer:
    """Collects bytes; small blobs are put at once, larger ones streamed."""

    def __init__(self, store: ObjectStore, path: str, folder: Path | None) -> None:
        self._store = store
        self._path = path
        self._folder = folder
        self._head = bytearray()
        self._stream: obstore.AsyncWritableFile | None = None

    async def write(self, chunk: bytes) -> None:
        try:
            if self._stream is None and len(self._head) + len(chunk) <= _WRITE_BUFFER_BYTES:
                self._head += chunk
                return
            if self._stream is None:
                self._stream = obstore.open_writer_async(self._store, self._path, buffer_size=_WRITE_BUFFER_BYTES)
                await self._stream.write(bytes(self._head))
                self._head.clear()
            await self._stream.write(chunk)
        except (BaseError, OSError) as error:
            raise _unwritable(error) from error

    async def close(self) -> None:
        try:
            if self._stream is not None:
                await self._stream.close()
            else:
                await obstore.put_async(self._store, self._path, bytes(self._head), use_multipart=False)
            if self._folder is not None:
                await asyncio.to_thread(_sync, self._folder / self._path)
        except (BaseError, OSError) as error:
            raise _unwritable(error) from error

    async def abort(self) -> None:
        self._head.clear()
        if self._stream is not None:
            # obstore cannot abort a stream: close it, and remove what came of it.
            try:
                await self._stream.close()
                await obstore.delete_async(self._store, self._path)
            except (BaseError, OSError) as error:
                raise _unwritable(error) from error


def _sync(file: Path) -> None:
    """Force a file and its place in the folder to disk."""
    for path in (file, file.parent, file.parent.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unreadable(error: Exception) -> StorageError:
    return StorageError(f"the image store cannot be read: {type(error).__name__}")


def _unwritable(error: Exception) -> StorageError:
    return StorageError(f"the image store cannot be written: {type(error).__name__}")
