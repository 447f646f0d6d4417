"""SQLite connections: one thread that commits in groups, and plain ones for reading."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safelight.adapters.sqlite.connect import BUSY_TIMEOUT_S, connect
from safelight.adapters.sqlite.together import do_all
from safelight.adapters.threads import BatchThread, Call, Outcome
from safelight.domain.errors import StorageError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]


def open_connection(path: Path, *, writes: bool, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Open the database: WAL, every commit synced to disk before it returns. Raises `StorageError`."""
    try:
        return connect(path, writes=writes, busy_timeout_s=busy_timeout_s)
    except sqlite3.Error as error:
        raise StorageError(f"the database {path} cannot be opened: {error}") from error


class Writer:
    """Runs functions of a connection, each batch in one transaction.

    A function that raises takes nothing with it: the batch is rolled back and every function of it runs again, alone.
    So a function must depend on the connection and its own arguments only. Those that are a `JobWork` are done together,
    after the others.
    """

    def __init__(self, path: Path) -> None:
        """Open the connection and start the thread; raises `StorageError`."""
        self._connection = open_connection(path, writes=True)
        self._thread: BatchThread[sqlite3.Connection] = BatchThread(
            self._commit, name="sqlite-writer", at_end=self._connection.close
        )

    async def run(self, work: Callable[[sqlite3.Connection], T], *, then: Callable[[], None] | None = None) -> T:
        """Do `work` in the thread; it is on disk when this returns. Raises `StorageError`.

        `then` is called once it is on disk, also when the caller has been cancelled meanwhile.
        """
        return await self._thread.run(work, then=then)

    def ask(self, call: Call) -> None:
        """Have a call done, and its future told of it: see `run`."""
        self._thread.ask(call)

    async def close(self) -> None:
        """Finish what was asked for, then close the connection."""
        await self._thread.close()

    def _commit(self, batch: Sequence[Work]) -> Sequence[Outcome]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # locked or read-only: no function's fault, and waiting for each would be long
            return [(None, translated(error)) for _ in batch]
        try:
            outcomes = [(value, None) for value in do_all(self._connection, batch)]
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever went wrong is given to the caller it belongs to
            self._roll_back()
            if len(batch) == 1:
                return [(None, translated(error))]
        else:
            return outcomes
        return [outcome for work in batch for outcome in self._commit([work])]

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class Reader:
    """Runs functions of a read-only connection in a thread of its own: for queries of unknown length."""

    def __init__(self, path: Path) -> None:
        """Open the connection and start the thread; raises `StorageError`."""
        self._connection = open_connection(path, writes=False)
        self._thread: BatchThread[sqlite3.Connection] = BatchThread(
            self._each, name="sqlite-reader", at_end=self._connection.close
        )

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in the thread. Raises `StorageError`."""
        return await self._thread.run(work)

    async def close(self) -> None:
        """Finish what was asked for, then close the connection."""
        await self._thread.close()

    def _each(self, batch: Sequence[Work]) -> Sequence[Outcome]:
        return [self._one(work) for work in batch]

    def _one(self, work: Work) -> Outcome:
        try:
            return work(self._connection), None
        except Exception as error:  # noqa: BLE001 - given to the caller
            return None, translated(error)


_OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
"""Faults of a statement or its values: trying again cannot help."""


def translated(error: Exception) -> Exception:
    """What callers see of a fault in the database; faults of our own stay as they are."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, _OURS):
        return error
    failure = StorageError(f"the database failed: {error}")
    failure.__cause__ = error
    return failure
