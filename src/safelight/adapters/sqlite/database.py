"""SQLite as a `Database`: one file, one process."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

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
        self._held: list[Call] = []
        """What the thread gets when the other has nothing to do any more."""
        self._closed = False

    async def write(self, work: Work[T], *, then: Callable[[], None] | None = None, job_id: str | None = None) -> T:
        """See `Database.write`."""
        if job_id is None:
            return await self._by_thread(partial(do_alone, work=work), then)
        if self.committer.ready and not self._with_thread and (script := scripted(job_id, work)) is not None:
            if await self._by_committer(script, then or _nothing):
                return script.value
        elif self._with_thread >= _MANY:
            self.committer.want()
        return cast("T", await self._by_thread(JobWork(job_id, work), then))

    async def _by_committer(self, script: Script[T], then: Callable[[], None]) -> bool:
        self._with_committer += 1
        try:
            return await self.committer.commit(script, then)
        finally:
            self._with_committer -= 1
            if not self._with_committer:
                held, self._held = self._held, []
                for call in held:
                    self._writer.ask(call)

    async def _by_thread(self, work: Callable[[sqlite3.Connection], T], then: Callable[[], None] | None) -> T:
        """Once the other has nothing to do: until then it gets nothing new, so nothing overtakes what is asked here."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._with_thread += 1
        try:
            if self._with_committer:
                self._held.append((work, then, done))
            else:
                self._writer.ask((work, then, done))
            return await done
        finally:
            self._with_thread -= 1

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
