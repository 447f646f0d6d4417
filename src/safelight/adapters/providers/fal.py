"""fal: models of many makers behind one queue.

Source: https://fal.ai/docs/api-reference/inference-api and the pages beside it, read 2026-11-23.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import pybase64
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import Entry, ProviderModule
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint, redact
from safelight.adapters.providers._handles import ask_state, ended, pause_s, picture_at, progress_in, telling_ends
from safelight.adapters.providers._hosted import HostedModels
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._openai_shape import prompt_of, via_of
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
from safelight.domain.errors import (
    InvalidRequest,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import StoredImage

CALLBACK_WINDOW_S = 300.0
_KEYS_KEPT_S = 86_400.0
_LEAST_PAUSE_S = 0.5
_RUNNING = frozenset({"IN_QUEUE", "IN_PROGRESS"})
_OVER = "COMPLETED"
"""Over, not "worked": there is no word for a failure. https://fal.ai/docs/inference-api/queue/status, read 2026-11-23."""

log = structlog.get_logger(__name__)

_FAULTS: Mapping[str, type[ProviderError]] = MappingProxyType(
    {
        # https://docs.fal.ai/documentation/model-apis/request-errors, read 2026-11-23; fal repeats these itself, unbilled
        "request_timeout": ProviderUnavailable,
        "runner_connection_refused": ProviderUnavailable,
        "runner_connection_timeout": ProviderUnavailable,
        "runner_disconnected": ProviderUnavailable,
        "runner_scheduling_failure": ProviderUnavailable,
        "startup_timeout": ProviderUnavailable,
        # https://fal.ai/docs/model-apis/errors, read 2026-11-23; all others are the input's fault
        "downstream_service_error": ProviderUnavailable,
        "downstream_service_unavailable": ProviderUnavailable,
        "generation_timeout": ProviderUnavailable,
        "internal_server_error": ProviderUnavailable,
    }
)


def _key(key: ProviderKey) -> Mapping[str, str]:
    """The word is Key, not Bearer."""
    return {"Authorization": f"Key {key.value}"} if key.value else {}


def _read(body: bytes) -> Complaint:
    """The platform's `error_type` stands where others have a type."""
    try:
        error_type = msgspec.json.decode(body, type=_PlatformFault).error_type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_complaint(body)
    return replace(read_complaint(body), type=error_type)


class _PlatformFault(msgspec.Struct):
    error_type: str


_REQUEST_IDS = ("x-fal-request-id", "x-request-id")
_PURCHASES = Dialect(
    authorise=_key,
    errors=ErrorTable(read=_read, statuses=dict.fromkeys(range(500, 600), ProviderUncertain)),
    request_id_headers=_REQUEST_IDS,
)
"""A submit that ends so may be in the queue all the same."""
_QUESTIONS = Dialect(
    authorise=_key,
    errors=ErrorTable(read=_read, words=_FAULTS, statuses={504: ProviderUnavailable, 524: ProviderUnavailable}),
    request_id_headers=_REQUEST_IDS,
)
_COMMON = {"size": "object", "size_field": "image_size"}
_UNKNOWN = {"count": "num_images", "image": "image_url", "images": "image_urls", "mask": "mask_url"}
_MODEL = re.compile(r"(?:(?!\.{1,2}(?:/|$))[\w.-]+/)+(?!\.{1,2}$)[\w.-]+", re.ASCII)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fal is to treat our requests; what is left out is fal's own choice."""

    priority: Literal["normal", "low"] | None = None
    start_timeout_s: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """A request that has not started by then is dropped, unpaid."""
    output_lifetime_s: Annotated[int, msgspec.Meta(ge=3600)] | None = None
    """How long output files live at fal; the gateway fetches them at once."""

    keys_url: str = "https://rest.fal.ai/.well-known/jwks.json"
    """Where the public keys are that callbacks are signed with."""

    def headers(self) -> dict[str, str]:
        """Spell them as fal does."""
        lifetime = f'{{"expiration_duration_seconds": {self.output_lifetime_s}}}' if self.output_lifetime_s else None
        told = {
            "X-Fal-Queue-Priority": self.priority,
            "X-Fal-Request-Timeout": str(self.start_timeout_s) if self.start_timeout_s else None,
            "X-Fal-Object-Lifecycle-Preference": lifetime,
        }
        return {name: value for name, value in told.items() if value}


class Handle(msgspec.Struct, frozen=True):
    """Where to ask on, as fal said it: the addresses hold less than the model's id and cannot be made from it."""

    request_id: str
    status: str
    """This and the next are paths below `base_url`: our key goes nowhere else."""
    result: str
    cancel: str
    since: float
    """Unix time of the submit."""


class _Queued(msgspec.Struct):
    request_id: str
    status_url: str
    response_url: str
    cancel_url: str


class _Status(msgspec.Struct):
    status: str
    error: Any = None
    error_type: Any = None
    logs: Any = None


class _Image(msgspec.Struct):
    url: str


class _Result(msgspec.Struct):
    """Some endpoints answer with one `image`."""

    images: list[_Image] = []
    image: _Image | None = None
    has_nsfw_concepts: Any = None
    prompt: Any = None


class _PublicKey(msgspec.Struct):
    x: str


class _KeyDocument(msgspec.Struct):
    keys: list[_PublicKey]


class Fal(HostedModels):
    """Asks through the queue alone: a synchronous call that breaks off is charged and lost. No idempotency key."""

    def __init__(self, entry: Entry[Options], *, now: Callable[[], float] = time.time) -> None:
        """Prepare the ways. `now` is Unix time: handles must outlive the process."""
        super().__init__(entry.settings, load_catalogue("fal"), common=_COMMON, unknown=_UNKNOWN)
        self._http = entry.http(_PURCHASES)
        self._questions = entry.http(_QUESTIONS)
        self._public = entry.http(Dialect(authorise=lambda _: {}))
        self._keys_url = URL(entry.options.keys_url)
        self._keys: tuple[Ed25519PublicKey, ...] = ()
        self._keys_until = 0.0
        self._headers = entry.options.headers()
        self._now = now

    async def submit(self, call: Call) -> Accepted:
        """Queue the request. Its body is the model's input, pictures inside it as data URIs."""
        url = self._http.url(self._endpoint(call))
        if call.callback is not None:
            url = url.update_query(fal_webhook=call.callback.url)
        inline = InlinePictures(call.workspace)

        async def place(image: StoredImage, _label: str) -> str:
            return inline.data_url(image)

        pictures = await self.picture_inputs(call, inline, place)
        inputs = {**self.plain_inputs(call), **pictures, **call.request.extra}
        answer = await self._http.buy(call, url, inline.body(inputs), headers=self._headers)
        queued = answer.read(_Queued)
        handle = Handle(
            request_id=queued.request_id,
            status=self._path(queued.status_url, answer),
            result=self._path(queued.response_url, answer),
            cancel=self._path(queued.cancel_url, answer),
            since=self._now(),
        )
        return Accepted(handle=msgspec.json.encode(handle).decode(), poll_after_s=_LEAST_PAUSE_S)

    def _endpoint(self, call: Call) -> str:
        endpoint = self.serving(call)
        if not _MODEL.fullmatch(endpoint):
            raise UnsupportedFeature("a model of fal is owner/app, or owner/app/path", param="model")
        return endpoint

    def _path(self, link: str, answer: Answer) -> str:
        """Take an address as a path below `base_url`, which may be a proxy's."""
        try:
            path = URL(link, encoded=True).raw_path_qs
        except ValueError as exc:
            raise answer.unreadable("fal sent an address that cannot be read") from exc
        return path.removeprefix(self._http.base_url.raw_path).lstrip("/")

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask how the request stands, and for its result once it is over: one or two GETs."""
        known = _read_handle(handle)
        url = self._questions.url(known.status).update_query(logs="1")
        answer, said = await ask_state(self._questions, call, url, _Status)
        if said.status == _OVER:
            return await self._result(known, said, answer, call)
        if said.status not in _RUNNING:
            log.warning("unknown_status", provider="fal", status=said.status[:80])
        age_s = max(0.0, self._now() - known.since)
        return Running(poll_after_s=pause_s(age_s, least_s=_LEAST_PAUSE_S), progress=_progress(said.logs, answer))

    async def _result(self, handle: Handle, said: _Status, status: Answer, call: Call) -> Finished:
        error_type = status.words(said.error_type)
        if error_type is not None and error_type in _FAULTS:
            raise ended(_broken(_FAULTS[error_type], said, status, call))
        try:
            answer = await self._questions.ask(call, self._questions.url(handle.result))
        except ProviderError as error:
            # A typed fault is the request's own end; anything else came up on the way, and may pass.
            raise (error if error.provider_type is None else ended(error)) from error.__cause__
        if said.error or said.error_type:
            raise ended(_broken(ProviderRejected, said, status, call))
        return await self._finished(answer, call)

    async def _finished(self, answer: Answer, call: Call) -> Finished:
        result = answer.read(_Result)
        images = result.images or ([result.image] if result.image else [])
        if not images:
            raise answer.unreadable("fal's request succeeded without a picture")
        clean = [image for image, flagged in zip(images, _flags(result, len(images)), strict=True) if not flagged]
        if not clean:
            raise ended(
                ProviderRejected(
                    "fal's safety checker has blackened the picture",
                    provider_code="content_policy_violation",
                    request_id=answer.request_id,
                )
            )
        said = answer.words(result.prompt)
        revised = said if said and said != prompt_of(call.request) else None
        pictures: list[StoredPicture | RemotePicture] = [
            await picture_at(answer, image.url, self._http.base_url, revised_prompt=revised) for image in clean
        ]
        return Finished(pictures=tuple(pictures), model=call.model, via=via_of(call.request))

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        """Check a webhook call by any of fal's public keys, which are fetched once a day.

        Source: https://docs.fal.ai/documentation/model-apis/inference/webhooks, read 2026-11-23.
        """
        now = self._now()
        signed = _signature(headers, body, now)
        if signed is not None:
            if self._keys_until <= now:
                self._keys = _read_keys(await self._public.ask(call, self._keys_url))
                self._keys_until = now + _KEYS_KEPT_S
            if any(_verified(key, *signed) for key in self._keys):
                return
        raise InvalidRequest("the callback is not signed by fal")

    async def cancel(self, handle: str | None, call: Call) -> bool:
        """Ask for the request to be dropped. One that runs is only told, and may still finish and be charged."""
        if handle is None:
            return False
        try:
            await self._questions.ask(call, self._questions.url(_read_handle(handle).cancel), method="PUT")
        except (ProviderRejected, ProviderModelGone):  # it is over already, or was dropped
            return False
        return True


def _read_handle(handle: str) -> Handle:
    try:
        return msgspec.json.decode(handle, type=Handle)
    except msgspec.DecodeError as exc:
        raise ProviderRejected("this is no handle of fal's queue", status=404) from exc


def _progress(logs: Any, answer: Answer) -> float | None:
    lines = [answer.words(line.get("message")) or "" for line in logs if isinstance(line, dict)] if logs else []
    return progress_in("\n".join(lines))


def _broken(kind: type[ProviderError], said: _Status, answer: Answer, call: Call) -> ProviderError:
    message = answer.words(said.error) or "without a reason"
    error_type = answer.words(said.error_type)
    return kind(
        f"fal's request failed: {redact(message, call.key.value)}",
        status=502,
        provider_code=error_type,
        provider_type=error_type,
        request_id=answer.request_id,
    )


def _flags(result: _Result, count: int) -> list[bool]:
    """Which pictures the safety checker has blackened."""
    flags = result.has_nsfw_concepts if isinstance(result.has_nsfw_concepts, list) else []
    return [place < len(flags) and flags[place] is True for place in range(count)]


def _read_keys(answer: Answer) -> tuple[Ed25519PublicKey, ...]:
    """Read the key document; one that cannot be read may be whole the next time."""
    try:
        return tuple(_public_key(key.x) for key in answer.read(_KeyDocument).keys)
    except (ProviderProtocolError, ValueError) as exc:
        raise ProviderUnavailable("fal's key document cannot be read", status=502) from exc


def _public_key(text: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(pybase64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _signature(headers: Mapping[str, str], body: bytes, now: float) -> tuple[bytes, bytes] | None:
    """Take the signature of a fresh call and what it signs; `None` where there is none."""
    told = {name.lower(): value for name, value in headers.items()}
    try:
        parts = [told[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
        signature = bytes.fromhex(told["x-fal-webhook-signature"])
        fresh = abs(now - int(parts[2])) <= CALLBACK_WINDOW_S
    except (KeyError, ValueError):
        return None
    return (signature, "\n".join((*parts, hashlib.sha256(body).hexdigest())).encode()) if fresh else None


def _verified(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


PROVIDER = ProviderModule(
    name="fal",
    doc="models of many makers on fal's queue, by request handle",
    create=Fal,
    options=Options,
    base_url="https://queue.fal.run",
    env_key="FAL_KEY",
    needs_key=True,
    calls_back=True,
)
