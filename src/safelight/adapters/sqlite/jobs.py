"""The job store on one SQLite file."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from safelight.adapters import statements as sql
from safelight.adapters.sqlite.connection import Reader, Writer, open_connection, translated
from safelight.adapters.sqlite.migrate import migrate
from safelight.adapters.sqlite.recent import RecentJobs
from safelight.application.ports import JobFilter, JobPage
from safelight.domain.errors import Superseded
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Attempt, Ending, Job, JobHistory

_NEWEST = 2**62
_REQUEST = 5
"""Its place among the columns, read and written alike."""


def _statement(text: str) -> str:
    """SQLite numbers its placeholders with `?`."""
    return text.replace("$", "?")


_INSERT_JOB = _statement(sql.INSERT_JOB)
_GET_JOB = _statement(sql.GET_JOB)
_GET_ATTEMPTS = _statement(sql.GET_ATTEMPTS)
_OPEN_JOBS = _statement(sql.OPEN_JOBS)
_START_JOB = _statement(sql.START_JOB)
_INSERT_ATTEMPT = _statement(sql.INSERT_ATTEMPT)
_ACCEPT_ATTEMPT = _statement(sql.ACCEPT_ATTEMPT)
_END_ATTEMPT = _statement(sql.END_ATTEMPT)
_POSTPONE = _statement(sql.POSTPONE)
_FINISH_JOB = _statement(sql.FINISH_JOB)
_OVERDUE = _statement(sql.OVERDUE)
_EXPIRED = _statement(sql.EXPIRED)
_DELETE_ATTEMPTS = _statement(sql.DELETE_ATTEMPTS)
_DELETE_JOB = _statement(sql.DELETE_JOB)
_JOB_EXISTS = _statement(sql.JOB_EXISTS)
_LIST_JOBS = _statement(sql.LIST_JOBS)
_LIST_JOBS_BY_STATUS = _statement(sql.LIST_JOBS_BY_STATUS)
_GET_FACT = _statement(sql.GET_FACT)
_PUT_FACT = _statement(sql.PUT_FACT)


class SqliteJobStore:
    """A thread that commits in groups; a thread for queries of unknown length; and a connection for single jobs.

    Recent jobs are in memory. Another is read by its id where it is asked for: that takes some ten microseconds, less
    than the hand-over to a thread.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, bring its schema up to date; raises `StorageError` or `ConfigurationError`."""
        connection = open_connection(path, writes=True)
        with closing(connection):
            migrate(connection)
        self._writer = Writer(path)
        self._reader = Reader(path)
        self._lookup = open_connection(path, writes=False, busy_timeout_s=0)  # the event loop must not wait
        self._recent = RecentJobs()

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
        await self._reader.close()
        await self._writer.close()
        self._lookup.close()

    async def submit(self, job: Job) -> None:
        """See `JobStore.submit`."""
        values = sql.job_values(job)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_INSERT_JOB, values)

        await self._writer.run(write, then=lambda: self._recent.keep(job, request_bytes=len(values[_REQUEST])))

    async def get(self, job_id: JobId) -> Job | None:
        """See `JobStore.get`."""
        return self._recent.get(job_id) or self._read(job_id)

    async def history(self, job_id: JobId) -> JobHistory | None:
        """See `JobStore.history`."""
        job = await self.get(job_id)
        if job is None:
            return None
        return JobHistory(job=job, attempts=self._attempts(job_id) if job.attempts else ())

    def _read(self, job_id: JobId) -> Job | None:
        try:
            row = self._lookup.execute(_GET_JOB, (job_id,)).fetchone()
        except sqlite3.Error as error:
            raise translated(error) from error
        if row is None:
            return None
        job = sql.job_of(row)
        self._recent.keep(job, request_bytes=len(row[_REQUEST]))
        return job

    def _attempts(self, job_id: JobId) -> tuple[Attempt, ...]:
        try:
            return sql.attempts_of(self._lookup.execute(_GET_ATTEMPTS, (job_id,)).fetchall())
        except sqlite3.Error as error:
            raise translated(error) from error

    async def due(self, *, limit: int, after: int) -> Sequence[tuple[int, JobId, ProviderName, datetime]]:
        """See `JobStore.due`."""
        rows = await self._reader.run(lambda connection: connection.execute(_OPEN_JOBS, (after, limit)).fetchall())
        return [(row[0], JobId(row[1]), ProviderName(row[2]), sql.from_micros(row[3])) for row in rows]

    async def start_attempt(self, job_id: JobId, attempt: Attempt) -> None:
        """See `JobStore.start_attempt`."""
        started = (job_id, sql.to_micros(attempt.started_at), attempt.number, attempt.target.provider)
        values = sql.new_attempt_values(job_id, attempt)

        def write(connection: sqlite3.Connection) -> None:
            _expect_one(connection.execute(_START_JOB, started), job_id)
            _expect_one(connection.execute(_INSERT_ATTEMPT, values), job_id)

        await self._writer.run(write, then=lambda: self._recent.start(job_id, attempt))

    async def accept_attempt(self, job_id: JobId, attempt: Attempt, *, due_at: datetime) -> None:
        """See `JobStore.accept_attempt`."""
        values = (job_id, attempt.number, attempt.handle)
        postponed = (job_id, attempt.target.provider, sql.to_micros(due_at))

        def write(connection: sqlite3.Connection) -> None:
            _expect_one(connection.execute(_ACCEPT_ATTEMPT, values), job_id)
            _expect_one(connection.execute(_POSTPONE, postponed), job_id)

        await self._writer.run(
            write, then=lambda: self._recent.postpone(job_id, lane=attempt.target.provider, due_at=due_at)
        )

    async def end_attempt(self, job_id: JobId, attempt: Attempt, *, lane: ProviderName, due_at: datetime) -> None:
        """See `JobStore.end_attempt`."""
        values = sql.ended_attempt_values(job_id, attempt)
        postponed = (job_id, lane, sql.to_micros(due_at))

        def write(connection: sqlite3.Connection) -> None:
            _expect_one(connection.execute(_END_ATTEMPT, values), job_id)
            _expect_one(connection.execute(_POSTPONE, postponed), job_id)

        await self._writer.run(write, then=lambda: self._recent.postpone(job_id, lane=lane, due_at=due_at))

    async def postpone(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """See `JobStore.postpone`."""
        values = (job_id, lane, sql.to_micros(due_at))

        def write(connection: sqlite3.Connection) -> None:
            _expect_one(connection.execute(_POSTPONE, values), job_id)

        await self._writer.run(write, then=lambda: self._recent.postpone(job_id, lane=lane, due_at=due_at))

    async def finish(self, job_id: JobId, ending: Ending, *, tries: int, attempt: Attempt | None = None) -> None:
        """See `JobStore.finish`."""
        values = sql.ending_values(job_id, ending, tries)
        ended = sql.ended_attempt_values(job_id, attempt) if attempt else None

        def write(connection: sqlite3.Connection) -> None:
            if ended:
                _expect_one(connection.execute(_END_ATTEMPT, ended), job_id)
            _expect_one(connection.execute(_FINISH_JOB, values), job_id)

        await self._writer.run(write, then=lambda: self._recent.finish(job_id, ending))

    async def overdue(self, *, created_before: datetime, limit: int) -> Sequence[JobId]:
        """See `JobStore.overdue`."""
        parameters = (sql.to_micros(created_before), limit)
        rows = await self._reader.run(lambda connection: connection.execute(_OVERDUE, parameters).fetchall())
        return [JobId(row[0]) for row in rows]

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Job]:
        """See `JobStore.expired`."""
        parameters = (sql.to_micros(now), limit)
        rows = await self._reader.run(lambda connection: connection.execute(_EXPIRED, parameters).fetchall())
        return [sql.job_of(row) for row in rows]

    async def delete(self, job_ids: Sequence[JobId]) -> None:
        """See `JobStore.delete`."""
        values = [(job_id,) for job_id in job_ids]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(_DELETE_ATTEMPTS, values)
            connection.executemany(_DELETE_JOB, values)

        await self._writer.run(write, then=lambda: self._recent.drop(job_ids))

    async def existing(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """See `JobStore.existing`."""
        return await self._reader.run(
            lambda connection: {
                job_id for job_id in job_ids if connection.execute(_JOB_EXISTS, (job_id,)).fetchone() is not None
            }
        )

    async def list_jobs(self, wanted: JobFilter) -> JobPage:
        """See `JobStore.list_jobs`."""
        before = _NEWEST if wanted.before is None else wanted.before
        parameters = (before, wanted.limit + 1, *([wanted.status.value] if wanted.status else []))
        statement = _LIST_JOBS_BY_STATUS if wanted.status else _LIST_JOBS
        rows = await self._reader.run(lambda connection: connection.execute(statement, parameters).fetchall())
        page = rows[: wanted.limit]
        more = len(rows) > wanted.limit
        return JobPage(jobs=tuple(sql.job_of(row) for row in page), next_before=page[-1][0] if more else None)

    async def fact(self, name: str, default: bytes) -> bytes:
        """Read a fact about this installation, or make it `default` once and for all."""

        def write(connection: sqlite3.Connection) -> bytes:
            connection.execute(_PUT_FACT, (name, default))
            value: bytes = connection.execute(_GET_FACT, (name,)).fetchone()[0]
            return value

        return await self._writer.run(write)

    async def check(self) -> None:
        """Raise `StorageError` when the database cannot be read or written."""
        await self._writer.run(lambda connection: connection.execute("SELECT 1").fetchone())
        await self._reader.run(lambda connection: connection.execute("SELECT 1 FROM jobs LIMIT 1").fetchone())


def _expect_one(cursor: sqlite3.Cursor, job_id: JobId) -> None:
    if cursor.rowcount != 1:
        raise Superseded(f"job {job_id} has moved on")
