"""The log of each job, written within the transactions of the job store."""

from collections.abc import Sequence

import msgspec

from safelight.adapters.sql.database import Row, Transaction
from safelight.adapters.sql.rows import from_micros, to_micros
from safelight.application.ports import LogEntry, Mark
from safelight.domain.event import EventName, JobEvent, LoggedEvent, preview_of
from safelight.domain.ids import JobId
from safelight.domain.image import StoredImage

INSERT_EVENT = "INSERT INTO events (job_id, owner, name, at, data) SELECT id, owner, $2, $3, $4 FROM jobs WHERE id = $1"
EVENTS_AFTER = "SELECT seq, job_id, name, at, data FROM events WHERE job_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
PREVIEWS = "SELECT seq, job_id, name, at, data FROM events WHERE job_id = $1 AND name = 'partial_image' ORDER BY seq"
_LOG = (
    "SELECT events.seq, events.job_id, events.name, events.at, events.data, events.era, jobs.owner, jobs.team"
    " FROM events CROSS JOIN jobs WHERE jobs.id = events.job_id AND (events.era, events.seq) > ($1, $2) AND {}"
    " ORDER BY events.era, events.seq LIMIT $3"
)
_LOG_END = "SELECT era, seq FROM events WHERE {} ORDER BY era DESC, seq DESC LIMIT 1"
_EVENT_MEMBERS = 5

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def event_values(event: JobEvent) -> Row:
    """Parameters of `INSERT_EVENT`."""
    return (event.job_id, event.name.value, to_micros(event.at), _encode(event.data))


async def append(transaction: Transaction, values: Row) -> None:
    """Write an event of a job that is there, whose row this transaction has written: so its events are in order."""
    await transaction.change_one(INSERT_EVENT, *values)


async def after(transaction: Transaction, job_id: JobId, seq: int, limit: int) -> Sequence[LoggedEvent]:
    """Read a job's events that follow number `seq`."""
    return [event_of(row) for row in await transaction.fetch(EVENTS_AFTER, job_id, seq, limit)]


async def log(transaction: Transaction, settled: str, after: Mark, limit: int) -> Sequence[LogEntry]:
    """Read events of all jobs that follow a place, as far as they are settled."""
    return [_entry_of(row) for row in await transaction.fetch(_LOG.format(settled), *after, limit)]


async def log_end(transaction: Transaction, settled: str) -> Mark:
    """Find the last event that is settled."""
    row = await transaction.fetch_one(_LOG_END.format(settled))
    return (0, 0) if row is None else (row[0], row[1])


def _entry_of(row: Row) -> LogEntry:
    era, owner, team = tuple(row)[_EVENT_MEMBERS:]
    logged = event_of(tuple(row)[:_EVENT_MEMBERS])
    return LogEntry(mark=(era, logged.seq), event=logged.event, owner=owner, team=team)


async def previews(transaction: Transaction, job_id: JobId) -> Sequence[StoredImage]:
    """Read what previews a job has: its log is where they are kept account of."""
    return [preview_of(event_of(row).event) for row in await transaction.fetch(PREVIEWS, job_id)]


def event_of(row: Row) -> LoggedEvent:
    """Read a row of `EVENTS_AFTER`."""
    seq, job_id, name, at, data = row
    event = JobEvent(job_id=JobId(job_id), name=EventName(name), at=from_micros(at), data=_decode(data))
    return LoggedEvent(seq=seq, event=event)
