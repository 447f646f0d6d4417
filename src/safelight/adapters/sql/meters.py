"""What is counted for whom, within the transactions of the stores."""

from collections.abc import Sequence
from datetime import datetime

from safelight.adapters.sql.database import Row, Transaction
from safelight.domain.budget import Allowance, HolderKind, Meter, Period, Reading, Unit

METERS_OF = "SELECT id, unit, period, calendar FROM meters WHERE kind = $1 AND holder_id = $2 ORDER BY id"
METERS_OF_PROVIDERS = "SELECT id, unit, period, calendar, holder_id FROM meters WHERE kind = 'provider' ORDER BY id"
KEEP_METER = (
    "INSERT INTO meters (kind, holder_id, unit, period, calendar, most) VALUES ($1, $2, $3, $4, $5, $6)"
    " ON CONFLICT (kind, holder_id, unit, period, calendar) DO UPDATE SET most = excluded.most"
)
DROP_METER = "DELETE FROM meters WHERE id = $1"
DROP_SLOTS = "DELETE FROM meter_slots WHERE meter_id = $1"
GET_METER = "SELECT most, held FROM meters WHERE id = $1"
GET_SLOTS = "SELECT slot, used FROM meter_slots WHERE meter_id = $1 AND slot >= $2 ORDER BY slot"


async def of(transaction: Transaction, kind: HolderKind, holder_id: str, name: str) -> Sequence[Meter]:
    """The meters of somebody, in the order in which they are to be locked."""
    return [_meter(row, kind, name) for row in await transaction.fetch(METERS_OF, kind.value, holder_id)]


async def of_providers(transaction: Transaction) -> Sequence[Meter]:
    """The meters of all provider entries."""
    return [_meter(row, HolderKind.PROVIDER, row[4]) for row in await transaction.fetch(METERS_OF_PROVIDERS)]


async def keep(transaction: Transaction, kind: HolderKind, holder_id: str, allowances: Sequence[Allowance]) -> None:
    """Make the meters those of the allowances; what was counted stays, also where a limit has changed."""
    gone = {_key(meter): meter.id for meter in await of(transaction, kind, holder_id, "")}
    for each in allowances:
        gone.pop((each.unit, each.period), None)
        period = (each.period.text, int(each.period.calendar))
        await transaction.execute(KEEP_METER, kind.value, holder_id, each.unit.value, *period, each.limit)
    for meter_id in gone.values():
        await transaction.execute(DROP_METER, meter_id)
        await transaction.execute(DROP_SLOTS, meter_id)


async def read(transaction: Transaction, meter: Meter, now: datetime) -> Reading | None:
    """Read a meter without holding others off; `None` when an administrator has just taken it away."""
    row = await transaction.fetch_one(GET_METER, meter.id)
    return await reading(transaction, meter, row, now) if row else None


async def reading(transaction: Transaction, meter: Meter, row: Row, now: datetime) -> Reading:
    """Join a meter's row (limit, held) with what was used in the slots that count."""
    slots = await transaction.fetch(GET_SLOTS, meter.id, meter.period.first_slot(now))
    return Reading(meter=meter, limit=row[0], held=row[1], spent=tuple((slot, used) for slot, used in slots))


def _meter(row: Row, kind: HolderKind, holder: str) -> Meter:
    period = Period(text=row[2], calendar=bool(row[3]))
    return Meter(id=row[0], kind=kind, holder=holder, unit=Unit(row[1]), period=period)


def _key(meter: Meter) -> tuple[Unit, Period]:
    return meter.unit, meter.period
