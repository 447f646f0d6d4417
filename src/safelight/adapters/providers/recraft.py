"""Recraft's image models.

Sources: https://www.recraft.ai/docs/api-reference/endpoints, https://www.recraft.ai/docs/api-reference/appendix and
https://www.recraft.ai/docs/api-reference/agents, read 2026-11-23.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._masks import two_colours
from safelight.adapters.providers._openai_shape import finished, given, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio
from safelight.adapters.providers._rules import edits_need_prompt
from safelight.application.ports import Call, Finished
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation

_RATIOS = ("1:1", "2:1", "1:2", "3:2", "2:3", "4:3", "3:4", "5:4", "4:5", "16:9", "9:16")
"""What the size of a picture becomes where a variation must name one: these hold for all models."""
_MICROS_PER_CREDIT = 1000
_NO_CREDITS = re.compile(r"not enough credits", re.IGNORECASE)
_UNKNOWN = ("quality", "background", "moderation", "output_compression", "num_inference_steps", "resolution")
"""Fields that no known model has; what an unknown one makes of them is for Recraft to say."""


def _read(body: bytes) -> Complaint:
    """An empty account is told in words, whatever the status."""
    complaint = read_complaint(body)
    empty = _NO_CREDITS.search(f"{complaint.message} {complaint.code}".replace("_", " "))
    return replace(complaint, meaning=ProviderAuthError) if empty else complaint


_DIALECT = Dialect(errors=ErrorTable(read=_read, statuses=dict.fromkeys(range(500, 600), ProviderUncertain)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """One call: what it takes besides the model and the picture."""

    path: str
    model: bool = True
    prompt: bool = True
    mask: bool = False
    size: bool = False
    strength: bool = False
    n: bool = True
    format: bool = True
    """`image_format` and `random_seed`."""


_GENERATE = _Route(path="generations", size=True)
_IMAGE_TO_IMAGE = _Route(path="imageToImage", strength=True)
_INPAINT = _Route(path="inpaint", mask=True)
_OUTPAINT = _Route(path="outpaint", size=True)
_REMOVE_BACKGROUND = _Route(path="removeBackground", model=False, prompt=False, n=False, format=False)
_VARIATE = _Route(path="variateImage", model=False, prompt=False, size=True)
_EDITS: Mapping[str, _Route] = MappingProxyType(
    {"inpainting": _INPAINT, "outpainting": _OUTPAINT, "background_removal": _REMOVE_BACKGROUND}
)


class _Said(msgspec.Struct):
    """Only what is added to OpenAI's shape. `image` stands in the place of `data` where there can be one alone."""

    created: Any = None
    credits: Any = None
    data: Any = None
    image: Any = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strength`: how far an edit without a mask may leave its source (0 to 1); Recraft insists on a number."""

    strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class Recraft(BaseProvider):
    """Answers at once, with base64; there is no handle and no idempotency key, so a lost answer stays unknown."""

    max_n = 6

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the way."""
        super().__init__(entry.settings, load_catalogue("recraft"), rules=(_misfit,))
        self._http = entry.http(_DIALECT)
        self._strength = entry.options.strength

    async def submit(self, call: Call) -> Finished:
        """Generate, edit by one of several calls, or vary by Recraft's own."""
        route = _route(call.request)
        if refusal := _unanswerable(call) or (_misfit(call.request) if self.spec(call.model) is None else None):
            raise refusal
        if call.n > 1 and not route.n:
            raise UnsupportedFeature("this edit makes one image a call", param="n")
        url = self._http.url(f"images/{route.path}")
        answer = await self._http.buy(call, url, await self._body(call, route))
        said = answer.read(_Said)
        via = via_of(call.request) if route is _IMAGE_TO_IMAGE else None
        result = await finished(_with_data(answer, said), base_url=self._http.base_url, via=via)
        model = call.model if route.model else route.path
        return msgspec.structs.replace(result, model=result.model or model, cost_micros=_cost_micros(said.credits))

    async def _body(self, call: Call, route: _Route) -> Body:
        """Write JSON, not a form: only there nested extra parameters keep their shape."""
        pictures = InlinePictures(call.workspace)
        fields = self._fields(call, route)
        for source in call.request.images[:1]:
            fields["image_url"] = pictures.data_url(source.image)
        if (mask := await two_colours(call, changes="white")) is not None:
            fields["mask_url"] = f"data:image/png;base64,{pictures.base64_of(mask)}"
        return pictures.body({**fields, **call.request.extra})

    def _fields(self, call: Call, route: _Route) -> dict[str, Any]:
        """Name the fields as Recraft does."""
        request, spec = call.request, self.spec(call.model)
        fields: dict[str, Any] = {"model": call.model} if route.model else {}
        fields["response_format"] = "b64_json"
        if route.n:
            fields["n"] = call.n
        if route.prompt and request.prompt is not None:
            fields["prompt"] = request.prompt
        if route.size and (size := _size(request, spec)) is not None:
            fields["size"] = size
        if route.strength:
            fields["strength"] = self._strength
        if route.model:
            fields |= given(request, ("style", "negative_prompt"))
        if route.format and request.seed is not None:
            fields["random_seed"] = request.seed
        if route.format and request.output_format is not None:
            fields["image_format"] = request.output_format
        if spec is None:
            fields |= given(request, _UNKNOWN)
        return fields


def _route(request: ImageRequest) -> _Route:
    """Choose the call. A variation that says how is an image made after an image."""
    if request.operation is Operation.GENERATION:
        return _GENERATE
    if request.operation is Operation.VARIATION:
        return _IMAGE_TO_IMAGE if request.prompt else _VARIATE
    if request.edit_type is None:
        return _INPAINT if request.mask is not None else _IMAGE_TO_IMAGE
    return _EDITS.get(request.edit_type, _INPAINT)


def _misfit(request: ImageRequest) -> UnsupportedFeature | None:
    """Why Recraft has no place for a request, or `None`."""
    route = _route(request)
    if route.prompt and (refusal := edits_need_prompt(request)):
        return refusal
    if len(request.images) > 1:
        return UnsupportedFeature("Recraft edits one image", param="image")
    if request.operation is Operation.EDIT and (request.mask is not None) is not route.mask:
        said = "needs a mask" if route.mask else "takes no mask"
        return UnsupportedFeature(f"an edit of this type {said}", param="mask")
    if request.style == "vector_illustration":
        return UnsupportedFeature("vector pictures (SVG) are not offered", param="style")
    return _unplaced(request, route)


def _unplaced(request: ImageRequest, route: _Route) -> UnsupportedFeature | None:
    sized = request.size not in {None, "auto"}
    if (sized or request.aspect_ratio not in {None, "auto"}) and not route.size:
        return UnsupportedFeature("this edit keeps the size of its image", param="size" if sized else "aspect_ratio")
    if sized and request.aspect_ratio not in {None, "auto"}:
        return UnsupportedFeature("Recraft takes a size or an aspect ratio, not both", param="aspect_ratio")
    names = ((route.model, ("style", "negative_prompt")), (route.format, ("seed", "output_format")))
    for taken, members in names:
        name = next((name for name in members if getattr(request, name) is not None), None)
        if name is not None and not taken:
            return UnsupportedFeature(f"Recraft's {route.path} has no {name}", param=name)
    return None


def _unanswerable(call: Call) -> UnsupportedFeature | None:
    """Vector models answer SVG, which would be paid and could not be kept."""
    if "vector" in call.model:
        return UnsupportedFeature("vector pictures (SVG) are not offered", param="model")
    return None


def _size(request: ImageRequest, spec: ModelSpec | None) -> str | None:
    """Take the size as it is; a ratio goes by the same name. A variation must name one: that of its source."""
    asked = asked_ratio(request) if request.pixel_size is None else request.size
    if asked is None and request.size not in {None, "auto"}:
        return request.size
    if asked is None and request.operation is Operation.VARIATION and request.images:
        ratios = (spec.aspect_ratios - {"auto"} if spec else None) or _RATIOS
        return nearest_ratio(request.images[0].image.dimensions, ratios)
    return asked


def _with_data(answer: Answer, said: _Said) -> Answer:
    if said.data is not None or said.image is None:
        return answer
    return replace(answer, text=msgspec.json.encode({"created": said.created, "data": [said.image]}))


def _cost_micros(credits_: Any) -> int | None:
    """A thousand credits are a dollar."""
    if not isinstance(credits_, int | float) or isinstance(credits_, bool) or credits_ < 0:
        return None
    return int((Decimal(str(credits_)) * _MICROS_PER_CREDIT).to_integral_value(ROUND_HALF_UP))


PROVIDER = ProviderModule(
    name="recraft",
    doc="Recraft's image models",
    create=Recraft,
    options=Options,
    base_url="https://external.api.recraft.ai/v1",
    env_key="RECRAFT_API_TOKEN",
    needs_key=True,
)
