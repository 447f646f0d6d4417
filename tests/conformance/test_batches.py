"""Feeding: each line becomes one job, however often the feeder dies, and never more at a time than there is room for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from safelight.adapters.batch_lines import BlobBatchLines
from safelight.adapters.bell import LocalBell
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.adapters.sql.batches import SqlBatchStore
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.batch import Batches, Feed
from safelight.application.ports import JobFilter
from safelight.domain.batch import Batch, BatchCounts, BatchEntry, BatchResult, BatchStatus
from safelight.domain.caller import ANYBODY, Caller
from safelight.domain.errors import IdempotencyConflict, NotFound, StorageError, Superseded
from safelight.domain.fairness import STRIDE, Turn, turn_of
from safelight.domain.ids import BatchId, JobId
from safelight.domain.job import Idempotency, Job, JobHistory, JobStatus, Priority
from safelight.domain.outcome import settle
from tests.doubles import FakeClock, FaultyStore
from tests.making import FLUX, NOON, OTHER, PAID, SPARE, failed, job, later, new_id, request, started, succeeded
from tests.stores import Storage

ROOM = 4


class Woken:
    """A queue that only takes note."""

    def __init__(self) -> None:
        self.ids: list[JobId] = []

    def wake(self, job_id: JobId, **_: object) -> None:
        self.ids.append(job_id)


class Office:
    """All that has to do with batches, on one fresh database."""

    def __init__(self, store: SqlJobStore, bell: LocalBell, folder: Path) -> None:
        self.jobs = store
        self.bell = bell
        self.clock = FakeClock()
        self.blobs = LocalBlobStore(folder / "blobs")
        self.lines = BlobBatchLines(self.blobs, self.clock)
        self.store = FaultyStore(SqlBatchStore(store._database, store))  # type: ignore[arg-type]  # it stands in for any
        self.queue = Woken()
        self.retried: list[JobId] = []
        self.batches = Batches(
            store=self.store,
            lines=self.lines,
            bell=bell,
            clock=self.clock,
            jobs=store,
            cancel_job=self.cancel,
        )
        self.feed = self.feeder()

    def feeder(self) -> Feed:
        return Feed(
            store=self.store,
            lines=self.lines,
            queue=self.queue,  # type: ignore[arg-type]  # the half of a queue that it uses
            bell=self.bell,
            clock=self.clock,
            lane_share=lambda lane: ROOM if lane == PAID else 1,
            retry_job=self.retry,
            tick_s=0.05,
            least_s=0,
        )

    async def accepted(self, *entries: BatchEntry, **members: Any) -> Batch:
        batch_id = BatchId(new_id())
        writer = self.lines.writer(batch_id)
        for entry in entries:
            await writer.add(entry)
        batch = Batch(
            **{
                "id": batch_id,
                "request_id": "r",
                "lines": await writer.close(),
                "total": len(entries),
                "created_at": NOON,
                "ttl_s": 3600,
                **members,
            }
        )
        return await self.batches.accept(batch)

    async def all_jobs(self, batch: Batch) -> list[Job]:
        page = await self.jobs.list_jobs(JobFilter(limit=1000))
        found = [each for each in page.jobs if each.batch and each.batch.batch_id == batch.id]
        return sorted(found, key=lambda each: each.batch.number if each.batch else 0)

    async def open_jobs(self, batch: Batch) -> list[Job]:
        return [each for each in await self.all_jobs(batch) if not each.status.terminal]

    async def complete(self, *jobs: Job) -> None:
        for each in jobs:
            await self.jobs.start_attempt(each.id, started())
            ending = settle(each, [succeeded()], error=None, now=self.clock.now())
            await self.jobs.finish(each.id, ending, tries=1, attempt=succeeded())

    async def fail(self, job_id: JobId) -> None:
        each = await self.jobs.get(job_id)
        assert each is not None
        ending = settle(each, [], error=failed().error, now=self.clock.now())
        await self.jobs.finish(job_id, ending, tries=0)

    async def cancel(self, history: JobHistory) -> None:
        if self.moves_on:
            self.moves_on -= 1
            raise Superseded("it has just begun")
        await self.fail(history.job.id)

    moves_on = 0

    async def retry(self, job_id: JobId) -> None:
        self.retried.append(job_id)
        if job_id in self.gone:
            raise NotFound("gone")

    gone: frozenset[JobId] = frozenset()

    async def results(self, batch: Batch, *, after: int, limit: int) -> tuple[Sequence[BatchResult], int | None]:
        page = await self.batches.results(batch.id, ANYBODY, after=after, limit=limit)
        return page.results, page.next_after

    async def progress(self, batch: Batch) -> tuple[BatchStatus, BatchCounts]:
        progress = await self.batches.read(batch.id, ANYBODY)
        return progress.status, progress.counts


@pytest.fixture
async def office(storage: Storage, tmp_path: Path) -> AsyncIterator[Office]:
    bell = LocalBell()
    store = await storage.open(bell)
    office = Office(store, bell, tmp_path)
    yield office
    await office.blobs.close()
    await store.close()


def entries(count: int, **members: Any) -> list[BatchEntry]:
    return [BatchEntry(request=request(prompt=f"fox {number}"), **members) for number in range(1, count + 1)]


def keyed(key: str, prompt: str = "a fox", fingerprint: str = "f") -> BatchEntry:
    return BatchEntry(request=request(prompt=prompt), idempotency=Idempotency(key=key, fingerprint=fingerprint))


async def test_lines_become_jobs_in_their_order_and_never_more_than_there_is_room_for(office: Office) -> None:
    batch = await office.accepted(*entries(10, metadata={"shop": "a"}), metadata={"run": "7"}, owner="me", webhook="w")
    done: list[Job] = []
    while await office.feed.once():
        waiting = await office.open_jobs(batch)
        assert len(waiting) <= ROOM
        done += waiting
        await office.complete(*waiting)
    assert [each.batch and each.batch.number for each in done] == list(range(1, 11))
    assert [each.request.prompt for each in done] == [f"fox {number}" for number in range(1, 11)]
    assert office.queue.ids == [each.id for each in done]
    first = done[0]
    assert (first.metadata, first.owner, first.webhook, first.ttl_s) == ({"run": "7", "shop": "a"}, "me", "w", 3600)
    assert turn_of(first) == Turn("me", Priority.BULK, STRIDE), "others go first"
    progress = await office.batches.read(batch.id, Caller(owner="me"))
    assert (progress.status, progress.counts) == (BatchStatus.COMPLETED, BatchCounts(completed=10))
    assert progress.batch.completed_at == NOON


async def test_a_full_lane_is_left_alone_and_jobs_of_others_do_not_count(office: Office) -> None:
    for _ in range(9):
        await office.jobs.submit(job())
    batch = await office.accepted(
        *entries(ROOM), BatchEntry(request=request(OTHER)), BatchEntry(request=request(OTHER))
    )
    await office.feed.once()
    assert len(await office.open_jobs(batch)) == ROOM + 1
    again = await office.accepted(*entries(1))
    await office.feed.once()
    assert await office.all_jobs(again) == []


async def test_a_feeder_that_dies_at_any_point_leaves_each_line_with_one_job(office: Office) -> None:
    batch = await office.accepted(*entries(9))
    office.store.fail("feed")
    with pytest.raises(StorageError):
        await office.feed.once()
    assert await office.all_jobs(batch) == []
    while await office.feeder().once():  # a new one each time: only the record tells where it was
        await office.complete(*await office.open_jobs(batch))
    assert [each.request.prompt for each in await office.all_jobs(batch)] == [f"fox {n}" for n in range(1, 10)]


async def test_two_feeders_make_one_job_of_each_line(office: Office) -> None:
    batch = await office.accepted(*entries(30))
    for _ in range(60):
        await asyncio.gather(office.feeder().once(), office.feeder().once())
        await office.complete(*await office.open_jobs(batch))
    assert [each.request.prompt for each in await office.all_jobs(batch)] == [f"fox {n}" for n in range(1, 31)]


async def test_runs_by_itself_and_hears_of_new_batches_and_of_ends(office: Office) -> None:
    feeding = asyncio.create_task(office.feed.run())
    office.store.fail("open_batches", StorageError("once"), RuntimeError("twice"))
    batch = await office.accepted(*entries(7))
    async with asyncio.timeout(20):
        while (await office.batches.read(batch.id, ANYBODY)).batch.completed_at is None:
            await office.complete(*await office.open_jobs(batch))
            await asyncio.sleep(0)
    feeding.cancel()
    assert await office.progress(batch) == (BatchStatus.COMPLETED, BatchCounts(completed=7))


async def test_counts_every_line_once_at_any_time(office: Office) -> None:
    batch = await office.accepted(*entries(10))
    assert await office.progress(batch) == (BatchStatus.RUNNING, BatchCounts(pending=10))
    await office.feed.once()
    one, two, three, _ = await office.open_jobs(batch)
    await office.complete(one)
    await office.fail(two.id)
    await office.jobs.start_attempt(three.id, started())
    counts = BatchCounts(pending=7, processing=1, completed=1, failed=1)
    assert await office.progress(batch) == (BatchStatus.RUNNING, counts)
    await office.jobs.delete([one.id])
    assert (await office.progress(batch))[1] == BatchCounts(pending=7, processing=1, completed=0, failed=2)


# Keys of lines


async def test_a_line_whose_key_has_a_job_shares_it(office: Office) -> None:
    earlier = job(idempotency=Idempotency(key="k", fingerprint="f"))
    await office.jobs.submit(earlier)
    await office.complete(earlier)
    batch = await office.accepted(keyed("k"), keyed("new"), keyed("new"))
    await office.feed.once()
    [mine] = await office.all_jobs(batch)
    await office.complete(mine)
    found, after = await office.results(batch, after=0, limit=10)
    assert [each.job and each.job.id for each in found] == [earlier.id, mine.id, mine.id]
    assert after is None
    assert await office.progress(batch) == (BatchStatus.COMPLETED, BatchCounts(completed=3))


async def test_a_line_whose_key_came_with_another_request_fails(office: Office) -> None:
    batch = await office.accepted(keyed("k"), keyed("k", "another fox", "g"))
    await office.feed.once()
    mine, refused = await office.all_jobs(batch)
    assert office.queue.ids == [mine.id]
    assert refused.error is not None
    assert (refused.error.status_code, refused.error.code) == (422, "idempotency_conflict")
    assert refused.batch is not None
    assert refused.batch.number == 2


async def test_keys_are_each_callers_own(office: Office) -> None:
    await office.jobs.submit(job(idempotency=Idempotency(key="k1", fingerprint="f"), owner="other"))
    batch = await office.accepted(keyed("k2"), owner="me")
    await office.feed.once()
    assert len(await office.all_jobs(batch)) == 1


async def test_a_batch_with_the_same_key_is_the_same_batch(office: Office) -> None:
    said = Idempotency(key="k", fingerprint="f")
    batch = await office.accepted(*entries(1), idempotency=said)
    assert (await office.accepted(*entries(1), idempotency=said)).id == batch.id
    assert (await office.accepted(*entries(1), idempotency=said, owner="other")).id != batch.id
    with pytest.raises(IdempotencyConflict):
        await office.accepted(*entries(2), idempotency=replace(said, fingerprint="g"))


# Results


async def test_results_come_in_the_order_of_the_lines_up_to_the_first_that_has_not_ended(office: Office) -> None:
    batch = await office.accepted(*entries(6))
    assert await office.results(batch, after=0, limit=10) == ([], 0)
    await office.feed.once()
    one, two, three, four = await office.open_jobs(batch)
    await office.complete(one, four)
    await office.fail(two.id)
    page, after = await office.results(batch, after=0, limit=10)
    assert [(each.number, each.job and each.job.status.value) for each in page] == [(1, "completed"), (2, "failed")]
    assert after == 2
    assert await office.results(batch, after=2, limit=10) == ([], 2)
    await office.complete(three)
    page, after = await office.results(batch, after=2, limit=1)
    assert ([each.number for each in page], after) == ([3], 3)
    await office.feed.once()
    await office.complete(*await office.open_jobs(batch))
    page, after = await office.results(batch, after=3, limit=10)
    assert ([each.number for each in page], after) == ([4, 5, 6], None)
    office.clock.move(3600)
    page, _ = await office.results(batch, after=0, limit=10)
    assert [each.job for each in page] == [None] * 6, "expired"


# Cancel and retry


async def test_no_line_starts_once_the_cancel_was_answered(office: Office) -> None:
    batch = await office.accepted(*entries(10))
    await office.feed.once()
    await office.complete((await office.open_jobs(batch))[0])
    office.moves_on = 2
    progress = await office.batches.cancel(batch.id, ANYBODY)
    assert (progress.status, progress.counts) == (BatchStatus.CANCELLED, BatchCounts(completed=1, failed=9))
    while await office.feed.once():
        pass
    assert len(await office.all_jobs(batch)) == ROOM
    page, after = await office.results(batch, after=0, limit=10)
    assert ([each.number for each in page if each.job is None], after) == ([5, 6, 7, 8, 9, 10], None)


async def test_a_feeder_that_had_read_the_batch_before_its_cancel_feeds_nothing(office: Office) -> None:
    batch = await office.accepted(*entries(3))
    before = await office.store.open_batches(limit=1)
    await office.batches.cancel(batch.id, ANYBODY)

    async def stale(*, limit: int) -> object:
        del limit
        return before

    office.store.instead["open_batches"] = stale
    await office.feed.once()
    assert await office.all_jobs(batch) == []


async def test_failed_lines_run_again_and_those_that_a_cancel_kept_back_start(office: Office) -> None:
    batch = await office.accepted(*entries(7))
    await office.feed.once()
    one, two, three, four = await office.open_jobs(batch)
    await office.complete(one)
    await office.fail(two.id)
    await office.batches.cancel(batch.id, ANYBODY)
    await office.feed.once()
    assert (await office.batches.read(batch.id, ANYBODY)).batch.completed_at == NOON
    office.gone = frozenset({two.id})
    progress = await office.batches.retry_failed(batch.id, ANYBODY)
    assert (progress.status, progress.batch.completed_at) == (BatchStatus.RUNNING, None)
    await office.feed.once()
    assert office.retried == [two.id, three.id, four.id]
    assert [each.batch and each.batch.number for each in await office.open_jobs(batch)] == [5]


async def test_what_failed_after_the_wish_is_not_run_again(office: Office) -> None:
    batch = await office.accepted(*entries(2))
    await office.feed.once()
    one, two = await office.open_jobs(batch)
    await office.fail(one.id)
    await office.batches.retry_failed(batch.id, ANYBODY)
    office.clock.move(1)
    await office.fail(two.id)
    await office.feed.once()
    await office.feed.once()
    assert office.retried == [one.id]


# Whose it is


async def test_a_batch_is_seen_by_its_owner_alone(office: Office) -> None:
    batch = await office.accepted(*entries(1), owner="me")
    for use in (
        office.batches.read(batch.id, ANYBODY),
        office.batches.cancel(batch.id, Caller(owner="other")),
        office.batches.retry_failed(batch.id, Caller(owner="other")),
        office.batches.results(batch.id, Caller(owner="other"), after=0, limit=1),
        office.batches.read(BatchId(new_id()), ANYBODY),
    ):
        with pytest.raises(NotFound, match="batch not found or expired"):
            await use
    assert (await office.batches.read(batch.id, Caller(owner="me"))).batch.id == batch.id
    assert (await office.store.get(batch.id)).cancelled_at is None


async def test_batches_are_listed_newest_first_page_by_page(office: Office) -> None:
    mine = [await office.accepted(*entries(1), owner="me" if number % 2 else None) for number in range(6)]
    await office.accepted(*entries(1), owner="other")
    page = await office.batches.page(Caller(owner="me"), before=None, limit=4)
    assert [each.batch.id for each in page.batches] == [each.id for each in reversed(mine[2:])]
    rest = await office.batches.page(Caller(owner="me"), before=page.next_before, limit=4)
    assert [each.batch.id for each in rest.batches] == [mine[1].id, mine[0].id]
    assert rest.next_before is None


async def test_a_batch_ends_when_its_time_is_over(office: Office) -> None:
    batch = await office.accepted(*entries(1), ttl_s=60)
    await office.feed.once()
    await office.complete(*await office.open_jobs(batch))
    await office.feed.once()
    assert await office.store.expired(now=later(59), limit=9) == []
    assert [each.id for each in await office.store.expired(now=later(60), limit=9)] == [batch.id]
    office.clock.move(60)
    with pytest.raises(NotFound):
        await office.batches.read(batch.id, ANYBODY)
    await office.store.delete([batch.id])
    assert await office.store.get(batch.id) is None


async def test_lines_are_kept_as_they_were(office: Office) -> None:
    said = [
        BatchEntry(
            request=request(FLUX, seed=7, extra={"a": [1, None]}, fallbacks=(OTHER,)),
            metadata={"line": "\n"},
            idempotency=Idempotency(key="k", fingerprint="f"),
        ),
        BatchEntry(request=request(replace(FLUX, provider=SPARE), prompt="🦊\u2028" * 300_000)),
        BatchEntry(request=request()),
    ]
    batch = await office.accepted(*said)
    found = [each async for each in office.lines.read(batch.lines, start=0)]
    assert [entry for entry, _ in found] == said
    for index, (_, end) in enumerate(found[:-1]):
        [entry, *_] = [entry async for entry, _ in office.lines.read(batch.lines, start=end)]
        assert entry == said[index + 1]


def test_no_status_is_missing_from_the_counts() -> None:
    assert set(BatchCounts.__struct_fields__) == {status.value for status in JobStatus}
