"""Commits of many jobs at once on SQLite: few statements, and the same rows as one by one."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from safelight.adapters.sql import events
from safelight.adapters.sql import jobs as sql
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite import connection, together
from safelight.adapters.sqlite.together import MOST_ROWS, for_many
from safelight.domain.errors import StorageError, Superseded
from safelight.domain.job import Idempotency, Job, JobStatus
from tests.making import NOON, job, request, started
from tests.stores import Taken, finish, sqlite_store

STATEMENTS = {
    name: getattr(sql, name)
    for name in (
        "INSERT_JOB",
        "START_JOB",
        "INSERT_ATTEMPT",
        "ACCEPT_ATTEMPT",
        "END_ATTEMPT",
        "POSTPONE",
        "SET_PROGRESS",
        "FINISH_JOB",
        "CANCEL_JOB",
        "STOP_ASKED",
    )
} | {"INSERT_EVENT": events.INSERT_EVENT}
"""All that the job store has changed by `change_one`."""


LONG = request(prompt="a fox " * 2_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlJobStore]:
    store = sqlite_store(tmp_path / "jobs.db")
    yield store
    await store.close()


class Changes:
    """The statements of many rows, and how many rows each had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        change = together._change

        def counted(opened: sqlite3.Connection, statement: str, rows: Sequence[Any]) -> None:
            self.rows.append(len(rows))
            change(opened, statement, rows)

        monkeypatch.setattr(together, "_change", counted)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Changes:
    return Changes(monkeypatch)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many works each commit has."""
    sizes: list[int] = []
    commit = connection.Writer._commit

    def counted(self: connection.Writer, batch: Sequence[Any]) -> Any:
        sizes.append(len(batch))
        return commit(self, batch)

    monkeypatch.setattr(connection.Writer, "_commit", counted)
    return sizes


async def events_of(store: SqlJobStore, of: Job) -> list[str]:
    return [str(logged.event.data.get("status")) for logged in await store.events(of.id, after=0, limit=9)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_each_statement_finds_its_rows_by_their_key(tmp_path: Path, store: SqlJobStore, name: str) -> None:
    del store  # it has made the tables
    statement = for_many(STATEMENTS[name], 3)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as opened:
        values = [None] * statement.count("?")
        plan = [row[3] for row in opened.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert not [step for step in plan if step.startswith(("SCAN jobs", "SCAN attempts", "SCAN events"))]


@pytest.mark.parametrize("statement", ["DELETE FROM jobs WHERE id = $1", "SELECT 1", "INSERT INTO jobs DEFAULT VALUES"])
def test_other_statements_are_not_for_many_rows(statement: str) -> None:
    with pytest.raises(ValueError, match="not a statement for many rows"):
        for_many(statement, 2)


async def test_jobs_that_move_on_at_once_share_their_statements(store: SqlJobStore, changes: Changes) -> None:
    jobs = [job() for _ in range(MOST_ROWS + 6)]
    await asyncio.gather(*[store.submit(each) for each in jobs])
    await asyncio.gather(*[store.start_attempt(each.id, started()) for each in jobs])
    await asyncio.gather(*[finish(store, each) for each in jobs])
    assert changes.rows == [len(jobs)] * 8
    for each in jobs:
        history = await store.history(each.id)
        assert history is not None
        assert (history.job.status, len(history.attempts)) == (JobStatus.COMPLETED, 1)
        assert await events_of(store, each) == ["pending", "processing", "completed"]


async def test_one_that_has_moved_on_is_alone_in_failing(store: SqlJobStore) -> None:
    jobs = [job() for _ in range(9)]
    await asyncio.gather(*[store.submit(each) for each in jobs])
    await store.start_attempt(jobs[4].id, started())
    await finish(store, jobs[4])
    outcomes = await asyncio.gather(*[store.start_attempt(each.id, started()) for each in jobs], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 4 + [Superseded] + [type(None)] * 4
    for each in jobs:
        assert (await events_of(store, each))[:2] == ["pending", "processing"]


async def test_what_happens_to_one_job_happens_in_its_order(store: SqlJobStore) -> None:
    jobs = [job() for _ in range(5)]
    await asyncio.gather(*[store.submit(each) for each in jobs])
    await asyncio.gather(*[store.start_attempt(each.id, started()) for each in jobs])
    await asyncio.gather(
        *[store.progress(each.id, share / 10, attempt=1, at=NOON) for each in jobs for share in range(1, 4)]
    )
    for each in jobs:
        logged = await store.events(each.id, after=0, limit=9)
        assert [entry.event.data.get("progress") for entry in logged[2:]] == [0.1, 0.2, 0.3]


async def test_a_job_is_submitted_and_begun_in_one_commit(commits: list[int], store: SqlJobStore) -> None:
    jobs, taken = [job() for _ in range(10)], Taken(store)
    commits.clear()
    await asyncio.gather(*[store.submit(each, wake=partial(taken.wake, each)) for each in jobs], *taken.starts)
    await asyncio.gather(*taken.starts)
    assert len(taken.starts) == len(jobs)
    assert sum(commits) == 2 * len(jobs)
    assert max(commits) > len(jobs)
    for each in jobs:
        history = await store.history(each.id)
        assert history is not None
        assert (history.job.status, len(history.attempts)) == (JobStatus.PROCESSING, 1)
        assert await events_of(store, each) == ["pending", "processing"]


async def test_what_is_on_its_way_is_found_however_much_it_is(store: SqlJobStore) -> None:
    jobs = [job() for _ in range(2_000)]
    found: list[asyncio.Task[Job | None]] = []

    def look(of: Job) -> None:
        found.append(asyncio.ensure_future(store.get(of.id)))

    await asyncio.gather(*[store.submit(each, wake=partial(look, each)) for each in jobs])
    assert [of and of.id for of in await asyncio.gather(*found)] == [of.id for of in jobs]


@pytest.mark.parametrize("members", [{"idempotency": Idempotency(key="k", fingerprint="f")}, {"request": LONG}])
async def test_what_can_be_refused_or_is_not_in_memory_is_taken_up_when_it_is_there(
    store: SqlJobStore, members: dict[str, Any]
) -> None:
    woken: list[bool] = []
    new = job(**members)

    def wake() -> None:
        woken.append(submitting.done())

    submitting = asyncio.ensure_future(store.submit(new, wake=wake))
    await asyncio.sleep(0)
    assert woken == []
    await submitting
    assert len(woken) == 1


async def test_a_submit_that_fails_leaves_nothing_that_was_foreseen(store: SqlJobStore) -> None:
    new, taken = job(), Taken(store)
    await store.close()
    with pytest.raises(StorageError):
        await store.submit(new, wake=partial(taken.wake, new))
    (outcome,) = await asyncio.gather(*taken.starts, return_exceptions=True)
    assert isinstance(outcome, StorageError)
    with pytest.raises(StorageError):
        await store.get(new.id)


async def test_a_job_that_memory_has_no_room_for_is_asked_for(store: SqlJobStore, tmp_path: Path) -> None:
    jobs = [job() for _ in range(3)]
    await asyncio.gather(*[store.submit(each) for each in jobs])
    other = sqlite_store(tmp_path / "jobs.db")
    await asyncio.gather(*[other.start_attempt(each.id, started()) for each in jobs])
    await asyncio.gather(*[finish(other, each) for each in jobs])
    assert await events_of(other, jobs[0]) == ["pending", "processing", "completed"]
    await other.close()
