"""End what should long have ended, remove what is expired, clear what nobody owns."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace

from safelight.application.observer import Deaf, Observer
from safelight.application.ports import BatchStore, BlobStore, Clock, JobStore
from safelight.domain.errors import ErrorClass, StorageError, Superseded
from safelight.domain.ids import BlobKey, JobId, blob_job
from safelight.domain.job import Attempt, AttemptState, Job, JobError
from safelight.domain.money import Charged
from safelight.domain.outcome import settle

log = structlog.get_logger(__name__)

_BATCH = 200
_ORPHAN_AGE = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Run from time to time by every process that works; each part may be repeated or interrupted."""

    store: JobStore
    batches: BatchStore
    blobs: BlobStore
    clock: Clock
    deadline: timedelta
    """How long after its submit a job must have ended."""
    observer: Observer = field(default_factory=Deaf)

    async def once(self) -> None:
        """End overdue jobs and remove expired ones. Faults are left for the next time."""
        await survived(self.end_overdue)
        await survived(self.remove_expired)
        await survived(self.remove_expired_batches)

    async def end_overdue(self) -> int:
        """End jobs that are past their deadline, whatever they wait for; returns how many."""
        ended = 0
        created_before = self.clock.now() - self.deadline
        while job_ids := await self.store.overdue(created_before=created_before, limit=_BATCH):
            before = ended
            for job_id in job_ids:
                ended += await self._end(job_id)
            if ended == before:
                break
        return ended

    async def remove_expired(self) -> int:
        """Remove expired jobs: first their images, then their rows, so that no image is left behind."""
        removed = 0
        while jobs := await self.store.expired(now=self.clock.now(), limit=_BATCH):
            await self.blobs.delete(await all_blobs(jobs, self.store))
            await self.store.delete([job.id for job in jobs])
            removed += len(jobs)
        return removed

    async def remove_expired_batches(self) -> int:
        """Remove batches whose last line ended long ago: first their lines, then their rows."""
        removed = 0
        while batches := await self.batches.expired(now=self.clock.now(), limit=_BATCH):
            await self.blobs.delete([batch.lines for batch in batches])
            await self.batches.delete([batch.id for batch in batches])
            removed += len(batches)
        return removed

    async def remove_orphans(self) -> None:
        """Remove old images without a job: of a submit that was cut off, an attempt that failed, a job that is gone."""
        await survived(self._remove_orphans)

    async def _remove_orphans(self) -> None:
        async for blobs in self.blobs.written_before(self.clock.now() - _ORPHAN_AGE):
            jobs = await self.store.existing(sorted({blob_job(blob) for blob in blobs}))
            await self.blobs.delete([blob for blob in blobs if blob_job(blob) not in jobs])

    async def _end(self, job_id: JobId) -> int:
        history = await self.store.history(job_id)
        if history is None or history.job.status.terminal:
            return 0
        now = self.clock.now()
        last = history.attempts[-1] if history.attempts else None
        given_up = _given_up(last, now) if last and last.state.open else None
        attempts = (*history.attempts[:-1], given_up) if given_up else history.attempts
        ending = settle(history.job, attempts, error=_DEADLINE, now=now)
        try:
            await self.store.finish(job_id, ending, tries=len(attempts), attempt=given_up)
        except Superseded:
            return 0
        self.observer.ended(history.job, ending)
        log.warning("job_overdue", job_id=job_id)
        return 1


async def all_blobs(jobs: Sequence[Job], store: JobStore) -> Sequence[BlobKey]:
    """List all images of jobs, their previews too."""
    previews = await store.previews([job.id for job in jobs if job.request.partial_images])
    return [*(blob for job in jobs for blob in job.blobs), *(preview.blob for preview in previews)]


async def drop_images(blobs: BlobStore, keys: Sequence[BlobKey]) -> None:
    """Remove images that no job has any more; those that resist are found again as orphans."""
    if not keys:
        return
    try:
        await blobs.delete(keys)
    except StorageError as error:
        log.warning("images_left_for_the_sweeper", images=len(keys), error=error.message)


async def survived(part: Callable[[], Awaitable[object]]) -> None:
    """Do a part of the work. Whatever goes wrong must not end the sweeper: nobody else would end stuck jobs."""
    try:
        await part()
    except StorageError as error:
        log.warning("sweep_failed", error=error.message)
    except Exception:
        log.exception("sweep_crashed")


_DEADLINE = JobError(
    status_code=504,
    code="deadline_exceeded",
    message="the job did not end within the time that this gateway allows (jobs.deadline)",
    gateway_fault=True,
)


def _given_up(attempt: Attempt, now: datetime) -> Attempt:
    return replace(
        attempt,
        state=AttemptState.UNKNOWN,
        ended_at=now,
        error_class=ErrorClass.UNCERTAIN,
        error=_DEADLINE,
        charged=Charged.UNKNOWN,
    )
