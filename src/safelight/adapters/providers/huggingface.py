"""Hugging Face's Inference Providers: one token and one host for several partners, each with a wire format of its own.

Source: https://huggingface.co/docs/inference-providers and the client's source, read 2026-11-23.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.adapters.providers._handles import pause_s, telling_ends
from safelight.adapters.providers._hf_partners import PARTNERS, Offer, Partner, Pictures
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._openai_shape import via_of
from safelight.adapters.providers._rules import edits_inpaint
from safelight.application.ports import Accepted, Call, Failed, Finished, Running
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest, Operation

ROUTER = "https://router.huggingface.co"
HUB = "https://huggingface.co"
MAPPING_LIFETIME_S = 600.0
_MAPPINGS_KEPT = 1000
_LEAST_PAUSE_S = 1.0
_NAME = r"(?!\.{1,2}(?:/|:|$))[\w.-]+"
_MODEL = re.compile(rf"(?:(?P<first>{_NAME})/)?(?P<model>{_NAME}/{_NAME})(?::(?P<last>{_NAME}))?", re.ASCII)


def _read(body: bytes) -> Complaint:
    """A model that is loading tells for how long."""
    try:
        seconds = msgspec.json.decode(body, type=_Loading).estimated_time
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_complaint(body)
    return replace(read_complaint(body), retry_after_s=seconds)


class _Loading(msgspec.Struct):
    estimated_time: float


_PURCHASES = Dialect(errors=ErrorTable(read=_read, statuses=dict.fromkeys(range(500, 600), ProviderUncertain)))
"""A purchase that ends so may have been done all the same."""
_LOADING_PURCHASES = Dialect(errors=ErrorTable(read=_read, statuses=dict.fromkeys((500, 502, 504), ProviderUncertain)))
_QUESTIONS = Dialect(errors=ErrorTable(read=_read, statuses={504: ProviderUnavailable, 524: ProviderUnavailable}))


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bill_to`: the organisation that pays. `hub_url`: where models are looked up, beside another `base_url`."""

    bill_to: str | None = None
    hub_url: str | None = None


class Handle(msgspec.Struct, frozen=True):
    """Where to ask on: the partner's path, below the router. `since` is the Unix time of the submit."""

    partner: str
    path: str
    since: float


class _Line(msgspec.Struct, rename="camel"):
    provider_id: str
    task: str
    status: str = "live"
    provider: str = ""
    adapter: str | None = None
    adapter_weights_path: str | None = None


class _Mapping(msgspec.Struct, rename="camel"):
    """The Hub has answered with an object by partner, and with a list."""

    inference_provider_mapping: dict[str, _Line] | list[_Line] = {}


def _no_masks(request: ImageRequest) -> UnsupportedFeature | None:
    if request.mask is not None:
        return UnsupportedFeature("no partner of Hugging Face has a common name for masks", param="mask")
    return None


class HuggingFace(BaseProvider):
    """Looks up who serves a model, then buys there. Some partners give handles; there is no idempotency and no cancel."""

    def __init__(self, entry: Entry[Options], *, now: Callable[[], float] = time.time) -> None:
        """Prepare the ways. `now` is Unix time: handles must outlive the process."""
        super().__init__(entry.settings, load_catalogue("huggingface"), rules=(edits_inpaint, _no_masks))
        self._http = entry.http(_PURCHASES)
        self._loading = entry.http(_LOADING_PURCHASES)
        self._questions = entry.http(_QUESTIONS)
        base_url = str(self._http.base_url).rstrip("/")
        self._hub = (entry.options.hub_url or (HUB if base_url == ROUTER else base_url)).rstrip("/")
        self._headers = {"X-HF-Bill-To": entry.options.bill_to} if entry.options.bill_to else {}
        self._now = now
        self._mappings: dict[str, tuple[float, tuple[Offer, ...]]] = {}

    def spec(self, model: str) -> ModelSpec | None:
        """Any model of the Hub may be offered; what can be said to it depends on the partner."""
        known = super().spec(model)
        if known is not None:
            return known
        try:
            partner, _ = _parse(model)
        except UnsupportedFeature:
            return None
        return super().spec(f"{partner}/*" if partner else "*")

    async def submit(self, call: Call) -> Accepted | Finished:
        """Find the partner (a free look-up, kept for a while), and make the one purchase."""
        offer = await self._offer(call)
        if spec := self.spec(f"{offer.partner}/*"):
            spec.check(call.request)
        partner = PARTNERS[offer.partner]
        order = partner.order(call, offer)
        http = self._loading if partner.loads_models else self._http
        headers = {**self._headers, **order.headers}
        try:
            answer = await http.buy(call, http.url(order.path), order.body, headers=headers)
        except ProviderModelGone:
            self._mappings.pop(offer.model, None)  # it changes without notice
            raise
        found = await partner.collect(answer, call, http.base_url)
        if not isinstance(found, str):
            return _finished(found, call)
        handle = Handle(partner=partner.name, path=found, since=self._now())
        return Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=_LEAST_PAUSE_S)

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask the partner through the router, with the same token."""
        known, partner = _read_handle(handle)

        async def ask(path: str) -> Answer:
            return await self._questions.ask(call, self._questions.url(path), headers=self._headers)

        found = await partner.follow(known.path, call, ask, self._questions.base_url)
        if found is not None:
            return _finished(found, call)
        return Running(poll_after_s=pause_s(max(0.0, self._now() - known.since), least_s=_LEAST_PAUSE_S))

    async def _offer(self, call: Call) -> Offer:
        """Choose who serves the model; raises `ProviderModelGone` if nobody does."""
        partner, model = _parse(call.model)
        task = "text-to-image" if call.request.operation is Operation.GENERATION else "image-to-image"
        if partner == "hf-inference":
            return Offer(model=model, partner=partner, model_there=model, task=task)
        offers = [offer for offer in await self._offers(call, model) if partner in {None, offer.partner}]
        fit = [offer for offer in offers if offer.task == task]
        chosen = next((offer for offer in fit if offer.live), fit[0] if fit and partner else None)
        if chosen is None:
            raise ProviderModelGone(
                f"on Hugging Face, {partner or 'every live partner'} lacks {model} for {task}",
                status=404,
                provider_code="model_not_mapped",
                param="model",
            )
        return chosen

    async def _offers(self, call: Call, model: str) -> tuple[Offer, ...]:
        """Read the Hub's mapping of a model; it is free, and kept for some minutes."""
        until, offers = self._mappings.get(model, (0.0, ()))
        if self._now() < until:
            return offers
        url = URL(f"{self._hub}/api/models/{model}?expand[]=inferenceProviderMapping")
        answer = await self._questions.ask(call, url)
        try:
            offers = tuple(_offers(answer.read(_Mapping), model))
        except ProviderProtocolError as exc:  # nothing has been bought yet
            raise ProviderUnavailable("the Hub's mapping of the model cannot be read", status=502) from exc
        if len(self._mappings) >= _MAPPINGS_KEPT:
            self._mappings.clear()
        self._mappings[model] = (self._now() + MAPPING_LIFETIME_S, offers)
        return offers


def _parse(model: str) -> tuple[str | None, str]:
    """Split `partner/owner/name` or `owner/name:partner`; without a partner the Hub's order decides."""
    found = _MODEL.fullmatch(model)
    if found is None:
        raise UnsupportedFeature(
            "a model of Hugging Face is owner/name, partner/owner/name or owner/name:partner", param="model"
        )
    partner = found["first"] or found["last"]
    if (partner is not None and partner not in PARTNERS) or (found["first"] and found["last"]):
        raise UnsupportedFeature(
            f"{model} names no image partner of Hugging Face; known: {', '.join(PARTNERS)}", param="model"
        )
    return partner, found["model"]


def _offers(mapping: _Mapping, model: str) -> Iterator[Offer]:
    """Take the partners that we can talk to, in the Hub's order."""
    lines = mapping.inference_provider_mapping
    named = lines.items() if isinstance(lines, dict) else [(line.provider, line) for line in lines]
    for partner, line in named:
        if partner in PARTNERS:
            yield Offer(
                model=model,
                partner=partner,
                model_there=line.provider_id,
                task=line.task,
                live=line.status == "live",
                weights=line.adapter_weights_path if line.adapter == "lora" else None,
            )


def _finished(pictures: Pictures, call: Call) -> Finished:
    return Finished(pictures=pictures, model=_parse(call.model)[1], via=via_of(call.request))


def _read_handle(handle: str) -> tuple[Handle, Partner]:
    try:
        known = msgspec.json.decode(handle, type=Handle)
        return known, PARTNERS[known.partner]
    except (msgspec.DecodeError, KeyError) as exc:
        raise ProviderRejected("this is no handle of Hugging Face's router", status=404) from exc


PROVIDER = ProviderModule(
    name="huggingface",
    doc="Hugging Face's Inference Providers: models of the Hub at several partners",
    create=HuggingFace,
    options=Options,
    base_url=ROUTER,
    env_key="HF_TOKEN",
    needs_key=True,
)
