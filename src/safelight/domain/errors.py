"""The whole error tree.

SafelightError               code (stable), message (safe to show)
├─ RequestError              the caller's to fix
│  ├─ InvalidRequest         a field is missing, of the wrong type or out of range
│  ├─ UnsupportedFeature     this model cannot express that field
│  ├─ Conflict               it is so already, or something else is
│  │  ├─ NotRetryable        the job has not failed
│  │  └─ IdempotencyConflict the key came with another request before
│  └─ NotFound               no such job, or not any more
├─ PolicyRefusal             who may do what, and what it may cost; `code` is the contract's word
│  ├─ NotAuthenticated       no key, or an unknown one
│  ├─ NotAllowed             a key that may not do this
│  ├─ BudgetExceeded         it may cost more than is left
│  ├─ RateLimited            too many in a window: wait as told
│  └─ QueueFull              too many jobs wait altogether
├─ ProviderError             adds the provider's own status, code, type and request id
│  ├─ ProviderRejected       policy or bad input: final
│  ├─ ProviderModelGone      the model is not (or no longer) offered: another target may do
│  ├─ ProviderAuthError      our key or account: another key or target may do; loud for the operator
│  ├─ ProviderBusy           429 or quota: wait as told
│  ├─ ProviderUnavailable    never connected, or a clear 5xx: try again
│  ├─ ProviderUncertain      sent, no clear answer, may be billed: never resubmit blindly
│  │  └─ ProviderAbandoned   as above, and it was the gateway that stopped
│  └─ ProviderProtocolError  an answer that we cannot read: may be billed, as above
├─ StorageError              the database or the blob store failed
├─ OwnerBusy                 the owner has as many jobs at work as may be: wait
└─ Superseded                somebody else has moved the job on: drop what we hold
ConfigurationError           outside the tree, so that no job loop can swallow it
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from safelight.domain.money import Charged


class ErrorClass(StrEnum):
    """How an attempt failed; decides what may be tried next (see `plan.py`)."""

    REJECTED = "rejected"
    MODEL_GONE = "model_gone"
    AUTH = "auth"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    UNCERTAIN = "uncertain"
    ABANDONED = "abandoned"
    PROTOCOL = "protocol"

    @property
    def may_be_charged(self) -> bool:
        """Whether the provider may have done (and billed) the work."""
        return self in {ErrorClass.UNCERTAIN, ErrorClass.ABANDONED, ErrorClass.PROTOCOL}

    @property
    def poll_again(self) -> bool:
        """Whether asking again for accepted work may still bring it: a failed question costs nothing.

        A key that is refused says nothing of the work either, and the operator may mend it.
        """
        return self in {ErrorClass.BUSY, ErrorClass.UNAVAILABLE, ErrorClass.UNCERTAIN, ErrorClass.AUTH}


class SafelightError(Exception):
    """Base of all errors with a message that is safe to show to a caller."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        """Keep the message; it must hold no key, prompt or raw body."""
        super().__init__(message)
        self.message = message


class RequestError(SafelightError):
    """The caller can mend it."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Name the field at fault in `param`, as the caller spells it."""
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of range."""


class UnsupportedFeature(RequestError):
    """The model cannot express a field; raised before money is spent."""

    code = "unsupported_feature"


class Conflict(RequestError):
    """It does not fit what is there already."""

    code = "conflict"


class NotRetryable(Conflict):
    """Only what has failed can be run again."""

    code = "not_retryable"


class IdempotencyConflict(Conflict):
    """The caller's key belongs to another request."""

    code = "idempotency_conflict"


class NotFound(RequestError):
    """No such thing, or not any more."""

    code = "not_found"


class PolicyRefusal(SafelightError):
    """The gateway's rules forbid it. `code` is the machine word of the contract (6.2), `status` the HTTP status there."""

    status: ClassVar[int] = 403

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        quota: "Quota | None" = None,
        reason: str | None = None,
    ) -> None:
        """`retry_after_s` is seconds from now until it may be otherwise; `reason` is a finer word than `code`."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.quota = quota
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many of something there may be in a window, and how many are left."""

    name: str
    most: int
    left: int
    window_s: int


class NotAuthenticated(PolicyRefusal):
    """Nobody, or nobody we know."""

    status = 401


class KeyRequired(NotAuthenticated):
    """Virtual keys are mandatory and none came."""

    code = "virtual_key_required"


class KeyUnknown(NotAuthenticated):
    """No virtual key reads so."""

    code = "virtual_key_not_found"


class AdminRequired(NotAuthenticated):
    """Only the administrator may do this."""

    code = "admin_key_required"


class NotAllowed(PolicyRefusal):
    """The caller is known, and may not do this."""


class AccessBlocked(NotAllowed):
    """The virtual key is switched off or past its time."""

    code = "access_blocked"


class ProviderBlocked(NotAllowed):
    """The provider, or the key of it that was named, is not in the virtual key's allow list."""

    code = "provider_blocked"


class ModelBlocked(NotAllowed):
    """The model is not in the virtual key's allow list."""

    code = "model_blocked"


class BudgetExceeded(PolicyRefusal):
    """A budget in the chain has less left than this may cost, or nobody can say what it costs."""

    status = 402
    code = "budget_exceeded"


class RateLimited(PolicyRefusal):
    """Too many images in a window, or too many jobs that wait."""

    status = 429
    code = "rate_limited"


class RequestLimited(RateLimited):
    """Too many requests in a window."""

    code = "request_limited"


class QueueFull(PolicyRefusal):
    """More jobs wait than the gateway as a whole lets wait."""

    status = 503
    code = "request_dropped"


class StorageError(SafelightError):
    """The database or the blob store failed; the caller may try again."""

    code = "storage_unavailable"


class OwnerBusy(SafelightError):
    """The owner has as many jobs at work as may be: this one must wait."""

    code = "owner_busy"


class Superseded(SafelightError):
    """The job has moved on without us: what we hold must be dropped."""

    code = "superseded"


class ProviderError(SafelightError):
    """A provider said no, or nothing that we could use."""

    code = "provider_error"
    error_class: ClassVar[ErrorClass] = ErrorClass.UNAVAILABLE
    default_status: ClassVar[int] = 502

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        provider_code: str | None = None,
        provider_type: str | None = None,
        param: Any = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        charged: Charged | None = None,
        cost_micros: int | None = None,
    ) -> None:
        """Carry what the provider said. `retry_after_s` is seconds from now.

        `charged` says more than the class does: a provider may bill what it then refuses. `None` leaves it to the class.
        """
        super().__init__(message)
        self.status = status
        self.provider_code = provider_code
        self.provider_type = provider_type
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.charged = charged
        self.cost_micros = cost_micros


class ProviderRejected(ProviderError):
    """Policy or bad input: final, not charged."""

    code = "provider_rejected"
    error_class = ErrorClass.REJECTED
    default_status = 400


class ProviderModelGone(ProviderError):
    """The provider does not offer this model (any more)."""

    code = "model_not_found"
    error_class = ErrorClass.MODEL_GONE
    default_status = 404


class ProviderAuthError(ProviderError):
    """Our key or account is at fault: the operator must act."""

    code = "provider_auth_failed"
    error_class = ErrorClass.AUTH
    default_status = 401


class ProviderBusy(ProviderError):
    """Over a rate limit or quota: wait as told."""

    code = "provider_busy"
    error_class = ErrorClass.BUSY
    default_status = 429


class ProviderUnavailable(ProviderError):
    """Never connected, or a clear refusal with 5xx: not charged, try again."""

    code = "provider_unavailable"
    error_class = ErrorClass.UNAVAILABLE
    default_status = 502


class ProviderUncertain(ProviderError):
    """Bytes were sent and no clear answer came: it may be billed."""

    code = "outcome_unknown"
    error_class = ErrorClass.UNCERTAIN
    default_status = 504


class ProviderAbandoned(ProviderUncertain):
    """The gateway stopped while the provider was being called."""

    error_class = ErrorClass.ABANDONED
    default_status = 500


class ProviderProtocolError(ProviderError):
    """An answer came that we cannot read: it may be billed."""

    code = "provider_answer_unreadable"
    error_class = ErrorClass.PROTOCOL
    default_status = 502


class ConfigurationError(Exception):
    """The settings do not fit together; the message says what to change."""
