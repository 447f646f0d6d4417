"""Postgres as a `Database`: what is committed, what is repeated, and what callers see of its faults."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from safelight.adapters.postgres import database as database_module
from safelight.adapters.postgres.database import Connection, PostgresDatabase
from safelight.adapters.sql.database import Transaction
from safelight.domain.errors import StorageError, Superseded
from tests.postgres import OwnServer, execute

NUMBER = "SELECT pg_current_xact_id()::text"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[PostgresDatabase]:
    await execute(database_url, "CREATE TABLE notes (name TEXT PRIMARY KEY, value BIGINT NOT NULL DEFAULT 0)")
    database = await PostgresDatabase.open(database_url, connections=4)
    yield database
    await database.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


async def put(database: PostgresDatabase, name: str) -> str:
    """Write a note; gives the number of the transaction."""

    async def work(transaction: Transaction) -> str:
        await transaction.execute("INSERT INTO notes (name) VALUES ($1)", name)
        row = await transaction.fetch_one(NUMBER)
        assert row is not None
        return str(row[0])

    return await database.write(work)


async def names(database: PostgresDatabase) -> list[str]:
    return [row[0] for row in await database.read(lambda t: t.fetch("SELECT name FROM notes ORDER BY name"))]


async def test_writes_that_wait_together_share_a_commit(database: PostgresDatabase) -> None:
    numbers = await asyncio.gather(*[put(database, f"{number:02}") for number in range(20)])
    assert len(set(numbers)) < 20
    assert len(await names(database)) == 20


async def test_a_write_that_fails_takes_nothing_with_it(database: PostgresDatabase) -> None:
    async def refuse(transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO notes (name) VALUES ('refused')")
        raise Superseded("gone")

    good = [put(database, name) for name in "abc"]
    outcomes = await asyncio.gather(good[0], database.write(refuse), *good[1:], return_exceptions=True)
    assert isinstance(outcomes[1], Superseded)
    assert await names(database) == ["a", "b", "c"]


async def test_a_fault_of_a_statement_is_not_called_a_fault_of_the_storage(database: PostgresDatabase) -> None:
    await put(database, "a")
    with pytest.raises(asyncpg.UniqueViolationError):
        await put(database, "a")
    with pytest.raises(asyncpg.UndefinedTableError):
        await database.read(lambda t: t.fetch("SELECT 1 FROM nothing"))


async def test_what_follows_a_write_is_done_though_the_caller_has_gone(database: PostgresDatabase) -> None:
    done = asyncio.Event()
    writing = asyncio.create_task(
        database.write(lambda t: t.execute("INSERT INTO notes (name) VALUES ('a')"), then=done.set)
    )
    await asyncio.sleep(0)
    writing.cancel()
    async with asyncio.timeout(5):
        await done.wait()
    assert await names(database) == ["a"]


async def test_transactions_that_stand_in_each_others_way_are_repeated(
    database: PostgresDatabase, database_url: str
) -> None:
    other = await PostgresDatabase.open(database_url, connections=1)
    await asyncio.gather(put(database, "a"), put(database, "b"))
    both_hold_one = asyncio.Barrier(2)

    async def add(transaction: Transaction, *in_order: str) -> None:
        for name in in_order:
            await transaction.execute("UPDATE notes SET value = value + 1 WHERE name = $1", name)
            if both_hold_one.n_waiting < 2 and not both_hold_one.broken and name == in_order[0]:
                try:
                    async with asyncio.timeout(1):
                        await both_hold_one.wait()
                except (TimeoutError, asyncio.BrokenBarrierError):  # the repeated one is alone
                    pass

    await asyncio.gather(database.write(lambda t: add(t, "a", "b")), other.write(lambda t: add(t, "b", "a")))
    rows = await database.read(lambda t: t.fetch("SELECT value FROM notes"))
    assert [row[0] for row in rows] == [2, 2]
    await other.close()


async def test_a_pool_without_a_free_connection_is_a_fault_of_the_storage(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_ACQUIRE_TIMEOUT_S", 0.05)
    database = await PostgresDatabase.open(database_url, connections=1)
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(_: Transaction) -> None:
        held.set()
        await release.wait()

    holding = asyncio.create_task(database.read(hold))
    await held.wait()
    with pytest.raises(StorageError, match="no connection"):
        await database.read(lambda t: t.fetch("SELECT 1"))
    with pytest.raises(StorageError, match="no connection"):
        await database.write(lambda t: t.execute("SELECT 1"))
    release.set()
    await holding
    assert await database.read(lambda t: t.fetch_one("SELECT 1"))
    await database.close()


async def test_nothing_is_done_once_it_is_closed(database: PostgresDatabase) -> None:
    await database.close()
    with pytest.raises(StorageError):
        await put(database, "a")
    with pytest.raises(StorageError):
        await names(database)


async def test_a_server_that_is_not_there_is_a_fault_of_the_storage() -> None:
    with pytest.raises(StorageError):
        await PostgresDatabase.open("postgresql://nobody@127.0.0.1:1/nothing", connections=1)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_it_goes_on_after_a_restart_of_the_server(own_server: OwnServer, end: signal.Signals) -> None:
    with own_server.database() as url:
        database = await PostgresDatabase.open(url, connections=4)
        await database.write(lambda t: t.execute("CREATE TABLE notes (name TEXT PRIMARY KEY)"))
        await put(database, "before")
        own_server.end(end)
        with pytest.raises(StorageError):
            await put(database, "meanwhile")
        with pytest.raises(StorageError):
            await names(database)
        own_server.start()
        assert await names(database) == ["before"]
        await put(database, "after")
        assert await names(database) == ["after", "before"]
        await database.close()


class CutAtCommit(PostgresDatabase):
    """Loses the connection at the next commit: before the server hears of it, or after it has done it."""

    cut: str | None = None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with super()._connection() as connection:
            yield _Cut(self, connection)  # type: ignore[misc] # stands for one, as far as it is used


class _Cut:
    def __init__(self, database: CutAtCommit, connection: Any) -> None:
        self._database, self._connection = database, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, statement: str, *values: Any) -> Any:
        cut = self._database.cut if statement.endswith("COMMIT") else None
        if cut:
            self._database.cut = None
        if cut == "before":
            self._connection.terminate()
        answer = await self._connection.execute(statement, *values)
        if cut == "after":
            raise ConnectionResetError("cut off")
        return answer


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_is_asked_for_and_done_once(database_url: str, cut: str) -> None:
    database = await CutAtCommit.open(database_url, connections=2)
    await database.write(lambda t: t.execute("CREATE TABLE notes (name TEXT)"))
    database.cut = cut
    done: list[str] = []
    await database.write(lambda t: t.execute("INSERT INTO notes (name) VALUES ('a')"), then=lambda: done.append("a"))
    assert await names(database) == ["a"]
    assert done == ["a"]
    await database.close()
