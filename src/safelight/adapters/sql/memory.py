"""The memory of a process that shares its tables with others: none, since it does not see what they commit."""

from collections.abc import Sequence
from datetime import datetime

from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Attempt, Ending, Job


class NoMemory:
    """Keeps no job: see `JobMemory`."""

    def get(self, job_id: JobId) -> Job | None:
        """Never knows it."""
        del job_id
        return None

    def foresee(self, job: Job, *, request_bytes: int) -> bool:
        """Foresees nothing."""
        del job, request_bytes
        return False

    def keep(self, job: Job, *, request_bytes: int) -> None:
        """Forget it at once."""

    def start(self, job_id: JobId, attempt: Attempt) -> None:
        """Nothing is here to change."""

    def progress(self, job_id: JobId, share: float) -> None:
        """Nothing is here to change."""

    def postpone(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """Nothing is here to change."""

    def finish(self, job_id: JobId, ending: Ending) -> None:
        """Nothing is here to change."""

    def cancel(self, job_id: JobId, at: datetime) -> None:
        """Nothing is here to change."""

    def retry(self, job: Job) -> None:
        """Nothing is here to change."""

    def drop(self, job_ids: Sequence[JobId]) -> None:
        """Nothing is here to forget."""
