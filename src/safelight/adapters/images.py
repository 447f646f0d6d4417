"""Images on their way: type and size are read from the bytes themselves while they stream to the blob store."""

import hashlib
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Mapping

from safelight.application.ports import BlobStore, BlobWriter, Clock
from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import BlobKey, JobId, blob_key
from safelight.domain.image import Dimensions, StoredImage
from safelight.randomness import random_bytes

CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}

_FIRST_LOOK_BYTES = 4 * 1024
_LAST_LOOK_BYTES = 1024 * 1024
"""An image that has not shown its size by then is refused."""


class ImageProbe:
    """Reads type and size from an image's first bytes. Nothing is ever decoded."""

    def __init__(self, *, max_pixels: int) -> None:
        """Refuse images of more than `max_pixels`."""
        self._max_pixels = max_pixels
        self._head = bytearray()
        self._look_at = _FIRST_LOOK_BYTES
        self._found: tuple[str, Dimensions] | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; free once the answer is known. Raises `InvalidRequest` for too many pixels."""
        if self._found is not None or len(self._head) >= _LAST_LOOK_BYTES:
            return
        self._head += chunk[: _LAST_LOOK_BYTES - len(self._head)]
        if len(self._head) >= self._look_at:
            self._look()
            self._look_at *= 4

    def result(self) -> tuple[str, Dimensions]:
        """Content type and size in pixels; raises `InvalidRequest`."""
        if self._found is None:
            self._look()
        if self._found is None:
            expected = ", ".join(_READERS)
            raise InvalidRequest(f"is not an image that can be read; expected one of {expected}")
        return self._found

    def _look(self) -> None:
        head = bytes(self._head)
        for name, read in _READERS.items():
            if dimensions := read(head):
                if not 0 < dimensions.pixels <= self._max_pixels:
                    raise InvalidRequest(f"is {dimensions} pixels large; at most {self._max_pixels} pixels are taken")
                self._found = CONTENT_TYPES[name], dimensions
                self._head.clear()
                return


# Pillow opens a WebP only when all of it is there, and allocates its canvas; so the headers are read here.
# Each reader takes the beginning of a file and gives its size, or `None` when it is another type or not there yet.


def _png(head: bytes) -> Dimensions | None:
    """Source: PNG specification, third edition, 5.2 and 11.2.1 (read 2026-11)."""
    if len(head) < 33 or not head.startswith(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"):
        return None
    width, height = struct.unpack_from(">II", head, 16)
    whole = zlib.crc32(head[12:29]) == int.from_bytes(head[29:33])
    return Dimensions(width=width, height=height) if whole else None


def _gif(head: bytes) -> Dimensions | None:
    """Source: GIF89a specification, 17 and 18."""
    if len(head) < 13 or not head.startswith((b"GIF87a", b"GIF89a")):
        return None
    width, height = struct.unpack_from("<HH", head, 6)
    return Dimensions(width=width, height=height)


def _webp(head: bytes) -> Dimensions | None:
    """Source: RFC 9649, 2.5 to 2.7; RFC 6386, 9.1 for the lossy kind."""
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    match head[12:16]:
        case b"VP8X":
            return Dimensions(
                width=1 + int.from_bytes(head[24:27], "little"), height=1 + int.from_bytes(head[27:30], "little")
            )
        case b"VP8L" if head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            return Dimensions(width=1 + (bits & 0x3FFF), height=1 + (bits >> 14 & 0x3FFF))
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", head, 26)
            return Dimensions(width=width & 0x3FFF, height=height & 0x3FFF)
        case _:
            return None


def _jpeg(head: bytes) -> Dimensions | None:
    """Walk the segments up to the frame header. Source: ITU-T T.81, B.1.1 and B.2.2."""
    at = 2 if head.startswith(b"\xff\xd8\xff") else len(head)
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return Dimensions(width=width, height=height)
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(head[at + 2 : at + 4]))
    return None


_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})
_READERS: Mapping[str, Callable[[bytes], Dimensions | None]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "GIF": _gif,
}


class StoringSink:
    """Streams one image into the blob store: hashed, counted and probed as it goes by."""

    def __init__(self, writer: BlobWriter, key: BlobKey, probe: ImageProbe, *, max_bytes: int) -> None:
        """Refuse more than `max_bytes`."""
        self._writer = writer
        self._key = key
        self._probe = probe
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._size = 0
        self._image: StoredImage | None = None

    async def write(self, chunk: bytes) -> None:
        """Append; raises `InvalidRequest` past the limit, `StorageError`."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise InvalidRequest(f"is larger than {self._max_bytes} bytes")
        self._hash.update(chunk)
        self._probe.feed(chunk)
        await self._writer.write(chunk)

    async def close(self) -> None:
        """Finish; raises `InvalidRequest` when it is no image, and drops it."""
        try:
            content_type, dimensions = self._probe.result()
        except InvalidRequest:
            await self._writer.abort()
            raise
        await self._writer.close()
        self._image = StoredImage(
            blob=self._key,
            content_type=content_type,
            size_bytes=self._size,
            sha256=self._hash.hexdigest(),
            dimensions=dimensions,
        )

    async def abort(self) -> None:
        """Drop what was written."""
        await self._writer.abort()

    @property
    def image(self) -> StoredImage:
        """What was stored; raises `RuntimeError` before `close`."""
        if self._image is None:
            raise RuntimeError("the image is not complete")
        return self._image


class JobWorkspace:
    """The images of one job."""

    def __init__(
        self, blobs: BlobStore, job_id: JobId, *, clock: Clock, max_bytes: int, max_pixels: int, paid: bool = False
    ) -> None:
        """Limits hold for each image; those that are `paid` for are worth waiting for a store that takes nothing."""
        self._blobs = blobs
        self._job_id = job_id
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._paid = paid
        self.keys: list[BlobKey] = []
        """All that were begun here."""

    def open_sink(self) -> StoringSink:
        """Begin an image under a random name."""
        key = blob_key(self._clock.now(), self._job_id, random_bytes(8).hex())
        self.keys.append(key)
        probe = ImageProbe(max_pixels=self._max_pixels)
        return StoringSink(self._blobs.writer(key, patient=self._paid), key, probe, max_bytes=self._max_bytes)

    def read(self, image: StoredImage) -> AsyncIterator[bytes]:
        """Stream an image; raises `NotFound`, `StorageError`."""
        return self._blobs.read(image.blob)
