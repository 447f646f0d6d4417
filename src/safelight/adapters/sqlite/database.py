"""SQLite as a `Database`: one file, one process."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from safelight.adapters.sql.database import Work
from safelight.adapters.sqlite.committer import LAST_COMMIT
from safelight.adapters.sqlite.committer_process import CommitterProcess
from safelight.adapters.sqlite.connection import Reader, Writer, open_connection, translated
from safelight.adapters.sqlite.migrate import migrate
from safelight.adapters.sqlite.script import Script, scripted
from safelight.adapters.sqlite.together import JobWork
from safelight.adapters.sqlite.transaction import do_alone
from safelight.adapters.threads import Call
from safelight.domain.errors import StorageError

T = TypeVar("T")


_MANY = 16
"""Works that wait at a time: from there on a process that commits is worth its memory."""


class SqliteDatabase:
    """A thread that commits in groups, a thread for queries of unknown length, and a connection for look-ups.

    Under load, what can be told beforehand is committed by a process instead, in turns with the thread.

    A look-up runs where it is asked for, on the event loop: it takes some ten microseconds, less than the hand-over to
    a thread.
    """

    settled = "1 = 1"
    """One transaction writes at a time."""

    def __init__(self, path: Path, *, keep: Sequence[int] = ()) -> None:
        """Open the file, bring its schema up to date; raises `StorageError` or `ConfigurationError`.

        `keep` are descriptors, such as that of a lock, which whoever writes holds.
        """
        with closing(open_connection(path, writes=True)) as connection:
            migrate(connection)
        self._writer = Writer(path)
        self._reader = Reader(path)
        self._lookup = open_connection(path, writes=False, busy_timeout_s=0)  # the event loop must not wait
        self.committer = CommitterProcess(path, last_commit=partial(_last_commit, path), keep=keep)
        self._with_thread = 0
        """How many works the thread has, or will have: while there are any, it gets all, since one alone can write."""
        self._with_committer = 0
        self._refused: list[Call] = []
        self._held: list[Call] = []
        """What the thread gets when the other has nothing to do any more; what that has refused before the rest."""
        self._closed = False

    async def write(self, work: Work[T], *, then: Callable[[], None] | None = None, job_id: str | None = None) -> T:
        """See `Database.write`."""
        if job_id is None:
            return await self._ask_thread(partial(do_alone, work=work), then, self._held)
        alone = cast("Callable[[sqlite3.Connection], T]", JobWork(job_id, work))
        if self.committer.ready and not self._with_thread and (script := scripted(job_id, work)) is not None:
            return await self._by_committer(script, then or _nothing, alone)
        if self._with_thread >= _MANY:
            self.committer.want()
        return await self._ask_thread(alone, then, self._held)

    async def _by_committer(
        self, script: Script[T], then: Callable[[], None], alone: Callable[[sqlite3.Connection], T]
    ) -> T:
        self._with_committer += 1
        try:
            if await self.committer.commit(script, then):
                return script.value
            done = self._ask_thread(alone, then, self._refused)
        finally:
            self._with_committer -= 1
            if not self._with_committer:
                self._let_thread_begin()
        return await done

    def _ask_thread(
        self, work: Callable[[sqlite3.Connection], T], then: Callable[[], None] | None, line: list[Call]
    ) -> asyncio.Future[T]:
        """Have the thread do it, once the process has nothing to do: until then that gets nothing new."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(self._thread_has_done)
        self._with_thread += 1
        if self._with_committer:
            line.append((work, then, done))
        else:
            self._writer.ask((work, then, done))
        return done

    def _thread_has_done(self, _: asyncio.Future[Any]) -> None:
        self._with_thread -= 1

    def _let_thread_begin(self) -> None:
        """What was refused comes first: it was asked for before what is held."""
        calls = self._refused + self._held
        self._refused.clear()
        self._held.clear()
        for call in calls:
            self._writer.ask(call)

    async def read(self, work: Work[T]) -> T:
        """See `Database.read`."""
        return await self._reader.run(partial(do_alone, work=work))

    async def look_up(self, work: Work[T]) -> T:
        """See `Database.look_up`."""
        if self._closed:
            raise StorageError("the storage is closed")
        try:
            return do_alone(self._lookup, work)
        except sqlite3.Error as error:
            raise translated(error) from error

    async def close(self) -> None:
        """See `Database.close`."""
        self._closed = True
        await self._reader.close()
        await self.committer.close()
        await self._writer.close()
        self._lookup.close()


def _nothing() -> None: ...


def _last_commit(path: Path) -> bytes | None:
    with closing(open_connection(path, writes=False)) as connection:
        try:
            row = connection.execute("SELECT value FROM installation WHERE name = ?", (LAST_COMMIT,)).fetchone()
        except sqlite3.Error as error:
            raise translated(error) from error
    return row[0] if row else None
