"""Pictures for simulators: real files of the asked size and format, cheap to make."""

import functools
import io
import math
import os
import struct
import zlib

from PIL import Image
from PIL.PngImagePlugin import PngInfo

PNG_CHUNK_OVERHEAD_BYTES = 12
END_OF_PNG_BYTES = 12


@functools.lru_cache(maxsize=128)
def picture(width: int, height: int, file_format: str, *, transparent: bool = False) -> bytes:
    """Draw one colour over the whole; `file_format` is `png`, `jpeg`, `webp` or `gif`."""
    if transparent:
        image = Image.new("RGBA", (width, height), (200, 80, 40, 0))
    else:
        image = Image.new("RGB", (width, height), (200, 80, 40))
    return encoded(image, file_format)


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper(), **({"compress_level": 1} if file_format == "png" else {}))
    return buffer.getvalue()


@functools.lru_cache(maxsize=8)
def picture_of_bytes(size_bytes: int) -> bytes:
    """Draw a PNG of noise of exactly `size_bytes` (at least 2,000), filled up with a private chunk."""
    side = math.isqrt((size_bytes - 1000) * 99 // 100 // 3)
    image = Image.frombytes("RGB", (side, side), os.urandom(side * side * 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    information = PngInfo()
    information.add(b"fiLl", bytes(size_bytes - len(buffer.getvalue()) - PNG_CHUNK_OVERHEAD_BYTES))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0, pnginfo=information)
    return buffer.getvalue()


def stamped(png: bytes, text: str) -> bytes:
    """Put a text chunk before the end of a PNG, so that no two answers are the same bytes."""
    body = b"tEXt" + b"Comment\0" + text.encode("latin-1")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-END_OF_PNG_BYTES] + chunk + png[-END_OF_PNG_BYTES:]
