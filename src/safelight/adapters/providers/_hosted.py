"""Services that host many models, each with an input schema of its own: the catalogue's `[models.wire]` names the inputs.

A model that the catalogue does not know gets the names that most models use, and whatever stands in `extra`.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
from PIL import Image, ImageOps

from safelight.adapters.providers._base import BaseProvider, ProviderSettings
from safelight.adapters.providers._catalogue import by_name
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of
from safelight.adapters.providers._ratios import nearest_ratio, ratio_value
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import Call
from safelight.domain.capability import ModelSpec, Rule
from safelight.domain.errors import ConfigurationError, UnsupportedFeature
from safelight.domain.image import Dimensions, ImageRequest, Operation, StoredImage

LARGEST_DEVIATION = 1.1
"""So much may the ratio of an asked size differ from the one that stands in for it: 1792x1024 becomes 16:9."""

_INVERTED_MASKS = "ideogram"
"""The maker of models in whose masks black changes, whoever hosts them."""
_SAME_NAMES = (
    "quality",
    "style",
    "background",
    "moderation",
    "seed",
    "num_inference_steps",
    "negative_prompt",
    "aspect_ratio",
    "resolution",
    "input_fidelity",
)


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inputs of one model by name. An empty name: it has no such input."""

    count: str = ""
    image: str = ""
    """Takes one picture."""
    images: str = ""
    """Takes a list of pictures."""
    mask: str = ""
    mask_paint: Literal["white", "black"] = "white"
    """What marks the part of a grey mask that changes."""
    size: Literal["sides", "ratio", "custom", "object", "text"] = "sides"
    """`width` and `height`; the nearest `aspect_ratio`; both sides beside `aspect_ratio` `custom`; one field."""
    size_field: str = "size"
    ratios: dict[str, str] = {}
    """What `size_field` takes in the place of an aspect ratio."""
    jpeg: str = "jpeg"
    """How it spells that format."""
    compression: str = "output_compression"
    edits: str = ""
    """Another model of the service, which edits what this one generates."""


Place = Callable[[StoredImage, str], Awaitable[str]]
"""Makes the text that stands in the body for an input picture, given a label for it."""


class HostedModels(BaseProvider):
    """A provider whose models differ in their inputs."""

    def __init__(
        self,
        settings: ProviderSettings,
        specs: Sequence[ModelSpec],
        *,
        common: Mapping[str, Any],
        unknown: Mapping[str, Any],
    ) -> None:
        """Read the wires: `common` holds for all models, `unknown` for those that nothing is known of."""
        super().__init__(settings, specs, rules=(edits_inpaint, edits_need_prompt))
        where = f"providers.{settings.name}"
        self._unknown = _wire({**common, **unknown}, where)
        self._wires = {
            each.name: _wire({**common, **each.wire}, f"{where}: {each.name}") if each.wire else self._guess(each.name)
            for each in self._specs
        }
        self._specs = tuple(replace(each, rules=(*each.rules, self._limits(each))) for each in self._specs)
        self._by_name = by_name(self._specs)

    def wire(self, model: str) -> Wire:
        """Look up how a model calls its inputs."""
        spec = self.spec(model)
        return self._guess(model) if spec is None else self._wires[spec.name]

    def _guess(self, model: str) -> Wire:
        inverted = _INVERTED_MASKS in model
        return msgspec.structs.replace(self._unknown, mask_paint="black") if inverted else self._unknown

    def _limits(self, spec: ModelSpec) -> Rule:
        wire = self._wires[spec.name]

        def check(request: ImageRequest) -> UnsupportedFeature | None:
            if request.operation is not Operation.GENERATION and wire.edits:
                return _refusal(self.spec(wire.edits), request)
            if request.mask is not None and not wire.mask:
                return UnsupportedFeature(f"model {spec.name} has no mask", param="mask")
            return _size_fault(request, spec, wire)

        return check

    def serving(self, call: Call) -> str:
        """Name the model that does the work: the asked one, or the one beside it that edits."""
        wire = self.wire(call.model)
        return call.model if call.request.operation is Operation.GENERATION else wire.edits or call.model

    def plain_inputs(self, call: Call) -> dict[str, Any]:
        """Name all that is no picture as the model does."""
        request, model = call.request, self.serving(call)
        spec, wire = self.spec(model), self.wire(model)
        inputs = given(request, _SAME_NAMES)
        if request.quality == "auto":
            del inputs["quality"]
        if request.aspect_ratio in wire.ratios:
            inputs[wire.size_field] = wire.ratios[inputs.pop("aspect_ratio")]
        inputs |= _size_inputs(request, spec, wire)
        if (prompt := prompt_of(request)) is not None:
            inputs["prompt"] = prompt
        if wire.count and (call.n > 1 or (spec is not None and spec.wire)):
            inputs[wire.count] = call.n
        if request.output_format is not None:
            inputs["output_format"] = wire.jpeg if request.output_format == "jpeg" else request.output_format
        if request.output_compression is not None:
            inputs[wire.compression] = request.output_compression
        return inputs

    async def picture_inputs(self, call: Call, inline: InlinePictures, place: Place) -> dict[str, Any]:
        """Name the pictures as the model does; `place` puts each where the model can read it."""
        request, wire = call.request, self.wire(self.serving(call))
        placed = [await place(sent.image, f"image-{at}") for at, sent in enumerate(request.images, start=1)]
        inputs: dict[str, Any] = {}
        if len(placed) == 1 and wire.image:
            inputs[wire.image] = placed[0]
        elif placed:
            inputs[wire.images or "images"] = placed
        if (mask := await _grey_mask(call, wire)) is not None:
            inputs[wire.mask] = f"data:image/png;base64,{inline.base64_of(mask)}"
        return inputs


def _wire(table: Mapping[str, Any], where: str) -> Wire:
    try:
        return msgspec.convert(dict(table), Wire)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"{where}: wire: {exc}") from exc


def _refusal(spec: ModelSpec | None, request: ImageRequest) -> UnsupportedFeature | None:
    try:
        if spec is not None:
            spec.check(request)
    except UnsupportedFeature as refusal:
        return refusal
    return None


def _size_fault(request: ImageRequest, spec: ModelSpec, wire: Wire) -> UnsupportedFeature | None:
    if request.size in {None, "auto"}:
        return None
    if request.aspect_ratio is not None:
        return UnsupportedFeature("size and aspect_ratio exclude each other", param="aspect_ratio")
    if request.size in spec.sizes:
        return None
    if request.pixel_size is None or not request.pixel_size.pixels:
        if wire.size == "text":
            return None
        return UnsupportedFeature(f"model {spec.name} cannot draw size {request.size!r}: not pixels", param="size")
    if wire.size == "ratio" and _near_ratio(request.pixel_size, spec) is None:
        ratios = ", ".join(sorted(spec.aspect_ratios))
        return UnsupportedFeature(
            f"model {spec.name} cannot draw size {request.size!r}: its aspect ratios are {ratios}", param="size"
        )
    return None


def _near_ratio(size: Dimensions, spec: ModelSpec) -> str | None:
    """Choose the aspect ratio for a size; `None` if none is near."""
    ratio = nearest_ratio(size, spec.aspect_ratios)
    value = ratio_value(ratio) if ratio is not None else None
    if value is None:
        return None
    asked = size.width / size.height
    return ratio if max(value / asked, asked / value) <= LARGEST_DEVIATION else None


def _size_inputs(request: ImageRequest, spec: ModelSpec | None, wire: Wire) -> dict[str, Any]:
    """Translate `size`. `auto` is the model's own choice, which it makes when it is told nothing."""
    pixels = request.pixel_size
    if request.size in {None, "auto"}:
        return {}
    if pixels is None or wire.size == "text":
        return {wire.size_field: request.size}
    sides = {"width": pixels.width, "height": pixels.height}
    match wire.size:
        case "ratio":
            return {"aspect_ratio": _near_ratio(pixels, spec) if spec else None}
        case "custom":
            return {"aspect_ratio": "custom", **sides}
        case "object":
            return {wire.size_field: sides}
        case _:
            return sides


async def _grey_mask(call: Call, wire: Wire) -> bytes | None:
    mask = await white_changes(call)
    return await asyncio.to_thread(_inverted, mask) if mask is not None and wire.mask_paint == "black" else mask


def _inverted(mask: bytes) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(mask), formats=("PNG",)) as image:
        ImageOps.invert(image).save(stream, "PNG")
    return stream.getvalue()
