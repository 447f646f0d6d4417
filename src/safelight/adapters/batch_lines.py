"""The lines of a batch in the blob store: one JSON object a line, members that say nothing left out."""

import secrets
from collections.abc import AsyncGenerator

import msgspec

from safelight.application.ports import BlobStore, BlobWriter, Clock
from safelight.domain.batch import BatchEntry
from safelight.domain.ids import BatchId, BlobKey, blob_key

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(BatchEntry).decode


class BlobBatchLines:
    """See `BatchLines`."""

    def __init__(self, blobs: BlobStore, clock: Clock) -> None:
        """Blobs are named by the hour."""
        self._blobs = blobs
        self._clock = clock

    def writer(self, batch_id: BatchId) -> "_Writer":
        """See `BatchLines.writer`."""
        key = blob_key(self._clock.now(), batch_id, f"lines-{secrets.token_hex(8)}")
        return _Writer(self._blobs.writer(key), key)

    async def read(self, lines: BlobKey, *, start: int) -> AsyncGenerator[tuple[BatchEntry, int], None]:
        """See `BatchLines.read`."""
        rest = b""
        async for chunk in self._blobs.read(lines, start=start):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                start += len(line) + 1
                yield _decode(line), start


class _Writer:
    def __init__(self, blob: BlobWriter, key: BlobKey) -> None:
        self._blob = blob
        self._key = key

    async def add(self, entry: BatchEntry) -> None:
        await self._blob.write(_encode(entry) + b"\n")

    async def close(self) -> BlobKey:
        await self._blob.close()
        return self._key

    async def abort(self) -> None:
        await self._blob.abort()
