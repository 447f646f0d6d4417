"""What servers on the operator's own machines share: an optional key, texts with paths in them, free sizes, no bill."""

import base64
import re
from collections.abc import Mapping
from decimal import Decimal
from math import sqrt

from safelight.adapters.providers._ratios import asked_ratio, size_of_ratio
from safelight.application.ports import ProviderKey
from safelight.domain.capability import PixelRule
from safelight.domain.errors import UnsupportedFeature
from safelight.domain.image import Dimensions, ImageRequest
from safelight.domain.price import ImagePrice, Price

STEP = 8
"""What diffusion models want both sides to be divisible by."""
SIZES = PixelRule(multiple_of=STEP, min_side=16, max_side=16384)
MOST_SOURCE_PIXELS = 2048 * 2048
"""A larger source picture is drawn over at a smaller size, unless a size was asked for."""
FREE = Price(per_image=(ImagePrice(usd=Decimal(0)),))

_TRACEBACK = re.compile(r"\s*Traceback \(most recent call last\):.*", re.DOTALL)
_PATH = re.compile(r"(?:\b[A-Za-z]:)?(?:[\\/][\w .+-]*[\w.+-])?(?:[\\/][\w.+-]+){2,}[\\/]?")


def basic_or_bearer(key: ProviderKey) -> Mapping[str, str]:
    """Show `user:password` as HTTP Basic and any other key as a bearer token; nothing where there is none."""
    if not key.value:
        return {}
    if ":" not in key.value:
        return {"Authorization": f"Bearer {key.value}"}
    return {"Authorization": f"Basic {base64.b64encode(key.value.encode()).decode()}"}


def tidy(text: str) -> str:
    """Cut tracebacks and paths of the operator's machine out of a server's text."""
    return _PATH.sub("[path]", _TRACEBACK.sub("", text)).strip()


def is_out_of_memory(text: str) -> bool:
    """See whether the graphics card was too small; the many libraries below have these words in common."""
    return "out of memory" in text.lower() or "outofmemory" in text.lower()


def size_refusal(request: ImageRequest) -> UnsupportedFeature | None:
    """Why no such size can be drawn, or `None`."""
    size = request.pixel_size
    if request.size not in {None, "auto"}:
        if size is None:
            return UnsupportedFeature(f"size {request.size!r} is not WIDTHxHEIGHT", param="size")
        if request.aspect_ratio is not None:
            return UnsupportedFeature("size and aspect_ratio exclude each other", param="aspect_ratio")
        if (why := SIZES.refusal(size)) is not None:
            return UnsupportedFeature(f"size {request.size!r} cannot be drawn: {why}", param="size")
    if request.aspect_ratio not in {None, "auto"} and asked_ratio(request) is None:
        return UnsupportedFeature(f"{request.aspect_ratio!r} is no aspect ratio", param="aspect_ratio")
    return None


def asked_size(request: ImageRequest, *, pixels: int) -> Dimensions | None:
    """Take the asked size, or make one of the asked ratio with about so many pixels."""
    ratio = asked_ratio(request)
    return request.pixel_size or (size_of_ratio(ratio, SIZES, pixels=pixels) if ratio else None)


def source_size(request: ImageRequest) -> Dimensions | None:
    """The size to draw the first input picture over at, in whole steps."""
    if not request.images:
        return None
    source = request.images[0].image.dimensions
    scale = min(1.0, sqrt(MOST_SOURCE_PIXELS / source.pixels))
    width, height = (max(2, round(side * scale / STEP)) * STEP for side in (source.width, source.height))
    return Dimensions(width=width, height=height)
