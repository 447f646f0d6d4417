"""A blob store whose work is timed."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from safelight.application.ports import BlobStore, BlobWriter
from safelight.domain.ids import BlobKey

Timed = Callable[[str, float], None]
"""Takes the kind of work and the seconds that it took."""


class TimedBlobStore:
    """See `BlobStore`. Of a write, the end is timed: that is when it becomes durable. Whoever made the store closes it."""

    def __init__(self, store: BlobStore, timed: Timed) -> None:
        self._store = store
        self._timed = timed

    def writer(self, key: BlobKey, *, patient: bool = False) -> BlobWriter:
        """See `BlobStore.writer`."""
        return _TimedWriter(self._store.writer(key, patient=patient), self._timed)

    async def read(self, key: BlobKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See `BlobStore.read`. The time to the first byte counts; the rest is the reader's pace."""
        begun, first = time.perf_counter(), True
        async for chunk in self._store.read(key, start=start, end=end):
            if first:
                self._timed("read", time.perf_counter() - begun)
                first = False
            yield chunk

    async def link(self, key: BlobKey, *, lifetime_s: float) -> str | None:
        """See `BlobStore.link`: nothing is asked of the store."""
        return await self._store.link(key, lifetime_s=lifetime_s)

    async def delete(self, keys: Sequence[BlobKey]) -> None:
        """See `BlobStore.delete`."""
        begun = time.perf_counter()
        try:
            await self._store.delete(keys)
        finally:
            self._timed("delete", time.perf_counter() - begun)

    def written_before(self, moment: datetime) -> AsyncIterator[Sequence[BlobKey]]:
        """See `BlobStore.written_before`."""
        return self._store.written_before(moment)

    async def check(self) -> None:
        """See `BlobStore.check`."""
        await self._store.check()


class _TimedWriter:
    def __init__(self, writer: BlobWriter, timed: Timed) -> None:
        self._writer = writer
        self._timed = timed

    async def write(self, chunk: bytes) -> None:
        await self._writer.write(chunk)

    async def close(self) -> None:
        begun = time.perf_counter()
        try:
            await self._writer.close()
        finally:
            self._timed("write", time.perf_counter() - begun)

    async def abort(self) -> None:
        await self._writer.abort()
