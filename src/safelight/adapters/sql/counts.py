"""Counts over the jobs table, for those who look at the whole."""

from collections.abc import Sequence

from safelight.adapters.sql.database import Database
from safelight.adapters.sql.rows import from_micros
from safelight.application.queue_state import OpenJobs
from safelight.domain.ids import ProviderName
from safelight.domain.job import JobStatus

OPEN_BY_LANE = "SELECT lane, status, count(*), min(created_at) FROM jobs WHERE due_at IS NOT NULL GROUP BY lane, status"


class SqlCounts:
    """See `OpenJobCounts`. Whoever makes it closes the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_jobs(self) -> Sequence[OpenJobs]:
        """See `OpenJobCounts.open_jobs`."""
        found = await self._database.read(lambda transaction: transaction.fetch(OPEN_BY_LANE))
        return [
            OpenJobs(lane=ProviderName(lane), status=JobStatus(status), count=count, oldest=from_micros(oldest))
            for lane, status, count, oldest in found
        ]
