"""Holds and settles what a job takes from meters, within the transactions of the job store."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from safelight.adapters.sql import meters
from safelight.adapters.sql.database import Row, Transaction
from safelight.adapters.sql.rows import to_micros
from safelight.domain.budget import Draw, Period, Reading, Unit
from safelight.domain.errors import OwnerBusy, RateLimited
from safelight.domain.ids import JobId
from safelight.domain.job import Job
from safelight.domain.ledger import Spend, Terms, Transfer, booked, hold, settle
from safelight.domain.money import Charged
from safelight.domain.refusal import refusal

# On Postgres these lock the row until the commit: whoever comes next sees what this one took.
TAKE = "UPDATE meters SET held = held + $2 WHERE id = $1 RETURNING most, held - $2"
LOCK_KEY = "UPDATE holders SET updated_at = updated_at WHERE kind = 'key' AND id = $1"
COUNT_WAITING = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE owner = $1 AND status = 'pending' LIMIT $2) AS waiting"
COUNT_RUNNING = "SELECT count(*) FROM jobs WHERE owner = $1 AND status = 'processing' AND id <> $2"
USE = (
    "INSERT INTO meter_slots (meter_id, slot, used) VALUES ($1, $2, $3)"
    " ON CONFLICT (meter_id, slot) DO UPDATE SET used = meter_slots.used + excluded.used"
)
DROP_OLD_SLOTS = "DELETE FROM meter_slots WHERE meter_id = $1 AND slot < $2"
PUT_HOLD = "INSERT INTO holds (job_id, meter_id, amount) VALUES ($1, $2, $3)"
GET_HOLDS = (
    "SELECT holds.meter_id, holds.amount, meters.kind, meters.holder_id, meters.period, meters.calendar"
    " FROM holds LEFT JOIN meters ON meters.id = holds.meter_id WHERE holds.job_id = $1 ORDER BY holds.meter_id"
)
RELEASE = "UPDATE meters SET held = held - $2 WHERE id = $1"
DROP_HOLDS = "DELETE FROM holds WHERE job_id = $1"
SPENDS = (
    "SELECT attempts.provider, attempts.model, attempts.n, attempts.charged, attempts.cost_micros"
    " FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
    " WHERE attempts.job_id = $1 AND attempts.number > jobs.earlier_attempts"
)
BOOK = "INSERT INTO ledger (at, meter_id, job_id, debit, credit, amount, estimated) VALUES ($1, $2, $3, $4, $5, $6, $7)"

_estimates = msgspec.json.Decoder(dict[str, int])

_MOST_WAITING_RETRY_S = 1.0


async def look(transaction: Transaction, owner: str | None, terms: Terms, now: datetime) -> None:
    """Raise the `PolicyRefusal` that `take` would, as things are now: most refusals need not hold up those who write."""
    for draw in terms.draws:
        if (reading := await meters.read(transaction, draw.meter, now)) is not None:
            _refuse(draw, reading, now)
    await _refuse_waiting(transaction, owner, terms)


async def take(transaction: Transaction, job_id: JobId, owner: str | None, terms: Terms, now: datetime) -> None:
    """Take all that the terms say, or raise the `PolicyRefusal` that says why not: the caller rolls back."""
    for draw in terms.draws:
        money = draw.meter.unit is Unit.USD
        row = await transaction.fetch_one(TAKE, draw.meter.id, draw.amount if money else 0)
        if row is None:  # an administrator has taken the limit away a moment ago
            continue
        _refuse(draw, await meters.reading(transaction, draw.meter, row, now), now)
        if money:
            await transaction.execute(PUT_HOLD, job_id, draw.meter.id, draw.amount)
            await _book(transaction, draw.meter.id, job_id, hold(draw.amount), now)
        else:
            await _use(transaction, draw.meter.id, draw.meter.period, draw.amount, now)
    if terms.max_waiting is not None:
        await transaction.execute(LOCK_KEY, owner)
        await _refuse_waiting(transaction, owner, terms)


async def refuse_to_run(transaction: Transaction, job: Job) -> None:
    """Raise `OwnerBusy` where a job would be one too many of its owner's at work; else nobody else gets in between."""
    await transaction.execute(LOCK_KEY, job.owner)
    row = await transaction.fetch_one(COUNT_RUNNING, job.owner, job.id)
    if row is not None and job.max_running is not None and row[0] >= job.max_running:
        raise OwnerBusy(f"job {job.id} waits for another one of its owner")


async def close(transaction: Transaction, job_id: JobId, estimates: bytes, now: datetime) -> None:
    """Settle what a job that ends has held; its attempts have been written."""
    known = _estimates.decode(estimates)
    spends = [_spend(row) for row in await transaction.fetch(SPENDS, job_id)]
    for meter_id, held, kind, holder, period, calendar in await transaction.fetch(GET_HOLDS, job_id):
        cost, estimated = booked(_of(kind, holder, spends), known)
        if kind is not None:  # else the limit was taken away meanwhile: the ledger is closed all the same
            await transaction.execute(RELEASE, meter_id, held)
            await _use(transaction, meter_id, Period(text=period, calendar=bool(calendar)), cost, now)
        await _book(transaction, meter_id, job_id, settle(held, cost), now, estimated=estimated)
    await transaction.execute(DROP_HOLDS, job_id)


def _of(kind: str, holder: str, spends: Sequence[Spend]) -> Sequence[Spend]:
    """A provider's budget pays for that provider's calls, every other for all."""
    return [spend for spend in spends if spend.provider == holder] if kind == "provider" else spends


def _refuse(draw: Draw, reading: Reading, now: datetime) -> None:
    if not reading.allows(draw.amount):
        raise refusal(reading, draw.amount, now)


async def _refuse_waiting(transaction: Transaction, owner: str | None, terms: Terms) -> None:
    if terms.max_waiting is None:
        return
    row = await transaction.fetch_one(COUNT_WAITING, owner, terms.max_waiting)
    if row is not None and row[0] >= terms.max_waiting:
        raise RateLimited(
            f"this virtual key has {terms.max_waiting} jobs waiting, and may have no more",
            retry_after_s=_MOST_WAITING_RETRY_S,
        )


async def _use(transaction: Transaction, meter_id: int, period: Period, amount: int, now: datetime) -> None:
    if amount > 0:
        await transaction.execute(USE, meter_id, period.slot(now), amount)
        await transaction.execute(DROP_OLD_SLOTS, meter_id, period.first_slot(now))


async def _book(
    transaction: Transaction,
    meter_id: int,
    job_id: JobId,
    transfers: Sequence[Transfer],
    now: datetime,
    *,
    estimated: bool = False,
) -> None:
    for each in transfers:
        accounts = (each.debit.value, each.credit.value)
        await transaction.execute(BOOK, to_micros(now), meter_id, job_id, *accounts, each.amount, int(estimated))


def _spend(row: Row) -> Spend:
    provider, model, n, charged, cost_micros = row
    return Spend(
        provider=provider,
        target=f"{provider}/{model}",
        n=n,
        charged=Charged(charged) if charged else None,
        cost_micros=cost_micros,
    )
