"""Fireworks' image models: FLUX, which answers at once, and FLUX Kontext, which gives a handle.

Sources: https://docs.fireworks.ai/api-reference/generate-a-new-image-from-a-text-prompt and
https://docs.fireworks.ai/api-reference/get-generated-image-from-flux-kontex, read 2026-11-23.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, NoOptions, ProviderModule
from safelight.adapters.providers._body import Body, json_body
from safelight.adapters.providers._catalogue import by_name, load_catalogue
from safelight.adapters.providers._errors import ErrorTable, redact
from safelight.adapters.providers._handles import ask_state, ended, pause_s, picture_at, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio, ratio_value, size_of_ratio
from safelight.adapters.providers._rules import edits_inpaint, edits_need_prompt
from safelight.application.ports import Accepted, Call, Failed, Finished, Running, StoredPicture
from safelight.domain.capability import OPTIONAL_FIELDS, ModelSpec, PixelRule
from safelight.domain.errors import (
    ConfigurationError,
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest
from safelight.domain.money import Charged

log = structlog.get_logger(__name__)

# What the words of a Kontext task come to. Source: the second of the above, read 2026-11-23. Whether work that failed
# is billed is told nowhere, so its outcome stays open.
_RUNNING = frozenset({"Pending"})
_READY = "Ready"
_NOT_FOUND = "Task not found"
_FAILURES: Mapping[str, type[ProviderError]] = MappingProxyType(
    {
        "Request Moderated": ProviderRejected,
        "Content Moderated": ProviderRejected,
        "Error": ProviderProtocolError,
        "Failed": ProviderProtocolError,
        _NOT_FOUND: ProviderProtocolError,
    }
)
_UNSEEN_S = 30.0
"""For so long after the start a task may not be known everywhere."""

_FILTERED = "CONTENT_FILTERED"
_LEAST_PAUSE_S = 0.5
_OWN = "accounts/fireworks/models/"
_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*")
_LARGEST_DEVIATION = 1.1
_MEGAPIXEL = 1024 * 1024
_RATIOS = frozenset({"1:1", "21:9", "16:9", "3:2", "5:4", "4:5", "2:3", "9:16", "9:21", "4:3", "3:4"})
"""What a size may become for a model that we do not know."""
_TRANSLATED = frozenset({"size", "aspect_ratio", "output_format"})

_PURCHASES = Dialect(errors=ErrorTable(statuses=dict.fromkeys(range(500, 600), ProviderUncertain)))
_POLLS = Dialect(errors=ErrorTable(statuses={404: ProviderProtocolError, 410: ProviderProtocolError}))


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table, explained there."""

    kind: Literal["flux", "kontext", "sides"] = "flux"


class _Drawn(msgspec.Struct):
    """Only what we cannot do without is typed."""

    base64: Any = None
    finishReason: Any = None  # noqa: N815 - as it stands in the answer


class _Accepted(msgspec.Struct):
    request_id: str | None = None


class _Task(msgspec.Struct):
    status: str
    result: Any = None
    details: Any = None
    progress: Any = None

    @property
    def said(self) -> str:
        """The word, and why."""
        return f"{self.status}: {self.details}" if isinstance(self.details, str) and self.details else self.status


class _Handle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that another process needs. `accepted_at` is Unix time; the model stands in the address to poll."""

    id: str
    model: str
    accepted_at: float


class Fireworks(BaseProvider):
    """There is no mask, no idempotency key, and no way to cancel."""

    max_n = 1

    def __init__(self, entry: Entry[NoOptions], *, now: Callable[[], float] = time.time) -> None:
        """Learn the models' kinds. `now` is Unix time: handles must outlive the process."""
        super().__init__(entry.settings, load_catalogue("fireworks"), rules=(edits_inpaint, edits_need_prompt))
        self._wires = {spec.name: _wire(spec) for spec in self.specs}
        self._specs = tuple(replace(spec, rules=(*spec.rules, self._rule(spec))) for spec in self.specs)
        self._by_name = by_name(self._specs)
        self._purchases = entry.http(_PURCHASES)
        self._polls = entry.http(_POLLS)
        self._now = now

    def spec(self, model: str) -> ModelSpec | None:
        """Look a model up by its short name too, or by its whole one."""
        return super().spec(model) or super().spec(model.removeprefix(_OWN))

    def _rule(self, spec: ModelSpec) -> Callable[[ImageRequest], UnsupportedFeature | None]:
        wire = self._wires[spec.name]
        return lambda request: _misfit(spec, wire, request)

    def _wire_of(self, model: str) -> _Wire:
        spec = self.spec(model)
        return self._wires[spec.name] if spec else _Wire(kind="kontext" if "kontext" in model else "flux")

    async def submit(self, call: Call) -> Accepted | Finished:
        """Draw, or start a Kontext task."""
        if call.request.mask is not None:
            raise _no_mask()
        wire = self._wire_of(call.model)
        if call.request.images and wire.kind != "kontext":
            raise UnsupportedFeature("of Fireworks' models the Kontext ones alone take images", param="image")
        answer = await self._purchases.buy(
            call, self._url(call, wire), self._body(call, wire), headers=_accept(call, wire)
        )
        if wire.kind == "kontext":
            return self._accepted(answer, call)
        return Finished(
            pictures=await _drawn(answer),
            model=call.model,
            output_format=call.request.output_format,
            via=via_of(call.request),
        )

    def _url(self, call: Call, wire: _Wire) -> URL:
        """A model is a path."""
        family = "image_generation" if wire.kind == "sides" else "workflows"
        action = "/text_to_image" if wire.kind == "flux" else ""
        return self._purchases.url(f"{family}/{_path(call.model)}{action}")

    def _body(self, call: Call, wire: _Wire) -> Body:
        request, spec = call.request, self.spec(call.model)
        inline = InlinePictures(call.workspace)
        fields: dict[str, Any] = {}
        if (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        if request.images:
            fields["input_image"] = inline.data_url(request.images[0].image)
        fields |= _sizing(request, spec, wire)
        if wire.kind == "kontext" and request.output_format is not None:
            fields["output_format"] = request.output_format
        fields |= given(request, (name for name in OPTIONAL_FIELDS if name not in _TRANSLATED))
        return inline.body({**fields, **request.extra})

    def _accepted(self, answer: Answer, call: Call) -> Accepted:
        said = answer.read(_Accepted)
        if not said.request_id:
            raise answer.unreadable("Fireworks took the work and named no request")
        handle = _Handle(id=said.request_id, model=call.model, accepted_at=self._now())
        return Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=_LEAST_PAUSE_S)

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for a Kontext task, by a POST that costs nothing."""
        task = _read_handle(handle)
        url = self._polls.url(f"workflows/{_path(task.model)}/get_result")
        answer, said = await ask_state(self._polls, call, url, _Task, body=json_body({"id": task.id}))
        age_s = self._now() - task.accepted_at
        if said.status == _READY:
            return await self._finished(answer, said, call)
        failure = _FAILURES.get(said.status)
        if failure is not None and not (said.status == _NOT_FOUND and age_s < _UNSEEN_S):
            raise ended(
                failure(
                    redact(said.said, call.key.value),
                    status=400 if failure is ProviderRejected else 502,
                    provider_code=said.status,
                    request_id=answer.request_id,
                )
            )
        if failure is None and said.status not in _RUNNING:
            log.warning("unknown_task_status", provider="fireworks", status=said.status[:80])
        share = float(said.progress) if isinstance(said.progress, int | float) and 0 <= said.progress <= 1 else None
        return Running(poll_after_s=pause_s(age_s, least_s=_LEAST_PAUSE_S), progress=share)

    async def _finished(self, answer: Answer, said: _Task, call: Call) -> Finished:
        sample = said.result.get("sample") if isinstance(said.result, dict) else None
        if not isinstance(sample, str) or not sample:
            raise ended(answer.unreadable("Fireworks finished the task without a picture"))
        picture = await picture_at(answer, sample, self._polls.base_url)
        return Finished(
            pictures=(picture,),
            model=call.model,
            output_format=call.request.output_format,
            via=via_of(call.request),
        )


def _wire(spec: ModelSpec) -> _Wire:
    try:
        return msgspec.convert(spec.wire, _Wire)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc


def _path(model: str) -> str:
    """Write a model as the path that it is; raises `UnsupportedFeature` for one that would lead elsewhere."""
    if not _NAME.fullmatch(model):
        raise UnsupportedFeature("Fireworks has no models with such a name", param="model")
    return model if model.startswith("accounts/") else f"{_OWN}{model}"


def _accept(call: Call, wire: _Wire) -> dict[str, str]:
    """Ask FLUX for a picture of the wanted format; for JSON, where there is none."""
    if wire.kind == "kontext" or call.request.output_format is None:
        return {}
    return {"Accept": f"image/{call.request.output_format}"}


async def _drawn(answer: Answer) -> tuple[StoredPicture, ...]:
    """Take the pictures of an answer: one as it is, or base64 in JSON. A filtered one is none."""
    reason = answer.headers.get("finish-reason")
    if answer.whole is not None:
        if reason == _FILTERED:
            raise _filtered(answer)
        return (answer.whole_picture(),)
    said = answer.read(_Drawn)
    if _FILTERED in {reason, said.finishReason}:
        raise _filtered(answer)
    listed = said.base64 if isinstance(said.base64, list) else [said.base64]
    texts = [text for text in listed if isinstance(text, str) and text]
    if not texts:
        raise answer.unreadable("Fireworks answered without a picture")
    return tuple([await answer.picture(text) for text in texts])


def _filtered(answer: Answer) -> ProviderRejected:
    """Whether a filtered picture is billed is told nowhere."""
    return ProviderRejected(
        "Fireworks' moderation withheld the picture",
        status=400,
        provider_code=_FILTERED,
        request_id=answer.request_id,
        charged=Charged.UNKNOWN,
    )


def _no_mask() -> UnsupportedFeature:
    return UnsupportedFeature("Fireworks takes no mask: say in the prompt what is to change", param="mask")


def _misfit(spec: ModelSpec, wire: _Wire, request: ImageRequest) -> UnsupportedFeature | None:
    """Why a known model has no place for a request, or `None`."""
    if request.mask is not None:
        return _no_mask()
    if request.seed == 0 and wire.kind != "kontext":
        return UnsupportedFeature("seed 0 means a random one at Fireworks", param="seed")
    ratio = asked_ratio(request)
    if ratio is not None and request.pixel_size is not None:
        return UnsupportedFeature("this model takes a size or an aspect ratio, not both", param="aspect_ratio")
    if request.size not in {None, "auto"} and ratio is None:
        size = request.pixel_size
        if size is None or (wire.kind != "sides" and _near_ratio(request, spec.aspect_ratios) is None):
            ratios = ", ".join(sorted(spec.aspect_ratios))
            return UnsupportedFeature(
                f"model {spec.name} cannot draw size {request.size!r}: its aspect ratios are {ratios}", param="size"
            )
    if ratio is not None and spec.aspect_ratios and ratio not in spec.aspect_ratios:
        param = "size" if ratio == request.size else "aspect_ratio"
        return UnsupportedFeature(f"model {spec.name} has no aspect ratio {ratio}", param=param)
    return None


def _near_ratio(request: ImageRequest, ratios: frozenset[str]) -> str | None:
    """Choose the aspect ratio for a size; `None` if none is near."""
    size = request.pixel_size
    if size is None or not size.pixels:
        return None
    ratio = nearest_ratio(size, ratios)
    value = ratio_value(ratio) if ratio is not None else None
    if value is None:
        return None
    asked = size.width / size.height
    return ratio if max(value / asked, asked / value) <= _LARGEST_DEVIATION else None


def _sizing(request: ImageRequest, spec: ModelSpec | None, wire: _Wire) -> dict[str, Any]:
    """Name the asked size; nothing, where the model is to choose."""
    ratio, size = asked_ratio(request), request.pixel_size
    if wire.kind == "sides":
        if size is None and ratio is not None:
            size = size_of_ratio(ratio, PixelRule(multiple_of=64), pixels=_MEGAPIXEL)
        return {"width": size.width, "height": size.height} if size else {}
    ratio = ratio or _near_ratio(request, (spec.aspect_ratios if spec else frozenset()) or _RATIOS)
    return {"aspect_ratio": ratio} if ratio else {}


def _read_handle(handle: str) -> _Handle:
    try:
        return msgspec.json.decode(handle, type=_Handle)
    except msgspec.DecodeError as exc:
        raise ProviderProtocolError("Fireworks gave no such handle", status=404) from exc


PROVIDER = ProviderModule(
    name="fireworks",
    doc="Fireworks' FLUX models",
    create=Fireworks,
    options=NoOptions,
    base_url="https://api.fireworks.ai/inference/v1",
    env_key="FIREWORKS_API_KEY",
    needs_key=True,
)
