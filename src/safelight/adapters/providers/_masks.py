"""Masks for services whose polarity is not ours. Ours is OpenAI's: where it is transparent, the picture changes."""

import asyncio
import io
from typing import Literal

from PIL import Image, ImageChops

from safelight.application.ports import Call
from safelight.domain.errors import UnsupportedFeature

MAX_MASK_BYTES = 16 * 1024 * 1024
MAX_MASK_PIXELS = 4096 * 4096
_HALF = 128


async def white_changes(call: Call) -> bytes | None:
    """Make a grey PNG of the call's mask, white where it changes; `None` without a mask.

    A mask without transparency is taken to be of that kind already. Raises `UnsupportedFeature` for one too large to
    be converted in bounded memory, or unreadable.
    """
    mask = call.request.mask
    if mask is None:
        return None
    if mask.image.size_bytes > MAX_MASK_BYTES or mask.image.dimensions.pixels > MAX_MASK_PIXELS:
        raise UnsupportedFeature(
            f"a mask for this provider may have {MAX_MASK_PIXELS} pixels and {MAX_MASK_BYTES} bytes", param="mask"
        )
    content = b"".join([chunk async for chunk in call.workspace.read(mask.image)])
    return await asyncio.to_thread(_converted, content)


async def two_colours(call: Call, *, changes: Literal["white", "black"]) -> bytes | None:
    """Make a mask of pure black and white, with the colour that marks what changes; as `white_changes` else."""
    mask = await white_changes(call)
    return None if mask is None else await asyncio.to_thread(_two_colours, mask, white=changes == "white")


def _two_colours(content: bytes, *, white: bool) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.point(lambda level: 255 if (level >= _HALF) is white else 0).save(stream, "PNG")
    return stream.getvalue()


def _converted(content: bytes) -> bytes:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "WEBP", "GIF", "JPEG")) as image:
            grey = _grey(image)
    except (OSError, SyntaxError, ValueError) as exc:
        raise UnsupportedFeature("the mask is damaged and cannot be converted", param="mask") from exc
    stream = io.BytesIO()
    grey.save(stream, "PNG")
    return stream.getvalue()


def _grey(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("L")
    return ImageChops.invert(image.convert("RGBA").getchannel("A"))
