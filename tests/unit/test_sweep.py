"""Ends, expiry, orphans."""

from datetime import timedelta
from typing import Any

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.sql.batches import SqlBatchStore
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.sweep import Sweep
from safelight.domain.batch import Batch
from safelight.domain.errors import StorageError
from safelight.domain.event import developed
from safelight.domain.ids import BatchId, JobId, blob_key
from safelight.domain.image import InputImage
from safelight.domain.job import AttemptState, Job, JobHistory, JobStatus
from safelight.domain.money import Charged
from safelight.domain.outcome import settle
from tests.doubles import BlobNames, FakeClock, FaultyStore
from tests.making import NOON, PAID, failed, image, job, later, new_id, request, started, succeeded

DAY = timedelta(days=1)


class Yard:
    def __init__(self, store: SqlJobStore, bell: LocalBell) -> None:
        self.store = FaultyStore(store)
        self.blobs = BlobNames()
        self.bell = bell
        self.clock = FakeClock()
        self.batches = SqlBatchStore(store._database, store)
        self.sweep: Any = Sweep(
            store=self.store,
            batches=self.batches,
            blobs=self.blobs,  # type: ignore[arg-type]  # the half of a blob store that it uses
            clock=self.clock,
            deadline=DAY,
        )

    async def submitted(self, **members: Any) -> Job:
        new = job(**members)
        await self.store.submit(new)
        return new

    async def history(self, of: Job) -> JobHistory:
        history = await self.store.history(of.id)
        assert isinstance(history, JobHistory)
        return history


@pytest.fixture
def yard(store: SqlJobStore, bell: LocalBell) -> Yard:
    return Yard(store, bell)


async def test_a_job_past_its_deadline_fails_and_its_waiters_hear(yard: Yard) -> None:
    new = await yard.submitted(created_at=NOON - DAY - timedelta(microseconds=1))
    young = await yard.submitted(created_at=NOON - DAY)
    ring = yard.bell.listen(new.id)
    assert await yard.sweep.end_overdue() == 1
    ended = (await yard.history(new)).job
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert (ended.error.status_code, ended.error.code) == (504, "deadline_exceeded")
    assert (ended.charged, ended.completed_at) == (Charged.NO, NOON)
    assert ring.done()
    assert (await yard.history(young)).job.status is JobStatus.PENDING


async def test_an_open_call_of_an_overdue_job_is_booked_as_unknown(yard: Yard) -> None:
    new = await yard.submitted(created_at=NOON - 2 * DAY)
    await yard.store.start_attempt(new.id, started())
    await yard.sweep.once()
    history = await yard.history(new)
    assert [attempt.state for attempt in history.attempts] == [AttemptState.UNKNOWN]
    assert (history.job.status, history.job.charged) == (JobStatus.FAILED, Charged.UNKNOWN)


async def test_pictures_that_came_before_the_deadline_are_kept(yard: Yard) -> None:
    new = await yard.submitted(created_at=NOON - 2 * DAY, request=request(n=2))
    await yard.store.start_attempt(new.id, started())
    await yard.store.end_attempt(new.id, succeeded(), lane=PAID, due_at=NOON)
    await yard.sweep.once()
    ended = (await yard.history(new)).job
    assert ended.status is JobStatus.COMPLETED
    assert ended.result is not None
    assert len(ended.result.production.outputs) == 1
    assert ended.result.shortfall is not None
    assert ended.result.shortfall.code == "deadline_exceeded"


async def test_a_call_that_begins_while_the_job_is_swept_is_not_forgotten(yard: Yard) -> None:
    new = await yard.submitted(created_at=NOON - 2 * DAY)
    before = await yard.history(new)
    reads: list[JobId] = []

    async def stale_once(job_id: JobId) -> JobHistory:
        reads.append(job_id)
        if len(reads) == 1:
            await yard.store.start_attempt(job_id, started())
            return before
        del yard.store.instead["history"]
        return await yard.history(new)

    yard.store.instead["history"] = stale_once
    await yard.sweep.once()
    await yard.sweep.once()
    history = await yard.history(new)
    assert [attempt.state for attempt in history.attempts] == [AttemptState.UNKNOWN]
    assert history.job.charged is Charged.UNKNOWN


async def test_a_job_that_ends_while_it_is_swept_stays_as_it_is(yard: Yard) -> None:
    new = await yard.submitted(created_at=NOON - 2 * DAY)
    await yard.store.finish(new.id, settle(new, [succeeded()], error=None, now=NOON), tries=0)

    async def overdue(**_: object) -> list[JobId]:
        return [new.id, new_id()]

    yard.store.instead["overdue"] = overdue
    assert await yard.sweep.end_overdue() == 0
    assert (await yard.history(new)).job.status is JobStatus.COMPLETED


async def test_more_overdue_jobs_than_one_batch_all_end(yard: Yard) -> None:
    for _ in range(450):
        await yard.submitted(created_at=NOON - 2 * DAY)
    assert await yard.sweep.end_overdue() == 450


async def test_expired_jobs_go_with_their_images(yard: Yard) -> None:
    sent = InputImage(image=image("in"))
    old = await yard.submitted(ttl_s=60, request=request(images=(sent,)))
    new = await yard.submitted(ttl_s=61)
    for each in (old, new):
        await yard.store.start_attempt(each.id, started())
        done = succeeded()
        await yard.store.finish(each.id, settle(each, [done], error=None, now=NOON), tries=1, attempt=done)
    blobs = (await yard.history(old)).job.blobs
    assert len(blobs) == 2
    yard.clock.move(60)
    assert await yard.sweep.remove_expired() == 1
    assert tuple(yard.blobs.deleted) == blobs
    assert await yard.store.existing([old.id, new.id]) == {new.id}
    assert await yard.store.history(old.id) is None


async def test_expired_jobs_go_with_their_previews(yard: Yard) -> None:
    old = await yard.submitted(ttl_s=60, request=request(partial_images=2))
    await yard.store.start_attempt(old.id, started())
    shown = [image("p1", old.id), image("p2", old.id)]
    for number, preview in enumerate(shown):
        await yard.store.log_event(developed(old.id, preview, NOON, index=0, partial_index=number))
    await yard.store.finish(old.id, settle(old, [started()], error=None, now=NOON), tries=1)
    yard.clock.move(60)
    assert await yard.sweep.remove_expired() == 1
    assert yard.blobs.deleted == [preview.blob for preview in shown]


async def test_more_expired_jobs_than_one_batch_all_go(yard: Yard) -> None:
    for _ in range(450):
        new = await yard.submitted()
        await yard.store.finish(new.id, settle(new, [failed()], error=None, now=NOON), tries=0)
    yard.clock.moment = later(3600)
    assert await yard.sweep.remove_expired() == 450


async def test_rows_stay_as_long_as_their_images_cannot_be_removed(yard: Yard) -> None:
    old = await yard.submitted()
    await yard.store.finish(old.id, settle(old, [succeeded()], error=None, now=NOON), tries=0)
    yard.clock.moment = later(3600)
    yard.blobs.fault = StorageError("down")
    await yard.sweep.once()
    assert await yard.store.existing([old.id])
    yard.blobs.fault = None
    await yard.sweep.once()
    assert not await yard.store.existing([old.id])


@pytest.mark.parametrize("fault", [StorageError("down"), RuntimeError("bug")])
async def test_a_fault_in_one_part_leaves_the_others_to_work(yard: Yard, fault: Exception) -> None:
    old = await yard.submitted()
    await yard.store.finish(old.id, settle(old, [succeeded()], error=None, now=NOON), tries=0)
    yard.clock.moment = later(3600)
    yard.store.fail("overdue", fault)
    await yard.sweep.once()
    assert not await yard.store.existing([old.id])


async def test_old_images_without_a_job_are_removed(yard: Yard) -> None:
    here = await yard.submitted()
    kept, orphan, other = (blob_key(NOON - timedelta(days=1), job_id, "x") for job_id in (here.id, new_id(), new_id()))
    yard.blobs.pages = ([kept, orphan], [other])
    await yard.sweep.remove_orphans()
    assert yard.blobs.deleted == [orphan, other]
    assert yard.blobs.asked == [NOON - DAY]


async def test_orphans_wait_for_the_next_time_when_the_store_fails(yard: Yard) -> None:
    yard.blobs.pages = ([blob_key(NOON - timedelta(days=1), new_id(), "x")],)
    yard.store.fail("existing")
    await yard.sweep.remove_orphans()
    assert yard.blobs.deleted == []
    await yard.sweep.remove_orphans()
    assert len(yard.blobs.deleted) == 1


async def test_an_expired_batch_goes_with_its_lines_and_a_living_one_keeps_them(yard: Yard) -> None:
    old, living = BatchId(new_id()), BatchId(new_id())
    lines = [blob_key(NOON - DAY - DAY, batch_id, "lines") for batch_id in (old, living)]
    for batch_id, key in zip((old, living), lines, strict=True):
        await yard.batches.submit(
            Batch(id=batch_id, request_id="r", lines=key, total=1, created_at=NOON, ttl_s=60, fed_lines=1)
        )
    await yard.batches.cancel(old, at=NOON)
    await yard.batches.complete(old, at=NOON)
    yard.blobs.pages = (lines,)
    await yard.sweep.remove_orphans()
    assert yard.blobs.deleted == []
    yard.clock.move(60)
    await yard.sweep.once()
    assert yard.blobs.deleted == lines[:1]
    assert await yard.batches.get(old) is None
    assert await yard.batches.get(living) is not None
