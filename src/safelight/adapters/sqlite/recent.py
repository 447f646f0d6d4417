"""The jobs that are being worked on and asked for, kept in memory beside the table."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Attempt, Ending, Job, JobStatus

_MOST = 512
"""A few times what is at work and being collected. More memory than the processor's cache holds costs more than the
queries it saves: with 4,000 each job took a tenth more time."""
_LARGEST_REQUEST_BYTES = 8 * 1024
"""Requests can be of many megabytes; all that are kept must fit into memory."""


class RecentJobs:
    """Jobs as they were last committed, the longest unused dropped first.

    True because one process owns the file: every commit goes through the store, which tells it here. A job that is
    not here is read from the table.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._jobs: OrderedDict[JobId, Job] = OrderedDict()
        self._foreseen: dict[JobId, Job] = {}
        """On their way into the table. Until they are there this is the only place to find them."""

    def get(self, job_id: JobId) -> Job | None:
        """The job, if it is here."""
        job = self._jobs.get(job_id)
        if job is None:
            return self._foreseen.get(job_id)
        self._jobs.move_to_end(job_id)
        return job

    def foresee(self, job: Job, *, request_bytes: int) -> bool:
        """Keep a job until it is written, unless it is large or known."""
        if request_bytes > _LARGEST_REQUEST_BYTES or self.get(job.id) is not None:
            return False
        self._foreseen[job.id] = job
        return True

    def keep(self, job: Job, *, request_bytes: int) -> None:
        """Take a job in, unless it is large."""
        self._foreseen.pop(job.id, None)
        if request_bytes > _LARGEST_REQUEST_BYTES:
            return
        self._jobs[job.id] = job
        if len(self._jobs) > _MOST:
            self._jobs.popitem(last=False)

    def start(self, job_id: JobId, attempt: Attempt) -> None:
        """Apply the start of an attempt."""
        if (job := self._jobs.get(job_id)) is not None:
            self._jobs[job_id] = replace(
                job,
                status=JobStatus.PROCESSING,
                started_at=job.started_at or attempt.started_at,
                attempts=attempt.number,
                progress=None,
                lane=attempt.target.provider,
            )

    def progress(self, job_id: JobId, share: float) -> None:
        """Apply how far it is."""
        if (job := self._jobs.get(job_id)) is not None:
            self._jobs[job_id] = replace(job, progress=share)

    def postpone(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """Apply where and when the job goes on."""
        if (job := self._jobs.get(job_id)) is not None:
            self._jobs[job_id] = replace(job, lane=lane, due_at=due_at)

    def finish(self, job_id: JobId, ending: Ending) -> None:
        """Apply the end."""
        if (job := self._jobs.get(job_id)) is not None:
            self._jobs[job_id] = job.ended(ending)

    def cancel(self, job_id: JobId, at: datetime) -> None:
        """Apply that the caller wants its end."""
        if (job := self._jobs.get(job_id)) is not None:
            self._jobs[job_id] = replace(job, cancelled_at=at, due_at=at)

    def retry(self, job: Job) -> None:
        """Apply its new beginning."""
        if job.id in self._jobs:
            self._jobs[job.id] = job

    def drop(self, job_ids: Sequence[JobId]) -> None:
        """Forget jobs."""
        for job_id in job_ids:
            self._jobs.pop(job_id, None)
            self._foreseen.pop(job_id, None)
