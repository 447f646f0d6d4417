"""Rows to and from the domain. JSON columns leave out what is as by default: such a default must never change."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec import Struct

from safelight.adapters.sql.database import Row
from safelight.domain.errors import ErrorClass
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import ImageRequest, Target
from safelight.domain.job import (
    Attempt,
    AttemptState,
    BatchLine,
    Ending,
    Idempotency,
    Job,
    JobError,
    JobResult,
    JobStatus,
    Priority,
    Production,
)
from safelight.domain.money import Charged

T = TypeVar("T")

JOB_COLUMNS = (
    "seq, id, request_id, status, lane, request, created_at, ttl_s, due_at, started_at, completed_at, attempts,"
    " result, error, charged, cost_micros, earlier_attempts, cancelled_at, webhook, metadata, idempotency_key,"
    " fingerprint, batch_id, batch_line, owner, team, progress, provider_keys, trace_parent, priority, stride,"
    " estimates, max_running"
)
ATTEMPT_COLUMNS = (
    "number, route, provider, model, key_name, n, state, started_at, ended_at, handle, error_class, error,"
    " retry_at, charged, production, stop_asked_at"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NO_METADATA: Mapping[str, str] = {}
_NO_ESTIMATES: Mapping[str, int] = {}
_ALL_KEYS: Mapping[str, tuple[str, ...]] = {}

_encode = msgspec.json.Encoder().encode
_request = msgspec.json.Decoder(ImageRequest)
_result = msgspec.json.Decoder(JobResult)
_error = msgspec.json.Decoder(JobError)
_production = msgspec.json.Decoder(Production)
_metadata = msgspec.json.Decoder(dict[str, str])
_numbers = msgspec.json.Decoder(dict[str, int])
_names = msgspec.json.Decoder(dict[str, tuple[str, ...]])


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


def _column(value: Struct | None) -> bytes | None:
    return None if value is None else _encode(value)


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
        _encode(job.request),
        to_micros(job.created_at),
        job.ttl_s,
        to_micros(job.created_at if job.due_at is None else job.due_at),
        job.webhook,
        _encode(job.metadata) if job.metadata else None,
        job.idempotency.key if job.idempotency else None,
        job.idempotency.fingerprint if job.idempotency else None,
        job.batch.batch_id if job.batch else None,
        job.batch.number if job.batch else None,
        job.owner,
        job.team,
        _encode(job.provider_keys) if job.provider_keys else None,
        job.trace_parent,
        job.priority.value,
        job.stride,
        estimates_column(job),
        job.max_running,
    )


def estimates_column(job: Job) -> bytes | None:
    """What a job is taken to cost; nothing where no money is held."""
    return _encode(job.estimates) if job.estimates else None


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
        earlier_attempts=row[16],
        cancelled_at=_moment(row[17]),
        webhook=row[18],
        metadata=_NO_METADATA if row[19] is None else _metadata.decode(row[19]),
        idempotency=None if row[20] is None else Idempotency(key=row[20], fingerprint=row[21]),
        batch=None if row[22] is None else BatchLine(batch_id=row[22], number=row[23]),
        owner=row[24],
        team=row[25],
        progress=row[26],
        provider_keys=_ALL_KEYS if row[27] is None else _names.decode(row[27]),
        trace_parent=row[28],
        priority=Priority(row[29]),
        stride=row[30],
        estimates=_NO_ESTIMATES if row[31] is None else _numbers.decode(row[31]),
        max_running=row[32],
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
        stop_asked_at=_moment(row[15]),
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
        len(attempt.production.outputs) if attempt.production else 0,
        _cost_of(attempt),
    )


def _cost_of(attempt: Attempt) -> int | None:
    """Of what was produced, or refused and billed all the same; `None` where nobody said."""
    if attempt.production is not None:
        return attempt.production.cost_micros
    return attempt.error.cost_micros if attempt.error is not None and attempt.charged is Charged.YES else None


def ending_values(job_id: JobId, ending: Ending, tries: int) -> Row:
    """Parameters of `FINISH_JOB`."""
    return (
        job_id,
        ending.status.value,
        to_micros(ending.completed_at),
        _column(ending.result),
        _column(ending.error),
        ending.error.code if ending.error else None,
        ending.charged.value,
        ending.cost_micros,
        tries,
        _micros(ending.cancelled_at),
    )
