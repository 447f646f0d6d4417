"""Image bytes in a local folder, forced to disk before a job may refer to them.

Reading, listing and deleting are obstore's. Writing is our own, since obstore does not sync: see `disk`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import structlog
from obstore.store import LocalStore

from safelight.adapters.blobs.disk import Do
from safelight.adapters.blobs.disk_process import DiskProcess, NotTrusted, Start, start_process
from safelight.adapters.blobs.object_store import WRITE_BUFFER_BYTES, ObjectBlobStore, unwritable
from safelight.application.ports import BlobWriter
from safelight.domain.errors import StorageError
from safelight.domain.ids import BlobKey

log = structlog.get_logger(__name__)

_PATIENCE_S = (0.5, 1, 2, 4, 8, 15, 30, 60)
"""Between the tries to write what is paid for: a disk may be full for a moment."""


class LocalBlobStore(ObjectBlobStore):
    """Blobs as files."""

    def __init__(
        self,
        folder: Path,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        start: Start = start_process,
    ) -> None:
        """Make the folder if need be; raises `StorageError`. `start` starts who writes the files."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error) from error
        super().__init__(LocalStore(folder, automatic_cleanup=True))
        self._folder = folder.absolute()
        self._pauses = [partial(pause, pause_s) for pause_s in _PATIENCE_S]
        self._disk = DiskProcess(start)

    def writer(self, key: BlobKey, *, patient: bool = False) -> BlobWriter:
        """See `BlobStore.writer`."""
        return _FileWriter(self._disk, f"{self._folder}/{key}", self._pauses if patient else ())

    async def close(self) -> None:
        """Finish what is being written."""
        await self._disk.close()


class _FileWriter:
    """One file. Small ones are written in one go at their end."""

    def __init__(self, disk: DiskProcess, path: str, pauses: Sequence[Callable[[], Awaitable[None]]]) -> None:
        self._disk = disk
        self._path = path
        self._pauses = pauses
        self._number = disk.number()
        self._waiting = bytearray()
        self._next = Do.CREATE | Do.APPEND
        self._begun = False

    async def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        if len(self._waiting) >= WRITE_BUFFER_BYTES:
            await self._send(self._next)

    async def close(self) -> None:
        try:
            await self._send(self._next | Do.FINISH)
        except StorageError:
            await self.abort()
            raise

    async def abort(self) -> None:
        if self._begun:  # a write that was cancelled may still be on its way to the disk
            await self._disk.do(Do.DROP, self._number, self._path)

    async def _send(self, do: Do) -> None:
        """Have what waits written, and again while what was written so far is still good."""
        self._begun = True
        for pause in self._pauses:
            try:
                await self._disk.do(do, self._number, self._path, self._waiting)
                break
            except NotTrusted:
                raise
            except StorageError as error:
                log.warning("blob_write_failed", error=error.message)
                await pause()
        else:
            await self._disk.do(do, self._number, self._path, self._waiting)
        self._waiting.clear()
        self._next = Do.APPEND
