"""Work of which can be told beforehand what it will write."""

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct

from safelight.adapters.sql.database import Row, Work
from safelight.adapters.sqlite.transaction import at_once

T = TypeVar("T")

Step = tuple[str, Row]
"""A statement that is to change one row, with its values."""


class Script(Struct, Generic[T], frozen=True):
    """All that a work writes, and what it returns when each step has changed its one row."""

    job_id: str
    steps: Sequence[Step]
    value: T


class _Unforeseeable(Exception):
    """The work asks what only the database knows."""


class _Notes:
    """A transaction in which every step succeeds."""

    __slots__ = ("steps",)

    def __init__(self) -> None:
        self.steps: list[Step] = []

    async def change_one(self, statement: str, *values: Any) -> bool:
        self.steps.append((statement, values))
        return True

    async def execute(self, statement: str, *values: Any) -> int:
        raise _Unforeseeable(statement, values)

    async def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        raise _Unforeseeable(statement, rows)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        raise _Unforeseeable(statement, values)

    async def fetch_one(self, statement: str, *values: Any) -> Row | None:
        raise _Unforeseeable(statement, values)


def scripted(job_id: str, work: Work[T]) -> Script[T] | None:
    """Find out what a work of one job will write; `None` where it must be done to know.

    The work runs, but nothing is written: it may be run again, as every work may.
    """
    notes = _Notes()
    try:
        value = at_once(work(notes))
    except _Unforeseeable:
        return None
    return Script(job_id, notes.steps, value)
