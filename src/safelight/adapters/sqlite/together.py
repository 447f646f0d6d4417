"""Works of one transaction, done together: equal statements for different jobs become one statement of many rows.

Each statement hands the interpreter over and waits to have it back, which takes ten times as long as SQLite does. A batch
of thirty commits is some eighty statements one by one, and seven together.
"""

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, cast

from safelight.adapters.sql.database import Row, Transaction, Work
from safelight.adapters.sqlite.transaction import SqliteTransaction, do_alone

_INSERT = re.compile(r"(?P<before>INSERT INTO \w+ \([^)]*\) VALUES )(?P<row>\([^)]*\))(?P<after>[^$]*)")
_CHANGE = re.compile(r"(?P<before>UPDATE .*|INSERT .* SELECT .*) (?P<after>WHERE .*)")
_PLACE = re.compile(r"\$(\d+)")
MOST_ROWS = 64
"""Of one statement. Each number of rows is a statement of its own, and those are kept prepared."""


class Apart(Exception):
    """The works cannot be done together: not all of their rows are there to be changed."""


class _Ask:
    """A statement that a work waits for."""

    __slots__ = ("statement", "values")

    def __init__(self, statement: str, values: Row) -> None:
        self.statement = statement
        self.values = values

    def __await__(self) -> Generator["_Ask", None, None]:
        yield self


@dataclass(frozen=True, slots=True)
class JobWork:
    """Work that reads and writes the rows of one job alone. Called, it does its statements one by one."""

    job_id: str
    work: Work[Any]

    def __call__(self, connection: sqlite3.Connection) -> Any:
        """Do it by itself."""
        return do_alone(connection, self.work)


class _Together(SqliteTransaction):
    """Lets what is to change one row wait for its like; all else is done at once."""

    async def change_one(self, statement: str, *values: Any) -> bool:
        """See `Transaction.change_one`."""
        await _Ask(statement, values)
        return True


def do_all(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> Sequence[Any]:
    """Do all of a batch within one transaction, those that are a `JobWork` together, and give what each returns.

    The works of one job are done in their order. Raises what one of them raises, and `Apart`.
    """
    if len(works) == 1:
        return [works[0](connection)]
    values: list[Any] = [None] * len(works)
    waves: defaultdict[int, dict[int, JobWork]] = defaultdict(dict)
    """By place in the batch. Of one job's works each is in a wave of its own, in their order."""
    seen: Counter[str] = Counter()
    for place, work in enumerate(works):
        if isinstance(work, JobWork):
            waves[seen[work.job_id]][place] = work
            seen[work.job_id] += 1
    for wave in waves.values():
        for place, value in zip(wave, do_together(connection, [*wave.values()]), strict=True):
            values[place] = value
    for place, work in enumerate(works):
        if not isinstance(work, JobWork):
            values[place] = work(connection)
    return values


def do_together(connection: sqlite3.Connection, works: Sequence[JobWork]) -> Sequence[Any]:
    """Do works of different jobs; gives what each returns. Raises `Apart`, and what one of them raises."""
    transaction = _Together(connection)
    values: list[Any] = [None] * len(works)
    under_way = {place: _begun(work.work, transaction) for place, work in enumerate(works)}
    try:
        while under_way:
            asked: dict[str, list[Row]] = {}
            for place, steps in list(under_way.items()):
                try:
                    ask = steps.send(None)
                except StopIteration as end:
                    values[place] = end.value
                    del under_way[place]
                else:
                    asked.setdefault(ask.statement, []).append(ask.values)
            for statement, rows in asked.items():
                _change(connection, statement, rows)
    finally:
        for steps in under_way.values():
            steps.close()
    return values


def _begun(work: Work[Any], transaction: Transaction) -> Coroutine[_Ask, None, Any]:
    return cast("Coroutine[_Ask, None, Any]", work(transaction))


def _change(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    for start in range(0, len(rows), MOST_ROWS):
        portion = rows[start : start + MOST_ROWS]
        values = list(chain.from_iterable(portion))
        if connection.execute(for_many(statement, len(portion)), values).rowcount != len(portion):
            raise Apart


@cache
def for_many(statement: str, rows: int) -> str:
    """Spell a statement for one row so that it takes the values of many, one row after the other.

    An `INSERT` repeats its row; what goes by rows that are there joins the values to them. Raises `ValueError` where the
    statement is neither.
    """
    if found := _INSERT.fullmatch(statement):
        row = _PLACE.sub("?", found["row"])
        return found["before"] + ", ".join([row] * rows) + found["after"]
    if found := _CHANGE.fullmatch(statement):
        row = f"({', '.join('?' * len(set(_PLACE.findall(statement))))})"
        joint = "," if statement.startswith("INSERT") else " FROM"
        joined = f"{found['before']}{joint} (VALUES {', '.join([row] * rows)}) {found['after']}"
        return _PLACE.sub(r"column\1", joined)
    raise ValueError(f"not a statement for many rows: {statement}")
