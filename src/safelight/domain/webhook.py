"""Webhooks: who is told of which event, and when it is tried again."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import DeliveryId, EndpointId, JobId
from safelight.domain.job import Ending, JobStatus
from safelight.domain.plan import CANCELLED

LASTING_FAILURE = timedelta(days=3)
"""An endpoint that has taken nothing for so long is paused, if it was tried a few times."""
SECRET_OVERLAP = timedelta(days=1)
"""How long a secret signs beside the one that has followed it."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - how secrets begin, not one

_LEAST_KEY_BYTES, _MOST_KEY_BYTES = 16, 128
_FEW_FAILURES = 10
_MOST_RETRY_AFTER_S = 86_400.0
_JITTER = 0.2
_MOST_DOUBLINGS = 62
_RETRIED = frozenset({408, 429})
_GONE = 410
_NAME = re.compile(r"[!-~]([ -~]{0,98}[!-~])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[!-~]([ \t!-~]{0,4094}[!-~])?")
_MOST_HEADERS = 32
_RESERVED_HEADERS = frozenset(
    {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-bifrost-event",
        "content-type",
        "content-length",
        "user-agent",
        "host",
        "connection",
        "transfer-encoding",
    }
)


class WebhookEvent(StrEnum):
    """What an endpoint can subscribe to; the first two are the contract's."""

    COMPLETED = "async_job.completed"
    FAILED = "async_job.failed"
    CANCELLED = "async_job.cancelled"
    STARTED = "async_job.started"

    @property
    def job_status(self) -> JobStatus:
        """The state that the job has come to."""
        return _STATUSES[self]


_STATUSES: Mapping[WebhookEvent, JobStatus] = {
    WebhookEvent.COMPLETED: JobStatus.COMPLETED,
    WebhookEvent.FAILED: JobStatus.FAILED,
    WebhookEvent.CANCELLED: JobStatus.FAILED,
    WebhookEvent.STARTED: JobStatus.PROCESSING,
}


def events_of(ending: Ending) -> tuple[WebhookEvent, ...]:
    """The events that tell of an end, the most telling first: an endpoint gets the first that it wants.

    A cancelled job is a failed one, so those who know no `cancelled` hear of it as of any other failure.
    """
    if ending.error is None:
        return (WebhookEvent.COMPLETED,)
    if ending.error.code == CANCELLED.code:
        return WebhookEvent.CANCELLED, WebhookEvent.FAILED
    return (WebhookEvent.FAILED,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """The numbers of an endpoint. 0 stands for the default (contract 8.3)."""

    max_retries: int = 0
    retry_backoff_initial_seconds: int = 0
    retry_backoff_max_seconds: int = 0
    attempt_timeout_seconds: int = 0
    max_concurrent_deliveries: int = 0
    max_response_payload_kbs: int = 0

    def settled(self) -> "DeliveryLimits":
        """Put the defaults in."""
        return DeliveryLimits(
            max_retries=self.max_retries or DEFAULTS.max_retries,
            retry_backoff_initial_seconds=self.retry_backoff_initial_seconds or DEFAULTS.retry_backoff_initial_seconds,
            retry_backoff_max_seconds=self.retry_backoff_max_seconds or DEFAULTS.retry_backoff_max_seconds,
            attempt_timeout_seconds=self.attempt_timeout_seconds or DEFAULTS.attempt_timeout_seconds,
            max_concurrent_deliveries=self.max_concurrent_deliveries or DEFAULTS.max_concurrent_deliveries,
            max_response_payload_kbs=self.max_response_payload_kbs or DEFAULTS.max_response_payload_kbs,
        )

    @property
    def lease(self) -> timedelta:
        """How long a delivery is left to whoever has taken it up."""
        return timedelta(seconds=max(30, 2 * self.settled().attempt_timeout_seconds))


DEFAULTS = DeliveryLimits(
    max_retries=26,
    retry_backoff_initial_seconds=30,
    retry_backoff_max_seconds=4 * 3600,
    attempt_timeout_seconds=10,
    max_concurrent_deliveries=10,
    max_response_payload_kbs=256,
)
"""The contract's, but for the retries: doubling up to four hours, 26 of them last three days."""

MOST = DeliveryLimits(
    max_retries=100,
    retry_backoff_initial_seconds=86_400,
    retry_backoff_max_seconds=86_400,
    attempt_timeout_seconds=60,
    max_concurrent_deliveries=100,
    max_response_payload_kbs=10_240,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """What an administrator says of an endpoint."""

    name: str
    url: str
    events: tuple[WebhookEvent, ...]
    owner: str | None = None
    """The id of the virtual key whose jobs alone may name it; `None`: everybody's."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    include_response: bool = False
    include_links: bool = False
    allow_private_network: bool = False
    disabled: bool = False
    limits: DeliveryLimits = DeliveryLimits()

    def __post_init__(self) -> None:
        """Raise `InvalidRequest` for what cannot be: the address itself is judged by whoever connects to it."""
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest("name must be 1 to 100 printable ASCII characters", param="name")
        if not self.events or len(set(self.events)) < len(self.events):
            raise InvalidRequest("events must name at least one event, and each once", param="events")
        _check_url(self.url, plain=self.allow_private_network)
        _check_headers(self.headers)
        for name in DeliveryLimits.__dataclass_fields__:
            if not 0 <= getattr(self.limits, name) <= getattr(MOST, name):
                raise InvalidRequest(f"{name} must be 0 to {getattr(MOST, name)}", param=name)

    def wants(self, event: WebhookEvent) -> bool:
        """Whether it is to be told."""
        return event in self.events


def _check_url(url: str, *, plain: bool) -> None:
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or " " in url or len(url) > 2000:
        raise InvalidRequest("url is no address of a receiver", param="url")
    if parts.scheme not in {"https", "http"} or (parts.scheme == "http" and not plain):
        raise InvalidRequest("url must begin with https:// (http:// needs allow_private_network)", param="url")
    if "@" in parts.netloc or "#" in url:
        raise InvalidRequest("url must hold no user name and no fragment", param="url")


def _check_headers(headers: Mapping[str, str]) -> None:
    if len(headers) > _MOST_HEADERS:
        raise InvalidRequest(f"at most {_MOST_HEADERS} headers are taken", param="headers")
    if len({name.lower() for name in headers}) < len(headers):
        raise InvalidRequest("a header is named twice", param="headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _RESERVED_HEADERS:
            raise InvalidRequest(f"header {name[:100]!r} cannot be set", param="headers")
        if not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequest(f"the value of header {name[:100]!r} cannot be sent", param="headers")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSecret:
    """`whsec_` and base64. It never prints."""

    value: str = field(repr=False)
    until: datetime | None = None
    """When it ceases to sign; `None` for the one in use."""


def check_secret(text: str) -> None:
    """Raise `InvalidRequest` for what is no signing secret."""
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(SECRET_PREFIX) or not _LEAST_KEY_BYTES <= len(key) <= _MOST_KEY_BYTES:
        raise InvalidRequest("a webhook secret is whsec_ and 16 to 128 bytes in base64", param="secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """A receiver, and how it has fared."""

    id: EndpointId
    settings: EndpointSettings
    secrets: tuple[SigningSecret, ...]
    """The newest first."""
    created_at: datetime
    updated_at: datetime
    config_hash: str = ""
    """Which entry of the settings file it was made from; empty where an administrator made it."""
    consecutive_failures: int = 0
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    failing_since: datetime | None = None
    """The first failure after the last success."""
    paused_at: datetime | None = None
    pause_reason: str | None = None
    pending: int = 0
    """How many deliveries are still to be made."""

    def signing(self, now: datetime) -> tuple[str, ...]:
        """The secrets that sign now: during a rotation, the former one too."""
        return tuple(secret.value for secret in self.secrets if secret.until is None or now < secret.until)

    def rotated(self, fresh: str, now: datetime, overlap: timedelta) -> tuple[SigningSecret, ...]:
        """The secrets once `fresh` has taken over; the former one signs on for `overlap`."""
        until = now + overlap
        former = (
            SigningSecret(value=secret.value, until=until if secret.until is None else min(until, secret.until))
            for secret in self.secrets
        )
        return SigningSecret(value=fresh), *(secret for secret in former if secret.until and secret.until > now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event on its way to an endpoint; its id is the same for all attempts."""

    id: DeliveryId
    endpoint_id: EndpointId
    job_id: JobId
    event: WebhookEvent
    created_at: datetime
    """When it happened, to the microsecond."""
    attempts: int = 0
    tries: int = 0
    """Attempts since it was last queued."""


class Outcome(StrEnum):
    """How an attempt at a delivery ended, in the contract's words."""

    DELIVERED = "delivered"
    RETRYABLE_FAILURE = "retryable_failure"
    PERMANENT_FAILURE = "permanent_failure"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of one call: the receiver's status, or why there is none."""

    status_code: int | None = None
    error: str | None = None
    """Of a failure: the beginning of the receiver's answer, or what went wrong."""
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.status_code is not None and 200 <= self.status_code <= 299

    @property
    def may_pass(self) -> bool:
        """Whether a later try may succeed."""
        return self.status_code is None or self.status_code in _RETRIED or self.status_code >= 500

    @property
    def gone(self) -> bool:
        """Whether the receiver says that it is no more."""
        return self.status_code == _GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an attempt means for its delivery."""

    outcome: Outcome
    retry_at: datetime | None = None


def judge(reply: Reply, limits: DeliveryLimits, *, tries: int, now: datetime, jitter: float) -> Verdict:
    """Decide after an attempt, the `tries`-th since the delivery was queued; `jitter` is in [0, 1)."""
    if reply.delivered:
        return Verdict(outcome=Outcome.DELIVERED)
    if not reply.may_pass:
        return Verdict(outcome=Outcome.PERMANENT_FAILURE)
    if tries > limits.settled().max_retries:
        return Verdict(outcome=Outcome.EXHAUSTED)
    told_s = min(reply.retry_after_s or 0.0, _MOST_RETRY_AFTER_S)
    wait_s = max(backoff_s(limits, retry=tries, jitter=jitter), told_s)
    return Verdict(outcome=Outcome.RETRYABLE_FAILURE, retry_at=now + timedelta(seconds=wait_s))


def backoff_s(limits: DeliveryLimits, *, retry: int, jitter: float) -> float:
    """Seconds before a retry, counted from 1: doubling up to a maximum, a fifth more or less."""
    settled = limits.settled()
    doubled: float = settled.retry_backoff_initial_seconds * 2.0 ** min(retry - 1, _MOST_DOUBLINGS)
    return min(doubled, settled.retry_backoff_max_seconds) * (1 - _JITTER + 2 * _JITTER * jitter)


def pause_reason(reply: Reply, *, failures: int, failing_since: datetime, now: datetime) -> str | None:
    """Why an endpoint that has just failed is left alone until somebody resumes it; `None` while it is not."""
    if reply.gone:
        return "the receiver answered 410 Gone"
    if failures >= _FEW_FAILURES and now - failing_since >= LASTING_FAILURE:
        return f"nothing was taken for {LASTING_FAILURE.days} days"
    return None
