"""The process that commits for the embedded store: what it takes, what becomes of it, and what is left when it dies."""

import asyncio
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from safelight.adapters import child
from safelight.adapters.child import Join
from safelight.adapters.sql.database import Transaction
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite import committer, committer_process
from safelight.adapters.sqlite.committer import Message
from safelight.adapters.sqlite.committer_process import CommitterProcess
from safelight.adapters.sqlite.database import SqliteDatabase
from safelight.adapters.sqlite.recent import RecentJobs
from safelight.adapters.sqlite.script import Script, scripted
from safelight.domain.errors import StorageError, Superseded
from safelight.domain.job import Job, JobStatus
from tests.doubles import until
from tests.making import job, started
from tests.stores import Taken, finish, with_committer

JOBS = 40


class Processes:
    """Those that were started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        self.fault: OSError | None = None
        start = child.start_process

        def counted(module: str, connection: socket.socket, *arguments: str, **options: Any) -> Join:
            if self.fault is not None:
                connection.close()
                raise self.fault
            join = start(module, connection, *arguments, **options)
            self.pids.append(join.__self__.pid)  # type: ignore[attr-defined]
            return join

        monkeypatch.setattr(child, "start_process", counted)

    def tell(self, number: signal.Signals) -> None:
        os.kill(self.pids[-1], number)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    return Processes(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def database(path: Path, processes: Processes) -> AsyncIterator[SqliteDatabase]:
    del processes  # they are counted
    database = SqliteDatabase(path)
    await with_committer(database)
    yield database
    await database.close()


@pytest.fixture
def store(database: SqliteDatabase) -> SqlJobStore:
    return SqlJobStore(database, memory=RecentJobs())


@pytest.fixture
def by_thread(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the thread was given."""
    given: list[object] = []
    pass_on = SqliteDatabase._ask_thread

    def noted(self: SqliteDatabase, work: Any, *others: Any) -> Any:
        given.append(work)
        return pass_on(self, work, *others)

    monkeypatch.setattr(SqliteDatabase, "_ask_thread", noted)
    return given


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        number: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - ours
    return number


async def submit(store: SqlJobStore, *jobs: Job) -> list[Any]:
    return await asyncio.gather(*[store.submit(each) for each in jobs], return_exceptions=True)


async def run(store: SqlJobStore, of: Job) -> None:
    await store.submit(of)
    await store.start_attempt(of.id, started())
    await finish(store, of)


async def test_the_usual_way_of_a_job_needs_no_thread(store: SqlJobStore, path: Path, by_thread: list[object]) -> None:
    jobs = [job(metadata={"order": "7", "shop": "a"}) for _ in range(JOBS)]
    await asyncio.gather(*[run(store, each) for each in jobs])
    assert by_thread == []
    other = SqlJobStore(SqliteDatabase(path), memory=RecentJobs())
    for each in jobs:
        found = await other.get(each.id)
        assert found is not None
        assert found.status is JobStatus.COMPLETED
    await other.close()
    assert count(path, "job_labels") == 2 * JOBS
    assert count(path, "events") == 3 * JOBS


async def test_what_is_refused_fails_alone_and_says_why(store: SqlJobStore, by_thread: list[object]) -> None:
    jobs = [job() for _ in range(JOBS)]
    await submit(store, *jobs)
    await store.start_attempt(jobs[3].id, started())
    outcomes = await asyncio.gather(*[store.start_attempt(each.id, started()) for each in jobs], return_exceptions=True)
    assert [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Superseded)] == [3]
    assert len([outcome for outcome in outcomes if outcome is None]) == JOBS - 1
    assert by_thread


async def test_both_write_in_turns(store: SqlJobStore, database: SqliteDatabase, by_thread: list[object]) -> None:
    async def fact(number: int) -> None:
        await store.fact(f"fact {number}", b"x")

    jobs = [job() for _ in range(JOBS)]
    for portion in range(0, JOBS, 8):
        await asyncio.gather(*[run(store, each) for each in jobs[portion : portion + 8]], *[fact(n) for n in range(8)])
    assert any(not isinstance(work, Script) for work in by_thread)
    found = [await store.get(each.id) for each in jobs]
    assert [each.status for each in found if each is not None] == [JobStatus.COMPLETED] * JOBS
    assert database.committer.ready


async def test_what_it_was_asked_for_is_finished_at_the_end(
    store: SqlJobStore, path: Path, processes: Processes
) -> None:
    asked = [asyncio.ensure_future(store.submit(job())) for _ in range(JOBS)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*asked) == [None] * JOBS
    assert count(path, "jobs") == JOBS
    with pytest.raises(ProcessLookupError):
        processes.tell(signal.SIGTERM)


async def test_it_minds_nobody_but_the_gateway(
    store: SqlJobStore, database: SqliteDatabase, processes: Processes
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        processes.tell(number)
    await submit(store, job())
    assert database.committer.ready


async def test_what_was_under_way_when_it_was_killed_is_written_once(
    store: SqlJobStore, path: Path, processes: Processes
) -> None:
    processes.tell(signal.SIGSTOP)
    jobs = [job() for _ in range(JOBS)]
    asked = asyncio.ensure_future(submit(store, *jobs))
    await asyncio.sleep(0)
    processes.tell(signal.SIGKILL)
    assert await asked == [None] * JOBS
    assert count(path, "jobs") == JOBS
    assert count(path, "events") == JOBS


async def fact(store: SqlJobStore) -> None:
    await store.fact("a fact", b"x")


@pytest.mark.parametrize("held", [False, True])
async def test_what_is_done_again_is_done_in_its_order(store: SqlJobStore, processes: Processes, *, held: bool) -> None:
    taken, jobs = Taken(store), [job() for _ in range(JOBS)]
    processes.tell(signal.SIGSTOP)
    asked = [asyncio.ensure_future(store.submit(each, wake=partial(taken.wake, each))) for each in jobs]
    if held:  # the starts then wait for the thread, behind this, while the submits are with the process
        asked.append(asyncio.ensure_future(fact(store)))
    await until(lambda: len(taken.starts) == JOBS)
    processes.tell(signal.SIGKILL)
    await asyncio.gather(*asked)
    await asyncio.gather(*taken.starts)
    found = [await store.get(each.id) for each in jobs]
    assert [each.status for each in found if each is not None] == [JobStatus.PROCESSING] * JOBS


async def test_what_is_refused_is_done_again_in_its_order(
    store: SqlJobStore, database: SqliteDatabase, by_thread: list[object]
) -> None:
    async def impossible(transaction: Transaction) -> None:
        if not await transaction.change_one("UPDATE jobs SET model = $2 WHERE id = $1", "nobody", "x"):
            raise Superseded("not there")

    taken, jobs = Taken(store), [job() for _ in range(5)]
    outcomes = await asyncio.gather(
        database.write(impossible, job_id="nobody"),
        *[store.submit(each, wake=partial(taken.wake, each)) for each in jobs],
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [Superseded, *[type(None)] * 5]
    await asyncio.gather(*taken.starts)
    assert len(by_thread) == 11
    found = [await store.get(each.id) for each in jobs]
    assert [each.status for each in found if each is not None] == [JobStatus.PROCESSING] * 5


async def test_what_it_had_committed_before_it_was_killed_is_not_written_again(
    store: SqlJobStore, path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch, by_thread: list[object]
) -> None:
    monkeypatch.setattr(committer_process._Connection, "data_received", lambda *_: None)  # its answers are lost
    jobs = [job() for _ in range(JOBS)]
    asked = asyncio.ensure_future(submit(store, *jobs))
    await until(lambda: count(path, "jobs") == JOBS)
    assert not asked.done()
    processes.tell(signal.SIGKILL)
    assert await asked == [None] * JOBS
    assert (count(path, "jobs"), by_thread) == (JOBS, [])


async def test_what_cannot_be_found_out_is_asked_again(
    store: SqlJobStore, database: SqliteDatabase, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, faults = database.committer._last_commit, [StorageError("the disk sleeps")]

    def unsteady() -> bytes | None:
        if faults:
            raise faults.pop()
        return look()

    monkeypatch.setattr(database.committer, "_last_commit", unsteady)
    monkeypatch.setattr(committer_process, "_STORAGE_PAUSE_S", 0.01)
    processes.tell(signal.SIGSTOP)
    asked = asyncio.ensure_future(submit(store, job()))
    await asyncio.sleep(0)
    processes.tell(signal.SIGKILL)
    assert await asked == [None]
    assert faults == []


async def test_one_that_died_is_replaced_after_a_while(
    store: SqlJobStore, database: SqliteDatabase, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.tell(signal.SIGKILL)
    await until(lambda: not database.committer.ready)
    await asyncio.gather(*[submit(store, job()) for _ in range(JOBS)])
    assert len(processes.pids) == 1
    monkeypatch.setattr(committer_process, "_PAUSE_S", 0.0)
    database.committer._not_before = 0.0
    await until(lambda: database.committer._starting is None)
    await with_committer(database)
    await submit(store, job())
    assert len(processes.pids) == 2


async def test_few_works_need_no_process_and_many_have_one_started(path: Path, processes: Processes) -> None:
    database = SqliteDatabase(path)
    store = SqlJobStore(database, memory=RecentJobs())
    for _ in range(3):
        await submit(store, *[job() for _ in range(10)])
    assert processes.pids == []
    await submit(store, *[job() for _ in range(JOBS)])
    await until(lambda: database.committer.ready)
    assert len(processes.pids) == 1
    await store.close()


async def test_where_none_can_be_started_the_thread_goes_on(
    path: Path, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.fault = OSError(11, "Resource temporarily unavailable")
    database = SqliteDatabase(path)
    store = SqlJobStore(database, memory=RecentJobs())
    for _ in range(2):
        assert await submit(store, *[job() for _ in range(JOBS)]) == [None] * JOBS
        await until(lambda: database.committer._starting is None)
    assert capsys.readouterr().out.count("committer_not_started") == 1
    await store.close()


async def test_a_full_disk_is_the_threads_to_tell_of(path: Path, processes: Processes) -> None:
    del processes
    database = SqliteDatabase(path)
    await with_committer(database)
    store = SqlJobStore(database, memory=RecentJobs())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a disk does that takes nothing
        outcomes = await submit(store, job(), job())
        other.execute("ROLLBACK")
    assert [str(outcome) for outcome in outcomes] == ["the database failed: database is locked"] * 2
    assert await submit(store, job(), job()) == [None, None]
    await store.close()


async def test_a_submit_that_is_left_is_written_all_the_same(store: SqlJobStore, path: Path) -> None:
    left = asyncio.ensure_future(store.submit(new := job()))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await submit(store, job())
    assert count(path, "jobs") == 2
    assert (await store.get(new.id)) is not None


async def test_what_it_was_told_is_committed_though_nobody_listens_any_more(path: Path) -> None:
    await SqliteDatabase(path).close()
    ours, theirs = socket.socketpair()
    join = child.start_process(committer.__name__, theirs, str(path))
    assert ours.recv(1) == committer.READY
    statement = "INSERT INTO events (job_id, name, at, data) VALUES ($1, $2, $3, $4)"
    message = msgspec.msgpack.encode(Message(b"mark", [statement], [("a", [(0, ("a", "job", 1, b"{}"))])]))
    ours.sendall(committer.LENGTH.pack(len(message)) + message + b"the next one is cut")
    ours.close()
    assert join() == 0
    assert count(path, "events") == 1


@pytest.mark.parametrize("value", [object(), 2**70])
async def test_a_value_that_cannot_be_told_is_the_threads(
    store: SqlJobStore, database: SqliteDatabase, by_thread: list[object], value: object
) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.change_one("UPDATE jobs SET model = $2 WHERE id = $1", "a", value)

    with pytest.raises((sqlite3.Error, OverflowError)):
        await database.write(work, job_id="a")
    assert len(by_thread) == 1
    jobs = [job() for _ in range(3)]
    await asyncio.gather(*[run(store, each) for each in jobs])
    assert len(by_thread) == 1


async def two(transaction: Transaction) -> str:
    assert await transaction.change_one("UPDATE t SET x = $1", 1)
    assert await transaction.change_one("UPDATE u SET y = $1", 2)
    return "done"


@pytest.mark.parametrize(
    "ask",
    [
        lambda transaction: transaction.execute("DELETE FROM t"),
        lambda transaction: transaction.execute_many("DELETE FROM t WHERE x = $1", [(1,)]),
        lambda transaction: transaction.fetch("SELECT 1"),
        lambda transaction: transaction.fetch_one("SELECT 1"),
    ],
)
def test_what_asks_the_database_has_no_script(ask: Callable[[Transaction], Any]) -> None:
    async def work(transaction: Transaction) -> None:
        await two(transaction)
        await ask(transaction)

    assert scripted("a", work) is None


def test_a_script_is_all_that_a_work_writes() -> None:
    assert scripted("a", two) == Script("a", [("UPDATE t SET x = $1", (1,)), ("UPDATE u SET y = $1", (2,))], "done")


def test_a_work_that_waits_for_something_else_is_a_fault_of_ours() -> None:
    async def work(transaction: Transaction) -> None:
        del transaction
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="waited for something else"):
        scripted("a", work)


async def test_it_holds_what_it_is_given_as_long_as_it_lives(path: Path, processes: Processes) -> None:
    del processes
    ours, theirs = socket.socketpair()
    database = SqliteDatabase(path, keep=[theirs.fileno()])
    process: CommitterProcess = await with_committer(database)
    theirs.close()
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    await database.close()
    assert not process.ready
    assert ours.recv(1) == b""
    ours.close()
