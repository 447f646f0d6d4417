"""What request headers say; captured at submit, they hold for the whole life of the job (contract R6.1)."""

import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from safelight.domain.errors import InvalidRequest
from safelight.randomness import random_uuid

_TTL = re.compile(r"[0-9]+")
_MOST_TTL_DIGITS = 12
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,256}")
_SECONDS = re.compile(r"[0-9]{1,32}(\.[0-9]{0,32})?([eE][+-]?[0-9]{1,4})?")
LONGEST_WAIT_S = 60.0
"""A poll is held no longer than this."""
_LABEL_PREFIXES = ("x-bf-prom-", "x-bf-dim-")
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


class NamedHeaders(Headers):
    """Headers that are found by their names: Starlette goes through all of them at each look, and a submit looks for a dozen.

    Of several of one name the first counts.
    """

    def __init__(self, scope: Scope) -> None:
        """Read those of a request."""
        super().__init__(scope=scope)
        self._items = super().items()
        self._by_name = dict(reversed(self._items))

    def __getitem__(self, key: str) -> str:
        """Find one by its name in lower case."""
        return self._by_name[key]

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]  # as Starlette's
        """List them in their order."""
        return self._items

    def __contains__(self, key: Any) -> bool:
        """Tell whether there is one of that name in lower case."""
        return key in self._by_name

    def get(self, key: str, /, default: Any = None) -> Any:
        """Find one by its name in lower case."""
        return self._by_name.get(key, default)


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
    return given if _REQUEST_ID.fullmatch(given) else random_uuid()


def is_true(headers: Headers, name: str) -> bool:
    """Whether a header says `true`."""
    return headers.get(name, "").strip().lower() == "true"


def wanted_wait_s(headers: Headers) -> float | None:
    """How long a call of an OpenAI route is to be awaited: `None` for to its end (RFC 7240; `x-bf-async`)."""
    preferences = _preferences(headers)
    if "respond-async" not in preferences:
        return 0.0 if is_true(headers, "x-bf-async") else None
    return _seconds(preferences.get("wait", "")) or 0.0


def poll_wait_s(query: QueryParams, headers: Headers) -> float | None:
    """How long a poll is to be held: `?wait=` or, where that is not there, `Prefer: wait=N`; at most a minute.

    `None` where nothing is said of it. Raises `InvalidRequest` for a `?wait=` that is no number; a preference that cannot be read is none (RFC 7240).
    """
    wanted_s = _seconds(_preferences(headers).get("wait", ""))
    if (text := query.get("wait")) is not None:
        wanted_s = _seconds(text)
        if wanted_s is None:
            raise InvalidRequest("wait must be a number of seconds, such as 30", param="wait")
    return None if wanted_s is None else min(wanted_s, LONGEST_WAIT_S)


def applied(headers: Headers) -> Mapping[str, str]:
    """Which of the caller's preferences were heeded."""
    heeded = {name: value for name, value in _preferences(headers).items() if name in {"respond-async", "wait"}}
    told = ", ".join(f"{name}={value}" if value else name for name, value in heeded.items())
    return {"Preference-Applied": told} if told else {}


def _preferences(headers: Headers) -> Mapping[str, str]:
    """Read `Prefer`: names in lower case; of several of one name the first counts."""
    found: dict[str, str] = {}
    for preference in ",".join(headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None


def key_name(headers: Headers) -> str | None:
    """The provider key that the caller asks for; the id, which is the name here, wins."""
    return headers.get("x-bf-api-key-id") or headers.get("x-bf-api-key") or None


def webhook(headers: Headers) -> str | None:
    """The name of the webhook endpoint that is to hear of the job."""
    return headers.get("x-bf-async-webhook", "").strip() or None


def labels(headers: Headers) -> dict[str, str]:
    """The caller's labels, `x-bf-dim-<name>`; the older spelling `x-bf-prom-<name>` loses to it."""
    return {
        name.removeprefix(prefix): value
        for prefix in _LABEL_PREFIXES
        for name, value in headers.items()
        if name.startswith(prefix) and name != prefix
    }


def extra_headers(headers: Headers) -> Mapping[str, str]:
    """Headers for the provider, `x-bf-eh-<name>`, without those that it must not get."""
    found = {
        name.removeprefix(_EXTRA_HEADER_PREFIX): value
        for name, value in headers.items()
        if name.startswith(_EXTRA_HEADER_PREFIX)
    }
    allowed = {name: value for name, value in found.items() if name and name not in _NOT_FORWARDED}
    return dict(list(allowed.items())[:_MOST_EXTRA_HEADERS])
