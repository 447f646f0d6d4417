"""What can go wrong for a client.

SafelightError
├─ GatewayUnreachable        no answer, or none of its own
│  └─ NotAGateway            somebody answers, but not as a gateway does
├─ Refused                   an answer that says no: status, code, param, retry_after_s
│  ├─ InvalidRequest         400, 413, 415, 422: the request must be changed
│  │  └─ IdempotencyConflict 422: the key belongs to another request
│  ├─ AuthenticationFailed   401
│  ├─ BudgetExceeded         402
│  ├─ AccessBlocked          403
│  ├─ NotFound               404: no such job, or not any more
│  ├─ Conflict               409: not in the state that this needs
│  ├─ RateLimited            429
│  └─ Unavailable            5xx
├─ JobFailed                 the job has ended without a picture; `cancelled` where it was ended on request
├─ WaitTimeout               the job has not ended in time; it goes on (also a `TimeoutError`)
└─ WebhookUnverified         the delivery was not signed with this secret, or is too old
"""

from collections.abc import Mapping

import msgspec

from safelight.client.models import ErrorBody, JobState


class SafelightError(Exception):
    """Base of all errors of the client."""


class GatewayUnreachable(SafelightError):
    """The gateway gives no answer, or none of its own. `sent`: it may have had the request all the same."""

    def __init__(self, message: str, *, sent: bool) -> None:
        """Say where it was looked for."""
        super().__init__(message)
        self.sent = sent


class NotAGateway(GatewayUnreachable):
    """Somebody answers at the address, but not as a gateway does."""


class Refused(SafelightError):
    """The gateway said no."""

    def __init__(self, status: int, body: ErrorBody, *, retry_after_s: float | None = None) -> None:
        """Keep what it said. `retry_after_s` is seconds from now."""
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.code = body.error.code or body.type
        self.param = body.error.param
        self.retry_after_s = retry_after_s


class InvalidRequest(Refused):
    """The request must be changed."""


class IdempotencyConflict(InvalidRequest):
    """The idempotency key belongs to another request."""


class AuthenticationFailed(Refused):
    """No key, or one that is not known."""


class BudgetExceeded(Refused):
    """There is no money left for it."""


class AccessBlocked(Refused):
    """The key may not do this."""


class NotFound(Refused):
    """No such thing, or not any more."""


class Conflict(Refused):
    """Not in the state that this needs, such as a retry of a job that has not failed."""


class RateLimited(Refused):
    """Too much at a time: again after `retry_after_s`."""


class Unavailable(Refused):
    """The gateway cannot serve now."""


class JobFailed(SafelightError):
    """The job has ended without a picture."""

    def __init__(self, job: JobState) -> None:
        """Keep the job as it ended."""
        self.job = job
        self.body = job.error or ErrorBody()
        self.code = self.body.error.code
        self.cancelled = job.meta.cancelled or self.code == "job_cancelled"
        super().__init__(f"job {job.id} failed: {self.body}")


class WaitTimeout(SafelightError, TimeoutError):
    """It has not ended in time; it goes on."""


class WebhookUnverified(SafelightError):
    """Not signed with this secret, or too old."""


_OF_PROXIES = frozenset({502, 503, 504})
_BY_STATUS: Mapping[int, type[Refused]] = {
    401: AuthenticationFailed,
    402: BudgetExceeded,
    403: AccessBlocked,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


def refusal(status: int, content: bytes, *, url: str, retry_after_s: float | None) -> SafelightError:
    """The error of an answer with a status of 400 or more."""
    try:
        body = msgspec.json.decode(content, type=ErrorBody)
    except msgspec.DecodeError:
        if status in _OF_PROXIES:
            return GatewayUnreachable(f"the gateway behind {url} does not answer (HTTP {status})", sent=True)
        return not_a_gateway(url, status)
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else InvalidRequest)
    if status == 422 and body.error.code == "idempotency_conflict":
        kind = IdempotencyConflict
    return kind(status, body, retry_after_s=retry_after_s)


def not_a_gateway(url: str, status: int) -> NotAGateway:
    """The error of an answer that cannot be read."""
    return NotAGateway(f"{url} answers, but not as a Safelight gateway does (HTTP {status})", sent=True)
