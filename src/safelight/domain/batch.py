"""A batch: thousands of requests that were handed in as one, and become jobs a few at a time."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from safelight.domain.ids import BatchId, BlobKey
from safelight.domain.image import ImageRequest
from safelight.domain.job import Idempotency, Job, JobError
from safelight.domain.ledger import Terms


class BatchStatus(StrEnum):
    """How a batch fares as a whole."""

    RUNNING = "running"
    COMPLETED = "completed"
    """Every line has ended, well or badly."""
    CANCELLED = "cancelled"
    """No line starts any more; one that a provider is at work on may still run out."""


class BatchEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One checked line."""

    request: ImageRequest
    metadata: Mapping[str, str] = {}
    idempotency: Idempotency | None = None


class Batch(Struct, frozen=True, kw_only=True):
    """One accepted batch. Times are aware UTC."""

    id: BatchId
    request_id: str
    lines: BlobKey
    """Where its checked lines lie."""
    total: int
    created_at: datetime
    ttl_s: int
    """How long the result of each line is kept, counted from its own end; the batch, from the end of its last one."""
    owner: str | None = None
    team: str | None = None
    webhook: str | None = None
    metadata: Mapping[str, str] = {}
    idempotency: Idempotency | None = None
    fed_lines: int = 0
    """How many lines have become jobs: the durable cursor."""
    fed_bytes: int = 0
    """Where the next line begins."""
    retry_before: datetime | None = None
    """Lines that failed until then are to run again."""
    cancelled_at: datetime | None = None
    completed_at: datetime | None = None

    @property
    def expires_at(self) -> datetime | None:
        """From here on it answers 404."""
        return self.completed_at + timedelta(seconds=self.ttl_s) if self.completed_at else None

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and now >= self.expires_at

    @property
    def waiting_lines(self) -> int:
        """How many lines are still to become jobs."""
        return 0 if self.cancelled_at else self.total - self.fed_lines


class BatchCounts(Struct, frozen=True, kw_only=True):
    """How many lines are in which state."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0


class BatchProgress(Struct, frozen=True, kw_only=True):
    """A batch with how far its jobs are. `jobs` counts those that there are."""

    batch: Batch
    jobs: BatchCounts

    @property
    def counts(self) -> BatchCounts:
        """Count every line once: those without a job wait, or will never start, or their job is gone."""
        batch, jobs = self.batch, self.jobs
        unfed = batch.total - batch.fed_lines
        gone = batch.fed_lines - (jobs.pending + jobs.processing + jobs.completed + jobs.failed)
        return replace(
            jobs,
            pending=jobs.pending + batch.waiting_lines,
            failed=jobs.failed + gone + (unfed - batch.waiting_lines),
        )

    @property
    def open(self) -> bool:
        """Whether a line waits or runs, or is to run again."""
        return bool(self.counts.pending or self.counts.processing or self.batch.retry_before)

    @property
    def status(self) -> BatchStatus:
        """How it fares as a whole."""
        if self.batch.cancelled_at is not None:
            return BatchStatus.CANCELLED
        return BatchStatus.RUNNING if self.open else BatchStatus.COMPLETED


class BatchResult(Struct, frozen=True, kw_only=True):
    """What became of one line: a job that has ended; `None` where there is none (any more)."""

    number: int
    job: Job | None


KEY_CONFLICT = JobError(
    status_code=422,
    code="idempotency_conflict",
    message="the idempotency key of this line belongs to another request",
    param="idempotency_key",
)
"""How a line ends whose key came with another request before."""


class NewLine(Struct, frozen=True, kw_only=True):
    """A line that is about to become a job."""

    job: Job
    end: int
    """Where the next line begins, in bytes."""
    terms: Terms | None = None
    """What the job must find free."""
    error: JobError | None = None
    """Why it has failed from the beginning."""
