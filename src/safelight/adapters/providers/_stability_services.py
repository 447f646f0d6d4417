"""What Stability AI's services take and leave to each other, wherever they are hosted: by Stability itself, on Bedrock."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import msgspec

from safelight.adapters.providers._base import BaseProvider, ProviderSettings
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio
from safelight.adapters.providers._rules import edits_need_prompt
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import ConfigurationError, UnsupportedFeature
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import MICROS_PER_UNIT

LARGEST_SEED = 4_294_967_294
STYLES = frozenset(
    {
        "3d-model",
        "analog-film",
        "anime",
        "cinematic",
        "comic-book",
        "digital-art",
        "enhance",
        "fantasy-art",
        "isometric",
        "line-art",
        "low-poly",
        "modeling-compound",
        "neon-punk",
        "origami",
        "photographic",
        "pixel-art",
        "tile-texture",
    }
)
RATIOS = ("1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
"""Aspect ratios of the services that generate."""


class ServiceWire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The members that a service takes: the catalogue's `wire` table, explained there. Hosts add to it."""

    prompt: str = "prompt"
    """What the prompt is called; empty where there is none."""
    needs_prompt: bool = True
    images: tuple[str, ...] = ()
    mask: bool = False
    edit: str | None = None
    edits: dict[str, str] = {}
    ratio_of_image: bool = False


W = TypeVar("W", bound=ServiceWire)


class StabilityServices(BaseProvider, Generic[W]):
    """A host of the services. Each makes one picture a call."""

    max_n = 1

    def __init__(
        self, settings: ProviderSettings, specs: Sequence[ModelSpec], *, wire: type[W], guess: Callable[[str], W]
    ) -> None:
        """Learn the services; `guess` says what an unknown one takes. Raises `ConfigurationError`."""
        super().__init__(settings, [replace(spec, rules=(partial(self._refusal, spec.name),)) for spec in specs])
        self._guess = guess
        self._wires = {spec.name: _read_wire(spec, wire) if spec.wire else guess(spec.name) for spec in self.specs}

    def service(self, model: str, request: ImageRequest) -> tuple[str, W]:
        """Find who does the work: the models that make pictures leave some kinds of edit to services of their own."""
        spec = self.spec(model)
        wire = self._wires[spec.name] if spec else self._guess(model)
        other = self.spec(wire.edits.get(_kind_of_edit(request) or "", ""))
        return (other.name, self._wires[other.name]) if other else (model, wire)

    def _refusal(self, model: str, request: ImageRequest) -> UnsupportedFeature | None:
        """Why a known service has no place for a request, or `None`."""
        service, wire = self.service(model, request)
        other = self.spec(service) if service != model else None
        if other is None:
            return self.misfit(wire, request) or self.limit(wire, request)
        try:
            other.check(request)
        except UnsupportedFeature as exc:
            return exc
        return None

    def misfit(self, wire: W, request: ImageRequest) -> UnsupportedFeature | None:
        """Why a request could not even be written down for a service, or `None`."""
        if request.images and not wire.images:
            kinds = ", ".join(wire.edits)
            return UnsupportedFeature(f"this model edits inside a mask, or by a type of {kinds}, alone", param="mask")
        if len(request.images) > len(wire.images):
            return UnsupportedFeature(f"this model takes at most {len(wire.images)} images", param="image")
        if request.mask is not None and not wire.mask:
            return UnsupportedFeature("this model takes no mask", param="mask")
        if request.prompt and not wire.prompt:
            return UnsupportedFeature("this model takes no prompt", param="prompt")
        if request.edit_type not in {None, wire.edit}:
            return UnsupportedFeature(f"this model has no edit of type {request.edit_type!r}", param="type")
        return None

    def limit(self, wire: W, request: ImageRequest) -> UnsupportedFeature | None:
        """Which value a known service would not take, or `None`."""
        if request.seed is not None and not 1 <= request.seed <= LARGEST_SEED:
            return UnsupportedFeature(f"seed must be 1 to {LARGEST_SEED}; 0 would mean any", param="seed")
        if request.style is not None and request.style not in STYLES:
            return UnsupportedFeature(f"style must be one of {', '.join(sorted(STYLES))}", param="style")
        ratio = ratio_of(request)
        if ratio is None and request.size not in {None, "auto"}:
            return UnsupportedFeature(f"this model cannot draw size {request.size!r}", param="size")
        if ratio is not None and ratio not in RATIOS:
            return UnsupportedFeature(f"expected an aspect ratio of {', '.join(RATIOS)}", param="size")
        if ratio is not None and request.images and wire.ratio_of_image:
            param = "aspect_ratio" if request.aspect_ratio else "size"
            return UnsupportedFeature("an edit has the aspect ratio of its image", param=param)
        return edits_need_prompt(request) if wire.prompt and wire.needs_prompt else None


def _read_wire(spec: ModelSpec, kind: type[W]) -> W:
    try:
        return msgspec.convert(spec.wire, kind)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


def _kind_of_edit(request: ImageRequest) -> str | None:
    if request.operation is not Operation.EDIT:
        return None
    return request.edit_type or ("inpainting" if request.mask is not None else None)


def ratio_of(request: ImageRequest) -> str | None:
    """Take the asked ratio; a size in pixels becomes the nearest, for no service draws to the pixel."""
    size = request.pixel_size
    return asked_ratio(request) or (nearest_ratio(size, RATIOS) if size else None)


def cost_micros_of(spec: ModelSpec | None) -> int | None:
    """What another service than the asked one costs: the engine knows the price of the asked one alone."""
    rows = spec.price.per_image if spec and spec.price else ()
    return int(rows[0].usd * MICROS_PER_UNIT) if rows else None
