"""The queries, and waiting for an end."""

import asyncio
from datetime import timedelta

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite.queue import SqliteQueue
from safelight.application.ports import JobFilter
from safelight.application.read import Read
from safelight.domain.caller import ANYBODY
from safelight.domain.errors import NotFound
from safelight.domain.image import Operation
from safelight.domain.job import Ending, Job, JobError, JobStatus
from safelight.domain.money import Charged
from tests.doubles import FakeClock
from tests.making import NOON, job, new_id, started

FAILED = Ending(
    completed_at=NOON,
    charged=Charged.NO,
    cost_micros=None,
    error=JobError(status_code=500, code="x", message="x"),
)


class CountedBell(LocalBell):
    """Tells of each listener."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners = asyncio.Semaphore(0)

    def listen(self, topic: str) -> "asyncio.Future[None]":
        self.listeners.release()
        return super().listen(topic)

    async def is_quiet(self) -> bool:
        await asyncio.sleep(0)  # futures tell of their end with the loop's next turn
        return not self._waiting


class Desk:
    def __init__(self, store: SqlJobStore) -> None:
        self.store = store
        self.bell = CountedBell()
        self.clock = FakeClock()
        self.queue = SqliteQueue(store, concurrency=8, lane_slots=lambda _: 8, now=self.clock.now)
        self.read = Read(store=store, queue=self.queue, bell=self.bell, clock=self.clock)

    async def submitted(self, **members: int) -> Job:
        new = job(**members)
        await self.store.submit(new)
        self.queue.wake(new.id, lane=new.lane, at=new.created_at)
        return new

    async def end(self, ended: Job) -> None:
        await self.store.finish(ended.id, FAILED, tries=0)
        self.bell.ring(ended.id)


@pytest.fixture
def desk(store: SqlJobStore) -> Desk:
    return Desk(store)


async def test_a_job_is_read_by_its_id_and_type(desk: Desk) -> None:
    new = await desk.submitted()
    assert await desk.read.job(new.id, ANYBODY) == new
    assert await desk.read.job(new.id, ANYBODY, Operation.GENERATION) == new
    with pytest.raises(NotFound, match="operation type mismatch"):
        await desk.read.job(new.id, ANYBODY, Operation.EDIT)
    with pytest.raises(NotFound, match="job not found or expired"):
        await desk.read.job(new_id(), ANYBODY)


async def test_a_job_is_gone_from_the_moment_it_expires(desk: Desk) -> None:
    new = await desk.submitted(ttl_s=60)
    await desk.end(new)
    desk.clock.move(60)
    desk.clock.moment -= timedelta(microseconds=1)
    assert (await desk.read.job(new.id, ANYBODY)).status is JobStatus.FAILED
    assert (await desk.read.history(new.id, ANYBODY)).job.status is JobStatus.FAILED
    assert len((await desk.read.jobs(JobFilter())).jobs) == 1
    desk.clock.moment += timedelta(microseconds=1)
    for read in (
        desk.read.job(new.id, ANYBODY),
        desk.read.history(new.id, ANYBODY),
        desk.read.job(new.id, ANYBODY, Operation.EDIT),
    ):
        with pytest.raises(NotFound, match="job not found or expired"):
            await read
    assert (await desk.read.jobs(JobFilter())).jobs == ()


async def test_the_ledger_is_read_with_the_job(desk: Desk) -> None:
    new = await desk.submitted()
    await desk.store.start_attempt(new.id, started())
    assert (await desk.read.history(new.id, ANYBODY)).attempts == (started(),)
    with pytest.raises(NotFound):
        await desk.read.history(new_id(), ANYBODY)


async def test_the_place_in_the_queue(desk: Desk) -> None:
    first, second = await desk.submitted(), await desk.submitted()
    assert await desk.read.queue_position(first) == 0
    assert await desk.read.queue_position(second) == 1
    await desk.store.start_attempt(first.id, started())
    assert await desk.read.queue_position(await desk.read.job(first.id, ANYBODY)) is None


async def test_whoever_waits_is_told_of_the_end(desk: Desk) -> None:
    new = await desk.submitted()
    waiting = asyncio.create_task(desk.read.ended(new.id, ANYBODY))
    await desk.bell.listeners.acquire()
    await desk.end(new)
    assert (await waiting).status is JobStatus.FAILED
    assert await desk.bell.is_quiet()


async def test_an_end_before_the_wait_is_seen_at_once(desk: Desk) -> None:
    new = await desk.submitted()
    await desk.end(new)
    assert (await desk.read.ended(new.id, ANYBODY)).status is JobStatus.FAILED
    assert await desk.bell.is_quiet()


async def test_a_wait_ends_in_time_or_when_the_bell_is_silenced(desk: Desk) -> None:
    new = await desk.submitted()
    assert (await desk.read.ended(new.id, ANYBODY, timeout_s=0.001)).status is JobStatus.PENDING
    await desk.bell.listeners.acquire()
    waiting = asyncio.create_task(desk.read.ended(new.id, ANYBODY))
    await desk.bell.listeners.acquire()
    desk.bell.silence()
    assert (await waiting).status is JobStatus.PENDING
    assert (await desk.read.ended(new.id, ANYBODY)).status is JobStatus.PENDING
    assert await desk.bell.is_quiet()


async def test_a_waiter_that_leaves_leaves_nothing_behind(desk: Desk) -> None:
    new = await desk.submitted()
    waiters = [asyncio.create_task(desk.read.ended(new.id, ANYBODY)) for _ in range(3)]
    for _ in waiters:
        await desk.bell.listeners.acquire()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert await desk.bell.is_quiet()
    desk.bell.ring(new.id)


async def test_waiting_for_an_unknown_job_is_refused(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await desk.read.ended(new_id(), ANYBODY)
    assert await desk.bell.is_quiet()
