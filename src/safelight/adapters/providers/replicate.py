"""Replicate: models of many makers behind one predictions API.

Source: https://replicate.com/docs/reference/http and the pages beside it, read 2026-11-23.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import structlog
from standardwebhooks import Webhook
from yarl import URL

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import Entry, ProviderModule
from safelight.adapters.providers._body import Part, form_body
from safelight.adapters.providers._catalogue import load_catalogue
from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint, redact
from safelight.adapters.providers._handles import ask_state, ended, pause_s, picture_at, progress_in, telling_ends
from safelight.adapters.providers._hosted import HostedModels
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._openai_shape import via_of
from safelight.application.ports import Accepted, Call, Failed, Finished, RemotePicture, Running, StoredPicture
from safelight.domain.errors import (
    InvalidRequest,
    ProviderError,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    UnsupportedFeature,
)
from safelight.domain.image import StoredImage

INLINE_BYTES = 256 * 1024
"""Larger inputs are uploaded: Replicate's advice."""
_LEAST_PAUSE_S = 1.0
"""3000 questions a minute are allowed, for all predictions together."""

log = structlog.get_logger(__name__)


class _State(Enum):
    RUNNING = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    STOPPED = auto()
    NEVER_STARTED = auto()


_STATES: Mapping[str, _State] = MappingProxyType(
    # https://replicate.com/docs/topics/predictions/lifecycle, read 2026-11-23
    {
        "starting": _State.RUNNING,
        "processing": _State.RUNNING,
        "succeeded": _State.SUCCEEDED,
        "failed": _State.FAILED,
        "canceled": _State.STOPPED,  # charged for the work done
        "aborted": _State.NEVER_STARTED,  # costs nothing
    }
)
_FAILURES: Mapping[str, type[ProviderError]] = MappingProxyType(
    # https://replicate.com/docs/reference/error-codes, read 2026-11-23; E005 is a word of the models for "sensitive"
    {
        "E005": ProviderRejected,
        "E1000": ProviderUnavailable,
        "E1001": ProviderRejected,
        "E4875": ProviderRejected,
        "E6716": ProviderUnavailable,
    }
)
_RESET = re.compile(r"resets in ~?(\d+)s")


def _read(body: bytes) -> Complaint:
    """Being throttled, one is told in words how long to wait, and in no header of the usual name."""
    complaint = read_complaint(body)
    found = _RESET.search(complaint.message or "")
    return replace(complaint, retry_after_s=float(found[1])) if found else complaint


_PURCHASES = Dialect(errors=ErrorTable(read=_read, statuses=dict.fromkeys(range(500, 600), ProviderUncertain)))
"""A create that ends so may have made a prediction all the same."""
_QUESTIONS = Dialect(errors=ErrorTable(read=_read, statuses={504: ProviderUnavailable, 524: ProviderUnavailable}))

_COMMON = {"jpeg": "jpg", "compression": "output_quality"}
_UNKNOWN = {"count": "num_outputs", "image": "image", "images": "input_images", "mask": "mask"}

_NAME = r"(?!\.{1,2}(?:/|$|:))[\w.-]+"
_OFFICIAL = re.compile(f"{_NAME}/{_NAME}", re.ASCII)
_DEPLOYMENT = re.compile(f"deployments/{_NAME}/{_NAME}", re.ASCII)
_VERSION = re.compile(f"(?:{_NAME}/{_NAME}:)?[0-9a-f]{{64}}", re.ASCII)
_FAILURE_CODE = re.compile(r"\bE\d{3,4}\b")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cancel_after_s`: from here on Replicate ends a prediction by itself, so that no orphan runs on."""

    cancel_after_s: Annotated[int, msgspec.Meta(ge=5)] = 1800


class _Secret(msgspec.Struct):
    key: str


class _FileLinks(msgspec.Struct):
    get: str


class _File(msgspec.Struct):
    urls: _FileLinks


class _Prediction(msgspec.Struct):
    """Only what we cannot do without is typed."""

    id: str
    status: str = ""
    model: Any = None
    output: Any = None
    error: Any = None
    logs: Any = None
    created_at: Any = None
    data_removed: Any = None


class Replicate(HostedModels):
    """Gives the prediction's id as handle. There is no idempotency key: a second POST is a second paid prediction."""

    def __init__(self, entry: Entry[Options]) -> None:
        """Prepare the ways: what a 5xx means is not the same for a purchase and for a question."""
        super().__init__(entry.settings, load_catalogue("replicate"), common=_COMMON, unknown=_UNKNOWN)
        self._http = entry.http(_PURCHASES)
        self._questions = entry.http(_QUESTIONS)
        self._secrets: dict[str | None, str] = {}
        """Of webhooks, by the name of the key whose account it is."""
        self._headers = {"Cancel-After": f"{entry.options.cancel_after_s}s"}

    async def submit(self, call: Call) -> Accepted:
        """Create a prediction; large inputs are uploaded first. Without `Prefer: wait` the handle comes at once."""
        path, version = _route(call.model)
        inline = InlinePictures(call.workspace)

        async def place(image: StoredImage, label: str) -> str:
            return (
                inline.data_url(image) if image.size_bytes <= INLINE_BYTES else await self._upload(call, image, label)
            )

        pictures = await self.picture_inputs(call, inline, place)
        inputs = {**self.plain_inputs(call), **pictures, **call.request.extra}
        body = inline.body({**version, "input": inputs, **_webhook(call)})
        answer = await self._http.buy(call, self._http.url(path), body, headers=self._headers)
        prediction = answer.read(_Prediction)
        if not prediction.id:
            raise answer.unreadable("Replicate answered without a prediction's id")
        return Accepted(handle=prediction.id, poll_after_s=_LEAST_PAUSE_S)

    async def _upload(self, call: Call, image: StoredImage, label: str) -> str:
        form = form_body((), [Part.of("content", image, label)], call.workspace)
        answer = await self._questions.ask(call, self._questions.url("files"), method="POST", body=form)
        try:
            return answer.read(_File).urls.get
        except ProviderProtocolError as exc:  # nothing has been bought yet
            raise ProviderUnavailable("Replicate took an upload and gave no link to it", status=502) from exc

    @telling_ends
    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for the prediction; one GET."""
        answer, prediction = await ask_state(self._questions, call, self._prediction_url(handle), _Prediction)
        match _STATES.get(prediction.status):
            case _State.SUCCEEDED:
                return await self._finished(answer, prediction, call)
            case _State.FAILED:
                raise _failure(prediction, answer, call)
            case _State.STOPPED:
                raise ended(_stopped(ProviderUncertain, "stopped", prediction, answer))
            case _State.NEVER_STARTED:
                raise ended(_stopped(ProviderUnavailable, "dropped before its start", prediction, answer))
            case None:
                log.warning("unknown_status", provider="replicate", status=prediction.status[:80])
        return _running(prediction, answer)

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        """Check a webhook call, at most five minutes old, by the account's secret, which is fetched once.

        Source: https://replicate.com/docs/topics/webhooks/verify-webhook, read 2026-11-23.
        """
        known = self._secrets.get(call.key.name)
        if known is not None and _signed(headers, body, known):
            return
        answer = await self._questions.ask(call, self._questions.url("webhooks/default/secret"))
        secret = self._secrets[call.key.name] = answer.read(_Secret).key
        if secret == known or not _signed(headers, body, secret):
            raise InvalidRequest("the callback is not signed by Replicate")

    async def cancel(self, handle: str | None, call: Call) -> bool:
        """Stop the prediction; it is charged for what was done by then."""
        if handle is None:
            return False
        url = self._prediction_url(handle, "/cancel")
        prediction = (await self._questions.ask(call, url, method="POST")).read(_Prediction)
        return _STATES.get(prediction.status) in {_State.STOPPED, _State.NEVER_STARTED}

    def _prediction_url(self, handle: str, what: str = "") -> URL:
        return self._questions.url(f"predictions/{quote(handle, safe='')}{what}")

    async def _finished(self, answer: Answer, prediction: _Prediction, call: Call) -> Finished:
        links = tuple(_links(prediction.output, answer))
        if not links and prediction.data_removed:
            raise ended(_stopped(ProviderUncertain, "finished, but its result has expired:", prediction, answer))
        if not links:
            raise answer.unreadable("Replicate's prediction succeeded without a picture")
        pictures: list[StoredPicture | RemotePicture] = [
            await picture_at(answer, link, self._http.base_url) for link in links
        ]
        return Finished(
            pictures=tuple(pictures),
            model=answer.words(prediction.model),
            created=_unix(prediction.created_at),
            via=via_of(call.request),
        )


def _webhook(call: Call) -> dict[str, Any]:
    """Ask to be told of the end, if at all."""
    return {"webhook": call.callback.url, "webhook_events_filter": ["completed"]} if call.callback else {}


def _route(model: str) -> tuple[str, dict[str, str]]:
    """Say where a model's predictions are created, and what names it in the body."""
    if _DEPLOYMENT.fullmatch(model):
        return f"{model}/predictions", {}
    if _OFFICIAL.fullmatch(model):
        return f"models/{model}/predictions", {}
    if _VERSION.fullmatch(model):
        return "predictions", {"version": model}
    raise UnsupportedFeature(
        "a model of Replicate is owner/name, owner/name:version, a version or deployments/owner/name", param="model"
    )


def _running(prediction: _Prediction, answer: Answer) -> Running:
    created = _unix(prediction.created_at)
    age_s = 0.0 if created is None else max(0.0, datetime.now(UTC).timestamp() - created)
    return Running(
        poll_after_s=pause_s(age_s, least_s=_LEAST_PAUSE_S), progress=progress_in(answer.words(prediction.logs))
    )


def _links(output: Any, answer: Answer) -> Iterator[str]:
    """Find the pictures: models answer a link, a list of links, or an object with links inside."""
    match output:
        case str() if output in answer.lifted or output.startswith(("https://", "http://", "data:")):
            yield output
        case list():
            for inner in output:
                yield from _links(inner, answer)
        case dict():
            for inner in output.values():
                yield from _links(inner, answer)


def _failure(prediction: _Prediction, answer: Answer, call: Call) -> ProviderError:
    """Judge a failed prediction by its code, never by its text."""
    said = answer.words(prediction.error) or "without a reason"
    code = next(iter(_FAILURE_CODE.findall(said)), None)
    kind = _FAILURES.get(code or "", ProviderRejected)
    return ended(
        kind(
            f"the prediction failed: {redact(said, call.key.value)}",
            provider_code=code or "prediction_failed",
            request_id=prediction.id,
        )
    )


def _stopped(kind: type[ProviderError], how: str, prediction: _Prediction, answer: Answer) -> ProviderError:
    return kind(
        f"Replicate's prediction was {how} ({prediction.status})",
        status=502,
        provider_code=answer.words(prediction.status),
        request_id=prediction.id,
    )


def _unix(moment: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except (TypeError, ValueError):
        return None


def _signed(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except Exception:  # noqa: BLE001 - the library raises errors of several kinds for what it cannot read
        return False
    return True


PROVIDER = ProviderModule(
    name="replicate",
    doc="models of many makers on Replicate, by prediction handle",
    create=Replicate,
    options=Options,
    base_url="https://api.replicate.com/v1",
    env_key="REPLICATE_API_TOKEN",
    needs_key=True,
    calls_back=True,
)
