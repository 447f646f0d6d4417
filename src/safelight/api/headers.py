"""What request headers say; captured at submit, they hold for the whole life of the job (contract R6.1)."""

import re
from collections.abc import Mapping
from uuid import uuid4

from starlette.datastructures import Headers

from safelight.domain.errors import InvalidRequest

_TTL = re.compile(r"[0-9]+")
_MOST_TTL_DIGITS = 12
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,256}")
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?", re.IGNORECASE)
_EXTRA_HEADER_PREFIX = "x-bf-eh-"
_MOST_EXTRA_HEADERS = 64
_NOT_FORWARDED = frozenset(
    {
        "proxy-authorization",
        "cookie",
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "transfer-encoding",
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "x-bf-api-key",
        "x-bf-vk",
    }
)
"""The contract's list, with the other names that carry credentials or frame a message."""


def result_ttl_s(headers: Headers, *, default: int, maximum: int) -> int:
    """Seconds that a result is kept: a positive whole number, at most `maximum`; all else means the default."""
    text = headers.get("x-bf-async-job-result-ttl", "").strip()
    if not _TTL.fullmatch(text):
        return default
    digits = text.lstrip("0")
    if not digits:
        return default
    return maximum if len(digits) > _MOST_TTL_DIGITS else min(int(digits), maximum)


def request_id(headers: Headers) -> str:
    """The caller's own name of the request, or a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid4())


def is_true(headers: Headers, name: str) -> bool:
    """Whether a header says `true`."""
    return headers.get(name, "").strip().lower() == "true"


def wanted_wait_s(headers: Headers) -> float | None:
    """How long a call of an OpenAI route is to be awaited: `None` for to its end (RFC 7240; `x-bf-async`)."""
    preferences = ",".join(headers.getlist("prefer"))
    words = {word.partition(";")[0].strip().lower() for word in preferences.split(",")}
    if "respond-async" not in words:
        return 0.0 if is_true(headers, "x-bf-async") else None
    wait = _WAIT.search(preferences)
    return float(wait.group(1)) if wait else 0.0


def key_name(headers: Headers) -> str | None:
    """The provider key that the caller asks for; the id, which is the name here, wins."""
    return headers.get("x-bf-api-key-id") or headers.get("x-bf-api-key") or None


def refuse_webhook(headers: Headers) -> None:
    """Refuse a webhook by a name that is not registered (contract S7): in this release, by any name."""
    name = headers.get("x-bf-async-webhook", "").strip()
    if name:
        raise InvalidRequest(
            "failed to resolve webhook endpoint: invalid webhook endpoint reference: "
            f"no webhook endpoint is named {name[:100]!r}",
            param="x-bf-async-webhook",
        )


def extra_headers(headers: Headers) -> Mapping[str, str]:
    """Headers for the provider, `x-bf-eh-<name>`, without those that it must not get."""
    found = {
        name.removeprefix(_EXTRA_HEADER_PREFIX): value
        for name, value in headers.items()
        if name.startswith(_EXTRA_HEADER_PREFIX)
    }
    allowed = {name: value for name, value in found.items() if name and name not in _NOT_FORWARDED}
    return dict(list(allowed.items())[:_MOST_EXTRA_HEADERS])
