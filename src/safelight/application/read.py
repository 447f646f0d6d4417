"""Queries behind the API and the command line."""

import asyncio
import contextlib
from dataclasses import dataclass, replace

from safelight.application.ports import Bell, Clock, JobFilter, JobPage, JobStore, Queue
from safelight.domain.errors import NotFound
from safelight.domain.ids import JobId, blob_name
from safelight.domain.image import Operation, StoredImage
from safelight.domain.job import Job, JobHistory, JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Reading changes nothing and never calls a provider."""

    store: JobStore
    queue: Queue
    bell: Bell
    clock: Clock

    async def job(self, job_id: JobId, operation: Operation | None = None) -> Job:
        """Read a job that has not expired. Raises `NotFound` (contract P4 and P8, in that order), `StorageError`."""
        job = await self.store.get(job_id)
        if job is None or job.expired(self.clock.now()):
            raise NotFound("job not found or expired")
        if operation is not None and job.operation is not operation:
            raise NotFound("operation type mismatch")
        return job

    async def history(self, job_id: JobId) -> JobHistory:
        """Read a job with its ledger. Raises `NotFound`, `StorageError`."""
        history = await self.store.history(job_id)
        if history is None or history.job.expired(self.clock.now()):
            raise NotFound("job not found or expired")
        return history

    async def image(self, job_id: JobId, name: str) -> StoredImage:
        """Find a picture that a job has brought, or a preview of one, by its name within the job. Raises `NotFound`."""
        job = await self.job(job_id)
        outputs = job.result.production.outputs if job.result is not None else ()
        found = next((output.image for output in outputs if blob_name(output.image.blob) == name), None)
        if found is None and job.request.partial_images:
            previews = await self.store.previews([job_id])
            found = next((preview for preview in previews if blob_name(preview.blob) == name), None)
        if found is None:
            raise NotFound("file not found or expired")
        return found

    async def queue_position(self, job: Job) -> int | None:
        """How many jobs of its lane start before it; `None` when it does not wait, or waits too far back to see."""
        return await self.queue.position(job) if job.status is JobStatus.PENDING else None

    async def ended(self, job_id: JobId, *, timeout_s: float | None = None) -> Job:
        """Wait until a job has ended, at most `timeout_s` or until the gateway stops, and read it as it then is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._ended(job_id)
        return await self.job(job_id)

    async def _ended(self, job_id: JobId) -> Job:
        while True:
            ring = self.bell.listen(job_id)
            try:
                job = await self.job(job_id)
                if job.status.terminal or self.bell.silent:
                    return job
                await ring
            finally:
                ring.cancel()

    async def jobs(self, wanted: JobFilter) -> JobPage:
        """One page of jobs, newest first; what has expired and is not yet swept away is left out."""
        page = await self.store.list_jobs(wanted)
        now = self.clock.now()
        return replace(page, jobs=tuple(job for job in page.jobs if not job.expired(now)))
