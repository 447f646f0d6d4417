"""Counts over what is still to be done, for those who look at the whole."""

from safelight.adapters.sql.database import Database, Transaction
from safelight.adapters.sql.rows import from_micros
from safelight.application.queue_state import Open, OpenJobs
from safelight.domain.ids import ProviderName
from safelight.domain.job import JobStatus, Priority

_JOBS = (
    "SELECT lane, status, priority, count(*), min(created_at) FROM jobs WHERE due_at IS NOT NULL"
    " GROUP BY lane, status, priority"
)
_WEBHOOKS = "SELECT count(*), min(created_at) FROM webhook_deliveries WHERE due_at IS NOT NULL"
# A job is held for by its key, its team and its customer alike: that is one amount, not three.
_HELD = (
    "SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM (SELECT max(holds.amount) AS amount FROM holds"
    " JOIN meters ON meters.id = holds.meter_id WHERE meters.unit = 'usd' GROUP BY holds.job_id) AS held"
)


class SqlCounts:
    """See `OpenCounts`. Whoever makes it closes the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> Open:
        """See `OpenCounts.open`."""

        async def read(transaction: Transaction) -> Open:
            jobs = await transaction.fetch(_JOBS)
            ((held_micros,),) = await transaction.fetch(_HELD)
            ((webhooks, oldest),) = await transaction.fetch(_WEBHOOKS)
            return Open(
                jobs=[
                    OpenJobs(
                        lane=ProviderName(lane),
                        status=JobStatus(status),
                        priority=Priority(priority),
                        count=count,
                        oldest=from_micros(since),
                    )
                    for lane, status, priority, count, since in jobs
                ],
                held_micros=held_micros,
                webhooks=webhooks,
                oldest_webhook=None if oldest is None else from_micros(oldest),
            )

        return await self._database.read(read)
