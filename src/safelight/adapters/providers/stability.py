"""Stability AI's Stable Image services (v2beta).

Source: https://platform.stability.ai/docs/api-reference, read 2026-11-23.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import structlog

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import Entry, ProviderModule
from safelight.adapters.providers._body import Body, HeldPart, Part, form_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._handles import ended, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._stability_services import ServiceWire, StabilityServices, cost_micros_of, ratio_of
from safelight.application.ports import Accepted, Call, Failed, Finished, Running
from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUncertain,
)
from safelight.domain.image import ImageRequest

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


class _Wire(ServiceWire, frozen=True, forbid_unknown_fields=True, kw_only=True):
    path: str
    model: bool = False
    mode: bool = False
    strength: bool = False


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


class Stability(StabilityServices[_Wire]):
    """Most services answer at once, with base64; some give a handle. There is no idempotency key and no cancel."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Learn the services."""
        super().__init__(entry.settings, load_catalogue("stability"), wire=_Wire, guess=_guess)
        self._purchases = entry.http(_PURCHASES)
        self._polls = entry.http(_POLLS)
        self._options = entry.options

    async def submit(self, call: Call) -> Accepted | Finished:
        """Have a service work."""
        _, wire = self.service(call.model, call.request)
        if misfit := self.misfit(wire, call.request):
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
        service, _ = self.service(call.model, call.request)
        return Finished(
            pictures=(await answer.picture(said.image),),
            model=service,
            output_format=call.request.output_format,
            cost_micros=None if service == call.model else cost_micros_of(self.spec(service)),
            via=via_of(call.request),
        )

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
        if (ratio := ratio_of(request)) is not None:
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


def _guess(model: str) -> _Wire:
    """Take an unknown name for a path, for one more model of sd3, or for one that makes pictures."""
    if model.startswith("sd3"):
        return _Wire(path="generate/sd3", images=("image",), model=True, mode=True, strength=True)
    path = model if "/" in model else f"generate/{model.removeprefix('stable-image-')}"
    steps = [step for step in path.split("/") if step not in {"", ".", ".."}]
    return _Wire(path="/".join(steps), images=("image",), mask=True)


def _as_text(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        match value:
            case None:
                pass
            case str():
                yield name, value
            case _:
                yield name, msgspec.json.encode(value).decode()


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
