"""The batch store in SQL that every engine accepts."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from safelight.adapters.sql import events, holds, outbox, rows
from safelight.adapters.sql import jobs as sql
from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.adapters.sql.jobs import NewJob, SqlJobStore
from safelight.adapters.sql.rows import from_micros, to_micros
from safelight.domain.batch import KEY_CONFLICT, Batch, BatchCounts, BatchProgress, NewLine
from safelight.domain.errors import IdempotencyConflict, Superseded
from safelight.domain.event import moved_on
from safelight.domain.ids import BatchId, BlobKey, JobId, ProviderName
from safelight.domain.job import Ending, Idempotency, Job, JobError, JobStatus
from safelight.domain.ledger import NO_TERMS, Terms
from safelight.domain.money import Charged
from safelight.domain.webhook import events_of

_COLUMNS = (
    "seq, id, request_id, lines, total, created_at, ttl_s, owner, team, webhook, metadata, idempotency_key,"
    " fingerprint, fed_lines, fed_bytes, retry_before, cancelled_at, completed_at"
)
INSERT_BATCH = (
    "INSERT INTO batches (id, request_id, lines, total, created_at, ttl_s, owner, team, webhook, metadata,"
    " idempotency_key, fingerprint) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
)
GET_BATCH = f"SELECT {_COLUMNS} FROM batches WHERE id = $1"  # noqa: S608 - columns are constants
GET_BATCH_BY_KEY = f"SELECT {_COLUMNS} FROM batches WHERE coalesce(owner, '') = $1 AND idempotency_key = $2"  # noqa: S608 - as above
OPEN_BATCHES = f"SELECT {_COLUMNS} FROM batches WHERE completed_at IS NULL ORDER BY seq LIMIT $1"  # noqa: S608 - as above
LIST_BATCHES = f"SELECT {_COLUMNS} FROM batches WHERE seq < $1 ORDER BY seq DESC LIMIT $2"  # noqa: S608 - as above
EXPIRED_BATCHES = f"SELECT {_COLUMNS} FROM batches WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2"  # noqa: S608 - as above
MOVE_CURSOR = (
    "UPDATE batches SET fed_lines = $3, fed_bytes = $4"
    " WHERE id = $1 AND fed_lines = $2 AND cancelled_at IS NULL AND completed_at IS NULL"
)
CANCEL_BATCH = "UPDATE batches SET cancelled_at = $2, retry_before = NULL WHERE id = $1 AND cancelled_at IS NULL"
RETRY_BATCH = (
    "UPDATE batches SET retry_before = $2, cancelled_at = NULL, completed_at = NULL, expires_at = NULL WHERE id = $1"
)
RETRIED_ALL = "UPDATE batches SET retry_before = NULL WHERE id = $1 AND retry_before = $2"
COMPLETE_BATCH = (
    "UPDATE batches SET completed_at = $2, expires_at = $2 + ttl_s * 1000000"
    " WHERE id = $1 AND completed_at IS NULL AND retry_before IS NULL"
    " AND (cancelled_at IS NOT NULL OR fed_lines = total)"
)
DELETE_SHARED_LINES = "DELETE FROM batch_shared_lines WHERE batch_id = $1"
DELETE_BATCH = "DELETE FROM batches WHERE id = $1"
SHARE_LINE = "INSERT INTO batch_shared_lines (batch_id, line, job_id) VALUES ($1, $2, $3)"
_COUNT = (
    "(SELECT count(*) FROM jobs WHERE batch_id = $1 AND status = '{0}')"
    " + (SELECT count(*) FROM batch_shared_lines AS shared JOIN jobs ON jobs.id = shared.job_id"
    " WHERE shared.batch_id = $1 AND jobs.status = '{0}')"
)
# One statement, so that the counts are of one moment, and of the same as the cursor.
PROGRESS = f"SELECT {_COLUMNS}, {', '.join(map(_COUNT.format, JobStatus))} FROM batches WHERE id = $1"  # noqa: S608 - as above
OPEN_LINES = "SELECT lane, count(*) FROM jobs WHERE due_at IS NOT NULL AND batch_id IS NOT NULL GROUP BY lane"
OPEN_JOBS = "SELECT id FROM jobs WHERE batch_id = $1 AND status IN ('pending', 'processing') LIMIT $2"
FAILED_JOBS = (
    "SELECT id, batch_line, lane FROM jobs WHERE batch_id = $1 AND status = 'failed' AND completed_at <= $2"
    " AND batch_line > $3"
    " UNION ALL"
    " SELECT jobs.id, shared.line, jobs.lane FROM batch_shared_lines AS shared JOIN jobs ON jobs.id = shared.job_id"
    " WHERE shared.batch_id = $1 AND jobs.status = 'failed' AND jobs.completed_at <= $2 AND shared.line > $3"
    " ORDER BY 2 LIMIT $4"
)
LINES = (
    f"SELECT {rows.JOB_COLUMNS} FROM jobs"  # noqa: S608 - columns are constants
    " WHERE batch_id = $1 AND batch_line > $2 AND batch_line <= $3 ORDER BY batch_line"
)
SHARED_LINES = "SELECT line, job_id FROM batch_shared_lines WHERE batch_id = $1 AND line > $2 AND line <= $3"

_NEWEST = 2**62
_COUNTS = len(_COLUMNS.split(","))
"""Where the counts begin, behind the columns."""
_NO_METADATA: Mapping[str, str] = {}
_encode = msgspec.json.Encoder().encode
_metadata = msgspec.json.Decoder(dict[str, str])


class SqlBatchStore:
    """See `BatchStore`. It shares the database of the job store, which closes it."""

    def __init__(self, database: Database, jobs: SqlJobStore) -> None:
        """`jobs` writes the jobs that lines become."""
        self._database = database
        self._jobs = jobs

    async def submit(self, batch: Batch, terms: Terms = NO_TERMS) -> Batch:
        """See `BatchStore.submit`."""
        values = _values(batch)
        said = batch.idempotency

        async def write(transaction: Transaction) -> Batch:
            if said is not None:
                row = await transaction.fetch_one(GET_BATCH_BY_KEY, batch.owner or "", said.key)
                if row is not None:
                    return _earlier(_batch_of(row), said)
            await holds.look(transaction, batch.owner, terms, batch.created_at)
            await transaction.execute(INSERT_BATCH, *values)
            return batch

        return await self._database.write(write)

    async def get(self, batch_id: BatchId) -> Batch | None:
        """See `BatchStore.get`."""
        row = await self._database.look_up(lambda transaction: transaction.fetch_one(GET_BATCH, batch_id))
        return None if row is None else _batch_of(row)

    async def progress(self, batch_id: BatchId) -> BatchProgress | None:
        """See `BatchStore.progress`."""
        row = await self._database.read(lambda transaction: transaction.fetch_one(PROGRESS, batch_id))
        if row is None:
            return None
        counts = dict(zip((status.value for status in JobStatus), tuple(row)[_COUNTS:], strict=True))
        return BatchProgress(batch=_batch_of(row), jobs=BatchCounts(**counts))

    async def open_batches(self, *, limit: int) -> Sequence[Batch]:
        """See `BatchStore.open_batches`."""
        return [_batch_of(row) for row in await self._fetch(OPEN_BATCHES, limit)]

    async def list_batches(self, *, before: int | None, limit: int) -> Sequence[tuple[int, Batch]]:
        """See `BatchStore.list_batches`."""
        found = await self._fetch(LIST_BATCHES, _NEWEST if before is None else before, limit)
        return [(row[0], _batch_of(row)) for row in found]

    async def open_lines(self) -> Mapping[ProviderName, int]:
        """See `BatchStore.open_lines`."""
        return {ProviderName(row[0]): row[1] for row in await self._fetch(OPEN_LINES)}

    async def feed(self, batch: Batch, lines: Sequence[NewLine]) -> Sequence[Job]:
        """See `BatchStore.feed`."""
        new = [(NewJob.of(line.job, line.terms), line.error) for line in lines]
        cursor = (batch.id, batch.fed_lines, batch.fed_lines + len(lines), lines[-1].end)

        async def write(transaction: Transaction) -> Sequence[NewJob]:
            if await transaction.execute(MOVE_CURSOR, *cursor) != 1:
                raise Superseded(f"batch {batch.id} has moved on")
            return [job for job, error in new if await self._feed_line(transaction, job, error)]

        fed = await self._database.write(write)
        for line in fed:
            self._jobs.inserted(line)
        return [line.job for line in fed]

    async def _feed_line(self, transaction: Transaction, new: NewJob, error: JobError | None) -> bool:
        """Make the job of a line; whether it is one that waits to run."""
        job, said = new.job, new.job.idempotency
        assert job.batch is not None  # noqa: S101 - lines of a batch alone come here
        if error is not None:
            earlier = await self._refuse_line(transaction, job, error)
        else:
            earlier = await self._jobs.insert(transaction, new)
        if earlier is None:
            return error is None
        if earlier.idempotency is not None and said is not None and earlier.idempotency.fingerprint == said.fingerprint:
            await transaction.execute(SHARE_LINE, job.batch.batch_id, job.batch.number, earlier.id)
        else:
            await self._refuse_line(transaction, replace(job, idempotency=None), KEY_CONFLICT)
        return False

    async def _refuse_line(self, transaction: Transaction, job: Job, error: JobError) -> Job | None:
        """Write a job that has failed from the beginning; or, under a key that was used before, give the job of then."""
        ending = Ending(completed_at=job.created_at, charged=Charged.NO, cost_micros=None, error=error)
        if (earlier := await self._jobs.insert(transaction, NewJob.of(job))) is not None:
            return earlier
        await transaction.fetch_one(sql.FINISH_JOB, *rows.ending_values(job.id, ending, 0))
        await outbox.owe(transaction, job.id, events_of(ending), ending.completed_at)
        await events.append(transaction, events.event_values(moved_on(job.id, ending.status, ending.completed_at)))
        return None

    async def results(self, batch_id: BatchId, *, after: int, up_to: int) -> Mapping[int, Job]:
        """See `BatchStore.results`."""

        async def read(transaction: Transaction) -> Mapping[int, Job]:
            jobs = [rows.job_of(row) for row in await transaction.fetch(LINES, batch_id, after, up_to)]
            found = {job.batch.number: job for job in jobs if job.batch is not None}
            for line, job_id in await transaction.fetch(SHARED_LINES, batch_id, after, up_to):
                if (row := await transaction.fetch_one(sql.GET_JOB, job_id)) is not None:
                    found[line] = rows.job_of(row)
            return found

        return await self._database.read(read)

    async def cancel(self, batch_id: BatchId, *, at: datetime) -> None:
        """See `BatchStore.cancel`."""
        await self._execute(CANCEL_BATCH, batch_id, to_micros(at))

    async def open_jobs(self, batch_id: BatchId, *, limit: int) -> Sequence[JobId]:
        """See `BatchStore.open_jobs`."""
        return [JobId(row[0]) for row in await self._fetch(OPEN_JOBS, batch_id, limit)]

    async def retry_failed(self, batch_id: BatchId, *, before: datetime) -> None:
        """See `BatchStore.retry_failed`."""
        await self._execute(RETRY_BATCH, batch_id, to_micros(before))

    async def failed_jobs(
        self, batch_id: BatchId, *, before: datetime, after: int, limit: int
    ) -> Sequence[tuple[int, JobId, ProviderName]]:
        """See `BatchStore.failed_jobs`."""
        found = await self._fetch(FAILED_JOBS, batch_id, to_micros(before), after, limit)
        return [(row[1], JobId(row[0]), ProviderName(row[2])) for row in found]

    async def retried_all(self, batch_id: BatchId, *, before: datetime) -> None:
        """See `BatchStore.retried_all`."""
        await self._execute(RETRIED_ALL, batch_id, to_micros(before))

    async def complete(self, batch_id: BatchId, *, at: datetime) -> None:
        """See `BatchStore.complete`."""
        await self._execute(COMPLETE_BATCH, batch_id, to_micros(at))

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Batch]:
        """See `BatchStore.expired`."""
        return [_batch_of(row) for row in await self._fetch(EXPIRED_BATCHES, to_micros(now), limit)]

    async def delete(self, batch_ids: Sequence[BatchId]) -> None:
        """See `BatchStore.delete`."""
        values = [(batch_id,) for batch_id in batch_ids]

        async def write(transaction: Transaction) -> None:
            await transaction.execute_many(DELETE_SHARED_LINES, values)
            await transaction.execute_many(DELETE_BATCH, values)

        await self._database.write(write)

    async def _fetch(self, statement: str, *values: object) -> Sequence[Row]:
        return await self._database.read(lambda transaction: transaction.fetch(statement, *values))

    async def _execute(self, statement: str, *values: object) -> None:
        await self._database.write(lambda transaction: transaction.execute(statement, *values))


def _earlier(batch: Batch, said: Idempotency) -> Batch:
    if batch.idempotency is not None and batch.idempotency.fingerprint != said.fingerprint:
        raise IdempotencyConflict("the idempotency key belongs to another batch", param="Idempotency-Key")
    return batch


def _values(batch: Batch) -> Row:
    """Parameters of `INSERT_BATCH`."""
    return (
        batch.id,
        batch.request_id,
        batch.lines,
        batch.total,
        to_micros(batch.created_at),
        batch.ttl_s,
        batch.owner,
        batch.team,
        batch.webhook,
        _encode(batch.metadata) if batch.metadata else None,
        batch.idempotency.key if batch.idempotency else None,
        batch.idempotency.fingerprint if batch.idempotency else None,
    )


def _batch_of(row: Row) -> Batch:
    """Read a row of `_COLUMNS`."""
    return Batch(
        id=BatchId(row[1]),
        request_id=row[2],
        lines=BlobKey(row[3]),
        total=row[4],
        created_at=from_micros(row[5]),
        ttl_s=row[6],
        owner=row[7],
        team=row[8],
        webhook=row[9],
        metadata=_NO_METADATA if row[10] is None else _metadata.decode(row[10]),
        idempotency=None if row[11] is None else Idempotency(key=row[11], fingerprint=row[12]),
        fed_lines=row[13],
        fed_bytes=row[14],
        retry_before=None if row[15] is None else from_micros(row[15]),
        cancelled_at=None if row[16] is None else from_micros(row[16]),
        completed_at=None if row[17] is None else from_micros(row[17]),
    )
