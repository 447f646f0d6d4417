"""Image bytes in a local folder, forced to disk before a job may refer to them.

Reading, listing and deleting are obstore's. Writing is our own, since obstore does not sync: one thread writes what
waits, then syncs all of it, so that images that end at the same time share the disk's work.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import structlog
from obstore.store import LocalStore

from safelight.adapters.blobs.object_store import WRITE_BUFFER_BYTES, ObjectBlobStore, unwritable
from safelight.adapters.threads import BatchThread, Outcome
from safelight.application.ports import BlobWriter
from safelight.domain.errors import StorageError
from safelight.domain.ids import BlobKey

log = structlog.get_logger(__name__)

_FOLDER_TRIES = 3
_SYNCS_AT_ONCE = 8
_PATIENCE_S = (0.5, 1, 2, 4, 8, 15, 30, 60)
"""Between the tries to write what is paid for: a disk may be full for a moment."""


class LocalBlobStore(ObjectBlobStore):
    """Blobs as files."""

    def __init__(self, folder: Path, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Make the folder if need be; raises `StorageError`."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error) from error
        super().__init__(LocalStore(folder, automatic_cleanup=True))
        self._folder = folder
        self._pause = pause
        disk = _Disk()
        self._disk: BatchThread[_Files] = BatchThread(disk.handle, name="blob-writer", at_end=disk.close)

    def writer(self, key: BlobKey, *, patient: bool = False) -> BlobWriter:
        """See `BlobStore.writer`."""
        pauses = [partial(self._pause, pause_s) for pause_s in (_PATIENCE_S if patient else ())]
        return _FileWriter(self._disk, self._folder / key, pauses)

    async def close(self) -> None:
        """Finish what is being written."""
        await self._disk.close()


class _Files:
    """What one batch has written in full, and what is to be synced for it."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.folders: set[Path] = set()


_Work = Callable[[_Files], None]


class _Disk:
    """Writes all that waits, then syncs all that is complete, several files at a time: the disk does them together."""

    def __init__(self) -> None:
        self._syncers = ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="blob-sync")

    def handle(self, batch: Sequence[_Work]) -> Sequence[Outcome]:
        files = _Files()
        faults = [_fault_of(work, files) for work in batch]
        sync_fault = self._sync(files)
        return [(None, fault or sync_fault) for fault in faults]

    def close(self) -> None:
        self._syncers.shutdown()

    def _sync(self, files: _Files) -> Exception | None:
        """Sync files, then their places in their folders. A fault concerns the whole batch: none may be trusted."""
        try:
            self._sync_all(files.descriptors)
            for folder in files.folders:
                files.descriptors.append(os.open(folder, os.O_RDONLY))
                os.fsync(files.descriptors[-1])
        except OSError as error:
            return _failure(error)
        finally:
            for descriptor in files.descriptors:
                os.close(descriptor)
        return None

    def _sync_all(self, descriptors: Sequence[int]) -> None:
        if len(descriptors) == 1:
            os.fsync(descriptors[0])
        else:
            for _ in self._syncers.map(os.fsync, descriptors):
                pass


def _fault_of(work: _Work, files: _Files) -> Exception | None:
    try:
        work(files)
    except OSError as error:
        return _failure(error)
    return None


def _failure(error: OSError) -> Exception:
    failure = unwritable(error)
    failure.__cause__ = error
    return failure


class _FileWriter:
    """One file. Small ones are written in one go at their end."""

    def __init__(self, disk: BatchThread[_Files], path: Path, pauses: Sequence[Callable[[], Awaitable[None]]]) -> None:
        self._disk = disk
        self._path = path
        self._pauses = pauses
        self._waiting = bytearray()
        self._begun = False
        self._descriptor: int | None = None
        self._complete = False

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        if len(self._waiting) >= WRITE_BUFFER_BYTES:
            self._begun = True
            await self._patiently(self._flush)

    async def close(self) -> None:
        try:
            await self._patiently(self._finish)
        except StorageError:
            await self._disk.run(self._drop)
            raise

    async def abort(self) -> None:
        if self._begun:  # a write that was cancelled may still be on its way to the disk
            await self._disk.run(self._drop)

    async def _patiently(self, work: _Work) -> None:
        """Do it, and again while what was written so far is still good: after a sync that failed it is not."""
        for pause in self._pauses:
            try:
                return await self._disk.run(work)
            except StorageError as error:
                if self._complete:
                    raise
                log.warning("blob_write_failed", error=error.message)
                await pause()
        return await self._disk.run(work)

    def _flush(self, files: _Files) -> None:
        if self._descriptor is None:
            self._descriptor = self._create(files)
        while self._waiting:
            written = os.write(self._descriptor, self._waiting)
            del self._waiting[:written]

    def _finish(self, files: _Files) -> None:
        self._flush(files)
        if self._descriptor is not None:
            files.descriptors.append(self._descriptor)
            files.folders.add(self._path.parent)
            self._descriptor, self._complete = None, True

    def _drop(self, _: _Files) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._path.unlink()

    def _create(self, files: _Files) -> int:
        for _ in range(_FOLDER_TRIES):
            try:
                return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileNotFoundError:  # the first of its hour, or the sweeper has just removed an empty folder
                self._path.parent.mkdir(parents=True, exist_ok=True)
                files.folders.add(self._path.parent.parent)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
