"""The job store in SQL that every engine accepts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from safelight.adapters.sql import events, holds, outbox, rows, search, usage
from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.application.ports import EVERY_JOB, OUTBOX, JobFilter, JobPage, LogEntry, Mark, Place
from safelight.domain.errors import Superseded
from safelight.domain.event import JobEvent, LoggedEvent, moved_on, progressed
from safelight.domain.fairness import NOBODYS, STRIDE, Turn, turn_of
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import StoredImage
from safelight.domain.job import Attempt, Ending, Job, JobHistory, JobStatus, Priority
from safelight.domain.ledger import Terms
from safelight.domain.webhook import WebhookEvent, events_of

INSERT_JOB = (
    "INSERT INTO jobs (id, request_id, request_type, status, lane, model, request, created_at, ttl_s, due_at, webhook,"
    " metadata, idempotency_key, fingerprint, batch_id, batch_line, owner, team, provider_keys, trace_parent, priority,"
    " stride, estimates, max_running) VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
    " $18, $19, $20, $21, $22, $23)"
    " ON CONFLICT (idempotency_key, coalesce(owner, '')) WHERE idempotency_key IS NOT NULL DO NOTHING"
)
FREE_KEY = (
    "UPDATE jobs SET idempotency_key = NULL, fingerprint = NULL WHERE idempotency_key IS NOT NULL"
    " AND idempotency_key = $1 AND coalesce(owner, '') = $2 AND expires_at <= $3"
)
GET_KEYED_JOB = (
    f"SELECT {rows.JOB_COLUMNS} FROM jobs WHERE idempotency_key IS NOT NULL AND idempotency_key = $1"  # noqa: S608 - columns are constants
    " AND coalesce(owner, '') = $2 AND (expires_at IS NULL OR expires_at > $3)"
)
GET_JOB = f"SELECT {rows.JOB_COLUMNS} FROM jobs WHERE id = $1"  # noqa: S608 - columns are constants
GET_ATTEMPTS = f"SELECT {rows.ATTEMPT_COLUMNS} FROM attempts WHERE job_id = $1 ORDER BY number"  # noqa: S608 - as above
OPEN_JOBS = (
    "SELECT created_at, seq, id, lane, due_at, owner, priority, stride, max_running FROM jobs WHERE due_at IS NOT NULL AND (created_at, seq) > ($1, $2)"
    " ORDER BY created_at, seq LIMIT $3"
)
COUNT_WAITING = (
    "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE due_at IS NOT NULL AND status = 'pending' LIMIT $1) AS waiting"
)
START_JOB = (
    "UPDATE jobs SET status = 'processing', started_at = coalesce(started_at, $2), attempts = $3, lane = $4,"
    " progress = NULL"
    " WHERE id = $1 AND due_at IS NOT NULL AND cancelled_at IS NULL"
)
STARTED = "webhook, earlier_attempts"
INSERT_ATTEMPT = (
    "INSERT INTO attempts (job_id, number, route, provider, model, key_name, n, state, started_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, 'started', $8) ON CONFLICT DO NOTHING"
)
ACCEPT_ATTEMPT = (
    "UPDATE attempts SET state = 'accepted', handle = $3 WHERE job_id = $1 AND number = $2 AND state = 'started'"
)
END_ATTEMPT = (
    "UPDATE attempts SET state = $3, ended_at = $4, error_class = $5, error = $6, retry_at = $7, charged = $8,"
    " production = $9, images = $10, cost_micros = $11 WHERE job_id = $1 AND number = $2 AND state IN ('started', 'accepted')"
)
POSTPONE = "UPDATE jobs SET lane = $2, due_at = $3 WHERE id = $1 AND due_at IS NOT NULL"
SET_PROGRESS = "UPDATE jobs SET progress = $2 WHERE id = $1 AND due_at IS NOT NULL AND attempts = $3"
FINISH_JOB = (
    "UPDATE jobs SET status = $2, due_at = NULL, completed_at = $3, expires_at = $3 + ttl_s * 1000000, result = $4,"
    " error = $5, error_code = $6, charged = $7, cost_micros = $8, cancelled_at = coalesce(cancelled_at, $10)"
    " WHERE id = $1 AND due_at IS NOT NULL AND attempts = $9 AND (cancelled_at IS NULL OR cancelled_at = $10)"
)
FINISHED = "webhook, estimates"
CANCEL_JOB = (
    "UPDATE jobs SET cancelled_at = $2, due_at = $2"
    " WHERE id = $1 AND due_at IS NOT NULL AND cancelled_at IS NULL AND attempts = $3"
)
STOP_ASKED = "UPDATE attempts SET stop_asked_at = $3 WHERE job_id = $1 AND number = $2 AND state = 'accepted'"
RETRY_JOB = (
    "UPDATE jobs SET status = 'pending', lane = $2, due_at = $3, retried_at = $3, started_at = NULL, progress = NULL,"
    " completed_at = NULL, expires_at = NULL, error = NULL, error_code = NULL, cancelled_at = NULL,"
    " earlier_attempts = attempts, estimates = $5 WHERE id = $1 AND status = 'failed' AND attempts = $4 AND expires_at > $3"
)
OVERDUE = (
    "SELECT id FROM jobs WHERE created_at < $1 AND due_at IS NOT NULL AND retried_at IS NULL"
    " ORDER BY created_at, seq LIMIT $2"
)
OVERDUE_RETRIED = (
    "SELECT id FROM jobs WHERE retried_at < $1 AND retried_at IS NOT NULL AND due_at IS NOT NULL"
    " ORDER BY retried_at LIMIT $2"
)
EXPIRED = f"SELECT {rows.JOB_COLUMNS} FROM jobs WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2"  # noqa: S608 - as above
DELETE_EVENTS = "DELETE FROM events WHERE job_id = (SELECT id FROM jobs WHERE id = $1 AND due_at IS NULL)"
DELETE_ATTEMPTS = "DELETE FROM attempts WHERE job_id = (SELECT id FROM jobs WHERE id = $1 AND due_at IS NULL)"
DELETE_JOB = "DELETE FROM jobs WHERE id = $1 AND due_at IS NULL"
EXISTS = "SELECT 1 FROM jobs WHERE id = $1 UNION ALL SELECT 1 FROM batches WHERE id = $1"
TOUCH_JOB = "UPDATE jobs SET attempts = attempts WHERE id = $1"
"""Holds the job's row until the commit, so that its events are in order."""
GET_FACT = "SELECT value FROM installation WHERE name = $1"
PUT_FACT = "INSERT INTO installation (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"

_STARTED = (WebhookEvent.STARTED,)
_REQUEST = 5
"""Its place among the columns, read and written alike."""

Enqueue = Callable[[Transaction, JobId, ProviderName, datetime, Turn | None], Awaitable[None]]
"""Makes a queue entry, or brings forward the one that there is, in the transaction that writes the job: for queues that are tables of the same database."""


class Ring(Protocol):
    """Wakes those who listen for these topics (see `Bell`), once a commit is durable."""

    def __call__(self, *topics: str) -> None:
        """See `Bell.ring`."""
        ...


class JobMemory(Protocol):
    """Jobs kept in memory beside the table. Every commit is told to it."""

    def get(self, job_id: JobId) -> Job | None:
        """The job, if it is here."""
        ...

    def foresee(self, job: Job, *, request_bytes: int) -> bool:
        """Keep a job that is still to be written, until `keep` or `drop` is told of it; whether it is kept."""
        ...

    def keep(self, job: Job, *, request_bytes: int) -> None:
        """Take in a job that is written."""
        ...

    def start(self, job_id: JobId, attempt: Attempt) -> None:
        """Apply the start of an attempt."""
        ...

    def progress(self, job_id: JobId, share: float) -> None:
        """Apply how far it is."""
        ...

    def postpone(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """Apply where and when the job goes on."""
        ...

    def finish(self, job_id: JobId, ending: Ending) -> None:
        """Apply the end."""
        ...

    def cancel(self, job_id: JobId, at: datetime) -> None:
        """Apply that the caller wants its end."""
        ...

    def retry(self, job: Job) -> None:
        """Apply its new beginning."""
        ...

    def drop(self, job_ids: Sequence[JobId]) -> None:
        """Forget jobs."""
        ...


class NewJob(Struct, frozen=True):
    """A job with the rows that it becomes, encoded before its transaction begins."""

    job: Job
    values: Row
    event: Row
    terms: Terms | None
    """What it must find free."""

    @classmethod
    def of(cls, job: Job, terms: Terms | None = None) -> "NewJob":
        """Encode a job."""
        event = events.event_values(moved_on(job.id, JobStatus.PENDING, job.created_at))
        return cls(job, rows.job_values(job), event, terms)

    @property
    def request_bytes(self) -> int:
        """How large the request is in its row."""
        return len(self.values[_REQUEST])


class SqlJobStore:
    """See `JobStore`. Whoever makes it closes the database."""

    def __init__(
        self,
        database: Database,
        *,
        memory: JobMemory,
        ring: Ring = lambda *_: None,
        enqueue: Enqueue | None = None,
    ) -> None:
        """`memory` may keep jobs only where no other process writes the table.

        `ring` is for databases that do not tell of their commits by themselves.
        """
        self._database = database
        self._memory = memory
        self._ring = ring
        self._enqueue = enqueue

    async def submit(
        self, job: Job, terms: Terms | None = None, *, wake: Callable[[], None] = lambda: None
    ) -> Job | None:
        """See `JobStore.submit`."""
        if terms is not None:
            await self._database.look_up(lambda transaction: holds.look(transaction, job.owner, terms, job.created_at))
        new = NewJob.of(job, terms)
        early = self._foreseen(new)
        earlier: Job | None = None

        async def write(transaction: Transaction) -> None:
            nonlocal earlier
            earlier = await self.insert(transaction, new)

        def then() -> None:
            if earlier is None:
                self.inserted(new)
                if not early:
                    wake()

        apart = job.id if terms is None else None  # terms are held against the jobs of others
        if early:
            wake()
        try:
            await self._database.write(write, then=then, job_id=apart)
        except Superseded:  # now it can be seen
            await self._database.write(write, then=then, job_id=apart)
        except Exception:
            if early:
                self._memory.drop([job.id])
            raise
        return earlier

    def _foreseen(self, new: NewJob) -> bool:
        """Keep a job that nothing can refuse before it is written, so that it can be begun; whether it is kept.

        What is written of it next comes after it, in the same commit if it is asked for soon enough: two commits a job, not
        three. Nobody else knows its id until it is durable.
        """
        if new.terms is not None or new.job.idempotency is not None:
            return False
        return self._memory.foresee(new.job, request_bytes=new.request_bytes)

    async def insert(self, transaction: Transaction, new: "NewJob") -> Job | None:
        """Write a new job within a transaction; `inserted` is to be called once that is durable.

        Where its owner has used its idempotency key before, nothing is written, and this is the job of then. Raises the
        `PolicyRefusal` that says why its terms cannot be met, and `Superseded` where another process was quicker under the
        key: then the transaction is to be rolled back.
        """
        job = new.job
        key = _key_values(job.owner, job.idempotency.key, job.created_at) if job.idempotency else None
        if key is not None:
            await transaction.execute(FREE_KEY, *key)
            if (row := await transaction.fetch_one(GET_KEYED_JOB, *key)) is not None:
                return rows.job_of(row)
        if new.terms is not None:
            await holds.take(transaction, job.id, job.owner, new.terms, job.created_at)
        if not await self._insert(transaction, new):
            raise Superseded("another process has used the idempotency key a moment ago")
        await search.label(transaction, job)
        if self._enqueue:
            await self._enqueue(transaction, job.id, job.lane, job.due_at or job.created_at, turn_of(job))
        return None

    def inserted(self, new: "NewJob") -> None:
        """Tell of a job that was written."""
        self._memory.keep(new.job, request_bytes=new.request_bytes)
        self._ring(new.job.id, EVERY_JOB)

    async def submitted(self, owner: str | None, idempotency_key: str, *, now: datetime) -> Job | None:
        """See `JobStore.submitted`."""
        values = _key_values(owner, idempotency_key, now)
        row = await self._database.look_up(lambda transaction: transaction.fetch_one(GET_KEYED_JOB, *values))
        return rows.job_of(row) if row else None

    async def get(self, job_id: JobId) -> Job | None:
        """See `JobStore.get`."""
        return self._memory.get(job_id) or await self._read(job_id)

    async def history(self, job_id: JobId) -> JobHistory | None:
        """See `JobStore.history`."""
        job = await self.get(job_id)
        if job is None:
            return None
        return JobHistory(job=job, attempts=await self._attempts(job_id) if job.attempts else ())

    async def _read(self, job_id: JobId) -> Job | None:
        row = await self._database.look_up(lambda transaction: transaction.fetch_one(GET_JOB, job_id))
        if row is None:
            return None
        job = rows.job_of(row)
        self._memory.keep(job, request_bytes=len(row[_REQUEST]))
        return job

    async def _attempts(self, job_id: JobId) -> tuple[Attempt, ...]:
        return rows.attempts_of(
            await self._database.look_up(lambda transaction: transaction.fetch(GET_ATTEMPTS, job_id))
        )

    async def due(self, *, limit: int, after: Place) -> Sequence[tuple[Place, JobId, ProviderName, datetime, Turn]]:
        """See `JobStore.due`."""
        found = await self._fetch(OPEN_JOBS, *after, limit)
        return [
            ((created, seq), JobId(job_id), ProviderName(lane), rows.from_micros(due), _turn(owner, *turn))
            for created, seq, job_id, lane, due, owner, *turn in found
        ]

    async def waiting(self, most: int) -> int:
        """How many jobs have not begun, counted up to `most`."""
        [(count,)] = await self._fetch(COUNT_WAITING, most)
        return int(count)

    async def start_attempt(self, job_id: JobId, attempt: Attempt, *, limited: Job | None = None) -> None:
        """See `JobStore.start_attempt`."""
        started = (job_id, rows.to_micros(attempt.started_at), attempt.number, attempt.target.provider)
        values = rows.new_attempt_values(job_id, attempt)
        event = events.event_values(moved_on(job_id, JobStatus.PROCESSING, attempt.started_at, attempt=attempt))
        topics, known = {job_id, EVERY_JOB}, self._memory.get(job_id)

        async def write(transaction: Transaction) -> None:
            if limited is not None:
                await holds.refuse_to_run(transaction, limited)
            webhook, earlier_attempts = _expect(await self._start(transaction, started, values, event, known), job_id)
            first = attempt.number == earlier_attempts + 1
            if webhook is not None and first and await outbox.owe(transaction, job_id, _STARTED, attempt.started_at):
                topics.add(OUTBOX)

        def then() -> None:
            self._memory.start(job_id, attempt)
            self._ring(*topics)

        # How many of an owner's jobs run is counted over the jobs of others.
        await self._database.write(write, then=then, job_id=job_id if limited is None else None)

    async def accept_attempt(self, job_id: JobId, attempt: Attempt, *, due_at: datetime) -> None:
        """See `JobStore.accept_attempt`."""
        values = (job_id, attempt.number, attempt.handle)
        lane = attempt.target.provider

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(ACCEPT_ATTEMPT, *values), job_id)
            _expect_one(await transaction.change_one(POSTPONE, job_id, lane, rows.to_micros(due_at)), job_id)

        await self._database.write(
            write, job_id=job_id, then=lambda: self._memory.postpone(job_id, lane=lane, due_at=due_at)
        )

    async def end_attempt(self, job_id: JobId, attempt: Attempt, *, lane: ProviderName, due_at: datetime) -> None:
        """See `JobStore.end_attempt`."""
        values = rows.ended_attempt_values(job_id, attempt)
        at = attempt.ended_at or attempt.started_at
        event = events.event_values(moved_on(job_id, JobStatus.PROCESSING, at, attempt=attempt))

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(END_ATTEMPT, *values), job_id)
            _expect_one(await transaction.change_one(POSTPONE, job_id, lane, rows.to_micros(due_at)), job_id)
            await events.append(transaction, event)

        def then() -> None:
            self._memory.postpone(job_id, lane=lane, due_at=due_at)
            self._ring(job_id, EVERY_JOB)

        await self._database.write(write, job_id=job_id, then=then)

    async def postpone(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """See `JobStore.postpone`."""

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(POSTPONE, job_id, lane, rows.to_micros(due_at)), job_id)

        await self._database.write(
            write, job_id=job_id, then=lambda: self._memory.postpone(job_id, lane=lane, due_at=due_at)
        )

    async def bring_forward(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """See `JobStore.bring_forward`."""

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(POSTPONE, job_id, lane, rows.to_micros(due_at)), job_id)
            if self._enqueue:
                await self._enqueue(transaction, job_id, lane, due_at, None)

        await self._database.write(
            write, job_id=job_id, then=lambda: self._memory.postpone(job_id, lane=lane, due_at=due_at)
        )

    async def finish(self, job_id: JobId, ending: Ending, *, tries: int, attempt: Attempt | None = None) -> None:
        """See `JobStore.finish`."""
        values = rows.ending_values(job_id, ending, tries)
        ended = rows.ended_attempt_values(job_id, attempt) if attempt else None
        cancelled = ending.cancelled_at is not None
        moved = moved_on(job_id, ending.status, ending.completed_at, attempt=attempt, cancelled=cancelled)
        event = events.event_values(moved)
        topics, known = {job_id, EVERY_JOB}, self._memory.get(job_id)

        async def write(transaction: Transaction) -> None:
            webhook, estimates = _expect(await self._finish(transaction, values, ended, event, known), job_id)
            if estimates is not None:
                await holds.close(transaction, job_id, estimates, ending.completed_at)
            if webhook is not None and await outbox.owe(transaction, job_id, events_of(ending), ending.completed_at):
                topics.add(OUTBOX)

        def then() -> None:
            self._memory.finish(job_id, ending)
            self._ring(*topics)

        await self._database.write(write, job_id=job_id, then=then)

    async def progress(self, job_id: JobId, share: float, *, attempt: int, at: datetime) -> None:
        """See `JobStore.progress`."""
        event = events.event_values(progressed(job_id, share, at))

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(SET_PROGRESS, job_id, share, attempt), job_id)
            await events.append(transaction, event)

        def then() -> None:
            self._memory.progress(job_id, share)
            self._ring(job_id, EVERY_JOB)

        await self._database.write(write, job_id=job_id, then=then)

    async def cancel(self, job_id: JobId, at: datetime, *, lane: ProviderName, tries: int) -> None:
        """See `JobStore.cancel`."""
        values = (job_id, rows.to_micros(at), tries)
        event = events.event_values(moved_on(job_id, JobStatus.PROCESSING, at, cancelled=True))

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(CANCEL_JOB, *values), job_id)
            await events.append(transaction, event)
            if self._enqueue:
                await self._enqueue(transaction, job_id, lane, at, None)

        def then() -> None:
            self._memory.cancel(job_id, at)
            self._ring(job_id, EVERY_JOB)

        await self._database.write(write, job_id=job_id, then=then)

    async def stop_asked(self, job_id: JobId, attempt: Attempt) -> None:
        """See `JobStore.stop_asked`."""
        values = (job_id, attempt.number, rows.to_micros(attempt.stop_asked_at or attempt.started_at))

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(STOP_ASKED, *values), job_id)

        await self._database.write(write, job_id=job_id)

    async def retry(self, job: Job, terms: Terms | None = None) -> None:
        """See `JobStore.retry`."""
        at = job.due_at or job.created_at
        values = (job.id, job.lane, rows.to_micros(at), job.attempts, rows.estimates_column(job))
        event = events.event_values(moved_on(job.id, job.status, at))

        async def write(transaction: Transaction) -> None:
            _expect_one(await transaction.change_one(RETRY_JOB, *values), job.id)
            if terms is not None:
                await holds.take(transaction, job.id, job.owner, terms, at)
            await events.append(transaction, event)
            if self._enqueue:
                await self._enqueue(transaction, job.id, job.lane, at, turn_of(job))

        def then() -> None:
            self._memory.retry(job)
            self._ring(job.id, EVERY_JOB)

        await self._database.write(write, then=then)

    async def log_event(self, event: JobEvent) -> None:
        """See `JobStore.log_event`."""
        values = events.event_values(event)

        async def write(transaction: Transaction) -> None:
            await transaction.execute(TOUCH_JOB, event.job_id)
            await events.append(transaction, values)

        await self._database.write(write, job_id=event.job_id, then=lambda: self._ring(event.job_id, EVERY_JOB))

    async def events(self, job_id: JobId, *, after: int, limit: int) -> Sequence[LoggedEvent]:
        """See `JobStore.events`."""
        return await self._database.look_up(lambda transaction: events.after(transaction, job_id, after, limit))

    async def log(self, *, after: Mark, limit: int) -> Sequence[LogEntry]:
        """See `JobStore.log`."""
        settled = self._database.settled
        return await self._database.read(lambda transaction: events.log(transaction, settled, after, limit))

    async def log_end(self) -> Mark:
        """See `JobStore.log_end`."""
        settled = self._database.settled
        return await self._database.read(lambda transaction: events.log_end(transaction, settled))

    async def previews(self, job_ids: Sequence[JobId]) -> Sequence[StoredImage]:
        """See `JobStore.previews`."""

        async def read(transaction: Transaction) -> list[StoredImage]:
            return [preview for job_id in job_ids for preview in await events.previews(transaction, job_id)]

        return await self._database.look_up(read)

    async def overdue(self, *, created_before: datetime, limit: int) -> Sequence[JobId]:
        """See `JobStore.overdue`."""
        before = rows.to_micros(created_before)
        found = [*await self._fetch(OVERDUE, before, limit), *await self._fetch(OVERDUE_RETRIED, before, limit)]
        return [JobId(row[0]) for row in found[:limit]]

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Job]:
        """See `JobStore.expired`."""
        return [rows.job_of(row) for row in await self._fetch(EXPIRED, rows.to_micros(now), limit)]

    async def delete(self, job_ids: Sequence[JobId]) -> None:
        """See `JobStore.delete`."""
        values = [(job_id,) for job_id in job_ids]

        async def write(transaction: Transaction) -> None:
            await transaction.execute_many(usage.KEEP, values)
            await transaction.execute_many(DELETE_ATTEMPTS, values)
            await transaction.execute_many(DELETE_EVENTS, values)
            await transaction.execute_many(DELETE_JOB, values)

        def then() -> None:
            self._memory.drop(job_ids)
            self._ring(*job_ids)

        await self._database.write(write, then=then)

    async def existing(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """See `JobStore.existing`."""

        async def read(transaction: Transaction) -> set[JobId]:
            return {job_id for job_id in job_ids if await transaction.fetch_one(EXISTS, job_id) is not None}

        return await self._database.read(read)

    async def list_jobs(self, wanted: JobFilter) -> JobPage:
        """See `JobStore.list_jobs`."""
        return await self._database.read(lambda transaction: search.page(transaction, wanted))

    async def count_jobs(self, wanted: JobFilter) -> Mapping[JobStatus, int]:
        """See `JobStore.count_jobs`."""
        return await self._database.read(lambda transaction: search.counts(transaction, wanted))

    async def fact(self, name: str, default: bytes) -> bytes:
        """Read a fact about this installation, or make it `default` once and for all."""

        async def write(transaction: Transaction) -> bytes:
            await transaction.execute(PUT_FACT, name, default)
            row = await transaction.fetch_one(GET_FACT, name)
            assert row is not None  # noqa: S101 - it has just been put there
            value: bytes = row[0]
            return value

        return await self._database.write(write)

    async def check(self) -> None:
        """Raise `StorageError` when the database cannot be read or written."""
        await self._database.write(lambda transaction: transaction.fetch_one("SELECT 1"))
        await self._fetch("SELECT 1 FROM jobs LIMIT 1")

    async def close(self) -> None:
        """Finish what was asked for and let go of the database."""
        await self._database.close()

    # What is one statement where an engine has such

    async def _insert(self, transaction: Transaction, new: NewJob) -> bool:
        """Write a new job and its event; false where its idempotency key is taken."""
        if not await transaction.change_one(INSERT_JOB, *new.values):
            return False
        await events.append(transaction, new.event)
        return True

    async def _start(
        self, transaction: Transaction, job: Row, attempt: Row, event: Row, known: Job | None
    ) -> Row | None:
        """Write the start of an attempt; `STARTED`, or `None` where the job has moved on: the caller rolls back.

        `known` is the job, where memory has it: of an open job these facts do not change.
        """
        if not await transaction.change_one(START_JOB, *job) or not await transaction.change_one(
            INSERT_ATTEMPT, *attempt
        ):
            return None
        await events.append(transaction, event)
        if known is not None:
            return known.webhook, known.earlier_attempts
        return await transaction.fetch_one(f"SELECT {STARTED} FROM jobs WHERE id = $1", job[0])  # noqa: S608 - constants

    async def _finish(
        self, transaction: Transaction, job: Row, attempt: Row | None, event: Row, known: Job | None
    ) -> Row | None:
        """Write the end of a job and of its attempt; `FINISHED`, or `None` where it has moved on: see `_start`."""
        if attempt and not await transaction.change_one(END_ATTEMPT, *attempt):
            return None
        if not await transaction.change_one(FINISH_JOB, *job):
            return None
        await events.append(transaction, event)
        if known is not None:
            return known.webhook, rows.estimates_column(known)
        return await transaction.fetch_one(f"SELECT {FINISHED} FROM jobs WHERE id = $1", job[0])  # noqa: S608 - constants

    async def _fetch(self, statement: str, *values: object) -> Sequence[Row]:
        return await self._database.read(lambda transaction: transaction.fetch(statement, *values))


def _turn(owner: str | None, priority: str, stride: int, most_running: int | None) -> Turn:
    return NOBODYS if owner is None and not stride else Turn(owner, Priority(priority), stride or STRIDE, most_running)


def _expect(row: Row | None, job_id: JobId) -> Row:
    if row is None:
        raise Superseded(f"job {job_id} has moved on")
    return row


def _key_values(owner: str | None, idempotency_key: str, now: datetime) -> Row:
    """Parameters of `FREE_KEY` and `GET_KEYED_JOB`."""
    return (idempotency_key, owner or "", rows.to_micros(now))


def _expect_one(changed: bool, job_id: JobId) -> None:  # noqa: FBT001 - of one meaning
    if not changed:
        raise Superseded(f"job {job_id} has moved on")
