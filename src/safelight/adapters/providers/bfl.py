"""Black Forest Labs' FLUX models.

Sources: https://docs.bfl.ai/quick_start/generating_images, https://docs.bfl.ai/api-reference/utility/get-result and
https://docs.bfl.ai/flux_3/flux3_image_generate, read 2026-11-23.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import takewhile
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import structlog
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, NoOptions, ProviderModule
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint, redact
from safelight.adapters.providers._handles import ended, picture_at, telling_ends
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import given, prompt_of, via_of
from safelight.adapters.providers._ratios import asked_ratio, nearest_ratio, size_of_ratio
from safelight.adapters.providers._rules import edits_need_prompt
from safelight.application.ports import Accepted, Call, Failed, Finished, ProviderKey, Running
from safelight.domain.capability import ModelSpec, PixelRule
from safelight.domain.errors import (
    ConfigurationError,
    InvalidRequest,
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import ImageRequest
from safelight.domain.money import MICROS_PER_UNIT

log = structlog.get_logger(__name__)

# What the words of a task come to. Source: https://docs.bfl.ai/api-reference/utility/get-result, read 2026-11-23; the
# last two of those that run come from clients of FLUX 3. Whether work that failed is billed is told nowhere, so
# its outcome stays open; `ProviderProtocolError` says so, and that polling on would bring nothing.
_RUNNING = frozenset({"Pending", "Reasoning", "Generating"})
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
"""For so long after the start, another cluster may not have heard of a task."""
_HOSTS = ("bfl.ai", "bfl.ml")
"""Where a key may be shown. The address to poll comes from an answer, and is often another host."""
_MICROS_PER_CREDIT = MICROS_PER_UNIT // 100
_RATIO_PIXELS = 1024 * 1024
"""What a bare ratio is drawn at, where a model wants a width and a height: the first megapixel is the cheapest."""
_UNKNOWN = (
    "negative_prompt",
    "quality",
    "style",
    "background",
    "moderation",
    "output_compression",
    "input_fidelity",
    "resolution",
)
"""Fields that no known model has, or has by another name; what an unknown one makes of them is for BFL to say."""


def _key(key: ProviderKey) -> Mapping[str, str]:
    return {"x-key": key.value} if key.value else {}


def _read_task(body: bytes) -> Complaint:
    """Read a task's word: a task that failed may come with 422 or 503, and the word counts. No other code counts."""
    try:
        task = msgspec.json.decode(body, type=_Task)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Complaint(message=read_complaint(body).message)
    return Complaint(message=task.said, code=task.status)


class _Task(msgspec.Struct):
    """Only what we cannot do without is typed."""

    status: str
    result: Any = None
    details: Any = None
    progress: Any = None
    cost: Any = None

    @property
    def said(self) -> str:
        """The word, and why."""
        why = "; ".join(_texts(self.details))
        return f"{self.status}: {why}" if why else self.status


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
        case _:
            pass


_PURCHASES = Dialect(authorise=_key, errors=ErrorTable(statuses=dict.fromkeys(range(500, 600), ProviderUncertain)))
_POLLS = Dialect(
    authorise=_key,
    errors=ErrorTable(
        words=_FAILURES,
        statuses=dict.fromkeys((400, 404, 410, 422), ProviderProtocolError),
        read=_read_task,
    ),
)


class _Accepted(msgspec.Struct):
    id: str | None = None
    polling_url: str | None = None
    cost: Any = None


class _Handle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that another process needs. `accepted_at` is Unix time; `polling_url` is missing where there is a webhook."""

    id: str | None
    polling_url: str | None
    accepted_at: float
    cost_micros: int | None


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue's `wire` table, explained there."""

    sizing: Literal["pixels", "ratio", "tiers", "none"]
    images: str | tuple[str, ...]
    tiers: dict[str, int] = {}
    ratios: tuple[str, ...] = ()
    edit: Literal["inpainting", "outpainting"] = "inpainting"
    mask: bool = False
    needs_prompt: bool = True
    webhook: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """How a model wants to be asked."""

    wire: _Wire
    rule: PixelRule
    ratios: tuple[str, ...]
    every_ratio: bool
    """Whether `ratios` are all that there are."""
    has_format: bool

    @classmethod
    def of(cls, spec: ModelSpec) -> "_Shape":
        """Read it from the catalogue; raises `ConfigurationError`."""
        try:
            wire = msgspec.convert(spec.wire, _Wire)
        except msgspec.ValidationError as exc:
            raise ConfigurationError(f"model {spec.name}: wire: {exc}") from exc
        return cls(
            wire=wire,
            rule=spec.pixel_rule or PixelRule(),
            ratios=tuple(sorted(spec.aspect_ratios)) or wire.ratios,
            every_ratio=bool(spec.aspect_ratios),
            has_format="output_format" in spec.fields,
        )

    def refusal(self, request: ImageRequest) -> UnsupportedFeature | None:
        """Why this shape has no place for a request, or `None`."""
        if request.edit_type not in {None, self.wire.edit}:
            return UnsupportedFeature(f"this model has no edit of type {request.edit_type!r}", param="type")
        if self.wire.needs_prompt and (refusal := edits_need_prompt(request)):
            return refusal
        ratio, tier = asked_ratio(request), _tier(request)
        if self.every_ratio and ratio is not None and ratio not in self.ratios:
            return UnsupportedFeature(f"this model has no aspect ratio {ratio}", param="size")
        if tier is not None and tier not in self.wire.tiers:
            param = "resolution" if request.resolution else "size"
            return UnsupportedFeature(
                f"this model has no {tier}; it has {', '.join(self.wire.tiers) or 'no tiers'}", param=param
            )
        return self.misfit(request)

    def misfit(self, request: ImageRequest) -> UnsupportedFeature | None:
        """Why we could not even write it down, whatever the model might take; or `None`."""
        if request.mask is not None and not self.wire.mask:
            return UnsupportedFeature("this model takes no mask", param="mask")
        names = self.wire.images
        if not isinstance(names, str) and len(request.images) > len(names):
            return UnsupportedFeature(f"this model takes at most {len(names)} images", param="image")
        ratio = asked_ratio(request)
        if self.wire.sizing != "pixels" or ratio is None:
            return None
        if request.pixel_size is not None:
            return UnsupportedFeature("this model takes a size or an aspect ratio, not both", param="aspect_ratio")
        why = self.rule.refusal(size_of_ratio(ratio, self.rule, pixels=_RATIO_PIXELS))
        return UnsupportedFeature(f"this model cannot draw {ratio}: {why}", param="aspect_ratio") if why else None

    def sizing(self, request: ImageRequest) -> dict[str, Any]:
        """Name what was asked of the size; nothing, where the model is to choose."""
        size, ratio = request.pixel_size, asked_ratio(request)
        if self.wire.sizing == "none":
            return {}
        if self.wire.sizing == "pixels":
            if ratio is not None:
                size = size_of_ratio(ratio, self.rule, pixels=_RATIO_PIXELS)
            return {"width": size.width, "height": size.height} if size else {}
        if ratio is None and size is not None:
            ratio = nearest_ratio(size, self.ratios)
        tier = self._tier(request) if self.wire.sizing == "tiers" else None
        return {name: value for name, value in (("aspect_ratio", ratio), ("resolution", tier)) if value is not None}

    def _tier(self, request: ImageRequest) -> str | None:
        size = request.pixel_size
        if size is None or request.resolution is not None:
            return _tier(request)
        tiers = self.wire.tiers
        return min(tiers, key=lambda tier: max(tiers[tier] / size.pixels, size.pixels / tiers[tier]), default=None)

    def pictures(self, sources: list[str]) -> dict[str, Any]:
        """Name the input pictures."""
        names = self.wire.images
        if isinstance(names, str):
            return {names: sources} if sources else {}
        return dict(zip(names, sources, strict=False))


def _tier(request: ImageRequest) -> str | None:
    """Take the asked resolution, which `size` may hold as 1K, 2K or 4K."""
    size = request.size if request.size and request.size.endswith("K") else None
    asked = request.resolution or size
    return asked.lower() if asked else None


class BlackForestLabs(BaseProvider):
    """Answers with a handle. There is no idempotency key, no list of tasks and no way to cancel."""

    max_n = 1

    def __init__(self, entry: Entry[NoOptions], *, now: Callable[[], float] = time.time) -> None:
        """Learn the models' shapes. `now` is Unix time: handles must outlive the process."""
        specs = [replace(spec, rules=(_Shape.of(spec).refusal,)) for spec in load_catalogue("bfl")]
        super().__init__(entry.settings, specs)
        self._shapes = {spec.name: _Shape.of(spec) for spec in self.specs if spec.wire}
        self._purchases = entry.http(_PURCHASES)
        self._polls = entry.http(_POLLS)
        self._now = now

    async def submit(self, call: Call) -> Accepted:
        """Start a task."""
        answer = await self._purchases.buy(call, self._url(call.model), await self._body(call))
        said = answer.read(_Accepted)
        if not (said.id or said.polling_url):
            raise answer.unreadable("Black Forest Labs took the work and named no task")
        handle = _Handle(
            id=said.id,
            polling_url=said.polling_url,
            accepted_at=self._now(),
            cost_micros=_cost_micros(said.cost),
        )
        return Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=self._pause_s(handle))

    def _url(self, model: str) -> URL:
        """A model is a path."""
        return self._purchases.url(f"v1/{quote(model, safe='')}")

    async def _body(self, call: Call) -> Body:
        request, shape = call.request, self._shape(call.model)
        if refusal := shape.misfit(request):
            raise refusal
        pictures = InlinePictures(call.workspace)
        fields: dict[str, Any] = {} if (prompt := prompt_of(request)) is None else {"prompt": prompt}
        fields |= shape.pictures([pictures.base64(source.image) for source in request.images])
        if (mask := await white_changes(call)) is not None:
            fields["mask"] = pictures.base64_of(mask)
        if self.spec(call.model) is None:
            fields |= given(request, _UNKNOWN)
        fields |= shape.sizing(request)
        fields |= given(request, ["seed"])
        if request.num_inference_steps is not None:
            fields["steps"] = request.num_inference_steps
        if request.output_format is not None or shape.has_format:
            fields["output_format"] = request.output_format or "png"  # the models' own defaults differ
        if call.callback is not None and shape.wire.webhook:
            fields |= {"webhook_url": call.callback.url, "webhook_secret": call.callback.secret}
        return pictures.body({**fields, **request.extra})

    def _shape(self, model: str) -> _Shape:
        """A model that nobody has described is asked as the one whose name is most like its own."""
        spec = self.spec(model)
        name = spec.name if spec else model
        return self._shapes[max(self._shapes, key=lambda known: (known == name, _alike(known, name)))]

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for a task; what failed may come as a refusal too."""
        task = _read_handle(handle)
        try:
            answer = await self._polls.ask(call, self._poll_url(task))
        except ProviderError as exc:
            unseen = exc.provider_code == _NOT_FOUND or (exc.provider_code is None and exc.status == 404)
            if unseen and self._is_new(task):
                return Running(poll_after_s=self._pause_s(task))
            if exc.provider_code is None:
                raise
            if exc.provider_code in _FAILURES:
                raise ended(exc) from exc.__cause__
            return self._running(task, exc.provider_code)
        return await self._settled(answer, task, call)

    async def _settled(self, answer: Answer, handle: _Handle, call: Call) -> Running | Finished:
        task = answer.read(_Task)
        if task.status == _READY:
            return await self._finished(answer, task, handle, call)
        failure = _FAILURES.get(task.status)
        if failure is None or (task.status == _NOT_FOUND and self._is_new(handle)):
            return self._running(handle, task.status, task.progress)
        raise ended(
            failure(
                redact(task.said, call.key.value),
                status=400 if failure is ProviderRejected else 502,
                provider_code=task.status,
                request_id=answer.request_id,
            )
        )

    def _running(self, handle: _Handle, word: str, progress: Any = None) -> Running:
        if word not in _RUNNING | {_READY, _NOT_FOUND}:
            log.warning("unknown_task_status", provider="bfl", status=word[:80])
        share = float(progress) if isinstance(progress, int | float) and 0 <= progress <= 1 else None
        return Running(poll_after_s=self._pause_s(handle), progress=share)

    async def _finished(self, answer: Answer, task: _Task, handle: _Handle, call: Call) -> Finished:
        result = task.result if isinstance(task.result, dict) else {}
        sample, prompt, end = result.get("sample"), answer.words(result.get("prompt")), result.get("end_time")
        if not isinstance(sample, str) or not sample:
            raise answer.unreadable("Black Forest Labs finished the task without a picture")
        cost_micros = _cost_micros(task.cost)
        revised_prompt = prompt if prompt != prompt_of(call.request) else None
        return Finished(
            pictures=(await picture_at(answer, sample, self._polls.base_url, revised_prompt=revised_prompt),),
            model=call.model,
            created=int(end) if isinstance(end, int | float) else None,
            cost_micros=handle.cost_micros if cost_micros is None else cost_micros,
            via=via_of(call.request),
        )

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        """Check a webhook call by the secret that the task was given: as a signature, or as it is.

        Source: https://github.com/black-forest-labs/skills (webhooks), read 2026-11-23; which of the two is sent is not
        confirmed.
        """
        secret = call.callback.secret.encode() if call.callback else b""
        told = {name.lower(): value for name, value in headers.items()}
        digest = hmac.digest(secret, body, hashlib.sha256).hex()
        pairs = ((told.get("x-bfl-signature"), f"sha256={digest}"), (told.get("x-webhook-secret"), secret.decode()))
        right = [hmac.compare_digest(shown.encode(), known.encode()) for shown, known in pairs if shown is not None]
        if not (secret and right and all(right)):
            raise InvalidRequest("the callback is not signed by Black Forest Labs")

    def _poll_url(self, task: _Handle) -> URL:
        """Take the address that came with the task, if the key may be shown there, else the host of the start."""
        if task.polling_url and self._may_see_key(task.polling_url):
            return URL(task.polling_url, encoded=True)
        if task.id is None:
            raise ProviderProtocolError("Black Forest Labs gave an address to poll that is not its own")
        return self._polls.url(f"v1/get_result?id={quote(task.id, safe='')}")

    def _may_see_key(self, link: str) -> bool:
        origin = _origin(link)
        if origin is None or origin == _origin(str(self._polls.base_url)):
            return origin is not None
        scheme, host, _ = origin
        return scheme == "https" and any(host == known or host.endswith(f".{known}") for known in _HOSTS)

    def _is_new(self, task: _Handle) -> bool:
        return self._now() - task.accepted_at < _UNSEEN_S

    def _pause_s(self, task: _Handle) -> float:
        """Seconds to the next poll: 0.5 at first, 2 for what takes long."""
        return min(2.0, max(0.5, (self._now() - task.accepted_at) / 8))


def _alike(name: str, other: str) -> int:
    """Count the characters that two names begin with."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(name, other, strict=False))))


def _origin(link: str) -> tuple[str, str, int | None] | None:
    try:
        url = URL(link)
    except ValueError:
        return None
    return (url.scheme, url.host.lower(), url.port) if url.host and url.user is None else None


def _read_handle(handle: str) -> _Handle:
    try:
        return msgspec.json.decode(handle, type=_Handle)
    except msgspec.DecodeError as exc:
        raise ProviderProtocolError("Black Forest Labs gave no such handle", status=404) from exc


def _cost_micros(credits_: Any) -> int | None:
    """A credit is a cent."""
    if not isinstance(credits_, int | float) or isinstance(credits_, bool) or credits_ < 0:
        return None
    return round(Decimal(str(credits_)) * _MICROS_PER_CREDIT)


PROVIDER = ProviderModule(
    name="bfl",
    doc="Black Forest Labs' FLUX models",
    create=BlackForestLabs,
    options=NoOptions,
    base_url="https://api.bfl.ai",
    env_key="BFL_API_KEY",
    needs_key=True,
    calls_back=True,
)
