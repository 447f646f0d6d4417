"""Masks for services whose polarity is not ours. Ours is OpenAI's: where it is transparent, the picture changes."""

import asyncio
import io

from PIL import Image, ImageChops

from safelight.application.ports import Call
from safelight.domain.errors import UnsupportedFeature

MAX_MASK_BYTES = 16 * 1024 * 1024
MAX_MASK_PIXELS = 4096 * 4096


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
