"""Pictures for simulators: real files of the asked size and format, cheap to make."""

import functools
import io
import math
import os
import struct
import zlib

from PIL import Image

CHUNK_OVERHEAD_BYTES = 12
END_OF_PNG_BYTES = 12


@functools.lru_cache(maxsize=128)
def picture(width: int, height: int, file_format: str, *, transparent: bool = False) -> bytes:
    """Draw one colour over the whole; `file_format` is `png`, `jpeg`, `webp` or `gif`."""
    if transparent:
        image = Image.new("RGBA", (width, height), (200, 80, 40, 0))
    else:
        image = Image.new("RGB", (width, height), (200, 80, 40))
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper(), **({"compress_level": 1} if file_format == "png" else {}))
    return buffer.getvalue()


@functools.lru_cache(maxsize=8)
def picture_of_bytes(size_bytes: int) -> bytes:
    """Draw a PNG of noise of exactly `size_bytes` (at least 2,000)."""
    side = math.isqrt((size_bytes - 1000) * 99 // 100 // 3)
    image = Image.frombytes("RGB", (side, side), os.urandom(side * side * 3))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=0)
    return filled(buffer.getvalue(), size_bytes)


def filled(png: bytes, size_bytes: int) -> bytes:
    """Bring a PNG to `size_bytes` with a private chunk that readers skip."""
    return _with_chunk(png, b"fiLl", bytes(size_bytes - len(png) - CHUNK_OVERHEAD_BYTES))


def stamped(png: bytes, text: str) -> bytes:
    """Put a text into a PNG, so that no two answers are the same bytes."""
    return _with_chunk(png, b"tEXt", b"Comment\0" + text.encode("latin-1"))


def _with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return png[:-END_OF_PNG_BYTES] + chunk + png[-END_OF_PNG_BYTES:]
