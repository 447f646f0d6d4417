"""The job store on Postgres: what every engine's does, in fewer round trips."""

import re
from collections.abc import Mapping, Sequence

from safelight.adapters.postgres.lookups import SharedLookUp
from safelight.adapters.sql import rows
from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.adapters.sql.jobs import (
    END_ATTEMPT,
    FINISH_JOB,
    FINISHED,
    INSERT_JOB,
    START_JOB,
    STARTED,
    Enqueue,
    NewJob,
    Ring,
    SqlJobStore,
)
from safelight.adapters.sql.memory import NoMemory
from safelight.domain.ids import JobId
from safelight.domain.job import Job

# Looked up one by one: a table that was not analysed yet would be read as a whole for several at a time.
_GET_JOBS = f"""
SELECT found.* FROM unnest($1::text[]) AS asked (job_id)
CROSS JOIN LATERAL (SELECT {rows.JOB_COLUMNS} FROM jobs WHERE id = job_id LIMIT 1) AS found
"""  # noqa: S608 - columns are constants

# Parts of a statement run in any order, unless one reads what another returns: an event follows the job's row, which
# holds others off, and rows are locked in the order in which every store locks them.
_EVENT = "INSERT INTO events (job_id, owner, name, at, data) SELECT id, owner, {} FROM job"
_INSERT = f"""
WITH job AS ({INSERT_JOB} RETURNING id, owner), event AS ({_EVENT.format("$24, $25, $26")})
SELECT FROM job
"""
_START = f"""
WITH job AS ({START_JOB} RETURNING id, owner, {STARTED}), attempt AS (
    INSERT INTO attempts (job_id, number, route, provider, model, key_name, n, state, started_at)
    SELECT id, $5, $6, $7, $8, $9, $10, 'started', $11 FROM job ON CONFLICT DO NOTHING RETURNING job_id
), event AS ({_EVENT.format("$12, $13, $14")})
SELECT {STARTED} FROM job JOIN attempt ON job_id = id
"""  # noqa: S608 - made of constants
_END_ATTEMPT = re.sub(r"\$(\d+)", lambda found: "$1" if found[1] == "1" else f"${int(found[1]) + 9}", END_ATTEMPT)
_FINISH = f"""
WITH attempt AS ({_END_ATTEMPT} RETURNING job_id),
    job AS ({FINISH_JOB} AND EXISTS (SELECT FROM attempt) RETURNING id, owner, {FINISHED}),
    event AS ({_EVENT.format("$21, $22, $23")})
SELECT {FINISHED} FROM job
"""  # noqa: S608 - made of constants


class PostgresJobStore(SqlJobStore):
    """Keeps no job in memory: other processes write the table, too."""

    def __init__(self, database: Database, *, ring: Ring = lambda *_: None, enqueue: Enqueue | None = None) -> None:
        """See `SqlJobStore`."""
        super().__init__(database, memory=NoMemory(), ring=ring, enqueue=enqueue)
        self._jobs = SharedLookUp(self._find)

    async def get(self, job_id: JobId) -> Job | None:
        """See `JobStore.get`."""
        return await self._jobs.get(job_id)

    async def _find(self, job_ids: Sequence[JobId]) -> Mapping[JobId, Job]:
        found = await self._database.look_up(lambda transaction: transaction.fetch(_GET_JOBS, job_ids))
        return {job.id: job for job in map(rows.job_of, found)}

    async def _insert(self, transaction: Transaction, new: NewJob) -> bool:
        return await transaction.execute(_INSERT, *new.values, *new.event[1:]) > 0

    async def _start(
        self, transaction: Transaction, job: Row, attempt: Row, event: Row, known: Job | None
    ) -> Row | None:
        del known
        return await transaction.fetch_one(_START, *job, *attempt[1:], *event[1:])

    async def _finish(
        self, transaction: Transaction, job: Row, attempt: Row | None, event: Row, known: Job | None
    ) -> Row | None:
        if attempt is None:
            return await super()._finish(transaction, job, attempt, event, known)
        return await transaction.fetch_one(_FINISH, *job, *attempt[1:], *event[1:])
