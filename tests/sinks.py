"""Sinks that tests look into."""

from collections.abc import AsyncIterator, Iterable


class RecordingSink:
    """Keeps what it was given and how it ended; refuses calls that the protocol forbids."""

    def __init__(self, *, keep: bool = True) -> None:
        self.data = bytearray()
        self.size_bytes = 0
        self.largest_chunk_bytes = 0
        self.ending: str | None = None
        self._keep = keep

    async def write(self, chunk: bytes) -> None:
        assert self.ending is None
        assert chunk
        self.size_bytes += len(chunk)
        self.largest_chunk_bytes = max(self.largest_chunk_bytes, len(chunk))
        if self._keep:
            self.data += chunk

    async def close(self) -> None:
        assert self.ending is None
        self.ending = "closed"

    async def abort(self) -> None:
        assert self.ending is None
        self.ending = "aborted"


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut `data` at the given places, each taken modulo its length."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
