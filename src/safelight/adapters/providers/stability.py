"""Stability AI's Stable Image services (v2beta).

Source: https://platform.stability.ai/docs/api-reference, read 2026-11-23.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import structlog

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._body import Body, HeldPart, Part, form_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._handles import ended, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio
from safelight.adapters.providers._rules import edits_need_prompt
from safelight.adapters.providers._stability_facts import LARGEST_SEED, RATIOS, STYLES
from safelight.application.ports import Accepted, Call, Failed, Finished, Running
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation
from safelight.domain.money import MICROS_PER_UNIT

log = structlog.get_logger(__name__)

_SERVICES = "v2beta/stable-image/"
_POLL_S = 10.0
"""One result may be asked for every ten seconds at most."""
_LOCKED_OUT_S = 60.0
"""For so long, whoever was too fast gets no answer."""
_PLAIN = ("negative_prompt", "seed", "output_format")
_UNKNOWN = ("quality", "background", "moderation", "output_compression", "resolution", "input_fidelity")
"""Fields that no known service has; what an unknown one makes of them is for Stability to say."""

_SUCCESS = "SUCCESS"
_FILTERED = "CONTENT_FILTERED"
"""Comes with status 200 and a blurred picture; failed work is not billed."""
_IN_PROGRESS = "in-progress"

_WORDS: Mapping[str, type[ProviderError]] = MappingProxyType(
    {
        "content_moderation": ProviderRejected,  # comes as 403
        "payment_required": ProviderAuthError,
        "unauthorized": ProviderAuthError,
    }
)


class _Fault(msgspec.Struct):
    name: str
    errors: list[str] = []
    id: str | None = None


def _read_fault(body: bytes) -> Complaint:
    try:
        fault = msgspec.json.decode(body, type=_Fault)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_complaint(body)
    return Complaint(message="; ".join(fault.errors) or None, code=fault.name, request_id=fault.id)


_PURCHASES = Dialect(
    errors=ErrorTable(words=_WORDS, statuses=dict.fromkeys(range(500, 600), ProviderUncertain), read=_read_fault)
)
_POLLS = Dialect(
    # Unknown, older than a day, or made with another key: it may have been paid, and it cannot be had.
    errors=ErrorTable(words=_WORDS, statuses={404: ProviderProtocolError, 410: ProviderProtocolError}, read=_read_fault)
)


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table, explained there."""

    path: str
    prompt: str = "prompt"
    needs_prompt: bool = True
    images: tuple[str, ...] = ()
    mask: bool = False
    edit: str | None = None
    edits: dict[str, str] = {}
    model: bool = False
    mode: bool = False
    strength: bool = False
    ratio_of_image: bool = False


class _Said(msgspec.Struct):
    """Only what we cannot do without is typed."""

    id: Any = None
    status: Any = None
    image: Any = None
    finish_reason: Any = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Stability asks for and no request of ours tells."""

    strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    """How far an edit without a mask, or a variation, may leave its source: 0 not at all, 1 altogether."""
    client_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    """How this gateway is called in Stability's logs."""


class Stability(BaseProvider):
    """Most services answer at once, with base64; some give a handle. There is no idempotency key and no cancel."""

    max_n = 1

    def __init__(self, entry: Entry[Options]) -> None:
        """Learn the services."""
        known = load_catalogue("stability")
        specs = [replace(spec, rules=(partial(self._refusal, spec.name),)) for spec in known]
        super().__init__(entry.settings, specs)
        self._wires = {spec.name: _wire(spec) for spec in self.specs}
        self._purchases = entry.http(_PURCHASES)
        self._polls = entry.http(_POLLS)
        self._options = entry.options

    async def submit(self, call: Call) -> Accepted | Finished:
        """Have a service work."""
        _, wire = self._service(call.model, call.request)
        if misfit := _misfit(wire, call.request):
            raise misfit
        body = await self._body(call, wire)
        url = self._purchases.url(_SERVICES + quote(wire.path))
        with _lockout():
            answer = await self._purchases.buy(call, url, body, headers=self._headers(call.request))
        said = answer.read(_Said)
        if said.image is None and isinstance(said.id, str) and said.id:
            return Accepted(handle=said.id, poll_after_s=_POLL_S)
        return await self._finished(answer, said, call)

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for a result; it waits for a day, and for the key that bought it alone."""
        with _lockout():
            answer = await self._polls.ask(call, self._polls.url(f"v2beta/results/{quote(handle, safe='')}"))
        said = answer.read(_Said)
        if answer.status == 202 or (said.image is None and said.status is not None):
            if said.status != _IN_PROGRESS:
                log.warning("unknown_task_status", provider="stability", status=str(said.status)[:80])
            return Running(poll_after_s=_POLL_S)
        return await self._finished(answer, said, call)

    async def _finished(self, answer: Answer, said: _Said, call: Call) -> Finished:
        if said.finish_reason == _FILTERED:
            raise ended(
                ProviderRejected(
                    "Stability AI's moderation withheld the picture",
                    status=400,
                    provider_code=_FILTERED,
                    request_id=answer.request_id,
                )
            )
        if said.finish_reason not in {None, _SUCCESS} or not isinstance(said.image, str) or not said.image:
            raise answer.unreadable("Stability AI answered without a picture that is whole")
        service, _ = self._service(call.model, call.request)
        return Finished(
            pictures=(await answer.picture(said.image),),
            model=service,
            output_format=call.request.output_format,
            cost_micros=None if service == call.model else _cost_micros(self.spec(service)),
            via=via_of(call.request),
        )

    def _service(self, model: str, request: ImageRequest) -> tuple[str, _Wire]:
        """Find who does the work: the models that make pictures leave some kinds of edit to services of their own."""
        spec = self.spec(model)
        wire = self._wires[spec.name] if spec else _guess(model)
        other = self.spec(wire.edits.get(_kind_of_edit(request) or "", ""))
        return (other.name, self._wires[other.name]) if other else (model, wire)

    def _refusal(self, model: str, request: ImageRequest) -> UnsupportedFeature | None:
        """Why a known service has no place for a request, or `None`."""
        service, wire = self._service(model, request)
        other = self.spec(service) if service != model else None
        if other is None:
            return _misfit(wire, request) or _limit(wire, request)
        try:
            other.check(request)
        except UnsupportedFeature as exc:
            return exc
        return None

    async def _body(self, call: Call, wire: _Wire) -> Body:
        parts: list[Part | HeldPart] = [
            Part.of(name, source.image, name.replace("_", "-"))
            for name, source in zip(wire.images, call.request.images, strict=False)
        ]
        if (mask := await white_changes(call)) is not None:
            parts.append(HeldPart(name="mask", content=mask, content_type="image/png", filename="mask.png"))
        return form_body(_as_text(self._fields(call, wire)), parts, call.workspace)

    def _fields(self, call: Call, wire: _Wire) -> dict[str, Any]:
        """Name the fields as Stability does."""
        request = call.request
        fields: dict[str, Any] = {"model": call.model} if wire.model else {}
        if wire.prompt and (prompt := prompt_of(request)) is not None:
            fields[wire.prompt] = prompt
        fields |= given(request, _PLAIN)
        if self.spec(call.model) is None:
            fields |= given(request, _UNKNOWN)
        if request.style is not None:
            fields["style_preset"] = request.style
        if (ratio := _ratio(request)) is not None:
            fields["aspect_ratio"] = ratio
        if request.images and wire.strength:
            fields["strength"] = self._options.strength
        if request.images and wire.mode:
            fields["mode"] = "image-to-image"
        return {**fields, **request.extra}

    def _headers(self, request: ImageRequest) -> dict[str, str]:
        user = hashlib.sha256(request.user.encode()).hexdigest() if request.user else None
        named = {"stability-client-id": self._options.client_id, "stability-client-user-id": user}
        return {name: value for name, value in named.items() if value}


def _wire(spec: ModelSpec) -> _Wire:
    if not spec.wire:
        return _guess(spec.name)
    try:
        return msgspec.convert(spec.wire, _Wire)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


def _guess(model: str) -> _Wire:
    """Take an unknown name for a path, for one more model of sd3, or for one that makes pictures."""
    if model.startswith("sd3"):
        return _Wire(path="generate/sd3", images=("image",), model=True, mode=True, strength=True)
    path = model if "/" in model else f"generate/{model.removeprefix('stable-image-')}"
    steps = [step for step in path.split("/") if step not in {"", ".", ".."}]
    return _Wire(path="/".join(steps), images=("image",), mask=True)


def _kind_of_edit(request: ImageRequest) -> str | None:
    if request.operation is not Operation.EDIT:
        return None
    return request.edit_type or ("inpainting" if request.mask is not None else None)


def _misfit(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
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


def _limit(wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    """Which value a known service would not take, or `None`."""
    if request.seed is not None and not 1 <= request.seed <= LARGEST_SEED:
        return UnsupportedFeature(f"seed must be 1 to {LARGEST_SEED}; 0 would mean any", param="seed")
    if request.style is not None and request.style not in STYLES:
        return UnsupportedFeature(f"style must be one of {', '.join(sorted(STYLES))}", param="style")
    ratio = _ratio(request)
    if ratio is None and request.size not in {None, "auto"}:
        return UnsupportedFeature(f"this model cannot draw size {request.size!r}", param="size")
    if ratio is not None and ratio not in RATIOS:
        return UnsupportedFeature(f"expected an aspect ratio of {', '.join(RATIOS)}", param="size")
    if ratio is not None and request.images and wire.ratio_of_image:
        param = "aspect_ratio" if request.aspect_ratio else "size"
        return UnsupportedFeature("an edit has the aspect ratio of its image", param=param)
    return edits_need_prompt(request) if wire.prompt and wire.needs_prompt else None


def _ratio(request: ImageRequest) -> str | None:
    """The asked ratio; a size in pixels becomes the nearest, for no service draws to the pixel."""
    size = request.pixel_size
    return asked_ratio(request) or (nearest_ratio(size, RATIOS) if size else None)


def _as_text(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        match value:
            case None:
                pass
            case str():
                yield name, value
            case _:
                yield name, msgspec.json.encode(value).decode()


def _cost_micros(spec: ModelSpec | None) -> int | None:
    """What another service than the asked one costs: the engine knows the price of the asked one alone."""
    rows = spec.price.per_image if spec and spec.price else ()
    return int(rows[0].usd * MICROS_PER_UNIT) if rows else None


@contextmanager
def _lockout() -> Iterator[None]:
    """Wait long enough after a 429."""
    try:
        yield
    except ProviderBusy as exc:
        exc.retry_after_s = max(exc.retry_after_s or 0.0, _LOCKED_OUT_S)
        raise


PROVIDER = ProviderModule(
    name="stability",
    doc="Stability AI's Stable Image services",
    create=Stability,
    options=Options,
    base_url="https://api.stability.ai",
    env_key="STABILITY_API_KEY",
    needs_key=True,
)
