"""The job, its attempts, and the one table of allowed transitions."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from safelight.domain.errors import ErrorClass
from safelight.domain.ids import BlobKey, JobId, ProviderName
from safelight.domain.image import ImageRequest, Operation, OutputImage, Target, Usage
from safelight.domain.money import Charged


class JobStatus(StrEnum):
    """The four words of the contract."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        """Whether it has ended, until the caller consents to a retry."""
        return self is JobStatus.COMPLETED or self is JobStatus.FAILED


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.PROCESSING, JobStatus.FAILED}),
    JobStatus.PROCESSING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
}


class Priority(StrEnum):
    """Which jobs go first. Nothing starves: `bulk` lets only so many others go ahead."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class AttemptState(StrEnum):
    """One try at one provider with one key."""

    STARTED = "started"
    """Written down; bytes may be on their way."""
    ACCEPTED = "accepted"
    """The provider gave a handle: poll it, whoever crashed."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It may have been charged, and we never saw (or could not read) the answer."""

    @property
    def open(self) -> bool:
        """Whether its end is still to come."""
        return self is AttemptState.STARTED or self is AttemptState.ACCEPTED


class JobError(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job or an attempt failed, in words that are safe to show."""

    status_code: int
    code: str
    message: str
    type: str | None = None
    param: Any = None
    gateway_fault: bool = False
    """True for the gateway's own fault or decision, false for the caller's or the provider's."""
    request_id: str | None = None
    """The provider's own id of the exchange."""
    cost_micros: int | None = None
    """What a provider took for work that it then refused, if it said so."""


class Production(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one successful attempt brought."""

    outputs: tuple[OutputImage, ...]
    model: str | None = None
    created: int | None = None
    """Unix seconds, as the provider said."""
    usage: Usage | None = None
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    size: str | None = None
    cost_micros: int | None = None
    charged: Charged
    via: str | None = None
    """How an operation that the provider lacks was done, such as `edit`."""


class Attempt(Struct, frozen=True, kw_only=True):
    """One line of the ledger, written before any byte goes upstream."""

    number: int
    """From 1, in the order of trying."""
    route: int
    """Which target: 0 is the asked one, then the fallbacks."""
    target: Target
    key_name: str | None
    n: int
    """How many pictures this call asks for."""
    state: AttemptState
    started_at: datetime
    ended_at: datetime | None = None
    handle: str | None = None
    """The provider's own id for the work; opaque to us."""
    error_class: ErrorClass | None = None
    error: JobError | None = None
    retry_at: datetime | None = None
    """When the provider will hear us again, if it said so."""
    charged: Charged | None = None
    production: Production | None = None
    stop_asked_at: datetime | None = None
    """When the provider was asked to stop the work."""


class JobResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a completed job holds; the pictures themselves are blobs."""

    production: Production
    target: Target
    latency_ms: int
    shortfall: JobError | None = None
    """Why fewer pictures came than were asked for, when a later call of several failed."""


class Idempotency(Struct, frozen=True, kw_only=True):
    """The caller's word that two submits are one, and what the request looked like under it."""

    key: str
    fingerprint: str


class BatchLine(Struct, frozen=True, kw_only=True):
    """Which line of which batch a job is."""

    batch_id: str
    number: int
    """From 1."""


class Job(Struct, frozen=True, kw_only=True):
    """One accepted request. Times are aware UTC."""

    id: JobId
    request_id: str
    request: ImageRequest
    created_at: datetime
    ttl_s: int
    """How long the result is kept, counted from completion."""
    lane: ProviderName
    """The provider whose slots it waits for now."""
    status: JobStatus = JobStatus.PENDING
    due_at: datetime | None = None
    """When it is to be taken up (again); `None` once it has ended."""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempts: int = 0
    progress: float | None = None
    """How far its last attempt is, from 0 to 1, if that can be told."""
    result: JobResult | None = None
    error: JobError | None = None
    charged: Charged = Charged.NO
    cost_micros: int | None = None
    earlier_attempts: int = 0
    """How many attempts the caller's last consent to a retry lies behind; what they cost stays booked."""
    cancelled_at: datetime | None = None
    """When the caller asked for its end; an attempt that was out then is still waited for, to book what it cost."""
    webhook: str | None = None
    """The id of the endpoint that hears of it."""
    metadata: Mapping[str, str] = {}
    """The caller's own labels."""
    idempotency: Idempotency | None = None
    batch: BatchLine | None = None
    trace_parent: str | None = None
    """The W3C trace context that it was submitted in, where traces are kept."""
    owner: str | None = None
    """The id of the virtual key that it was submitted with."""
    team: str | None = None
    """That key's team."""
    priority: Priority = Priority.INTERACTIVE
    stride: int = 0
    """How far it takes its owner back in the line: see `domain/fairness.py`."""
    max_running: int | None = None
    """How many jobs of its owner may be at work at a time."""
    estimates: Mapping[str, int] = {}
    """Micro-dollars that one picture is taken to cost at each target, where money is held for it."""
    provider_keys: Mapping[str, tuple[str, ...]] = {}
    """Which of a provider's keys that virtual key may use, by target (`*` stands for any characters); else all."""

    @property
    def operation(self) -> Operation:
        """The contract's request type."""
        return self.request.operation

    @property
    def expires_at(self) -> datetime | None:
        """From here on the job answers 404: completion plus TTL."""
        return self.completed_at + timedelta(seconds=self.ttl_s) if self.completed_at else None

    @property
    def status_code(self) -> int | None:
        """The HTTP status that the synchronous route answers; `None` while it runs."""
        if self.error is not None:
            return self.error.status_code
        return 200 if self.result is not None else None

    @property
    def blobs(self) -> tuple[BlobKey, ...]:
        """Its images: what the caller sent and what came out."""
        outputs = self.result.production.outputs if self.result is not None else ()
        images = (*(sent.image for sent in self.request.inputs), *(output.image for output in outputs))
        return tuple(image.blob for image in images)

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        expires_at = self.expires_at
        return expires_at is not None and now >= expires_at

    def as_submitted(self) -> "Job":
        """Make it as it was when it was accepted."""
        return replace(
            self,
            status=JobStatus.PENDING,
            lane=self.request.target.provider,
            started_at=None,
            completed_at=None,
            attempts=0,
            result=None,
            error=None,
            progress=None,
            cancelled_at=None,
        )

    def ended(self, ending: "Ending") -> "Job":
        """Make it as its ending leaves it."""
        return replace(
            self,
            status=ending.status,
            due_at=None,
            completed_at=ending.completed_at,
            result=ending.result,
            error=ending.error,
            charged=ending.charged,
            cost_micros=ending.cost_micros,
            cancelled_at=self.cancelled_at or ending.cancelled_at,
        )

    def renewed(self, now: datetime) -> "Job":
        """Make it as it is when its caller has consented to a retry: what was tried so far only counts for the cost."""
        return replace(
            self,
            status=JobStatus.PENDING,
            lane=self.request.target.provider,
            due_at=now,
            started_at=None,
            completed_at=None,
            error=None,
            progress=None,
            cancelled_at=None,
            earlier_attempts=self.attempts,
        )


class Ending(Struct, frozen=True, kw_only=True):
    """The terminal state of a job, settled in one commit."""

    completed_at: datetime
    charged: Charged
    cost_micros: int | None
    result: JobResult | None = None
    error: JobError | None = None
    cancelled_at: datetime | None = None
    """When the caller asked for it, as far as whoever made this ending knew."""

    @property
    def status(self) -> JobStatus:
        """Completed with a result, failed with an error."""
        return JobStatus.COMPLETED if self.result is not None else JobStatus.FAILED


class JobHistory(Struct, frozen=True, kw_only=True):
    """A job with its whole ledger."""

    job: Job
    attempts: tuple[Attempt, ...] = ()

    @property
    def run(self) -> tuple[Attempt, ...]:
        """The attempts since the submit, or since the caller's last consent to a retry."""
        return self.attempts[self.job.earlier_attempts :]

    @property
    def open_attempt(self) -> Attempt | None:
        """The one that is out."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.state.open else None
