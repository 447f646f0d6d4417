"""What a provider says when it says no, brought into our error tree by tables that each provider may add to."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import msgspec

from safelight.domain.errors import (
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
)

MESSAGE_CHARS = 2000
WORD_CHARS = 200
LONGEST_WAIT_S = 86_400.0

_BY_STATUS: Mapping[int, type[ProviderError]] = MappingProxyType(
    {
        401: ProviderAuthError,
        402: ProviderAuthError,
        403: ProviderAuthError,
        404: ProviderModelGone,
        408: ProviderUnavailable,
        409: ProviderUnavailable,
        410: ProviderModelGone,
        425: ProviderUnavailable,
        429: ProviderBusy,
        504: ProviderUncertain,
        524: ProviderUncertain,  # Cloudflare gave up waiting for a provider that may still be drawing
    }
)

# A key that the provider has masked itself, such as `sk-proj-****abcd`: its ends are no business of the caller's.
_MASKED_KEY = re.compile(r"(?<![\w-])[\w-]*+\*{3,}[\w*-]*")
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)


_Kind = type[ProviderError]
"""Inside a class with a member called `type`, the built-in one is out of reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What a provider wrote into the body of its refusal."""

    message: str | None = None
    code: str | None = None
    type: str | None = None
    param: Any = None
    retry_after_s: float | None = None
    """Seconds to wait, where a provider says so in the body; wins over its headers."""
    meaning: _Kind | None = None
    """What it comes to, where more than one word of the body tells; wins over the tables."""
    request_id: str | None = None
    """The provider's id of the exchange, where it stands in the body and in no header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTable:
    """What one provider means by its words (codes and types) and statuses; the words win."""

    words: Mapping[str, type[ProviderError]] = field(default_factory=dict)
    statuses: Mapping[int, type[ProviderError]] = field(default_factory=dict)
    read: Callable[[bytes], Complaint] | None = None
    """Reads the beginning of a body of another shape than `read_complaint` knows; must not fail."""
    name: Callable[[Mapping[str, str]], str | None] | None = None
    """Reads the error's word from the headers, which are case-insensitive, where no body has it; must not fail."""

    def find(self, status: int, complaint: Complaint) -> type[ProviderError]:
        """Choose the class; what no table knows is final below 500 and may be tried again from there on."""
        if complaint.meaning is not None:
            return complaint.meaning
        for word in (complaint.code, complaint.type):
            if word is not None and word in self.words:
                return self.words[word]
        known = self.statuses.get(status) or _BY_STATUS.get(status)
        found = known or (ProviderRejected if status // 100 == 4 else ProviderUnavailable)
        return ProviderModelGone if found is ProviderRejected and complaint.param == "model" else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is no success. `body` is its beginning; `headers` is case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str | None = None


def classify(refusal: Refusal, table: ErrorTable, *, secret: str | None) -> ProviderError:
    """Make the error of a refusal; `secret` is cut out of whatever the provider wrote."""
    complaint = (table.read or read_complaint)(refusal.body)
    if complaint.code is None and table.name is not None:
        complaint = replace(complaint, code=table.name(refusal.headers))
    told_s = complaint.retry_after_s
    found = _heed_should_retry(table.find(refusal.status, complaint), refusal.headers.get("x-should-retry"))
    return found(
        redact(complaint.message or _describe(refusal), secret),
        status=refusal.status,
        provider_code=_word(complaint.code, secret),
        provider_type=_word(complaint.type, secret),
        param=_word(complaint.param, secret),
        request_id=_word(refusal.request_id or complaint.request_id, secret),
        retry_after_s=retry_after_s(refusal.headers) if told_s is None else _bounded(told_s),
    )


def _heed_should_retry(found: type[ProviderError], told: str | None) -> type[ProviderError]:
    """Follow `x-should-retry`, except where a repeat could be paid twice or needs the operator first."""
    if told == "true" and found is ProviderRejected:
        return ProviderUnavailable
    if told == "false" and found is ProviderBusy:
        return ProviderAuthError  # a quota that time does not mend: another key or target may do
    if told == "false" and found is ProviderUnavailable:
        return ProviderRejected
    return found


def read_complaint(body: bytes) -> Complaint:
    """Read OpenAI's `{"error": {…}}`, FastAPI's `{"detail": …}` and their simpler relatives; never fails."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Complaint(message=_title(body))
    match said:
        case {"error": dict(error)} | {"detail": dict(error)}:
            return _complaint(error)
        case {"detail": list(faults)}:
            return _validation_complaint(faults)
        case dict():
            return _complaint({**said, "message": said.get("message") or said.get("error") or said.get("detail")})
        case _:
            return Complaint(message=said if isinstance(said, str) else None)


def _complaint(said: Mapping[str, Any]) -> Complaint:
    message = said.get("message")
    return Complaint(
        message=message if isinstance(message, str) and message else None,
        code=_as_word(said.get("code")),
        type=_as_word(said.get("type")),
        param=said.get("param"),
    )


def _validation_complaint(faults: list[Any]) -> Complaint:
    """FastAPI's list of `{"loc", "msg", "type"}`. Its `input` member repeats the request and is left out."""
    found = [fault for fault in faults if isinstance(fault, dict)]
    if not found:
        return Complaint()
    places = [".".join(str(part) for part in _list(fault.get("loc")) if part != "body") for fault in found]
    texts = [
        f"{place}: {fault.get('msg')}" if place else str(fault.get("msg"))
        for place, fault in zip(places, found, strict=True)
    ]
    return Complaint(message="; ".join(texts), type=_as_word(found[0].get("type")), param=places[0] or None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_word(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


def _title(body: bytes) -> str | None:
    """Take the title of an edge proxy's page; the rest of such a body stays out of messages."""
    found = _TITLE.search(body.decode("utf-8", "replace"))
    return " ".join(found[1].split()) if found else None


def _describe(refusal: Refusal) -> str:
    try:
        reason = f" ({HTTPStatus(refusal.status).phrase})"
    except ValueError:
        reason = ""
    if refusal.status // 100 == 3:
        return f"the provider answered HTTP {refusal.status}{reason}: redirects are not followed, correct base_url"
    return f"the provider answered HTTP {refusal.status}{reason}"


def redact(text: str, secret: str | None) -> str:
    """Cut our key out of a provider's text, and keep the text short."""
    if secret:
        text = text.replace(secret, "[key]")
    return _MASKED_KEY.sub("[key]", text)[:MESSAGE_CHARS]


def _word(value: Any, secret: str | None) -> Any:
    if isinstance(value, str):
        return redact(value, secret)[:WORD_CHARS]
    return value if isinstance(value, int) else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date), at most a day."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    told = headers.get("Retry-After")
    seconds = _number(told)
    if seconds is None and told is not None:
        then = _timestamp(told)
        # The provider's own clock, where it shows it: ours may be wrong.
        now = _timestamp(headers.get("Date", "")) or time.time()
        seconds = None if then is None else then - now
    return None if seconds is None else _bounded(seconds)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return None if value is None or value != value else value  # noqa: PLR0124 - only NaN differs from itself


def _timestamp(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_WAIT_S)
