"""How Google's APIs say no. Source: https://cloud.google.com/apis/design/errors, read 2026-11-23."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from safelight.adapters.providers._errors import Complaint, ErrorTable, read_complaint
from safelight.domain.errors import ProviderAuthError, ProviderBusy, ProviderModelGone, ProviderUncertain

_NO_QUOTA = re.compile(r"\blimit: 0(?![\d.])")
_DAILY_WAIT_S = 3600.0
"""Before a quota of the day is tried again, whatever the provider says: its own hint is that of the minute."""


def read_google(body: bytes) -> Complaint:
    """Read `{"error": {"code", "message", "status", "details"}}`, also as the one member of a list; never fails."""
    error = _error_of(body)
    if error is None:
        return read_complaint(body)
    details = [detail for detail in _list(error.get("details")) if isinstance(detail, dict)]
    message, status = _text(error.get("message")), _text(error.get("status"))
    quotas = list(_members(details, "violations"))
    daily = any("PerDay" in f"{quota.get('quotaId')}" for quota in quotas)
    return Complaint(
        message=message,
        code=_first_text(details, "reason") or status or _text(error.get("code")),
        type=status or _text(error.get("type")),
        param=_first_text(_members(details, "fieldViolations"), "field"),
        retry_after_s=_DAILY_WAIT_S if daily else _delay_s(_first_text(details, "retryDelay")),
        meaning=ProviderAuthError if _has_no_quota(quotas, message) else None,
    )


def _error_of(body: bytes) -> dict[str, Any] | None:
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    match said:
        case {"error": dict(error)} | [{"error": dict(error)}, *_]:
            return error
        case _:
            return None


def _has_no_quota(quotas: Sequence[Mapping[str, Any]], message: str | None) -> bool:
    """Whether a limit is zero, as for pictures on the free tier: no waiting mends that."""
    return any(_text(quota.get("quotaValue")) == "0" for quota in quotas) or bool(_NO_QUOTA.search(message or ""))


def _delay_s(text: str | None) -> float | None:
    """Read a duration such as `34.07s`."""
    try:
        return float((text or "").removesuffix("s"))
    except ValueError:
        return None


def _members(details: Iterable[Mapping[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    for detail in details:
        yield from (member for member in _list(detail.get(name)) if isinstance(member, dict))


def _first_text(details: Iterable[Mapping[str, Any]], name: str) -> str | None:
    return next((text for detail in details if (text := _text(detail.get(name)))), None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None


GOOGLE_ERRORS = ErrorTable(
    words={
        "API_KEY_EXPIRED": ProviderAuthError,
        "API_KEY_INVALID": ProviderAuthError,  # comes as 400, with the status of a bad request
        "CANCELLED": ProviderUncertain,
        "DEADLINE_EXCEEDED": ProviderUncertain,
        "FAILED_PRECONDITION": ProviderAuthError,  # billing or region
        "NOT_FOUND": ProviderModelGone,
        "PERMISSION_DENIED": ProviderAuthError,
        "RESOURCE_EXHAUSTED": ProviderBusy,
        "UNAUTHENTICATED": ProviderAuthError,
    },
    statuses={499: ProviderUncertain},
    read=read_google,
)
