"""What was used: summed up from the jobs that there are, and from what was kept of those that are gone."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.domain.usage import Dimension, UsageFilter, UsageRow

_DAY = 86_400_000_000
_EPOCH = date(1970, 1, 1)

_SUMS = (
    "CAST(sum(CASE WHEN attempts.number = jobs.attempts THEN 1 ELSE 0 END) AS BIGINT), count(*),"
    " CAST(sum(attempts.images) AS BIGINT), CAST(coalesce(sum(attempts.cost_micros), 0) AS BIGINT),"
    " CAST(sum(CASE WHEN attempts.charged IN ('yes', 'unknown') AND attempts.cost_micros IS NULL THEN 1 ELSE 0 END)"
    " AS BIGINT),"
    " CAST(sum(CASE WHEN attempts.number = jobs.attempts AND jobs.status = 'failed' THEN 1 ELSE 0 END) AS BIGINT),"
    " CAST(sum(attempts.ended_at - attempts.started_at) AS BIGINT)"
)
_MEASURES = ("jobs", "calls", "images", "cost_micros", "unpriced", "failed", "work_micros")
"""What `_SUMS` gives, in its order."""
_KEPT = ", ".join(("day", "owner", "team", "provider", "model", *_MEASURES))
_GROUPS = (
    f"attempts.ended_at / {_DAY}, coalesce(jobs.owner, ''), coalesce(jobs.team, ''), attempts.provider, attempts.model"
)
# Kept in the transaction that deletes the job, so that a sum over both never counts a call twice, and never misses one.
KEEP = (
    f"INSERT INTO usage_days ({_KEPT})"  # noqa: S608 - all of it is constant
    f" SELECT {_GROUPS}, {_SUMS} FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
    " WHERE jobs.id = $1 AND jobs.due_at IS NULL AND attempts.ended_at IS NOT NULL"
    f" GROUP BY {_GROUPS}"
    " ON CONFLICT (day, owner, team, provider, model) DO UPDATE SET "
    + ", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _MEASURES)
)
_ALL = (
    f"SELECT {_KEPT} FROM usage_days"  # noqa: S608 - as above
    " WHERE day BETWEEN $1 AND $2"
    f" UNION ALL SELECT {_GROUPS}, {_SUMS} FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
    f" WHERE attempts.ended_at BETWEEN $3 AND $4 GROUP BY {_GROUPS}"
)
_COLUMNS = {
    Dimension.DAY: "day",
    Dimension.KEY: "owner",
    Dimension.TEAM: "team",
    Dimension.PROVIDER: "provider",
    Dimension.MODEL: "model",
}
_NAMES = "SELECT id, name FROM holders WHERE kind = $1"


class SqlUsage:
    """Reads reports. Names of keys and teams that are gone are their ids."""

    def __init__(self, database: Database) -> None:
        """Use a database whose schema is up to date."""
        self._database = database

    async def report(self, wanted: UsageFilter) -> Sequence[UsageRow]:
        """Sum up what was used, in the order of what it is broken down by."""
        columns = ", ".join(_COLUMNS[each] for each in wanted.by)
        chosen = f"{columns}, " if columns else ""
        grouped = f" GROUP BY {columns} ORDER BY {columns}" if columns else ""
        sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in _MEASURES)
        statement = f"SELECT {chosen}{sums} FROM ({_ALL}) AS used{grouped}"  # noqa: S608 - as above
        days = ((wanted.first - _EPOCH).days, (wanted.last - _EPOCH).days)
        first, last = days[0] * _DAY, (days[1] + 1) * _DAY - 1

        async def read(transaction: Transaction) -> Sequence[UsageRow]:
            found = await transaction.fetch(statement, *days, first, last)
            names = {
                dimension: {row[0]: row[1] for row in await transaction.fetch(_NAMES, kind)}
                for dimension, kind in ((Dimension.KEY, "key"), (Dimension.TEAM, "team"))
                if dimension in wanted.by
            }
            return [_row(row, wanted.by, names) for row in found if row[-1] is not None]

        return await self._database.read(read)


def _row(row: Row, by: Sequence[Dimension], names: dict[Dimension, dict[str, str]]) -> UsageRow:
    told: dict[str, Any] = {each.value: _told(each, value, names) for each, value in zip(by, row, strict=False)}
    return UsageRow(**told, **dict(zip(_MEASURES, row[len(by) :], strict=True)))


def _told(dimension: Dimension, value: int | str, names: dict[Dimension, dict[str, str]]) -> date | str | None:
    if isinstance(value, int):
        return _EPOCH + timedelta(days=value)
    return names.get(dimension, {}).get(value, value) or None
