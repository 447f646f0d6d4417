"""Stability AI's Stable Image services (v2beta).

Source: https://platform.stability.ai/docs/api-reference, read 2026-11-23.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._body import Body, HeldPart, Part, form_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio
from safelight.adapters.providers._rules import edits_need_prompt
from safelight.application.ports import Accepted, Call, Finished, Running
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
_LARGEST_SEED = 4_294_967_294
_STYLES = frozenset(
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
_RATIOS = ("1:1", "16:9", "21:9", "2:3", "3:2", "4:5", "5:4", "9:16", "9:21")
"""What a size may become for a model that we do not know."""
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
    handle: bool = False


class _Said(msgspec.Struct):
    """Only what we cannot do without is typed."""

    id: Any = None
    status: Any = None
    image: Any = None
    finish_reason: Any = None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strength`: how far an edit without a mask and a variation may leave their source (0 to 1); Stability insists on
    a number, and no caller can give one but as an extra parameter. `client_id`: how Stability is to call this gateway.
    """  # noqa: D205 - one paragraph for each option

    strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    client_id: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class Stability(BaseProvider):
    """Most services answer at once, with base64; some give a handle. There is no idempotency key and no cancel."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Learn the services."""
        super().__init__(entry.settings, load_catalogue("stability"))
        self._wires = {spec.name: _wire(spec) for spec in self.specs}
        self._specs = tuple(replace(spec, rules=(*spec.rules, self._refusal_of(spec))) for spec in self.specs)
        self._by_name.update({name: self._ruled(spec) for name, spec in self._by_name.items()})
        self._purchases = entry.http(_PURCHASES)
        self._polls = entry.http(_POLLS)
        self._options = entry.options

    async def submit(self, call: Call) -> Accepted | Finished:
        """Have a service work."""
        model, wire = self._service(call.model, call.request)
        body = await self._body(call, model, wire)
        url = self._purchases.url(_SERVICES + quote(wire.path))
        with _lockout():
            answer = await self._purchases.buy(call, url, body, headers=self._headers(call.request))
        said = answer.read(_Said)
        if said.image is None and isinstance(said.id, str) and said.id:
            return Accepted(handle=said.id, poll_after_s=_POLL_S)
        return await self._finished(answer, said, call)

    async def poll(self, handle: str, call: Call) -> Running | Finished:
        """Ask for a result; it waits for a day, and for the key that bought it alone."""
        with _lockout():
            answer = await self._polls.ask(call, self._result_url(handle))
        said = answer.read(_Said)
        if answer.status == 202 or said.status is not None:
            if said.status != _IN_PROGRESS:
                log.warning("unknown_task_status", provider="stability", status=str(said.status)[:80])
            return Running(poll_after_s=_POLL_S)
        return await self._finished(answer, said, call)

    def _result_url(self, handle: str) -> URL:
        return self._polls.url(f"v2beta/results/{quote(handle, safe='')}")
