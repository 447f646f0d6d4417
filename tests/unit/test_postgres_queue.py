"""The queue of several workers: who has what, and what becomes of it when a worker dies or is away too long."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from safelight.adapters.postgres import queue as queue_module
from safelight.adapters.postgres.queue import PostgresQueue
from safelight.application.ports import StepHandler
from safelight.domain.ids import ProviderName
from tests.conformance.test_job_store import ending
from tests.conformance.test_queue import A, B, Office, accepted, now, postgres_office, soon
from tests.postgres import execute, fetch

ENTRIES = "SELECT dedupe_key, status::text, entrypoint FROM pgqueuer ORDER BY id"
LEASE_S = 1.0


@pytest.fixture
async def open_office(database_url: str) -> AsyncIterator[Callable[..., Awaitable[Office]]]:
    async with AsyncExitStack() as stack:

        async def open_(*, concurrency: int = 8, slots: int = 8, **lanes: int) -> Office:
            seats = {ProviderName(name): number for name, number in lanes.items()} or {A: slots, B: slots}
            return await postgres_office(database_url, stack, lease_s=LEASE_S, concurrency=concurrency, lanes=seats)

        yield open_


OpenOffice = Callable[..., Awaitable[Office]]


async def entries(url: str) -> list[tuple[Any, ...]]:
    return await fetch(url, ENTRIES)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await condition():  # noqa: ASYNC110 - the table has no event
            await asyncio.sleep(0.02)


async def until_empty(url: str) -> None:
    async def empty() -> bool:
        return not await entries(url)

    await until(empty)


def worker_of(office: Office) -> PostgresQueue:
    assert isinstance(office.queue, PostgresQueue)
    return office.queue


def abandon(office: Office) -> None:
    """Stop a worker as a SIGKILL does: it takes and gives nothing, and tells nobody."""
    queue = worker_of(office)
    queue._settle = queue.beat = _nothing  # type: ignore[method-assign]
    queue._take = _take_nothing  # type: ignore[method-assign]


async def _nothing() -> None:
    pass


async def _take_nothing(handler: StepHandler) -> bool:
    del handler
    return False


async def test_each_job_goes_to_one_worker_within_the_limits_of_all(open_office: OpenOffice, database_url: str) -> None:
    first, second = await open_office(concurrency=2, slots=3), await open_office(concurrency=2, slots=3)
    second.lanes, second.held, second.at_work, second.most = first.lanes, first.held, first.at_work, first.most
    jobs = [await first.submit(A, hold=True) for _ in range(30)]
    async with first.running():
        await first.next(2)
        async with second.running():
            await second.next()
            first.release(*jobs)
            await until_empty(database_url)
    assert sorted([*first.order, *second.order]) == sorted(each.id for each in jobs)
    assert first.most[A] == 3


async def test_an_entry_is_made_by_the_commit_of_its_job_or_not_at_all(
    open_office: OpenOffice, database_url: str
) -> None:
    office = await open_office()
    new = await office.submit()
    with pytest.raises(Exception, match="duplicate key"):
        await office.store.submit(new)
    assert await entries(database_url) == [(new.id, "queued", "a")]


async def test_what_a_dead_worker_had_is_taken_over_when_its_lease_is_over(
    open_office: OpenOffice, database_url: str
) -> None:
    dead, alive = await open_office(slots=1), await open_office(slots=1)
    new = await dead.submit(hold=True)
    alive.lanes[new.id] = A
    async with dead.running():
        await dead.next()
        abandon(dead)
        begun = now()
        async with alive.running():
            assert await alive.next() == [new.id]
            assert now() - begun >= timedelta(seconds=LEASE_S * 0.7)
            await until_empty(database_url)


async def test_a_worker_that_is_there_keeps_what_it_has(open_office: OpenOffice) -> None:
    busy, other = await open_office(), await open_office()
    new = await busy.submit(hold=True)
    async with busy.running():
        await busy.next()
        async with other.running():
            for _ in range(3):
                await asyncio.sleep(LEASE_S)  # the lease itself is what is tested
            assert other.order == []
            busy.release(new)


async def test_accepted_work_of_a_dead_worker_is_asked_for_by_another_and_keeps_its_seat(
    open_office: OpenOffice, database_url: str
) -> None:
    dead, alive = await open_office(slots=1), await open_office(slots=1)
    work, waiting = await dead.submit(), await dead.submit()
    alive.lanes = dead.lanes
    dead.answers[work.id] = [accepted(0.3)]
    async with dead.running() as task:
        await dead.next()

        async def put_back() -> bool:
            return worker_of(dead).running == set() and not worker_of(dead)._backs

        await until(put_back)
        task.cancel()
    async with alive.running():
        assert await alive.next(2) == [work.id, waiting.id]
        await until_empty(database_url)


async def test_a_worker_that_was_away_too_long_takes_nothing_from_its_successor(
    open_office: OpenOffice, database_url: str
) -> None:
    late, successor = await open_office(concurrency=1), await open_office()  # it has no room to take the job up again
    new = await late.submit(hold=True)
    successor.lanes[new.id] = A
    successor.held[new.id] = asyncio.Event()
    worker_of(late).beat = _nothing  # type: ignore[method-assign]
    async with late.running():
        await late.next()
        async with successor.running():
            await successor.next()
            late.release(new)
            await until(_idle(late))
            assert await entries(database_url) == [(new.id, "picked", "a")]
            successor.release(new)
            await until_empty(database_url)


def _idle(office: Office) -> Callable[[], Awaitable[bool]]:
    async def idle() -> bool:
        queue = worker_of(office)
        return not (queue._steps or queue._ended or queue._backs)

    return idle


async def test_a_job_woken_while_it_ends_is_taken_up_again(open_office: OpenOffice, database_url: str) -> None:
    office = await open_office()
    new = await office.submit(hold=True)
    async with office.running():
        await office.next()
        await worker_of(office)._database.write(
            lambda transaction: worker_of(office).enqueue(transaction, new.id, A, now())
        )
        office.release(new)
        assert await office.next() == [new.id]
        await until_empty(database_url)


async def test_waking_a_job_that_waits_for_later_brings_it_forward(open_office: OpenOffice) -> None:
    office = await open_office()
    new = await office.submit(due_at=soon(3600))
    await worker_of(office)._database.write(
        lambda transaction: worker_of(office).enqueue(transaction, new.id, A, now())
    )
    async with office.running():
        assert await office.next() == [new.id]


# The jobs table is the record


async def test_a_job_without_an_entry_gets_one(open_office: OpenOffice, database_url: str) -> None:
    office = await open_office()
    now_due, later = await office.submit(), await office.submit(B, due_at=soon(3600))
    await execute(database_url, "DELETE FROM pgqueuer")
    await worker_of(office).tidy()
    assert await entries(database_url) == [(now_due.id, "queued", "a"), (later.id, "queued", "b")]
    async with office.running():
        assert await office.next() == [now_due.id]


async def test_the_entry_of_a_job_that_ended_otherwise_is_dropped(open_office: OpenOffice, database_url: str) -> None:
    office = await open_office()
    new = await office.submit(due_at=soon(3600))
    await office.store.finish(new.id, ending(new), tries=0)
    await worker_of(office).tidy()
    assert await entries(database_url) == []


async def test_jobs_of_a_lane_that_has_left_the_settings_are_taken_up(open_office: OpenOffice) -> None:
    before = await open_office(a=1, gone=1)
    new = await before.submit(ProviderName("gone"))
    after = await open_office(a=1)
    after.lanes = before.lanes
    async with after.running():
        assert await after.next() == [new.id]


async def test_pgqueuers_log_does_not_grow(open_office: OpenOffice, database_url: str) -> None:
    office = await open_office()
    async with office.running():
        await office.submit()
        await office.next()
        await until_empty(database_url)
    assert await fetch(database_url, "SELECT count(*) FROM pgqueuer_log") == [(0,)]


async def test_a_fault_of_the_database_does_not_end_the_worker(
    open_office: OpenOffice, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_PAUSE_AFTER_FAULT", timedelta(milliseconds=20))
    office = await open_office()
    async with office.running():
        first = await office.submit(hold=True)
        await office.next()
        await execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'safelight'"
            " AND datname = current_database()",
        )
        second = await office.submit()
        assert await office.next() == [second.id]
        office.release(first)
        await until_empty(database_url)
