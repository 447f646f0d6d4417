"""Images on their way: type and size are read from the bytes themselves while they stream to the blob store."""

import hashlib
import io
import secrets
import warnings
from collections.abc import AsyncIterator

from PIL import Image, UnidentifiedImageError

from safelight.application.ports import BlobStore, BlobWriter, Clock
from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import HOUR_FORMAT, BlobKey, JobId, blob_key
from safelight.domain.image import Dimensions, StoredImage

CONTENT_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}

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
        """Take the next bytes; free once the answer is known."""
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
            expected = ", ".join(name for name in CONTENT_TYPES)
            raise InvalidRequest(f"is not an image that can be read; expected one of {expected}")
        content_type, dimensions = self._found
        if dimensions.pixels > self._max_pixels or not dimensions.pixels:
            raise InvalidRequest(f"is {dimensions} pixels large; at most {self._max_pixels} pixels are taken")
        return self._found

    def _look(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            try:
                with Image.open(io.BytesIO(self._head), formats=tuple(CONTENT_TYPES)) as image:
                    self._found = CONTENT_TYPES[image.format or ""], Dimensions(width=image.width, height=image.height)
            except Image.DecompressionBombError as error:
                raise InvalidRequest(f"is too large: at most {self._max_pixels} pixels are taken") from error
            except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
                return
        self._head.clear()


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

    def __init__(self, blobs: BlobStore, job_id: JobId, *, clock: Clock, max_bytes: int, max_pixels: int) -> None:
        """Limits hold for each image."""
        self._blobs = blobs
        self._job_id = job_id
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self.keys: list[BlobKey] = []
        """All that were begun here."""

    def open_sink(self) -> StoringSink:
        """Begin an image under a random name."""
        hour = self._clock.now().strftime(HOUR_FORMAT)
        key = blob_key(hour, self._job_id, secrets.token_hex(8))
        self.keys.append(key)
        probe = ImageProbe(max_pixels=self._max_pixels)
        return StoringSink(self._blobs.writer(key), key, probe, max_bytes=self._max_bytes)

    def read(self, image: StoredImage) -> AsyncIterator[bytes]:
        """Stream an image; raises `NotFound`, `StorageError`."""
        return self._blobs.read(image.blob)
