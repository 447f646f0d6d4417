"""Aspect ratios: `WIDTH:HEIGHT` as services write them, and the sizes that they stand for."""

from collections.abc import Iterable
from math import floor, log, sqrt

from safelight.domain.capability import PixelRule
from safelight.domain.image import Dimensions, ImageRequest


def ratio_value(ratio: str) -> float | None:
    """Read `16:9` or `19.5:9` as width by height; `None` for `auto` and whatever else is no ratio."""
    width, _, height = ratio.partition(":")
    try:
        value = float(width) / float(height)
    except (ValueError, ZeroDivisionError):
        return None
    return value if 0 < value < float("inf") else None


def asked_ratio(request: ImageRequest) -> str | None:
    """The ratio that the caller spells out, as `aspect_ratio` or as `size`; `None` for `auto` and for pixels."""
    asked = (request.aspect_ratio, request.size)
    return next((text for text in asked if text is not None and ratio_value(text) is not None), None)


def nearest_ratio(size: Dimensions, ratios: Iterable[str]) -> str | None:
    """Choose the ratio that distorts a size the least; `None` when there is none to choose from."""
    wanted = log(size.width / size.height)
    values = {ratio: ratio_value(ratio) for ratio in ratios}
    distances = {ratio: abs(log(value) - wanted) for ratio, value in values.items() if value is not None}
    return min(sorted(distances), key=distances.__getitem__, default=None)


def size_of_ratio(ratio: str, rule: PixelRule, *, pixels: int) -> Dimensions:
    """Make the largest size of a ratio within `pixels` and the rule's longest side; `rule` may still refuse it."""
    value = ratio_value(ratio) or 1.0
    width, height = sqrt(pixels * value), sqrt(pixels / value)
    scale = min(1.0, rule.max_side / max(width, height))
    return Dimensions(
        width=_step(width * scale, rule.multiple_of),
        height=_step(height * scale, rule.multiple_of),
    )


def _step(side: float, multiple_of: int) -> int:
    # A side that is whole but for the last bits of a float must not lose a step.
    return max(1, floor(side / multiple_of + 1e-9)) * multiple_of
