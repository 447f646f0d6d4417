"""SQL that both engines accept, written once, with `$1` placeholders; and rows to and from the domain.

JSON columns hold only what was said: members that are `None` are left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from safelight.domain.errors import ErrorClass
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import ImageRequest, Target
from safelight.domain.job import Attempt, AttemptState, Ending, Job, JobError, JobResult, JobStatus, Production
from safelight.domain.money import Charged

Row = Sequence[Any]
T = TypeVar("T")

JOB_COLUMNS = (
    "seq, id, request_id, status, lane, request, created_at, ttl_s, due_at, started_at, completed_at, attempts,"
    " result, error, charged, cost_micros"
)
ATTEMPT_COLUMNS = (
    "number, route, provider, model, key_name, n, state, started_at, ended_at, handle, error_class, error,"
    " retry_at, charged, production"
)

INSERT_JOB = (
    "INSERT INTO jobs (id, request_id, request_type, status, lane, model, request, created_at, ttl_s, due_at)"
    " VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $9)"
)
GET_JOB = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = $1"  # noqa: S608 - columns are constants
GET_ATTEMPTS = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE job_id = $1 ORDER BY number"  # noqa: S608 - as above
OPEN_JOBS = "SELECT seq, id, lane, due_at FROM jobs WHERE due_at IS NOT NULL AND seq > $1 ORDER BY seq LIMIT $2"
START_JOB = (
    "UPDATE jobs SET status = 'processing', started_at = coalesce(started_at, $2), attempts = $3, lane = $4"
    " WHERE id = $1 AND due_at IS NOT NULL"
)
INSERT_ATTEMPT = (
    "INSERT INTO attempts (job_id, number, route, provider, model, key_name, n, state, started_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, 'started', $8) ON CONFLICT DO NOTHING"
)
ACCEPT_ATTEMPT = (
    "UPDATE attempts SET state = 'accepted', handle = $3 WHERE job_id = $1 AND number = $2 AND state = 'started'"
)
END_ATTEMPT = (
    "UPDATE attempts SET state = $3, ended_at = $4, error_class = $5, error = $6, retry_at = $7, charged = $8,"
    " production = $9 WHERE job_id = $1 AND number = $2 AND state IN ('started', 'accepted')"
)
POSTPONE = "UPDATE jobs SET lane = $2, due_at = $3 WHERE id = $1 AND due_at IS NOT NULL"
FINISH_JOB = (
    "UPDATE jobs SET status = $2, due_at = NULL, completed_at = $3, expires_at = $3 + ttl_s * 1000000, result = $4,"
    " error = $5, charged = $6, cost_micros = $7 WHERE id = $1 AND due_at IS NOT NULL AND attempts = $8"
)
# Jobs come in the order of their creation, so the first of the open ones are the oldest: no need to look at them all.
OVERDUE = (
    "SELECT id FROM (SELECT id, created_at FROM jobs WHERE due_at IS NOT NULL ORDER BY seq LIMIT $2) AS oldest"
    " WHERE created_at < $1"
)
EXPIRED = f"SELECT {JOB_COLUMNS} FROM jobs WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2"  # noqa: S608 - as above
DELETE_ATTEMPTS = "DELETE FROM attempts WHERE job_id = $1"
DELETE_JOB = "DELETE FROM jobs WHERE id = $1"
JOB_EXISTS = "SELECT 1 FROM jobs WHERE id = $1"
LIST_JOBS = f"SELECT {JOB_COLUMNS} FROM jobs WHERE seq < $1 ORDER BY seq DESC LIMIT $2"  # noqa: S608 - as above
LIST_JOBS_BY_STATUS = (
    f"SELECT {JOB_COLUMNS} FROM jobs WHERE seq < $1 AND status = $3"  # noqa: S608 - as above
    " ORDER BY seq DESC LIMIT $2"
)
GET_FACT = "SELECT value FROM installation WHERE name = $1"
PUT_FACT = "INSERT INTO installation (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(ImageRequest)
_result = msgspec.json.Decoder(JobResult)
_error = msgspec.json.Decoder(JobError)
_production = msgspec.json.Decoder(Production)


def to_micros(moment: datetime) -> int:
    """Aware time to whole microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Whole microseconds since 1970 to aware UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else to_micros(moment)


def _column(value: Any) -> bytes | None:
    """Encode a domain object without its empty members."""
    if value is None:
        return None
    said = {name: member for name, empty in _MEMBERS[type(value)] if (member := getattr(value, name)) != empty}
    return _encode(said)


def _members(kind: type) -> Sequence[tuple[str, Any]]:
    """Each member with the value that is left out: its default where that is nothing. Other defaults may change."""
    defaults = {f.name: f.default_factory() if f.default_factory is not MISSING else f.default for f in fields(kind)}
    return [(name, default if default in (None, (), {}) else MISSING) for name, default in defaults.items()]


_MEMBERS = {kind: _members(kind) for kind in (ImageRequest, JobResult, JobError, Production)}


def _read(decoder: msgspec.json.Decoder[T], column: bytes | None) -> T | None:
    return None if column is None else decoder.decode(column)


def job_values(job: Job) -> Row:
    """Parameters of `INSERT_JOB`."""
    return (
        job.id,
        job.request_id,
        job.operation.value,
        job.lane,
        str(job.request.target),
        _column(job.request),
        to_micros(job.created_at),
        job.ttl_s,
        to_micros(job.created_at if job.due_at is None else job.due_at),
    )


def job_of(row: Row) -> Job:
    """Read a row of `JOB_COLUMNS`."""
    return Job(
        id=JobId(row[1]),
        request_id=row[2],
        status=JobStatus(row[3]),
        lane=ProviderName(row[4]),
        request=_request.decode(row[5]),
        created_at=from_micros(row[6]),
        ttl_s=row[7],
        due_at=_moment(row[8]),
        started_at=_moment(row[9]),
        completed_at=_moment(row[10]),
        attempts=row[11],
        result=_read(_result, row[12]),
        error=_read(_error, row[13]),
        charged=Charged(row[14]),
        cost_micros=row[15],
    )


def attempt_of(row: Row) -> Attempt:
    """Read a row of `ATTEMPT_COLUMNS`."""
    return Attempt(
        number=row[0],
        route=row[1],
        target=Target(provider=ProviderName(row[2]), model=row[3]),
        key_name=row[4],
        n=row[5],
        state=AttemptState(row[6]),
        started_at=from_micros(row[7]),
        ended_at=_moment(row[8]),
        handle=row[9],
        error_class=ErrorClass(row[10]) if row[10] else None,
        error=_read(_error, row[11]),
        retry_at=_moment(row[12]),
        charged=Charged(row[13]) if row[13] else None,
        production=_read(_production, row[14]),
    )


def attempts_of(rows: Iterable[Row]) -> tuple[Attempt, ...]:
    """Read a job's ledger."""
    return tuple(attempt_of(row) for row in rows)


def new_attempt_values(job_id: JobId, attempt: Attempt) -> Row:
    """Parameters of `INSERT_ATTEMPT`."""
    target = attempt.target
    started_at = to_micros(attempt.started_at)
    return (
        job_id,
        attempt.number,
        attempt.route,
        target.provider,
        target.model,
        attempt.key_name,
        attempt.n,
        started_at,
    )


def ended_attempt_values(job_id: JobId, attempt: Attempt) -> Row:
    """Parameters of `END_ATTEMPT`."""
    return (
        job_id,
        attempt.number,
        attempt.state.value,
        _micros(attempt.ended_at),
        attempt.error_class.value if attempt.error_class else None,
        _column(attempt.error),
        _micros(attempt.retry_at),
        attempt.charged.value if attempt.charged else None,
        _column(attempt.production),
    )


def ending_values(job_id: JobId, ending: Ending, tries: int) -> Row:
    """Parameters of `FINISH_JOB`."""
    return (
        job_id,
        ending.status.value,
        to_micros(ending.completed_at),
        _column(ending.result),
        _column(ending.error),
        ending.charged.value,
        ending.cost_micros,
        tries,
    )
