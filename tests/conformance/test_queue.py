"""What every queue promises, on the job store that it belongs to."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from safelight.adapters.postgres.database import PostgresDatabase
from safelight.adapters.postgres.jobs import PostgresJobStore
from safelight.adapters.postgres.queue import PostgresQueue
from safelight.adapters.sql.access import SqlAccessStore
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite.queue import SqliteQueue
from safelight.application.access_ports import Change
from safelight.application.ports import Again
from safelight.domain.access import VirtualKey
from safelight.domain.errors import OwnerBusy, StorageError
from safelight.domain.fairness import STRIDE, stride, turn_of
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import Target
from safelight.domain.job import Job, Priority
from safelight.storage import WorkQueue
from tests.making import job, request, started
from tests.stores import sqlite_store

A, B = ProviderName("a"), ProviderName("b")
WAIT_S = 15.0


def now() -> datetime:
    return datetime.now(UTC)


def soon(seconds: float = 0.05) -> datetime:
    return now() + timedelta(seconds=seconds)


class Office:
    """A queue with its store, and a runner that takes the steps. Steps of held jobs last until they are let go."""

    def __init__(self, store: SqlJobStore, queue: WorkQueue) -> None:
        self.store = store
        self.queue = queue
        self.started: asyncio.Queue[JobId] = asyncio.Queue()
        self.order: list[JobId] = []
        self.at_work: Counter[ProviderName] = Counter()
        self.most: Counter[ProviderName | None] = Counter()
        """How many ran at a time, of each lane and of all."""
        self.lanes: dict[JobId, ProviderName] = {}
        self.held: dict[JobId, asyncio.Event] = {}
        self.answers: dict[JobId, list[Again | Exception]] = {}

    async def submit(
        self, lane: ProviderName = A, *, hold: bool = False, due_at: datetime | None = None, **members: Any
    ) -> Job:
        moment = now()
        target = Target(provider=lane, model="m")
        new = job(request=request(target), created_at=moment, due_at=due_at or moment, **members)
        self.lanes[new.id] = lane
        if hold:
            self.held[new.id] = asyncio.Event()
        await self.store.submit(new)
        self.queue.wake(new.id, lane=lane, at=due_at or moment, turn=turn_of(new))
        return new

    def release(self, *jobs: Job) -> None:
        for each in jobs:
            self.held.pop(each.id).set()

    async def step(self, job_id: JobId) -> Again | None:
        lane = self.lanes[job_id]
        self.at_work[lane] += 1
        self.most[lane] = max(self.most[lane], self.at_work[lane])
        self.most[None] = max(self.most[None], self.at_work.total())
        self.order.append(job_id)
        self.started.put_nowait(job_id)
        try:
            if job_id in self.held:
                await self.held[job_id].wait()
            else:
                await asyncio.sleep(0.01)  # a step takes its time, so that others run beside it
            answer = self.answers[job_id].pop(0) if self.answers.get(job_id) else None
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                self.lanes[job_id] = answer.lane
            return answer
        finally:
            self.at_work[lane] -= 1

    async def next(self, count: int = 1) -> list[JobId]:
        async with asyncio.timeout(WAIT_S):
            return [await self.started.get() for _ in range(count)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(self.queue.run(self.step))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


OpenOffice = Callable[..., Awaitable[Office]]


async def sqlite_office(path: Path, stack: AsyncExitStack, **limits: Any) -> Office:
    store = sqlite_store(path)
    stack.push_async_callback(store.close)
    slots: Mapping[ProviderName, int] = limits["lanes"]
    queue = SqliteQueue(store, concurrency=limits["concurrency"], lane_slots=lambda lane: slots.get(lane, 16), now=now)
    return Office(store, queue)


async def postgres_office(url: str, stack: AsyncExitStack, *, lease_s: float = 2, **limits: Any) -> Office:
    database = await PostgresDatabase.open(url, connections=6)
    stack.push_async_callback(database.close)
    queue = PostgresQueue(database, lease=timedelta(seconds=lease_s), now=now, **limits)
    return Office(PostgresJobStore(database, enqueue=queue.enqueue), queue)


@pytest.fixture(params=["sqlite", "postgres"])
async def open_office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenOffice]:
    url = request.getfixturevalue("database_url") if request.param == "postgres" else None
    async with AsyncExitStack() as stack:

        async def open_(*, concurrency: int = 8, slots: int = 8) -> Office:
            limits: dict[str, Any] = {"concurrency": concurrency, "lanes": {A: slots, B: slots}}
            if url is not None:
                return await postgres_office(url, stack, **limits)
            return await sqlite_office(tmp_path / "jobs.db", stack, **limits)

        yield open_


async def test_jobs_are_taken_up_in_their_order(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    jobs = [await office.submit() for _ in range(5)]
    async with office.running():
        assert await office.next(5) == [each.id for each in jobs]


async def test_a_new_job_is_taken_up_at_once(open_office: OpenOffice) -> None:
    office = await open_office()
    async with office.running():
        for _ in range(3):
            new = await office.submit()
            assert await office.next() == [new.id]


async def test_a_lane_has_its_slots_and_all_lanes_together_have_theirs(open_office: OpenOffice) -> None:
    office = await open_office(concurrency=5, slots=3)
    for _ in range(12):
        await office.submit(A)
        await office.submit(B)
    async with office.running():
        await office.next(24)
    assert office.most == {A: 3, B: 3, None: 5}
    assert set(Counter(office.order).values()) == {1}


async def test_a_full_lane_does_not_hold_up_the_others(open_office: OpenOffice) -> None:
    office = await open_office(slots=2)
    held = [await office.submit(A, hold=True) for _ in range(4)]
    other = await office.submit(B)
    async with office.running():
        assert set(await office.next(3)) == {held[0].id, held[1].id, other.id}
        office.release(*held)
        await office.next(2)


async def test_a_waiting_job_knows_how_many_start_before_it(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    jobs = [await office.submit(A, hold=True) for _ in range(3)]
    other = await office.submit(B, hold=True)
    later = await office.submit(A, due_at=soon(3600))
    assert [await office.queue.position(each) for each in (*jobs, other, later)] == [0, 1, 2, 0, None]
    async with office.running():
        await office.next(2)
        assert [await office.queue.position(each) for each in jobs] == [None, 0, 1]
        office.release(*jobs, other)
        await office.next(2)


async def test_a_job_comes_back_when_its_time_has_come_in_its_new_lane(open_office: OpenOffice) -> None:
    office = await open_office()
    new = await office.submit(A)
    due = soon(0.3)
    office.answers[new.id] = [Again(at=due, lane=B)]
    async with office.running():
        await office.next(2)
        assert now() >= due
    assert office.most == {A: 1, B: 1, None: 1}


async def test_a_job_that_waits_holds_no_slot(open_office: OpenOffice) -> None:
    office = await open_office(concurrency=1, slots=1)
    waits = await office.submit()
    office.answers[waits.id] = [Again(at=soon(0.5), lane=A)]
    async with office.running():
        await office.next()
        other = await office.submit()
        assert await office.next(2) == [other.id, waits.id]


@pytest.mark.parametrize("fault", [StorageError("locked"), RuntimeError("bug")])
async def test_a_step_that_fails_is_taken_again(open_office: OpenOffice, fault: Exception) -> None:
    office = await open_office()
    new = await office.submit()
    office.answers[new.id] = [fault]
    async with office.running():
        assert await office.next(2) == [new.id] * 2


async def test_a_provider_that_is_not_configured_has_a_lane_all_the_same(open_office: OpenOffice) -> None:
    office = await open_office()
    new = await office.submit(ProviderName("made-up"))
    office.answers[new.id] = [Again(at=now(), lane=ProviderName("made-up-too")), Again(at=now(), lane=A)]
    async with office.running():
        assert await office.next(3) == [new.id] * 3


# Work that a provider has accepted


def accepted(seconds: float = 0.05) -> Again:
    return Again(at=soon(seconds), lane=A, at_work=True)


async def test_accepted_work_keeps_its_slot_until_it_has_ended(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    first, second = [await office.submit() for _ in range(2)]
    office.answers[first.id] = [accepted(), accepted(), accepted(0.3)]
    async with office.running():
        assert await office.next(5) == [first.id] * 4 + [second.id]


async def test_accepted_work_holds_no_worker(open_office: OpenOffice) -> None:
    office = await open_office(concurrency=1)
    first, second = [await office.submit() for _ in range(2)]
    office.answers[first.id] = [accepted(0.5)]
    async with office.running():
        assert await office.next(3) == [first.id, second.id, first.id]


async def test_asking_for_accepted_work_waits_for_no_slot(open_office: OpenOffice) -> None:
    office = await open_office(slots=2)
    first, second = await office.submit(), await office.submit(hold=True)
    office.answers[first.id] = [accepted()]
    async with office.running():
        assert await office.next(3) == [first.id, second.id, first.id]
        office.release(second)


async def test_accepted_work_can_be_brought_forward(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    new = await office.submit()
    office.answers[new.id] = [accepted(3600), accepted(3600)]
    async with office.running():
        await office.next()
        for _ in range(2):
            moment = now()
            await office.store.bring_forward(new.id, lane=A, due_at=moment)
            office.queue.wake(new.id, lane=A, at=moment)
            assert await office.next() == [new.id]


async def test_accepted_work_that_goes_elsewhere_gives_its_slot_back(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    first, second = [await office.submit() for _ in range(2)]
    office.answers[first.id] = [accepted(), Again(at=soon(3600), lane=B)]
    async with office.running():
        assert await office.next(3) == [first.id, first.id, second.id]


# Stopping


async def test_nothing_starts_after_stop_and_what_runs_is_waited_for(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    first, _ = await office.submit(hold=True), await office.submit()
    office.answers[first.id] = [Again(at=now(), lane=A)]
    async with office.running() as task:
        await office.next()
        office.queue.stop()
        assert not task.done()
        office.release(first)
        await asyncio.wait_for(task, WAIT_S)
    assert office.order == [first.id]


async def test_cancelling_the_queue_cancels_what_runs_and_another_takes_it_up(open_office: OpenOffice) -> None:
    office, other = await open_office(), await open_office()
    new = await office.submit(hold=True)
    other.lanes[new.id] = A
    async with office.running():
        await office.next()
        assert office.queue.running == {A}
    assert office.at_work.total() == 0
    assert office.queue.running == set()
    async with other.running():
        assert await other.next() == [new.id]


async def flood(office: Office, owner: str, count: int, **members: Any) -> list[Job]:
    return [await office.submit(**{"owner": owner, "stride": STRIDE, **members}) for _ in range(count)]


async def test_a_queue_that_is_run_again_takes_up_what_was_cancelled(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    first = await office.submit(hold=True)
    async with office.running():
        assert await office.next() == [first.id]
    office.held.clear()
    second = await office.submit()
    async with office.running():
        assert set(await office.next(2)) == {first.id, second.id}


async def test_one_owners_crowd_does_not_delay_anothers_single_job(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    await flood(office, "crowd", 60)
    single = await office.submit(owner="single", stride=STRIDE)
    assert (await office.queue.position(single) or 0) <= 1
    async with office.running():
        order = await office.next(61)
    assert order.index(single.id) <= 1


async def test_owners_take_turns(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    jobs = {owner: await flood(office, owner, 10) for owner in ("a", "b", "c")}
    whose = {each.id: owner for owner, each_job in jobs.items() for each in each_job}
    async with office.running():
        order = [whose[job_id] for job_id in await office.next(30)]
    for at in range(0, 30, 3):
        assert set(order[at : at + 3]) == {"a", "b", "c"}


async def test_a_weight_says_how_many_start_for_each_one_of_another(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    heavy = {each.id for each in await flood(office, "heavy", 30, stride=stride(1, 3))}
    await flood(office, "light", 30)
    async with office.running():
        first = await office.next(20)
    assert 14 <= sum(job_id in heavy for job_id in first) <= 16


async def test_bulk_lets_others_go_first_and_does_not_starve(open_office: OpenOffice) -> None:
    office = await open_office(slots=1)
    bulk = {each.id for each in await flood(office, "bulk", 3, priority=Priority.BULK)}
    await flood(office, "hasty", 110)
    async with office.running():
        order = await office.next(113)
    assert not bulk & set(order[:99])
    assert min(at for at, job_id in enumerate(order) if job_id in bulk) <= 101


async def test_an_owner_has_only_so_many_at_work_and_others_are_not_held_up(tmp_path: Path) -> None:
    """On Postgres the store says so when a job is about to start: see the next test."""
    async with AsyncExitStack() as stack:
        office = await sqlite_office(tmp_path / "jobs.db", stack, concurrency=8, lanes={A: 8})
        limited = [
            await office.submit(owner="a", stride=STRIDE, max_running=2, hold=hold) for hold in (True, True, True, True)
        ]
        other = await office.submit(owner="b", stride=STRIDE)
        async with office.running():
            assert set(await office.next(3)) == {limited[0].id, limited[1].id, other.id}
            assert await office.queue.position(limited[2]) is None
            office.release(limited[0])
            assert await office.next() == [limited[2].id]
            office.release(*limited[1:])
            assert await office.next() == [limited[3].id]


async def test_the_store_starts_no_more_of_an_owner_than_may_be_at_work(open_office: OpenOffice) -> None:
    one, two = await open_office(), await open_office()
    access = SqlAccessStore(one.store._database)
    change = Change(at=now(), actor="test", action="created", subject="key", subject_id="a")
    await access.save(VirtualKey(id="a", name="a"), change, source="api")
    jobs = [await one.submit(owner="a", stride=STRIDE, max_running=3) for _ in range(10)]

    async def start(office: Office, new: Job) -> bool:
        try:
            await office.store.start_attempt(new.id, started(target=new.request.target), limited=new)
        except OwnerBusy:
            return False
        return True

    begun = await asyncio.gather(*[start((one, two)[at % 2], new) for at, new in enumerate(jobs)])
    assert sum(begun) == 3
