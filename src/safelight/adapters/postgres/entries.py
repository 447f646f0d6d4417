"""Queue entries in PgQueuer's table. What PgQueuer has a query for is PgQueuer's; the rest stands here, with its reason.

An entry is a row of a job, known by its `dedupe_key`. While a worker has it, it is `picked`, under that worker's number and
a seat of its lane (`slot`), and its heartbeat is renewed.

**Work that is with a provider** keeps its seat, or the provider would get more of it than allowed, but holds no worker. Such
an entry stays `picked`, by nobody and with a heartbeat of long ago: what PgQueuer takes for left behind by a dead worker,
and hands to whoever asks first once `execute_after` is over, seat and all.

**Waking.** `attempts` counts how often an entry was woken. A worker removes an entry only if that has not changed since it
took it: a wake in between must not be lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from safelight.adapters.sql.database import Transaction
from safelight.domain.ids import JobId, ProviderName

NOBODY = UUID(int=0)
MOST_COUNTED = 1000

# PgQueuer enqueues lists, looks its sequence up in the catalogue and writes to its log, of which we keep nothing: of one
# entry that is most of the work, and a submit makes one.
_PUT = """
INSERT INTO pgqueuer (priority, entrypoint, payload, execute_after, dedupe_key, status)
VALUES ($1, $2, $3, now() + $4, $5, 'queued')
ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL DO NOTHING
"""
_WAKE = """
UPDATE pgqueuer SET attempts = attempts + 1, execute_after = LEAST(execute_after, now() + $2)
WHERE dedupe_key = $1 AND status IN ('queued', 'picked')
"""
# PgQueuer can put an entry back, but not into another lane, nor keep its seat, nor see that it is still ours.
_PUT_BACK = """
UPDATE pgqueuer AS entry SET
    entrypoint = back.lane,
    execute_after = CASE WHEN entry.attempts = back.attempts THEN now() + back.delay ELSE now() END,
    updated = now(),
    heartbeat = 'epoch',
    status = CASE WHEN back.at_work THEN entry.status ELSE 'queued' END,
    queue_manager_id = CASE WHEN back.at_work THEN $6::uuid END,
    slot = CASE WHEN back.at_work THEN entry.slot END
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::interval[], $5::boolean[])
    AS back (id, attempts, lane, delay, at_work)
WHERE entry.id = back.id AND entry.queue_manager_id = $7
"""
# PgQueuer removes entries by their number alone, also those that another worker has taken over meanwhile.
_REMOVE = """
DELETE FROM pgqueuer AS entry USING unnest($1::bigint[], $2::integer[]) AS done (id, attempts)
WHERE entry.id = done.id AND entry.attempts = done.attempts AND entry.queue_manager_id = $3
"""
# Asked before PgQueuer's hand-out, which takes far longer, to plan alone: its table tells of every change, also of the end
# of entries, and mostly nothing waits then.
_ANY_DUE = """
SELECT EXISTS (SELECT FROM pgqueuer WHERE status = 'queued' AND execute_after <= now())
    OR EXISTS (SELECT FROM pgqueuer WHERE status = 'picked' AND heartbeat < now() - $1::interval AND execute_after <= now())
"""
_POSITIONS = """
SELECT own.dedupe_key, (
    SELECT count(*) FROM (
        SELECT FROM pgqueuer AS earlier
        WHERE earlier.entrypoint = own.entrypoint AND earlier.status = 'queued' AND earlier.execute_after <= now()
            AND (earlier.priority, -earlier.id) > (own.priority, -own.id)
        LIMIT $2
    ) AS counted
)
FROM pgqueuer AS own WHERE own.dedupe_key = ANY ($1::text[]) AND own.status = 'queued' AND own.execute_after <= now()
"""
_WITHOUT_ENTRY = """
SELECT id, lane, due_at FROM jobs
WHERE due_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM pgqueuer WHERE dedupe_key = jobs.id AND status IN ('queued', 'picked'))
ORDER BY seq LIMIT $1
"""
_REMOVE_ENDED = """
DELETE FROM pgqueuer
WHERE status = 'queued' AND NOT EXISTS (SELECT FROM jobs WHERE id = dedupe_key AND due_at IS NOT NULL)
"""
_MOVE_STRANDED = "UPDATE pgqueuer SET entrypoint = $1 WHERE status = 'queued' AND entrypoint <> ALL ($2::text[])"
_FORGET_COMMITTERS = "DELETE FROM commits WHERE at < now() - interval '1 day'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry that this worker has."""

    id: int
    attempts: int
    job_id: JobId
    lane: ProviderName


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """Where and when an entry goes on. `at_work`: it keeps its seat meanwhile."""

    entry: Entry
    lane: str
    delay: timedelta
    at_work: bool


async def put(transaction: Transaction, job_id: JobId, *, lane: str, priority: int, delay: timedelta) -> bool:
    """Make an entry that is due after `delay`; false where the job has one."""
    return await transaction.execute(_PUT, priority, lane, job_id.encode(), delay, job_id) > 0


async def wake(transaction: Transaction, job_id: JobId, delay: timedelta) -> bool:
    """Hand an entry out (again) after `delay`; false where there is none."""
    return await transaction.execute(_WAKE, job_id, delay) > 0


async def put_back(transaction: Transaction, backs: Sequence[Back], *, worker: UUID) -> None:
    """Give entries back, as far as they are still this worker's."""
    if backs:
        await transaction.execute(
            _PUT_BACK,
            [back.entry.id for back in backs],
            [back.entry.attempts for back in backs],
            [back.lane for back in backs],
            [back.delay for back in backs],
            [back.at_work for back in backs],
            NOBODY,
            worker,
        )


async def remove(transaction: Transaction, entries: Sequence[Entry], *, worker: UUID) -> None:
    """Drop the entries of jobs that have ended, as far as they are still this worker's and were not woken since."""
    if entries:
        await transaction.execute(
            _REMOVE, [entry.id for entry in entries], [entry.attempts for entry in entries], worker
        )


async def any_due(transaction: Transaction, *, lease: timedelta) -> bool:
    """Whether there is an entry that could be handed out if its lane has a free seat."""
    row = await transaction.fetch_one(_ANY_DUE, lease)
    return row is not None and bool(row[0])


async def positions(transaction: Transaction, job_ids: Sequence[JobId]) -> Mapping[JobId, int]:
    """How many entries of its lane come before each job's, of those that wait, and not too far back."""
    found = await transaction.fetch(_POSITIONS, job_ids, MOST_COUNTED)
    return {row[0]: row[1] for row in found if row[1] < MOST_COUNTED}


async def without_entry(transaction: Transaction, *, limit: int) -> Sequence[tuple[JobId, ProviderName, int]]:
    """Jobs that nobody will be woken for: (id, lane, due in microseconds since 1970)."""
    return [(row[0], row[1], row[2]) for row in await transaction.fetch(_WITHOUT_ENTRY, limit)]


async def tidy(transaction: Transaction, *, lanes: Sequence[str], other: str) -> None:
    """Drop the entries of jobs that ended otherwise, take in those of lanes that nobody serves any more.

    The commits of processes that are gone are forgotten, too.
    """
    await transaction.execute(_REMOVE_ENDED)
    await transaction.execute(_MOVE_STRANDED, other, lanes)
    await transaction.execute(_FORGET_COMMITTERS)
