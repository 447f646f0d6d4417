"""Statements on a connection of the thread that runs them."""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from safelight.adapters.sql.database import Row


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
