"""Postgres as a `Database`: a pool of connections, and writes that share their commits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, TypeVar, cast
from uuid import UUID, uuid4

import asyncpg
import structlog

from safelight.adapters.postgres.faults import clash, lost, translated, translating
from safelight.adapters.sql.database import Row, Work
from safelight.domain.errors import StorageError

log = structlog.get_logger(__name__)
T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
_ACQUIRE_TIMEOUT_S = 10.0
_STATEMENT_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 5.0
_SESSION = {
    "application_name": "safelight",
    "jit": "off",  # compiling takes longer than any of our statements
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",  # a process that was stopped or cut off must not hold its rows
}
_COMMITTERS = 4
_MOST_AT_ONCE = 32
_PAUSES_S = (0.0, 0.05, 0.2)
"""Before each new try of a transaction that was rolled back through no fault of its own."""
_RESOLVE_TIMEOUT_S = 20.0
_RESOLVE_PAUSE_S = 0.1
_COMMIT = (
    "INSERT INTO commits (committer, number) VALUES ('{}', {})"
    " ON CONFLICT (committer) DO UPDATE SET number = EXCLUDED.number, at = now(); COMMIT"
)
"""Sent as one, without placeholders: both values are our own."""
_LAST = "SELECT number FROM commits WHERE committer = $1 FOR UPDATE"

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"


class PostgresTransaction:
    """Statements on one connection; they take `$1` as it is."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        """Whoever makes it begins and ends the transaction."""
        self.connection = connection

    async def execute(self, statement: str, *values: Any) -> int:
        """See `Transaction.execute`."""
        status = await self.connection.execute(statement, *values)
        changed = status.rpartition(" ")[2]
        return int(changed) if changed.isdecimal() else 0

    async def change_one(self, statement: str, *values: Any) -> bool:
        """See `Transaction.change_one`."""
        return await self.execute(statement, *values) == 1

    async def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        """See `Transaction.execute_many`."""
        await self.connection.executemany(statement, rows)

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """See `Transaction.fetch`."""
        return cast("Sequence[Row]", await self.connection.fetch(statement, *values))

    async def fetch_one(self, statement: str, *values: Any) -> Row | None:
        """See `Transaction.fetch_one`."""
        return cast("Row | None", await self.connection.fetchrow(statement, *values))


@dataclass(slots=True)
class _Call:
    work: Work[Any]
    then: Callable[[], None] | None
    future: "asyncio.Future[Any]"

    def succeed(self, value: Any) -> None:
        if self.then is not None:
            self.then()
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(translated(error))


class _RolledBack(Exception):
    """The connection was lost during the commit, and the server says that nothing came of it."""


class PostgresDatabase:
    """Any number of processes may share the server.

    Each write costs a commit, and a commit the disk. So writes that wait together share one, as on SQLite; a write
    that fails takes nothing with it, since its batch is then rolled back and each runs alone.
    """

    settled = "events.era < pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        """Take a pool over, to be closed by `close`. Needs a running loop."""
        self._pool = pool
        self._waiting: asyncio.Queue[_Call] = asyncio.Queue()
        self._closed = False
        self._committers = [asyncio.create_task(self._commit_for_ever(_Committer())) for _ in range(_COMMITTERS)]

    @classmethod
    async def open(cls, url: str, *, connections: int) -> Self:
        """Connect, with at most so many connections; raises `StorageError`. The schema is not looked at."""
        with translating():
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=connections,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=_STATEMENT_TIMEOUT_S,
                server_settings=_SESSION,
                reset=_leave_as_it_is,
            )
            try:
                await pool.fetchval("SELECT 1")
            except BaseException:
                pool.terminate()
                raise
        return cls(pool)

    async def write(self, work: Work[T], *, then: Callable[[], None] | None = None, job_id: str | None = None) -> T:
        """See `Database.write`."""
        del job_id  # each work of a shared commit has its round trips to itself
        if self._closed:
            raise StorageError("the storage is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Call(work, then, future))
        return await future

    async def read(self, work: Work[T]) -> T:
        """See `Database.read`."""
        with translating():
            try:
                return await self._read(work)
            except Exception as error:
                if not lost(error):
                    raise
            return await self._read(work)  # the pool held a connection of before the server's restart

    async def look_up(self, work: Work[T]) -> T:
        """See `Database.look_up`."""
        return await self.read(work)

    async def _read(self, work: Work[T]) -> T:
        async with self._connection() as connection:
            return await work(PostgresTransaction(connection))

    async def close(self) -> None:
        """See `Database.close`."""
        if self._closed:
            return
        self._closed = True
        await self._waiting.join()
        for committer in self._committers:
            committer.cancel()
        await asyncio.gather(*self._committers, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Wait for a free connection, but not for ever."""
        try:
            connection = await self._pool.acquire(timeout=_ACQUIRE_TIMEOUT_S)
        except TimeoutError as error:
            raise StorageError("no connection to the database was free in time") from error
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    async def _commit_for_ever(self, committer: "_Committer") -> None:
        while True:
            batch = [await self._waiting.get()]
            with contextlib.suppress(asyncio.QueueEmpty):
                while len(batch) < _MOST_AT_ONCE:
                    batch.append(self._waiting.get_nowait())
            try:
                await self._commit(batch, committer)
            finally:
                for _ in batch:
                    self._waiting.task_done()

    async def _commit(self, batch: Sequence[_Call], committer: "_Committer") -> None:
        """Answer all calls of a batch."""
        try:
            values = await self._done([call.work for call in batch], committer)
        except Exception as error:  # noqa: BLE001 - given to the callers
            if len(batch) > 1 and (clash(error) or not isinstance(translated(error), StorageError)):
                for call in batch:
                    await self._commit([call], committer)
            else:
                for call in batch:
                    call.fail(error)
        else:
            for call, value in zip(batch, values, strict=True):
                call.succeed(value)

    async def _done(self, works: Sequence[Work[Any]], committer: "_Committer") -> Sequence[Any]:
        """Do works in one transaction, again where another one was in the way or the server was away for a moment."""
        for pause_s in _PAUSES_S:
            try:
                return await self._in_one_transaction(works, committer)
            except Exception as error:
                alone = len(works) == 1
                if not (lost(error) or isinstance(error, _RolledBack) or (alone and clash(error))):
                    raise
                log.info("transaction_repeated", reason=type(error).__name__)
            await asyncio.sleep(pause_s)
        return await self._in_one_transaction(works, committer)

    async def _in_one_transaction(self, works: Sequence[Work[Any]], committer: "_Committer") -> Sequence[Any]:
        async with self._connection() as connection:
            try:
                await connection.execute("BEGIN")
                values = [await work(PostgresTransaction(connection)) for work in works]
            except BaseException:
                await _roll_back(connection)
                raise
            committer.number += 1
            try:
                done = await connection.execute(_COMMIT.format(committer.id, committer.number))
            except Exception as error:
                if not (lost(error) or isinstance(error, TimeoutError)):
                    await _roll_back(connection)
                    raise
                connection.terminate()
                if not await self._committed(committer):
                    raise _RolledBack from error
            else:
                assert done == "COMMIT"  # noqa: S101 - the server answers ROLLBACK if a work went on after a fault
            return values

    async def _committed(self, committer: "_Committer") -> bool:
        """Ask the server what became of a commit that was not answered. It waits for one that is still under way.

        Raises `StorageError` when the server does not come back in time: then nobody knows.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RESOLVE_TIMEOUT_S):
                while True:
                    try:
                        last = await self._read(lambda transaction: transaction.fetch_one(_LAST, committer.id))
                    except Exception as error:
                        if not (lost(error) or isinstance(translated(error), StorageError)):
                            raise
                        await asyncio.sleep(_RESOLVE_PAUSE_S)
                    else:
                        return last is not None and last[0] == committer.number
        raise StorageError("the database failed during a commit, and has not come back to say what became of it")


@dataclass(slots=True)
class _Committer:
    """Numbers its commits; the last one stands in the table `commits`."""

    id: UUID = field(default_factory=uuid4)
    number: int = 0


async def _leave_as_it_is(_: Connection) -> None:
    """Spare the statement that would reset a connection: nothing here changes the session."""


async def _roll_back(connection: Connection) -> None:
    try:
        await connection.execute("ROLLBACK")
    except Exception:  # noqa: BLE001 - the fault that led here is told; this connection must not be used again
        connection.terminate()
