"""End a job at its caller's word: cancel one that runs, delete one that has ended."""

from dataclasses import dataclass, field
from enum import StrEnum

import structlog
from msgspec.structs import replace

from safelight.application.observer import Deaf, Observer
from safelight.application.ports import BlobStore, Clock, JobStore, Queue
from safelight.application.read import Read
from safelight.application.sweep import all_blobs, drop_images
from safelight.domain.caller import Caller
from safelight.domain.errors import Conflict, Superseded
from safelight.domain.ids import JobId
from safelight.domain.image import Operation
from safelight.domain.job import Job, JobHistory
from safelight.domain.outcome import made, settle
from safelight.domain.plan import CANCELLED

log = structlog.get_logger(__name__)


class Only(StrEnum):
    """What a caller wants who does not want the other: between their look and their word the job may have ended."""

    CANCEL = "cancel"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Once it is answered, no further attempt of the job starts, in whichever process."""

    read: Read
    store: JobStore
    queue: Queue
    blobs: BlobStore
    clock: Clock
    observer: Observer = field(default_factory=Deaf)

    async def end_or_delete(
        self, job_id: JobId, caller: Caller, operation: Operation | None = None, *, only: Only | None = None
    ) -> Job | None:
        """Cancel a job, and give it as it then is; delete one that has ended.

        With `only` one of the two: a job that has ended is given as it is, one that runs is a `Conflict`. Raises
        `NotFound`, `StorageError`.
        """
        while True:
            history = await self.read.history(job_id, caller, operation)
            try:
                if not history.job.status.terminal:
                    if only is Only.DELETE:
                        raise Conflict("the job has not ended: cancel it first, or wait for its end")
                    return await self.cancel(history)
                if only is Only.CANCEL:
                    return history.job
                if await self._deleted(history.job):
                    return None
            except Superseded:
                log.debug("job_moved_on", job_id=job_id)

    async def cancel(self, history: JobHistory) -> Job:
        """Cancel a job that has not ended. Raises `Superseded` when it has moved on meanwhile.

        Where no attempt is out, it ends at once. Else it ends when the attempt has: what the provider then brings is
        dropped, and what it took is booked.
        """
        job = history.job
        if job.cancelled_at is not None:
            return job
        now = self.clock.now()
        cancelled = replace(job, cancelled_at=now)
        if history.open_attempt is not None:
            await self.store.cancel(job.id, now, lane=job.lane, tries=len(history.attempts))
            self.queue.wake(job.id, lane=job.lane, at=now)
            log.info("job_cancelled", job_id=job.id, ended=False)
            return cancelled
        ending = settle(cancelled, history.attempts, error=CANCELLED, now=now)
        await self.store.finish(job.id, ending, tries=len(history.attempts))
        await drop_images(self.blobs, made(history.run))
        self.observer.ended(cancelled, ending)
        log.info("job_cancelled", job_id=job.id, ended=True)
        return cancelled.ended(ending)

    async def _deleted(self, job: Job) -> bool:
        """Remove it, first its images, then its rows. False when it has been put back to its beginning meanwhile."""
        await self.blobs.delete(await all_blobs([job], self.store))
        await self.store.delete([job.id])
        return await self.store.get(job.id) is None
