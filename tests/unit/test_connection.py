"""Group commit on a real SQLite file."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from safelight.adapters.sqlite import connection as connection_module
from safelight.adapters.sqlite.connection import Reader, Writer, open_connection
from safelight.domain.errors import StorageError, Superseded

Work = Callable[[sqlite3.Connection], Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.db"
    connection = open_connection(path, writes=True)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB UNIQUE)")
    connection.close()
    return path


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    writer = Writer(path)
    yield writer
    await writer.close()


def insert(value: object) -> Work:
    return lambda connection: connection.execute("INSERT INTO t (x) VALUES (?)", (value,)).lastrowid


def failing(value: object, error: Exception) -> Work:
    def work(connection: sqlite3.Connection) -> None:
        insert(value)(connection)
        raise error

    return work


def rows(path: Path) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY id")]
    finally:
        connection.close()


async def batch(writer: Writer, *works: Work) -> list[Any]:
    """Hand in several functions so that they share a transaction: a first one holds the thread until all are there."""
    gate = threading.Event()
    held = asyncio.ensure_future(writer.run(lambda _: gate.wait()))
    await asyncio.sleep(0.01)
    waiting = [asyncio.ensure_future(writer.run(work)) for work in works]
    await asyncio.sleep(0)
    gate.set()
    await held
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_was_written_is_in_the_file_when_the_call_returns(writer: Writer, path: Path) -> None:
    await writer.run(insert("a"))
    assert rows(path) == ["a"]


async def test_functions_that_wait_share_one_commit_in_order(writer: Writer, path: Path) -> None:
    commits: list[str] = []
    writer._connection.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    assert await batch(writer, *[insert(n) for n in range(100)]) == list(range(1, 101))
    assert rows(path) == list(range(100))
    assert len(commits) == 2


@pytest.mark.parametrize("error", [Superseded("moved on"), RuntimeError("bug")])
async def test_a_function_that_fails_takes_nothing_with_it(writer: Writer, path: Path, error: Exception) -> None:
    outcomes = await batch(writer, insert("a"), failing("b", error), insert("c"), failing("d", error), insert("e"))
    assert [type(outcome) for outcome in outcomes] == [int, type(error), int, type(error), int]
    assert rows(path) == ["a", "c", "e"]


async def test_a_fault_of_the_values_is_our_own_and_no_fault_of_the_storage(writer: Writer, path: Path) -> None:
    outcomes = await batch(writer, insert("a"), insert("a"), insert(2**70), insert(object()), insert("b"))
    assert [type(outcome) for outcome in outcomes] == [
        int,
        sqlite3.IntegrityError,
        OverflowError,
        sqlite3.ProgrammingError,
        int,
    ]
    assert rows(path) == ["a", "b"]


async def test_a_full_disk_is_a_storage_fault_that_ends(writer: Writer, path: Path) -> None:
    def limit(pages: int) -> Work:
        return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await writer.run(limit(20))
    outcomes = await batch(writer, insert(b"s"), insert(bytes(200_000)), insert(b"t"))
    assert isinstance(outcomes[1], StorageError)
    assert isinstance(outcomes[1].__cause__, sqlite3.OperationalError)
    assert "full" in outcomes[1].message
    assert rows(path) == [b"s", b"t"]
    await writer.run(limit(10**6))
    await writer.run(insert(bytes(200_000)))
    assert len(rows(path)) == 3


async def test_a_locked_database_fails_all_at_once_and_comes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT_S", 0.05)
    writer = Writer(path)
    writer._connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    async with asyncio.timeout(2):  # one wait for the lock, not one for each
        outcomes = await asyncio.gather(*[writer.run(insert(n)) for n in range(400)], return_exceptions=True)
    assert all(isinstance(outcome, StorageError) for outcome in outcomes)
    other.execute("ROLLBACK")
    other.close()
    await writer.run(insert("a"))
    assert rows(path) == ["a"]
    await writer.close()


async def test_closing_commits_what_was_asked_for(path: Path) -> None:
    writer = Writer(path)
    gate = threading.Event()
    waiting = [asyncio.ensure_future(writer.run(lambda _: gate.wait())), asyncio.ensure_future(writer.run(insert("a")))]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(writer.close())
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert (await asyncio.gather(*waiting))[1] == 1
    assert rows(path) == ["a"]
    with pytest.raises(StorageError):
        await writer.run(insert("b"))


async def test_a_transaction_that_a_fault_has_ended_is_no_trouble(writer: Writer, path: Path) -> None:
    def ends_it(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise RuntimeError("ended")

    outcomes = await batch(writer, insert("a"), ends_it, insert("b"))
    assert isinstance(outcomes[1], RuntimeError)
    assert rows(path) == ["a", "b"]


async def test_every_commit_is_synced(writer: Writer) -> None:
    said = await writer.run(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    )
    assert said == ["wal", 2, 1]


async def test_a_reader_sees_what_is_committed_and_changes_nothing(writer: Writer, path: Path) -> None:
    reader = Reader(path)
    await writer.run(insert("a"))
    assert await reader.run(lambda connection: connection.execute("SELECT x FROM t").fetchall()) == [("a",)]
    with pytest.raises(StorageError, match="readonly"):
        await reader.run(insert("b"))
    assert await asyncio.gather(*[reader.run(lambda _, n=n: n) for n in range(50)]) == list(range(50))  # type: ignore[misc]  # a default binds the loop's variable
    await reader.close()


def test_a_file_that_is_no_database_is_a_storage_fault(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="cannot be opened"):
        open_connection(tmp_path / "x.db", writes=True)
