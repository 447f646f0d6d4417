"""Ideogram's image models, and those of others that it hosts (API v2).

Sources: https://developer.ideogram.ai/ideogram-api/responses-and-metadata, https://developer.ideogram.ai/ideogram-api/errors
and https://developer.ideogram.ai/api-reference/images/generate/ideogram-4-5, read 2026-11-23.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, NoOptions, ProviderModule
from safelight.adapters.providers._body import Body, HeldPart, Part, form_body, json_body
from safelight.adapters.providers._catalogue import by_name, load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint, redact
from safelight.adapters.providers._handles import ask_state, ended, pause_s, picture_at, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._masks import two_colours
from safelight.adapters.providers._openai_shape import form_fields, given, prompt_of, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio, ratio_value, size_of_ratio
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import (
    Accepted,
    Call,
    Failed,
    Finished,
    ProviderKey,
    RemotePicture,
    Running,
    StoredPicture,
)
from safelight.domain.capability import ModelSpec, PixelRule
from safelight.domain.errors import (
    ConfigurationError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import Charged

log = structlog.get_logger(__name__)

# What the words of a generation come to. Source: https://developer.ideogram.ai/v2/api-reference/generations/get-generation,
# read 2026-11-23.
_RUNNING = frozenset({"pending"})
_COMPLETED = "completed"
_FAILED = "failed"

_LEAST_PAUSE_S = 1.0
_SPEEDS: Mapping[str, str] = MappingProxyType(
    {"low": "turbo", "medium": "default", "standard": "default", "high": "quality", "hd": "quality"}
)
_OLD_QUALITIES: Mapping[str, str] = MappingProxyType({"standard": "medium", "hd": "high"})
"""DALL·E's words, which clients still send."""
_MEGAPIXEL = 1024 * 1024
_UNKNOWN = (
    "negative_prompt",
    "style",
    "background",
    "output_format",
    "output_compression",
    "aspect_ratio",
    "resolution",
)
"""Fields of a model that we do not know: what it makes of them is for Ideogram to say."""

_Action = Literal["generate", "precise-edit", "remix", "inpaint", ""]


def _key(key: ProviderKey) -> Mapping[str, str]:
    return {"Api-Key": key.value} if key.value else {}


def _read(body: bytes) -> Complaint:
    """Take the reason for the code: it says more than the status."""
    complaint = read_complaint(body)
    try:
        said = msgspec.json.decode(body, type=_Refused)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return complaint
    return replace(complaint, code=complaint.code or said.reject_reason)


class _Refused(msgspec.Struct):
    reject_reason: str | None = None


_PURCHASES = Dialect(
    authorise=_key, errors=ErrorTable(read=_read, statuses=dict.fromkeys(range(500, 600), ProviderUncertain))
)
_POLLS = Dialect(
    # Unknown here, or never: it may have been paid, and it cannot be had.
    authorise=_key,
    errors=ErrorTable(read=_read, statuses={404: ProviderProtocolError, 410: ProviderProtocolError}),
)


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table, explained there."""

    edit: _Action = "generate"
    inpaint: _Action = "generate"
    vary: _Action = "generate"
    sizing: Literal["size", "resolution", "custom"] = "size"
    speed: bool = False
    white: bool = False
    transparent: str = ""
    presets: dict[str, tuple[str, ...]] = {}


class _Item(msgspec.Struct):
    """Only what we cannot do without is typed."""

    url: Any = None
    prompt: Any = None
    resolution: Any = None
    is_image_safe: Any = None


class _Generation(msgspec.Struct):
    generation_id: str | None = None
    status: Any = None
    failure_reason: Any = None
    created: Any = None
    usage_cost_usd_micros: Any = None
    data: list[_Item] | None = None


class _Handle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that another process needs. `accepted_at` is Unix time."""

    id: str
    accepted_at: float


class Ideogram(BaseProvider):
    """Answers with a handle. There is no idempotency key and no way to cancel."""

    max_n = 8

    def __init__(self, entry: Entry[NoOptions], *, now: Callable[[], float] = time.time) -> None:
        """Learn the models' shapes. `now` is Unix time: handles must outlive the process."""
        super().__init__(entry.settings, load_catalogue("ideogram"), rules=(edits_inpaint, edits_need_prompt))
        self._wires = {spec.name: _wire(spec) for spec in self.specs}
        self._specs = tuple(replace(spec, rules=(*spec.rules, self._rule(spec.name))) for spec in self.specs)
        self._by_name = by_name(self._specs)
        self._purchases = entry.http(_PURCHASES)
        self._polls = entry.http(_POLLS)
        self._now = now

    def _wire_of(self, model: str) -> _Wire:
        spec = self.spec(model)
        return self._wires[spec.name] if spec else _Wire(white="gpt-image" in model)

    def _rule(self, name: str) -> Callable[[ImageRequest], UnsupportedFeature | None]:
        return lambda request: _misfit(self._wires[name], request)

    async def submit(self, call: Call) -> Accepted | Finished:
        """Start a generation; each POST is a new one, and billed."""
        wire = self._wire_of(call.model)
        answer = await self._purchases.buy(call, self._url(call, wire), await self._body(call, wire))
        said = answer.read(_Generation)
        if said.status == _COMPLETED:
            return await self._finished(answer, said, call)
        if not said.generation_id:
            raise answer.unreadable("Ideogram took the work and named no generation")
        handle = _Handle(id=said.generation_id, accepted_at=self._now())
        return Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=_LEAST_PAUSE_S)

    def _url(self, call: Call, wire: _Wire) -> URL:
        """A model is a path, and what it is to do another."""
        model = wire.transparent if wire.transparent and call.request.background == "transparent" else call.model
        return self._purchases.url(f"v2/image/{_action(wire, call.request)}/{quote(model, safe='')}")

    async def _body(self, call: Call, wire: _Wire) -> Body:
        fields = self._fields(call, wire)
        parts: list[Part | HeldPart] = [
            Part.of(name, source.image, f"image-{number}")
            for number, (name, source) in enumerate(
                zip(
                    _part_names(_action(wire, call.request), len(call.request.images)), call.request.images, strict=True
                ),
                start=1,
            )
        ]
        if not parts:
            return json_body(fields)
        mask = await two_colours(call, changes="white" if wire.white else "black")
        if mask is not None:
            parts.append(HeldPart(name="mask", content=mask, content_type="image/png", filename="mask.png"))
        return form_body(form_fields(fields), parts, call.workspace)

    def _fields(self, call: Call, wire: _Wire) -> dict[str, Any]:
        """Name the fields as Ideogram does; always `async`, so that the handle is here before the work is done."""
        request = call.request
        fields: dict[str, Any] = {"num_images": call.n, "async": True}
        if (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        fields |= _sizing(wire, request)
        fields |= given(request, ("seed", "negative_prompt"))
        if request.quality not in {None, "auto"}:
            words = _SPEEDS if wire.speed else _OLD_QUALITIES
            fields["rendering_speed" if wire.speed else "quality"] = words.get(request.quality, request.quality)
        if request.style is not None:
            fields["style_type"] = request.style.lower()
        if self.spec(call.model) is None:
            fields |= {name: value for name, value in given(request, _UNKNOWN).items() if name not in fields}
        return {**fields, **request.extra}

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for a generation. One that failed may be bought anew, says Ideogram: it is not billed."""
        task = _read_handle(handle)
        url = self._polls.url(f"v2/generations/{quote(task.id, safe='')}")
        answer, said = await ask_state(self._polls, call, url, _Generation)
        if said.status == _COMPLETED:
            return await self._finished(answer, said, call)
        if said.status == _FAILED:
            reason = said.failure_reason if isinstance(said.failure_reason, str) else "it did not say why"
            raise ended(
                ProviderRejected(
                    redact(f"Ideogram failed: {reason}", call.key.value),
                    status=400,
                    provider_code=_FAILED,
                    request_id=answer.request_id,
                )
            )
        if said.status not in _RUNNING:
            log.warning("unknown_task_status", provider="ideogram", status=str(said.status)[:80])
        return Running(poll_after_s=pause_s(self._now() - task.accepted_at, least_s=_LEAST_PAUSE_S))

    async def _finished(self, answer: Answer, said: _Generation, call: Call) -> Finished:
        safe = [item for item in said.data or [] if item.is_image_safe is not False]
        shown = [item for item in safe if isinstance(item.url, str) and item.url]
        if not shown and said.data and not safe:
            raise ProviderRejected(
                "Ideogram's moderation withheld every image; Ideogram bills them all the same",
                status=400,
                provider_code="image_unsafe",
                request_id=answer.request_id,
                charged=Charged.YES,
                cost_micros=_cost_micros(said.usage_cost_usd_micros),
            )
        if not shown:
            raise ended(answer.unreadable("Ideogram finished the generation without a picture"))
        resolutions = {item.resolution for item in shown if isinstance(item.resolution, str)}
        return Finished(
            pictures=tuple([await self._picture(answer, item, call) for item in shown]),
            model=call.model,
            created=_unix(said.created),
            quality=self._quality(call),
            size=resolutions.pop() if len(resolutions) == 1 else None,
            cost_micros=_cost_micros(said.usage_cost_usd_micros),
            via=via_of(call.request),
        )

    def _quality(self, call: Call) -> str | None:
        """Say which quality was drawn, for the price: where nothing is asked it depends on the pictures sent."""
        request, spec = call.request, self.spec(call.model)
        if spec is None or "quality" not in spec.fields or self._wires[spec.name].speed:
            return None
        if request.quality in {None, "auto"}:
            return "medium" if request.images else "high"
        return _OLD_QUALITIES.get(request.quality, request.quality)

    async def _picture(self, answer: Answer, item: _Item, call: Call) -> StoredPicture | RemotePicture:
        prompt = answer.words(item.prompt)
        revised_prompt = prompt if prompt != prompt_of(call.request) else None
        return await picture_at(answer, item.url, self._polls.base_url, revised_prompt=revised_prompt)


def _wire(spec: ModelSpec) -> _Wire:
    try:
        return msgspec.convert(spec.wire, _Wire)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


def _action(wire: _Wire, request: ImageRequest) -> _Action:
    """Choose what the model is to do. A precise edit keeps the size of its source: for another one, it generates."""
    if request.operation is Operation.GENERATION:
        return "generate"
    if request.mask is not None:
        return wire.inpaint
    if request.operation is Operation.VARIATION:
        return wire.vary
    return "generate" if wire.edit == "precise-edit" and _says_size(request) else wire.edit


def _says_size(request: ImageRequest) -> bool:
    return request.size not in {None, "auto"} or request.aspect_ratio not in {None, "auto"}


def _part_names(action: _Action, count: int) -> list[str]:
    if action == "generate":
        return ["images"] * count
    return ["image" if number == 0 else "reference_images" for number in range(count)]


def _misfit(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    """Why the model has no place for a request, or `None`."""
    action = _action(wire, request)
    if not action:
        return UnsupportedFeature("this model takes no mask", param="mask")
    if action in {"remix", "inpaint"} and len(request.images) > 1:
        return UnsupportedFeature("this model takes one image to edit", param="image")
    param = "size" if request.size not in {None, "auto"} else "aspect_ratio"
    if (request.mask is not None or action == "inpaint") and _says_size(request):
        return UnsupportedFeature("an edit with a mask keeps the size of its image", param=param)
    if request.background == "transparent" and (not wire.transparent or action != "generate" or request.images):
        return UnsupportedFeature("this model draws no transparent background here", param="background")
    if request.size not in {None, "auto"} and request.aspect_ratio not in {None, "auto"}:
        return UnsupportedFeature("this model takes a size or an aspect ratio, not both", param="aspect_ratio")
    if request.quality == "very_low" and not request.images:
        return UnsupportedFeature("quality very_low is for edits", param="quality")
    return _unsized(wire, request)


def _unsized(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    """Why the asked size cannot be written down, or `None`."""
    ratio = request.aspect_ratio
    if ratio not in {None, "auto"} and ratio_value(ratio) is None:
        return UnsupportedFeature("aspect_ratio must be WIDTH:HEIGHT", param="aspect_ratio")
    if request.resolution is not None and (
        asked_ratio(request) is None or request.resolution.lower() not in wire.presets
    ):
        tiers = " or ".join(wire.presets)
        return UnsupportedFeature(f"resolution must be {tiers}, beside an aspect_ratio", param="resolution")
    odd = request.size not in {None, "auto"} and request.pixel_size is None and asked_ratio(request) is None
    if odd and wire.sizing != "size":
        return UnsupportedFeature("this model takes size as WIDTHxHEIGHT", param="size")
    return None


def _sizing(wire: _Wire, request: ImageRequest) -> dict[str, Any]:
    """Name the asked size; nothing, where the model is to choose. A bare ratio becomes the nearest preset."""
    ratio, size = asked_ratio(request), request.pixel_size
    if size is None and ratio is not None:
        if wire.presets:
            return {wire.sizing: _preset(wire, request, ratio)}
        if wire.sizing != "custom":
            return {"aspect_ratio": ratio.replace(":", "x") if wire.sizing == "resolution" else ratio}
        size = size_of_ratio(ratio, PixelRule(multiple_of=16), pixels=_MEGAPIXEL)
    if wire.sizing == "custom":
        return {"custom_width": size.width, "custom_height": size.height} if size else {}
    return {} if request.size in {None, "auto"} or ratio is not None else {wire.sizing: request.size}


def _preset(wire: _Wire, request: ImageRequest, ratio: str) -> str:
    sizes = wire.presets[(request.resolution or "1k").lower()]
    by_ratio = {size.replace("x", ":"): size for size in sizes}
    wanted = size_of_ratio(ratio, PixelRule(), pixels=_MEGAPIXEL)
    return by_ratio[nearest_ratio(wanted, by_ratio) or next(iter(by_ratio))]


def _read_handle(handle: str) -> _Handle:
    try:
        return msgspec.json.decode(handle, type=_Handle)
    except msgspec.DecodeError as exc:
        raise ProviderProtocolError("Ideogram gave no such handle", status=404) from exc


def _unix(created: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(created).timestamp()) if isinstance(created, str) else None
    except (ValueError, OverflowError):
        return None


def _cost_micros(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


PROVIDER = ProviderModule(
    name="ideogram",
    doc="Ideogram's image models",
    create=Ideogram,
    options=NoOptions,
    base_url="https://api.ideogram.ai",
    env_key="IDEOGRAM_API_KEY",
    needs_key=True,
)
