"""Run a failed job again: the caller's consent to what may be paid twice."""

from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from safelight.application.govern import NOTHING_SAID, Govern
from safelight.application.ports import Clock, JobStore, Queue
from safelight.application.read import Read
from safelight.domain.caller import Caller
from safelight.domain.errors import NotRetryable, Superseded
from safelight.domain.fairness import turn_of
from safelight.domain.ids import JobId
from safelight.domain.image import Operation
from safelight.domain.job import Job, JobStatus

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The job keeps its id, its ledger and its log."""

    read: Read
    store: JobStore
    queue: Queue
    clock: Clock
    govern: Govern | None = None
    """Without it nothing is limited."""

    async def again(self, job_id: JobId, caller: Caller, operation: Operation | None = None) -> Job:
        """Put a failed job back to its beginning. What it may cost is held anew, for its own key.

        Raises `NotFound`, `NotRetryable`, `PolicyRefusal`, `StorageError`.
        """
        job = await self.read.job(job_id, caller, operation)
        if job.status is not JobStatus.FAILED:
            raise NotRetryable(f"only a failed job can be run again; this one is {job.status.value}")
        agreed = await self.govern.agree_again(job) if self.govern else NOTHING_SAID
        renewed = replace(job.renewed(self.clock.now()), estimates=agreed.estimates)
        try:
            await self.store.retry(renewed, agreed.terms)
        except Superseded as superseded:
            raise NotRetryable("the job has been run again already") from superseded
        self.queue.wake(job.id, lane=renewed.lane, at=renewed.due_at or renewed.created_at, turn=turn_of(renewed))
        log.info("job_retried", job_id=job.id, earlier_attempts=renewed.earlier_attempts)
        return renewed
