"""What a model's pictures cost: price lists as data, and the one sum that is rounded once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import floor

from safelight.domain.image import ImageRequest, Usage
from safelight.domain.job import Production
from safelight.domain.money import MICROS_PER_UNIT

_MILLION = 1_000_000
_HALF = Fraction(1, 2)
_USUAL_PIXELS = 1024 * 1024
"""Of a picture whose size is left to the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePrice:
    """US dollars for one picture. `size` is pixels, a ratio or a tier; `None` fits any."""

    usd: Decimal
    size: str | None = None
    quality: str | None = None

    def fits(self, sizes: frozenset[str], quality: str | None) -> bool:
        """Whether it is the price of a picture of these size words and this quality."""
        return (self.size is None or self.size.casefold() in sizes) and self.quality in {None, quality}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrices:
    """US dollars for a million tokens of each kind; `None` where there is no price, or no such token."""

    text_in: Decimal | None = None
    image_in: Decimal | None = None
    text_out: Decimal | None = None
    image_out: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One model's price list. The first basis that gives a sum counts: tokens, then pictures, then megapixels."""

    per_image: tuple[ImagePrice, ...] = ()
    """The first row that fits counts."""
    per_input_image: Decimal | None = None
    """US dollars for each picture sent with a request, on top of what comes out; tokens contain it already."""
    per_million_tokens: TokenPrices | None = None
    per_megapixel: Decimal | None = None
    """US dollars for a million pixels that come out."""
    reported: bool = False
    """The provider tells the cost with each answer, and its word wins."""
    source: str | None = None
    read: date | None = None
    """When the source said so."""


def cost_micros(price: Price, request: ImageRequest, production: Production) -> int | None:
    """Micro-dollars that one call cost, from what came of it; rounded half up, once. `None`: no known price."""
    usd = _by_tokens(price, request, production)
    if usd is None:
        usd = _with_inputs(price, request, _by_images(price, request, production))
    if usd is None:
        usd = _with_inputs(price, request, _by_megapixels(price, production))
    return None if usd is None else floor(usd * MICROS_PER_UNIT + _HALF)


def expected_micros(price: Price, request: ImageRequest) -> int | None:
    """What a request is likely to cost, at the dearest row that fits it. `None`: it depends on what only the answer tells."""
    usd = _expected_by_images(price, request)
    if usd is None and price.per_megapixel is not None and price.per_million_tokens is None:
        pixels = request.pixel_size.pixels if request.pixel_size else _USUAL_PIXELS
        usd = Fraction(price.per_megapixel) * pixels * request.count / _MILLION
    usd = _with_inputs(price, request, usd)
    return None if usd is None else floor(usd * MICROS_PER_UNIT + _HALF)


def _expected_by_images(price: Price, request: ImageRequest) -> Fraction | None:
    """What the request leaves to the model (its size, its quality) may turn out in any of the ways that have a price."""
    asked = {word.casefold() for word in (request.size, request.resolution, request.aspect_ratio) if word} - {"auto"}
    quality = None if request.quality == "auto" else request.quality
    rows = [
        Fraction(row.usd)
        for row in price.per_image
        if (row.size is None or not asked or row.size.casefold() in asked)
        and (row.quality is None or quality is None or row.quality == quality)
    ]
    return max(rows) * request.count if rows else None


def _by_tokens(price: Price, request: ImageRequest, production: Production) -> Fraction | None:
    prices, usage = price.per_million_tokens, production.usage
    if prices is None or usage is None:
        return None
    incoming = _tokens_in(usage, has_images=bool(request.images))
    outgoing = _tokens_out(usage)
    if incoming is None or outgoing is None:
        return None
    return _sum(
        _tokens(incoming[0], prices.text_in),
        _tokens(incoming[1], prices.image_in),
        _tokens(outgoing[0], prices.text_out),
        _tokens(outgoing[1], prices.image_out),
    )


def _tokens_in(usage: Usage, *, has_images: bool) -> tuple[int, int] | None:
    """Tokens of text and of pictures. A plain number is text where no picture was sent, else it says too little."""
    if usage.input_tokens_details is not None:
        return _parts(usage.input_tokens, usage.input_tokens_details)
    return None if usage.input_tokens is None or has_images else (usage.input_tokens, 0)


def _tokens_out(usage: Usage) -> tuple[int, int] | None:
    """Tokens of text and of pictures. A plain number is pictures: that is what such a model puts out."""
    if usage.output_tokens_details is not None:
        return _parts(usage.output_tokens, usage.output_tokens_details)
    return None if usage.output_tokens is None else (0, usage.output_tokens)


def _parts(total: int | None, details: Mapping[str, int]) -> tuple[int, int] | None:
    """Whatever is no picture is billed as text, thinking for example. `None` where nothing is told of pictures."""
    images, text = details.get("image_tokens"), details.get("text_tokens", 0)
    if images is None:
        return None
    return (text if total is None else max(text, total - images)), images


def _tokens(count: int, usd: Decimal | None) -> Fraction | None:
    if count == 0:
        return Fraction(0)
    return None if usd is None else Fraction(usd) * count / _MILLION


def _by_images(price: Price, request: ImageRequest, production: Production) -> Fraction | None:
    quality = production.quality or request.quality
    costs = []
    for output in production.outputs:
        sizes = _sizes(request, production, str(output.image.dimensions))
        row = next((row for row in price.per_image if row.fits(sizes, quality)), None)
        costs.append(None if row is None else Fraction(row.usd))
    return _sum(*costs) if costs else None


def _sizes(request: ImageRequest, production: Production, pixels: str) -> frozenset[str]:
    """All words for the size of a picture; what the provider says of it wins over what was asked."""
    words: Iterable[str | None] = (
        pixels,
        production.size or request.size,
        request.resolution,
        request.aspect_ratio,
    )
    return frozenset(word.casefold() for word in words if word)


def _by_megapixels(price: Price, production: Production) -> Fraction | None:
    if price.per_megapixel is None or not production.outputs:
        return None
    pixels = sum(output.image.dimensions.pixels for output in production.outputs)
    return Fraction(price.per_megapixel) * pixels / _MILLION


def _with_inputs(price: Price, request: ImageRequest, usd: Fraction | None) -> Fraction | None:
    if usd is None or price.per_input_image is None:
        return usd
    return usd + Fraction(price.per_input_image) * len(request.images)


def _sum(*parts: Fraction | None) -> Fraction | None:
    """Add up; `None` when any part is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known, Fraction(0)) if len(known) == len(parts) else None
