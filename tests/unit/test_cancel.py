"""Cancel, delete and retry, on the real store."""

import asyncio
from typing import Any

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite.queue import SqliteQueue
from safelight.application.cancel import Cancel
from safelight.application.read import Read
from safelight.application.retry import Retry
from safelight.domain.caller import ANYBODY, Caller
from safelight.domain.errors import NotFound, NotRetryable, StorageError
from safelight.domain.image import Operation
from safelight.domain.job import Job, JobStatus
from safelight.domain.money import Charged
from safelight.domain.outcome import settle
from tests.doubles import BlobNames, FakeClock, FaultyStore
from tests.making import NOON, PAID, failed, job, later, new_id, request, started, succeeded

EVERYBODY = Caller(admin=True)


class Desk:
    def __init__(self, store: SqlJobStore, blobs: Any) -> None:
        self.store = FaultyStore(store)
        self.clock = FakeClock()
        self.queue = SqliteQueue(store, concurrency=8, lane_slots=lambda _: 8, now=self.clock.now)
        self.read = Read(store=self.store, queue=self.queue, bell=LocalBell(), clock=self.clock)
        self.blobs = blobs
        self.cancel = Cancel(read=self.read, store=self.store, queue=self.queue, blobs=blobs, clock=self.clock)
        self.retry = Retry(read=self.read, store=self.store, queue=self.queue, clock=self.clock)

    async def submitted(self, **members: Any) -> Job:
        new = job(**members)
        await self.store.submit(new)
        return new

    async def failed(self, **members: Any) -> Job:
        new = await self.submitted(**members)
        await self.store.start_attempt(new.id, started())
        ending = settle(new, (failed(),), error=failed().error, now=NOON)
        await self.store.finish(new.id, ending, tries=1, attempt=failed(ended_at=NOON))
        return await self.read.job(new.id, EVERYBODY)


@pytest.fixture
def blobs() -> BlobNames:
    return BlobNames()


@pytest.fixture
def desk(store: SqlJobStore, blobs: BlobNames) -> Desk:
    return Desk(store, blobs)


async def test_a_job_that_waits_ends_at_once(desk: Desk) -> None:
    new = await desk.submitted()
    desk.clock.move(3)
    ended = await desk.cancel.end_or_delete(new.id, ANYBODY)
    assert ended == await desk.read.job(new.id, ANYBODY)
    assert ended is not None
    assert (ended.status, ended.status_code, ended.charged) == (JobStatus.FAILED, 499, Charged.NO)
    assert (ended.cancelled_at, ended.completed_at) == (later(3), later(3))


async def test_a_job_between_two_calls_ends_at_once_and_tells_that_the_first_was_paid(
    desk: Desk, blobs: BlobNames
) -> None:
    new = await desk.submitted(request=request(n=2))
    first = succeeded(1)
    await desk.store.start_attempt(new.id, started(1))
    await desk.store.end_attempt(new.id, first, lane=PAID, due_at=later(60))
    ended = await desk.cancel.end_or_delete(new.id, ANYBODY)
    assert ended is not None
    assert (ended.status_code, ended.charged, ended.result) == (499, Charged.YES, None)
    assert first.production is not None
    assert blobs.deleted == [first.production.outputs[0].image.blob]


async def test_a_job_whose_call_is_out_goes_on_as_cancelled(desk: Desk) -> None:
    new = await desk.submitted()
    await desk.store.start_attempt(new.id, started())
    for _ in range(2):
        cancelled = await desk.cancel.end_or_delete(new.id, ANYBODY)
        assert cancelled == await desk.read.job(new.id, ANYBODY)
        assert cancelled is not None
        assert (cancelled.status, cancelled.cancelled_at) == (JobStatus.PROCESSING, NOON)


async def test_a_cancel_that_meets_a_start_looks_again(desk: Desk) -> None:
    new = await desk.submitted()
    finish = desk.store.finish

    async def overtaken(*arguments: Any, **named: Any) -> None:
        del desk.store.instead["finish"]
        await desk.store.start_attempt(new.id, started())
        await finish(*arguments, **named)

    desk.store.instead["finish"] = overtaken
    cancelled = await desk.cancel.end_or_delete(new.id, ANYBODY)
    assert cancelled is not None
    assert (cancelled.status, cancelled.cancelled_at) == (JobStatus.PROCESSING, NOON)


async def test_a_job_that_has_ended_is_deleted_images_first(desk: Desk, blobs: BlobNames) -> None:
    new = await desk.submitted()
    await desk.store.start_attempt(new.id, started())
    last = succeeded(ended_at=NOON)
    await desk.store.finish(new.id, settle(new, (last,), error=None, now=NOON), tries=1, attempt=last)
    blobs.fault = StorageError("broken")
    with pytest.raises(StorageError):
        await desk.cancel.end_or_delete(new.id, ANYBODY)
    assert (await desk.read.job(new.id, ANYBODY)).status is JobStatus.COMPLETED
    blobs.fault = None
    assert await desk.cancel.end_or_delete(new.id, ANYBODY) is None
    assert last.production is not None
    assert blobs.deleted == [last.production.outputs[0].image.blob]
    with pytest.raises(NotFound):
        await desk.cancel.end_or_delete(new.id, ANYBODY)


async def test_a_job_that_is_retried_while_it_is_deleted_is_cancelled_instead(desk: Desk) -> None:
    new = await desk.failed()
    delete = desk.store.delete

    async def overtaken(*arguments: Any) -> None:
        await desk.retry.again(new.id, ANYBODY)
        await delete(*arguments)

    desk.store.instead["delete"] = overtaken
    ended = await desk.cancel.end_or_delete(new.id, ANYBODY)
    assert ended is not None
    assert ended.status_code == 499


async def test_jobs_of_others_are_not_there(desk: Desk) -> None:
    new = await desk.failed(owner="key-1")
    stranger = Caller(owner="key-2")
    for attempt in (
        desk.cancel.end_or_delete(new.id, stranger),
        desk.retry.again(new.id, stranger),
        desk.read.history(new.id, stranger),
        desk.read.job(new.id, stranger),
        desk.read.job(new_id(), stranger),
        desk.read.job(new.id, stranger, Operation.EDIT),
    ):
        with pytest.raises(NotFound, match=r"^job not found or expired$"):
            await attempt
    assert (await desk.retry.again(new.id, Caller(owner="key-1"))).status is JobStatus.PENDING


async def test_a_failed_job_is_run_again_by_one_of_those_who_ask(desk: Desk) -> None:
    new = await desk.failed()
    outcomes = await asyncio.gather(*[desk.retry.again(new.id, ANYBODY) for _ in range(4)], return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Job", *["NotRetryable"] * 3]
    renewed = await desk.read.job(new.id, ANYBODY)
    assert (renewed.status, renewed.earlier_attempts) == (JobStatus.PENDING, 1)


async def test_what_has_not_failed_is_not_run_again(desk: Desk) -> None:
    new = await desk.submitted()
    with pytest.raises(NotRetryable):
        await desk.retry.again(new.id, ANYBODY)
    gone = await desk.failed(ttl_s=1)
    desk.clock.move(1)
    with pytest.raises(NotFound):
        await desk.retry.again(gone.id, ANYBODY)
