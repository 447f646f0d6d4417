"""Queries behind the API and the command line."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic

from safelight.application.ports import Bell, Clock, JobFilter, JobPage, JobStore, Queue
from safelight.domain.caller import LINK_HOLDER, Caller
from safelight.domain.errors import NotFound
from safelight.domain.ids import JobId, blob_name
from safelight.domain.image import Operation, StoredImage
from safelight.domain.job import Job, JobHistory, JobStatus

_GONE = "job not found or expired"


_GONE_AFTER_S = 0.01


async def _gone_alike(began: float) -> None:
    """Let what is not found take one time, whether it is not there, expired or somebody else's: nobody can tell which."""
    await asyncio.sleep(began + _GONE_AFTER_S - monotonic())


async def _heard(ring: "asyncio.Future[None]", until: float) -> None:
    """Wait for a ring, or until that moment of the loop's clock. A timer costs a fifth of what `asyncio.timeout` does."""
    if until == math.inf:
        return await ring
    timer = asyncio.get_running_loop().call_at(until, _wake, ring)
    try:
        await ring
    finally:
        timer.cancel()


def _wake(ring: "asyncio.Future[None]") -> None:
    if not ring.done():
        ring.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Reading changes nothing and never calls a provider."""

    store: JobStore
    queue: Queue
    bell: Bell
    clock: Clock

    async def job(self, job_id: JobId, caller: Caller, operation: Operation | None = None) -> Job:
        """Read a job that has not expired. Raises `NotFound`, `StorageError`."""
        began = monotonic()
        try:
            return self._shown(await self.store.get(job_id), caller, operation)
        except NotFound:
            await _gone_alike(began)
            raise

    async def history(self, job_id: JobId, caller: Caller, operation: Operation | None = None) -> JobHistory:
        """Read a job with its ledger. Raises as `job` does."""
        began = monotonic()
        try:
            history = await self.store.history(job_id)
            self._shown(history.job if history else None, caller, operation)
        except NotFound:
            await _gone_alike(began)
            raise
        assert history is not None  # noqa: S101 - what is shown is there
        return history

    def _shown(self, job: Job | None, caller: Caller, operation: Operation | None) -> Job:
        """Refuse in the contract's order (P4, P7, P8). Somebody else's job answers as one that is not there."""
        if job is None or job.expired(self.clock.now()) or not caller.may_see(job):
            raise NotFound(_GONE)
        if operation is not None and job.operation is not operation:
            raise NotFound("operation type mismatch")
        return job

    async def image(self, job_id: JobId, name: str) -> StoredImage:
        """Find an image of a job by its name: one that it has brought, a preview, or one that was sent. Raises `NotFound`."""
        job = await self.job(job_id, LINK_HOLDER)
        outputs = job.result.production.outputs if job.result is not None else ()
        images = [output.image for output in outputs] + [sent.image for sent in job.request.inputs]
        found = next((image for image in images if blob_name(image.blob) == name), None)
        if found is None and job.request.partial_images:
            previews = await self.store.previews([job_id])
            found = next((preview for preview in previews if blob_name(preview.blob) == name), None)
        if found is None:
            raise NotFound("file not found or expired")
        return found

    async def queue_position(self, job: Job) -> int | None:
        """How many jobs of its lane start before it; `None` when it does not wait, or waits too far back to see."""
        return await self.queue.position(job) if job.status is JobStatus.PENDING else None

    async def ended(
        self, job_id: JobId, caller: Caller, operation: Operation | None = None, *, timeout_s: float | None = None
    ) -> Job:
        """Wait until a job has ended, at most `timeout_s` or until the gateway stops, and read it as it then is."""
        loop = asyncio.get_running_loop()
        until = math.inf if timeout_s is None else loop.time() + timeout_s
        while True:
            ring = self.bell.listen(job_id)
            try:
                job = await self.job(job_id, caller, operation)
                if job.status.terminal or self.bell.silent or loop.time() >= until:
                    return job
                await _heard(ring, until)
            finally:
                ring.cancel()

    async def jobs(self, wanted: JobFilter) -> JobPage:
        """One page of jobs, newest first; what has expired and is not yet swept away is left out."""
        return await self.store.list_jobs(replace(wanted, alive_at=self.clock.now()))

    async def counts(self, wanted: JobFilter) -> Mapping[JobStatus, int]:
        """How many jobs there are of each status."""
        return await self.store.count_jobs(replace(wanted, alive_at=self.clock.now()))
