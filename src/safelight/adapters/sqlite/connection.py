"""A thread that owns one SQLite connection and works for the event loop, many calls at a time.

Calls that wait while a commit is being synced to disk share the next one: a durable write costs one fsync for all of
them, which is what makes it cheap.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safelight.domain.errors import SafelightError, StorageError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

_MOST_AT_ONCE = 512
_BUSY_TIMEOUT_S = 10.0


def open_connection(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open the database: WAL, every commit synced to disk before it returns."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA temp_store = MEMORY")
    if not writes:
        connection.execute("PRAGMA query_only = ON")
    return connection


class ConnectionThread:
    """Runs functions of a connection, in order. With `writes`, each batch is one transaction.

    A function that raises takes nothing with it: the batch is rolled back and every function of it runs again, alone.
    So a function must depend on the connection and its own arguments only.
    """

    def __init__(self, path: Path, *, writes: bool, name: str) -> None:
        """Open the connection and start the thread; raises `StorageError`."""
        self._writes = writes
        self._waiting: queue.SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        try:
            self._connection = open_connection(path, writes=writes)
        except sqlite3.Error as error:
            raise StorageError(f"the database cannot be opened: {error}") from error
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in the thread. With `writes`, it is on disk when this returns. Raises `StorageError`."""
        if self._closed:
            raise StorageError("the database is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put((work, future))
        return await future

    async def close(self) -> None:
        """Finish what was asked for, then close the connection."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        open_ = True
        while open_:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _MOST_AT_ONCE:
                    batch.append(self._waiting.get_nowait())
            open_ = None not in batch
            calls = [call for call in batch if call is not None]
            if calls:
                _answer(self._commit(calls) if self._writes else self._each(calls))
        self._connection.close()

    def _commit(self, calls: list[tuple[Work, asyncio.Future[Any]]]) -> "list[_Answer]":
        try:
            return self._transaction(calls)
        except Exception as error:  # noqa: BLE001 - whatever went wrong is given to the caller it belongs to
            self._roll_back()
            if len(calls) == 1:
                return [(calls[0][1], None, _translate(error))]
        return [answer for call in calls for answer in self._commit([call])]

    def _transaction(self, calls: list[tuple[Work, asyncio.Future[Any]]]) -> "list[_Answer]":
        self._connection.execute("BEGIN IMMEDIATE")
        answers: list[_Answer] = [(future, work(self._connection), None) for work, future in calls]
        self._connection.execute("COMMIT")
        return answers

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _each(self, calls: list[tuple[Work, asyncio.Future[Any]]]) -> "list[_Answer]":
        answers: list[_Answer] = []
        for work, future in calls:
            try:
                answers.append((future, work(self._connection), None))
            except Exception as error:  # noqa: BLE001 - given to the caller
                answers.append((future, None, _translate(error)))
        return answers


_Answer = tuple[asyncio.Future[Any], Any, BaseException | None]


def _translate(error: Exception) -> Exception:
    if isinstance(error, SafelightError):
        return error
    translated = StorageError(f"the database failed: {error}" if isinstance(error, sqlite3.Error) else "internal error")
    translated.__cause__ = error
    return translated


def _answer(answers: list[_Answer]) -> None:
    """Hand the answers to their event loop in one call."""
    loop = answers[0][0].get_loop()
    with contextlib.suppress(RuntimeError):  # the loop is gone, and so is whoever waited
        loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[_Answer]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
