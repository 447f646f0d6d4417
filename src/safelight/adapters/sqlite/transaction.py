"""Statements on a connection of the thread that runs them."""

import sqlite3
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

from safelight.adapters.sql.database import Row, Work

T = TypeVar("T")


@cache
def _statement(text: str) -> str:
    """SQLite numbers its placeholders with `?`."""
    return text.replace("$", "?")


class SqliteTransaction:
    """See `Transaction`. Nothing here ever waits for the event loop."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, statement: str, *values: Any) -> int:
        """See `Transaction.execute`."""
        return self._connection.execute(_statement(statement), values).rowcount

    async def change_one(self, statement: str, *values: Any) -> bool:
        """See `Transaction.change_one`."""
        return await self.execute(statement, *values) == 1

    async def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        """See `Transaction.execute_many`."""
        self._connection.executemany(_statement(statement), rows)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """See `Transaction.fetch`."""
        return self._connection.execute(_statement(statement), values).fetchall()

    async def fetch_one(self, statement: str, *values: Any) -> Row | None:
        """See `Transaction.fetch_one`."""
        row: Row | None = self._connection.execute(_statement(statement), values).fetchone()
        return row


def do_alone(connection: sqlite3.Connection, work: Work[T]) -> T:
    """Do work that awaits nothing but its transaction; raises what it raises."""
    return at_once(work(SqliteTransaction(connection)))


def at_once(steps: Awaitable[T]) -> T:
    """Run a coroutine that never waits to its end."""
    assert isinstance(steps, Coroutine)  # noqa: S101 - so is everything that `async def` makes
    try:
        steps.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    steps.close()
    raise AssertionError("the work waited for something else than its transaction")
