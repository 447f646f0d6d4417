"""SQLite as a `Database`: one file, one process."""

import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, cast

from safelight.adapters.sql.database import Transaction, Work
from safelight.adapters.sqlite.connection import Reader, Writer, open_connection, translated
from safelight.adapters.sqlite.migrate import migrate
from safelight.adapters.sqlite.together import JobWork
from safelight.adapters.sqlite.transaction import SqliteTransaction
from safelight.domain.errors import StorageError

T = TypeVar("T")


def _done(work: Work[T]) -> Callable[[sqlite3.Connection], T]:
    """Turn work that awaits nothing but its transaction into a plain function of a connection."""

    def run(connection: sqlite3.Connection) -> T:
        steps = work(SqliteTransaction(connection))
        assert isinstance(steps, Coroutine)  # noqa: S101 - so is everything that `async def` makes
        try:
            steps.send(None)
        except StopIteration as end:
            value: T = end.value
            return value
        steps.close()
        raise AssertionError("the work waited for something else than its transaction")

    return run


class SqliteDatabase:
    """A thread that commits in groups, a thread for queries of unknown length, and a connection for look-ups.

    A look-up runs where it is asked for, on the event loop: it takes some ten microseconds, less than the hand-over to
    a thread.
    """

    settled = "1 = 1"
    """One transaction writes at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, bring its schema up to date; raises `StorageError` or `ConfigurationError`."""
        with closing(open_connection(path, writes=True)) as connection:
            migrate(connection)
        self._writer = Writer(path)
        self._reader = Reader(path)
        self._lookup = open_connection(path, writes=False, busy_timeout_s=0)  # the event loop must not wait
        self._closed = False

    async def write(self, work: Work[T], *, then: Callable[[], None] | None = None, job_id: str | None = None) -> T:
        """See `Database.write`."""
        done = _done(work)
        if job_id is None:
            return await self._writer.run(done, then=then)
        begin = cast("Callable[[Transaction], Coroutine[Any, None, Any]]", work)
        return cast("T", await self._writer.run(JobWork(job_id, begin, done), then=then))

    async def read(self, work: Work[T]) -> T:
        """See `Database.read`."""
        return await self._reader.run(_done(work))

    async def look_up(self, work: Work[T]) -> T:
        """See `Database.look_up`."""
        if self._closed:
            raise StorageError("the storage is closed")
        try:
            return _done(work)(self._lookup)
        except sqlite3.Error as error:
            raise translated(error) from error

    async def close(self) -> None:
        """See `Database.close`."""
        self._closed = True
        await self._reader.close()
        await self._writer.close()
        self._lookup.close()
