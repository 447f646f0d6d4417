"""What a *model* accepts, as data, and which fields of a request it cannot express."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from safelight.domain.errors import UnsupportedFeature
from safelight.domain.image import Dimensions, ImageRequest, Operation, ResponseFormat
from safelight.domain.price import Price

OPTIONAL_FIELDS = (
    "size",
    "quality",
    "style",
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "partial_images",
    "seed",
    "num_inference_steps",
    "negative_prompt",
    "aspect_ratio",
    "resolution",
    "input_fidelity",
)
"""The fields of a request that some model or other cannot express."""


NEAR_END = timedelta(days=60)
"""So long before a model is shut down its operator is warned."""
_ALTERNATIVES_SHOWN = 5

Rule = Callable[[ImageRequest], UnsupportedFeature | None]
"""A limit on a combination of fields: why a request cannot be expressed, or `None`."""


class Life(StrEnum):
    """Where a model stands between its release and its end."""

    LIVE = "live"
    LEGACY = "legacy"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRule:
    """Which free sizes a model draws: sides in pixels, ratio as long side to short side."""

    multiple_of: int = 1
    min_side: int = 1
    max_side: int = 16384
    min_pixels: int = 1
    max_pixels: int = 16384 * 16384
    max_ratio: float = 16384.0

    def refusal(self, size: Dimensions) -> str | None:
        """Why a size cannot be drawn, or `None`."""
        short, long = sorted((size.width, size.height))
        if short < self.min_side or long > self.max_side:
            return f"each side must be {self.min_side} to {self.max_side} pixels"
        if size.width % self.multiple_of or size.height % self.multiple_of:
            return f"both sides must be divisible by {self.multiple_of}"
        if not self.min_pixels <= size.pixels <= self.max_pixels:
            return f"width times height must be {self.min_pixels} to {self.max_pixels}"
        if long > short * self.max_ratio:
            return f"the long side may be at most {self.max_ratio:g} times the short one"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model. An empty set or `None` means that nothing is known, so nothing is refused."""

    name: str
    operations: frozenset[Operation]
    fields: frozenset[str]
    """Which of `OPTIONAL_FIELDS` it can express."""
    aliases: frozenset[str] = frozenset()
    """Other names that its provider knows it by."""
    sizes: frozenset[str] = frozenset()
    """Fixed sizes besides `auto`."""
    pixel_rule: PixelRule | None = None
    """Free sizes, beside the fixed ones."""
    aspect_ratios: frozenset[str] = frozenset()
    qualities: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    fidelities: frozenset[str] = frozenset()
    max_n: int | None = None
    """More than this becomes several calls."""
    max_prompt_chars: int | None = None
    max_images: int | None = None
    answers: frozenset[ResponseFormat] = frozenset(ResponseFormat)
    life: Life = Life.LIVE
    shutdown_date: date | None = None
    price: Price | None = None
    wire: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What its provider's adapter alone knows how to read."""
    rules: tuple[Rule, ...] = field(default=())
    """Limits on combinations of fields."""

    def life_on(self, today: date) -> Life:
        """Its life; the date of its end counts even where the word was not changed."""
        ended = self.shutdown_date is not None and self.shutdown_date <= today
        return Life.RETIRED if ended else self.life

    def near_its_end(self, today: date) -> bool:
        """Whether it is retired or will be shut down within `NEAR_END`."""
        soon = self.shutdown_date is not None and self.shutdown_date - today <= NEAR_END
        return soon or self.life is Life.RETIRED

    def check(self, request: ImageRequest) -> None:
        """Raise `UnsupportedFeature` for the first thing that this model cannot express."""
        self._check_operation(request)
        self._check_fields(request)
        self._check_values(request)
        for rule in self.rules:
            if (refusal := rule(request)) is not None:
                raise refusal

    def _check_operation(self, request: ImageRequest) -> None:
        if request.operation not in self.operations:
            offered = ", ".join(sorted(self.operations))
            raise UnsupportedFeature(
                f"model {self.name} does not offer {request.operation}; it offers {offered}", param="model"
            )
        if request.operation is Operation.GENERATION and request.images:
            raise UnsupportedFeature(
                f"model {self.name} takes input images on the edits route, not on generations", param="input_images"
            )

    def _check_fields(self, request: ImageRequest) -> None:
        for name in OPTIONAL_FIELDS:
            if name not in self.fields and getattr(request, name) is not None:
                raise UnsupportedFeature(f"model {self.name} has no {name}", param=name)

    def _check_values(self, request: ImageRequest) -> None:
        self._check_size(request)
        self._check_choice("aspect_ratio", request.aspect_ratio, self.aspect_ratios)
        self._check_choice("quality", request.quality, self.qualities)
        self._check_choice("output_format", request.output_format, self.formats)
        self._check_choice("input_fidelity", request.input_fidelity, self.fidelities)
        if self.max_prompt_chars and len(request.prompt or "") > self.max_prompt_chars:
            raise UnsupportedFeature(
                f"model {self.name} takes a prompt of at most {self.max_prompt_chars} characters", param="prompt"
            )
        if self.max_images and len(request.images) > self.max_images:
            raise UnsupportedFeature(f"model {self.name} takes at most {self.max_images} images", param="image")

    def _check_choice(self, name: str, value: str | None, allowed: frozenset[str]) -> None:
        if value is not None and allowed and value not in allowed:
            raise UnsupportedFeature(
                f"model {self.name} has no {name} {value!r}; expected one of {', '.join(sorted(allowed))}", param=name
            )

    def _check_size(self, request: ImageRequest) -> None:
        size = request.size
        if size in {None, "auto"} or size in self.sizes or not (self.sizes or self.pixel_rule):
            return
        pixels = request.pixel_size
        if self.pixel_rule and pixels:
            why = self.pixel_rule.refusal(pixels)
            if why is None:
                return
        else:
            why = f"expected one of auto, {', '.join(sorted(self.sizes))}" if self.sizes else "expected WIDTHxHEIGHT"
        raise UnsupportedFeature(f"model {self.name} cannot draw size {size!r}: {why}", param="size")


def refuse_retired(spec: ModelSpec, request: ImageRequest, offered: Iterable[ModelSpec], today: date) -> None:
    """Raise `UnsupportedFeature` for a model that is shut down, with those of `offered` that can take its place."""
    if spec.life_on(today) is not Life.RETIRED:
        return
    when = f"was shut down on {spec.shutdown_date}" if spec.shutdown_date else "is shut down"
    others = [
        other.name
        for other in offered
        if other.life is Life.LIVE and not other.near_its_end(today) and request.operation in other.operations
    ]
    instead = f"; use {', '.join(others[:_ALTERNATIVES_SHOWN])} instead" if others else ""
    raise UnsupportedFeature(f"model {spec.name} {when}{instead}", param="model")
