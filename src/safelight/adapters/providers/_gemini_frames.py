"""The frames that Gemini's models draw: a ratio and a tier of resolution, in the place of a size in pixels.

Source: https://ai.google.dev/gemini-api/docs/image-generation, read 2026-11-23.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from safelight.adapters.providers._base import ProviderSettings
from safelight.adapters.providers._catalogue import extend, load_catalogue
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import UnsupportedFeature
from safelight.domain.image import Dimensions, ImageRequest

_SIZES_AT_1K = {
    "1:1": (1024, 1024),
    "1:4": (512, 2048),
    "4:1": (2048, 512),
    "1:8": (384, 3072),
    "8:1": (3072, 384),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
_TIERS = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}
_TIERS_BELOW = ((768, "512"), (1536, "1K"), (3072, "2K"))
"""Which tier stands for a free size: by the side of a square of as many pixels."""
_EXACT = {
    f"{width * factor:g}x{height * factor:g}": (ratio, tier)
    for tier, factor in _TIERS.items()
    for ratio, (width, height) in _SIZES_AT_1K.items()
}
_QUALITY_TIERS = {"auto": None, "low": "1K", "medium": "1K", "high": "2K"}
"""There is no quality, but more pixels; the choice is ours."""


def load_models(name: str, settings: ProviderSettings) -> Iterator[ModelSpec]:
    """Read the catalogue and what the operator adds; each model refuses the frames that it does not draw."""
    for spec in extend(load_catalogue(name), settings.models, where=f"providers.{settings.name}.models"):
        yield replace(spec, rules=(*spec.rules, partial(_undrawable, spec)))


def _undrawable(spec: ModelSpec, request: ImageRequest) -> UnsupportedFeature | None:
    try:
        image_config(request, spec)
    except UnsupportedFeature as refusal:
        return refusal
    return None


def image_config(request: ImageRequest, spec: ModelSpec | None) -> dict[str, str]:
    """Translate size, ratio, resolution and quality; what is said outright wins over what a size implies."""
    ratio, tier = _from_size(request, spec)
    if request.aspect_ratio not in {None, "auto"}:
        ratio = request.aspect_ratio
    source = "size"
    if request.resolution:
        source, tier = "resolution", request.resolution.upper()
    if request.quality is not None:
        source, tier = _from_quality(request.quality, source, tier)
    if spec is not None and tier is not None and tier not in _tiers(spec):
        drawn = ", ".join(_tiers(spec))
        raise UnsupportedFeature(f"model {spec.name} does not draw at {tier}; it draws at {drawn}", param=source)
    sends_tier = spec is None or spec.wire.get("image_size", True)
    config = {"aspectRatio": ratio, "imageSize": tier if sends_tier else None}
    return {name: value for name, value in config.items() if value is not None}


def _from_quality(quality: str, source: str, tier: str | None) -> tuple[str, str | None]:
    if quality not in _QUALITY_TIERS:
        expected = ", ".join(_QUALITY_TIERS)
        raise UnsupportedFeature(f"Gemini models know no quality {quality!r}; expected {expected}", param="quality")
    wanted = _QUALITY_TIERS[quality]
    if wanted is None:
        return source, tier
    if tier is not None:
        raise UnsupportedFeature(
            f"quality stands for a resolution here, and {source} gives one already", param="quality"
        )
    return "quality", wanted


def _from_size(request: ImageRequest, spec: ModelSpec | None) -> tuple[str | None, str | None]:
    """Give ratio and tier of a size: pixels, a ratio, a tier or `auto`."""
    size = request.size
    if size in {None, "auto"}:
        return None, None
    if request.pixel_size is not None:
        return _from_pixels(request.pixel_size, _ratios(spec), _tiers(spec))
    if size in _tiers(spec):
        return None, size
    if ":" in size and (spec is None or size in _ratios(spec)):
        return size, None
    expected = ", ".join((*_tiers(spec), *_ratios(spec)))
    raise UnsupportedFeature(f"cannot draw size {size!r}; expected auto, WIDTHxHEIGHT, {expected}", param="size")


def _from_pixels(size: Dimensions, ratios: Sequence[str], tiers: Sequence[str]) -> tuple[str, str]:
    """Find the frame of exactly this size, else the nearest."""
    ratio, tier = _EXACT.get(str(size), ("", ""))
    if ratio in ratios and tier in tiers:
        return ratio, tier
    shape = math.log(size.width / size.height)
    nearest = min(ratios, key=lambda ratio: abs(shape - _shape(ratio)))
    side = math.sqrt(size.pixels)
    tier = next((tier for limit, tier in _TIERS_BELOW if side < limit), "4K")
    return nearest, "1K" if tier == "512" and tier not in tiers else tier


def _shape(ratio: str) -> float:
    width, height = ratio.split(":")
    return math.log(float(width) / float(height))


def _ratios(spec: ModelSpec | None) -> tuple[str, ...]:
    known = spec.aspect_ratios - {"auto"} if spec else ()
    return tuple(sorted(known or _SIZES_AT_1K))


def _tiers(spec: ModelSpec | None) -> tuple[str, ...]:
    return tuple(spec.wire.get("tiers", _TIERS)) if spec else tuple(_TIERS)
