"""What every job store promises, on every engine of `tests/stores.py`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from safelight.application.ports import JobFilter, JobStore, Place
from safelight.domain.caller import ADMINISTRATOR, ANYBODY, Caller
from safelight.domain.errors import InvalidRequest, StorageError, Superseded
from safelight.domain.event import EventName, JobEvent, LoggedEvent, developed
from safelight.domain.fairness import NOBODYS
from safelight.domain.ids import JobId
from safelight.domain.image import Operation
from safelight.domain.job import Attempt, AttemptState, Ending, Idempotency, Job, JobHistory, JobStatus
from safelight.domain.money import Charged
from safelight.domain.outcome import settle
from tests.making import (
    NOON,
    OTHER,
    PAID,
    SPARE,
    attempt_ends,
    endings,
    failed,
    first_attempts,
    image,
    job,
    later,
    moments,
    new_id,
    new_jobs,
    request,
    started,
    succeeded,
    texts,
)
from tests.stores import Storage

MICROSECOND = timedelta(microseconds=1)


class Shelf:
    """A store, and others on the same storage: what another process sees of it."""

    def __init__(self, storage: Storage, stack: AsyncExitStack) -> None:
        self._storage = storage
        self._stack = stack
        self.store: JobStore
        self.other: JobStore

    async def begin(self) -> "Shelf":
        self.store = await self.open()
        self.other = await self.open()
        return self

    async def open(self) -> Any:
        store = await self._storage.open()
        self._stack.push_async_callback(store.close)
        return store

    async def submitted(self, **members: Any) -> Job:
        new = job(**members)
        await self.store.submit(new)
        return new

    async def begun(self, **members: Any) -> Job:
        new = await self.submitted(**members)
        await self.store.start_attempt(new.id, started())
        return new

    async def ended(self, **members: Any) -> Job:
        """A job that failed with its first attempt."""
        new = await self.begun(**members)
        await self.store.finish(new.id, ending(new), tries=1, attempt=failed(ended_at=NOON))
        return (await self.read(new.id)).job

    async def read(self, job_id: JobId) -> JobHistory:
        """Read a job as it is for everybody: through the store that wrote it and through a new one."""
        own = await self.store.history(job_id)
        assert own is not None
        assert await self.store.get(job_id) == own.job
        fresh = await self._storage.open()
        try:
            assert await fresh.history(job_id) == own
            assert await fresh.get(job_id) == own.job
        finally:
            await fresh.close()
        return own

    async def unchanged(self, before: JobHistory) -> bool:
        return await self.read(before.job.id) == before


@pytest.fixture
async def shelf(storage: Storage) -> AsyncIterator[Shelf]:
    async with AsyncExitStack() as stack:
        yield await Shelf(storage, stack).begin()


def ending(of: Job, *attempts: Attempt, now: datetime = NOON) -> Ending:
    return settle(of, attempts, error=failed().error, now=now)


# Round trips: every member of every object, as it was

thorough = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@thorough
@given(new=new_jobs)
async def test_a_submitted_job_is_read_as_it_was(shelf: Shelf, new: Job) -> None:
    new = replace(
        new,
        id=new_id(),
        idempotency=new.idempotency and replace(new.idempotency, key=new_id()),
        batch=new.batch and replace(new.batch, batch_id=new_id()),
    )
    await shelf.store.submit(new)
    assert await shelf.read(new.id) == JobHistory(job=new)


@thorough
@given(attempt=first_attempts, handle=texts, due_at=moments)
async def test_an_attempt_and_its_handle_are_read_as_they_were(
    shelf: Shelf, attempt: Attempt, handle: str, due_at: datetime
) -> None:
    new = await shelf.submitted()
    await shelf.store.start_attempt(new.id, attempt)
    begun = await shelf.read(new.id)
    assert begun.attempts == (attempt,)
    assert begun.job == replace(
        new,
        status=JobStatus.PROCESSING,
        started_at=attempt.started_at,
        attempts=1,
        lane=attempt.target.provider,
    )
    accepted = replace(attempt, state=AttemptState.ACCEPTED, handle=handle)
    await shelf.store.accept_attempt(new.id, accepted, due_at=due_at)
    taken = await shelf.read(new.id)
    assert taken.attempts == (accepted,)
    assert taken.job == replace(begun.job, due_at=due_at)


@thorough
@given(attempt=first_attempts, end=attempt_ends, due_at=moments)
async def test_the_end_of_an_attempt_is_read_as_it_was(
    shelf: Shelf, attempt: Attempt, end: dict[str, Any], due_at: datetime
) -> None:
    new = await shelf.submitted()
    await shelf.store.start_attempt(new.id, attempt)
    ended = replace(attempt, **end)
    await shelf.store.end_attempt(new.id, ended, lane=SPARE, due_at=due_at)
    history = await shelf.read(new.id)
    assert history.attempts == (ended,)
    assert (history.job.lane, history.job.due_at, history.job.status) == (SPARE, due_at, JobStatus.PROCESSING)


@thorough
@given(attempt=first_attempts, end=attempt_ends, last=endings, ttl_s=st.integers(1, 10**9))
async def test_the_end_of_a_job_is_read_as_it_was(
    shelf: Shelf, attempt: Attempt, end: dict[str, Any], last: Ending, ttl_s: int
) -> None:
    new = await shelf.submitted(ttl_s=ttl_s)
    await shelf.store.start_attempt(new.id, attempt)
    before = (await shelf.read(new.id)).job
    ended = replace(attempt, **end)
    await shelf.store.finish(new.id, last, tries=1, attempt=ended)
    history = await shelf.read(new.id)
    assert history.attempts == (ended,)
    assert history.job == replace(
        before,
        status=last.status,
        due_at=None,
        completed_at=last.completed_at,
        result=last.result,
        error=last.error,
        charged=last.charged,
        cost_micros=last.cost_micros,
    )


async def test_a_large_request_is_kept_whole(shelf: Shelf) -> None:
    prompt = "🦊 ünïcode \U0010ffff\u2028 " * 100_000
    new = await shelf.submitted(request=request(prompt=prompt, extra={"nested": [prompt, 1.5e300, {"": None}]}))
    assert (await shelf.read(new.id)).job == new


# Submit


async def test_a_job_that_was_submitted_is_there_for_every_process(shelf: Shelf) -> None:
    new = await shelf.submitted()
    assert await shelf.other.get(new.id) == new


async def test_an_unknown_job_is_none(shelf: Shelf) -> None:
    assert await shelf.store.get(new_id()) is None
    assert await shelf.store.history(new_id()) is None


async def test_an_id_is_taken_once(shelf: Shelf) -> None:
    new = await shelf.submitted()
    with pytest.raises(Exception, match=r"(?i)unique"):
        await shelf.store.submit(replace(new, ttl_s=1))
    assert (await shelf.read(new.id)).job == new


async def test_many_at_once_are_kept_each_for_itself(shelf: Shelf) -> None:
    new = [job() for _ in range(300)]
    await asyncio.gather(*[shelf.store.submit(each) for each in [*new, new[0]]], return_exceptions=True)
    assert await shelf.other.existing([each.id for each in new]) == {each.id for each in new}


# Moving on, and the fence: whoever saw another ledger changes nothing


async def test_two_that_start_the_same_attempt_make_one(shelf: Shelf) -> None:
    new = await shelf.submitted()
    outcomes = await asyncio.gather(
        *[shelf.store.start_attempt(new.id, started(key_name=f"k{n}")) for n in range(5)], return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(Superseded) == 4
    history = await shelf.read(new.id)
    assert len(history.attempts) == history.job.attempts == 1


async def test_the_second_attempt_follows_the_first(shelf: Shelf) -> None:
    new = await shelf.begun()
    await shelf.store.end_attempt(new.id, failed(1), lane=SPARE, due_at=later(5))
    second = started(2, started_at=later(5))
    await shelf.store.start_attempt(new.id, second)
    history = await shelf.read(new.id)
    assert history.attempts == (failed(1), second)
    assert (history.job.attempts, history.job.started_at, history.job.lane) == (2, NOON, PAID)


async def test_an_attempt_of_a_job_that_has_ended_is_not_begun(shelf: Shelf) -> None:
    new = await shelf.submitted()
    await shelf.store.finish(new.id, ending(new), tries=0)
    before = await shelf.read(new.id)
    with pytest.raises(Superseded):
        await shelf.store.start_attempt(new.id, started())
    assert await shelf.unchanged(before)


@pytest.mark.parametrize("state", [AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.UNKNOWN])
async def test_an_attempt_ends_once(shelf: Shelf, state: AttemptState) -> None:
    new = await shelf.begun()
    first = failed(1, state=state)
    await shelf.store.end_attempt(new.id, first, lane=PAID, due_at=NOON)
    before = await shelf.read(new.id)
    accepted = started(state=AttemptState.ACCEPTED, handle="h")
    for late in (
        shelf.store.end_attempt(new.id, succeeded(), lane=SPARE, due_at=later(9)),
        shelf.store.accept_attempt(new.id, accepted, due_at=later(9)),
        shelf.store.finish(new.id, ending(new, succeeded()), tries=1, attempt=succeeded()),
    ):
        with pytest.raises(Superseded):
            await late
    assert await shelf.unchanged(before)


async def test_work_is_accepted_once(shelf: Shelf) -> None:
    new = await shelf.begun()
    accepted = started(state=AttemptState.ACCEPTED, handle="first")
    await shelf.store.accept_attempt(new.id, accepted, due_at=later(1))
    before = await shelf.read(new.id)
    with pytest.raises(Superseded):
        await shelf.store.accept_attempt(new.id, replace(accepted, handle="second"), due_at=later(2))
    assert await shelf.unchanged(before)


async def test_accepted_work_ends_and_keeps_its_handle(shelf: Shelf) -> None:
    new = await shelf.begun()
    accepted = started(state=AttemptState.ACCEPTED, handle="h")
    await shelf.store.accept_attempt(new.id, accepted, due_at=later(1))
    await shelf.store.finish(new.id, ending(new, succeeded()), tries=1, attempt=succeeded())
    assert (await shelf.read(new.id)).attempts[0].handle == "h"


async def test_a_job_ends_once(shelf: Shelf) -> None:
    new = await shelf.submitted()
    await shelf.store.finish(new.id, ending(new), tries=0)
    before = await shelf.read(new.id)
    for late in (
        shelf.store.finish(new.id, ending(new, now=later(5)), tries=0),
        shelf.store.postpone(new.id, lane=SPARE, due_at=later(5)),
    ):
        with pytest.raises(Superseded):
            await late
    assert await shelf.unchanged(before)


async def test_an_attempt_that_ended_too_late_changes_nothing_of_the_job(shelf: Shelf) -> None:
    new = await shelf.begun()
    given_up = failed(1, state=AttemptState.UNKNOWN)
    await shelf.store.finish(new.id, ending(new), tries=1, attempt=given_up)
    before = await shelf.read(new.id)
    with pytest.raises(Superseded):
        await shelf.store.end_attempt(new.id, succeeded(), lane=PAID, due_at=NOON)
    assert await shelf.unchanged(before)


async def test_a_job_is_not_ended_over_an_attempt_that_its_ending_does_not_know(shelf: Shelf) -> None:
    new = await shelf.begun()
    before = await shelf.read(new.id)
    with pytest.raises(Superseded):
        await shelf.store.finish(new.id, ending(new), tries=0)
    assert await shelf.unchanged(before)


async def test_an_ending_that_is_refused_leaves_its_attempt_open(shelf: Shelf) -> None:
    """One commit: the attempt does not end without the job."""
    new = await shelf.begun()
    before = await shelf.read(new.id)
    with pytest.raises(Superseded):
        await shelf.store.finish(new.id, ending(new, succeeded()), tries=2, attempt=succeeded())
    assert await shelf.unchanged(before)


async def test_nothing_can_be_done_to_a_job_that_does_not_exist(shelf: Shelf) -> None:
    missing = job()
    for late in (
        shelf.store.start_attempt(missing.id, started()),
        shelf.store.accept_attempt(missing.id, started(handle="h"), due_at=NOON),
        shelf.store.end_attempt(missing.id, failed(), lane=PAID, due_at=NOON),
        shelf.store.postpone(missing.id, lane=PAID, due_at=NOON),
        shelf.store.finish(missing.id, ending(missing), tries=0),
    ):
        with pytest.raises(Superseded):
            await late
    assert await shelf.store.history(missing.id) is None


async def test_a_refusal_takes_nothing_else_with_it(shelf: Shelf) -> None:
    """Writes that are committed together stand or fall each for itself."""
    ended, new = await shelf.submitted(), await shelf.submitted()
    await shelf.store.finish(ended.id, ending(ended), tries=0)
    more = [job() for _ in range(20)]
    outcomes = await asyncio.gather(
        *[shelf.store.submit(each) for each in more[:10]],
        shelf.store.finish(ended.id, ending(ended), tries=0),
        shelf.store.start_attempt(new.id, started()),
        *[shelf.store.submit(each) for each in more[10:]],
        return_exceptions=True,
    )
    assert [outcome for outcome in outcomes if outcome is not None] == [outcomes[10]]
    assert isinstance(outcomes[10], Superseded)
    assert await shelf.other.existing([each.id for each in more]) == {each.id for each in more}
    assert (await shelf.read(new.id)).job.attempts == 1


async def test_a_job_is_brought_forward_unless_it_has_ended(shelf: Shelf) -> None:
    new = await shelf.begun()
    await shelf.store.postpone(new.id, lane=PAID, due_at=later(3600))
    await shelf.store.bring_forward(new.id, lane=PAID, due_at=later(5))
    assert (await shelf.read(new.id)).job.due_at == later(5)
    last = succeeded()
    await shelf.store.finish(new.id, ending(new, last), tries=1, attempt=last)
    with pytest.raises(Superseded):
        await shelf.store.bring_forward(new.id, lane=PAID, due_at=later(6))


async def test_a_job_is_postponed_into_another_lane(shelf: Shelf) -> None:
    new = await shelf.submitted()
    await shelf.store.postpone(new.id, lane=SPARE, due_at=later(60))
    assert (await shelf.read(new.id)).job == replace(new, lane=SPARE, due_at=later(60))


# The caller's word: cancel and retry


async def test_a_cancelled_job_starts_nothing_any_more(shelf: Shelf) -> None:
    new = await shelf.begun()
    await shelf.store.cancel(new.id, later(1), lane=PAID, tries=1)
    cancelled = (await shelf.read(new.id)).job
    assert (cancelled.cancelled_at, cancelled.due_at) == (later(1), later(1))
    await shelf.store.end_attempt(new.id, failed(), lane=PAID, due_at=later(2))
    before = await shelf.read(new.id)
    with pytest.raises(Superseded):
        await shelf.store.start_attempt(new.id, started(2))
    assert await shelf.unchanged(before)


async def test_a_cancelled_job_only_ends_as_one(shelf: Shelf) -> None:
    new = await shelf.begun()
    await shelf.store.cancel(new.id, later(1), lane=PAID, tries=1)
    before = await shelf.read(new.id)
    unaware = ending(new, succeeded())
    with pytest.raises(Superseded):
        await shelf.store.finish(new.id, unaware, tries=1, attempt=succeeded())
    assert await shelf.unchanged(before)
    aware = ending(before.job, succeeded(), now=later(2))
    assert (aware.result, aware.charged) == (None, Charged.YES)
    await shelf.store.finish(new.id, aware, tries=1, attempt=succeeded())
    ended = (await shelf.read(new.id)).job
    assert (ended.status, ended.status_code, ended.cancelled_at) == (JobStatus.FAILED, 499, later(1))
    assert ended.charged is Charged.YES


async def test_a_job_is_cancelled_once_and_only_as_its_caller_saw_it(shelf: Shelf) -> None:
    new = await shelf.begun()
    for tries in (0, 2):
        with pytest.raises(Superseded):
            await shelf.store.cancel(new.id, later(1), lane=PAID, tries=tries)
    await shelf.store.cancel(new.id, later(1), lane=PAID, tries=1)
    for job_id in (new.id, (await shelf.ended()).id, new_id()):
        with pytest.raises(Superseded):
            await shelf.store.cancel(job_id, later(2), lane=PAID, tries=1)
    assert (await shelf.read(new.id)).job.cancelled_at == later(1)


@pytest.mark.parametrize("order", range(6))
async def test_of_a_start_and_an_end_by_cancel_one_is_refused(shelf: Shelf, order: int) -> None:
    """Whichever comes first: never both, so that nothing starts once the cancel was answered."""
    new = await shelf.submitted()
    cancelled = replace(new, cancelled_at=NOON)
    racers = [
        shelf.other.start_attempt(new.id, started()),
        shelf.store.finish(new.id, ending(cancelled), tries=0),
    ]
    outcomes = await asyncio.gather(*(racers if order % 2 else reversed(racers)), return_exceptions=True)
    assert [type(each) for each in outcomes].count(Superseded) == 1
    fresh = await (await shelf.open()).history(new.id)
    assert fresh.job.status is (JobStatus.PROCESSING if fresh.attempts else JobStatus.FAILED)


@pytest.mark.parametrize("order", range(6))
async def test_of_a_result_and_a_cancel_the_later_is_refused(shelf: Shelf, order: int) -> None:
    new = await shelf.begun()
    racers = [
        shelf.store.finish(new.id, ending(new, succeeded()), tries=1, attempt=succeeded()),
        shelf.other.cancel(new.id, NOON, lane=PAID, tries=1),
    ]
    outcomes = await asyncio.gather(*(racers if order % 2 else reversed(racers)), return_exceptions=True)
    assert [type(each) for each in outcomes].count(Superseded) == 1
    fresh = (await (await shelf.open()).history(new.id)).job
    assert (fresh.status is JobStatus.COMPLETED) == (fresh.cancelled_at is None)


async def test_that_a_provider_was_asked_to_stop_is_kept_with_the_attempt(shelf: Shelf) -> None:
    new = await shelf.begun()
    accepted = started(state=AttemptState.ACCEPTED, handle="h")
    with pytest.raises(Superseded):
        await shelf.store.stop_asked(new.id, replace(accepted, stop_asked_at=later(1)))
    await shelf.store.accept_attempt(new.id, accepted, due_at=later(1))
    await shelf.store.stop_asked(new.id, replace(accepted, stop_asked_at=later(2)))
    assert (await shelf.read(new.id)).attempts == (replace(accepted, stop_asked_at=later(2)),)


async def test_a_failed_job_goes_back_to_its_beginning_and_keeps_its_ledger(shelf: Shelf) -> None:
    new = await shelf.ended()
    renewed = new.renewed(later(5))
    await shelf.store.retry(renewed)
    history = await shelf.read(new.id)
    assert history.job == renewed
    assert (renewed.status, renewed.earlier_attempts, renewed.due_at) == (JobStatus.PENDING, 1, later(5))
    assert (len(history.attempts), history.run) == (1, ())
    second = started(2, started_at=later(6))
    await shelf.store.start_attempt(new.id, second)
    last = succeeded(2, ended_at=later(7))
    done = settle(renewed, (failed(), last), error=None, now=later(7))
    await shelf.store.finish(new.id, done, tries=2, attempt=last)
    whole = await shelf.read(new.id)
    assert (whole.job.status, whole.job.started_at) == (JobStatus.COMPLETED, later(6))
    assert [each.number for each in whole.run] == [2]
    assert [status for _, status, _ in told(await shelf.store.events(new.id, after=0, limit=10))] == [
        "pending",
        "processing",
        "failed",
        "pending",
        "processing",
        "completed",
    ]


async def test_a_job_is_retried_once_and_only_when_it_has_failed(shelf: Shelf) -> None:
    new, running = await shelf.ended(), await shelf.begun()
    done = await shelf.begun()
    await shelf.store.finish(done.id, ending(done, succeeded()), tries=1, attempt=succeeded())
    await shelf.store.retry(new.renewed(later(5)))
    for late in (new, running, (await shelf.read(done.id)).job, job()):
        with pytest.raises(Superseded):
            await shelf.store.retry(replace(late.renewed(later(6)), attempts=1))


async def test_an_expired_job_is_not_retried(shelf: Shelf) -> None:
    new = await shelf.ended(ttl_s=5)
    with pytest.raises(Superseded):
        await shelf.store.retry(new.renewed(later(5)))
    await shelf.store.retry(new.renewed(later(4)))


async def test_the_deadline_of_a_retried_job_counts_from_the_retry(shelf: Shelf) -> None:
    new = await shelf.ended(ttl_s=10**6)
    await shelf.store.retry(new.renewed(later(100)))
    young = await shelf.submitted(created_at=later(50))
    assert await shelf.store.overdue(created_before=later(100), limit=10) == [young.id]
    assert await shelf.store.overdue(created_before=later(101), limit=10) == [young.id, new.id]


# Lists


async def due_ids(store: JobStore, *, limit: int = 100, after: Place = (0, 0)) -> list[JobId]:
    return [job_id for _, job_id, *_ in await store.due(limit=limit, after=after)]


async def test_open_jobs_are_listed_in_the_order_of_their_submission(shelf: Shelf) -> None:
    jobs = [await shelf.submitted(due_at=later(-n)) for n in range(5)]
    await shelf.store.postpone(jobs[1].id, lane=SPARE, due_at=later(99))
    await shelf.store.finish(jobs[2].id, ending(jobs[2]), tries=0)
    await shelf.store.start_attempt(jobs[3].id, started())
    rows = await shelf.store.due(limit=100, after=(0, 0))
    assert [row[1] for row in rows] == [jobs[0].id, jobs[1].id, jobs[3].id, jobs[4].id]
    assert rows[1][2:] == (SPARE, later(99), NOBODYS)
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert [row[1] for row in await shelf.store.due(limit=2, after=rows[0][0])] == [jobs[1].id, jobs[3].id]
    assert await due_ids(shelf.other) == [row[1] for row in rows]


async def test_an_open_attempt_keeps_a_job_among_the_open(shelf: Shelf) -> None:
    new = await shelf.begun()
    accepted = started(state=AttemptState.ACCEPTED, handle="h")
    await shelf.store.accept_attempt(new.id, accepted, due_at=later(7))
    assert (await shelf.store.due(limit=1, after=(0, 0)))[0][1:] == (new.id, PAID, later(7), NOBODYS)


async def test_overdue_jobs_are_those_created_before(shelf: Shelf) -> None:
    moments_ = [NOON - 2 * MICROSECOND, NOON - MICROSECOND, NOON, NOON + MICROSECOND]
    jobs = [await shelf.submitted(created_at=moment) for moment in moments_]
    assert await shelf.store.overdue(created_before=NOON, limit=10) == [jobs[0].id, jobs[1].id]
    assert await shelf.store.overdue(created_before=NOON, limit=1) == [jobs[0].id]
    await shelf.store.finish(jobs[0].id, ending(jobs[0]), tries=0)
    assert await shelf.store.overdue(created_before=NOON, limit=10) == [jobs[1].id]


async def test_a_job_expires_to_the_microsecond(shelf: Shelf) -> None:
    completed_at = NOON + 123_457 * MICROSECOND
    new = await shelf.submitted(ttl_s=3)
    await shelf.store.finish(new.id, ending(new, now=completed_at), tries=0)
    ended = (await shelf.read(new.id)).job
    expires_at = completed_at + timedelta(seconds=3)
    assert ended.expires_at == expires_at
    assert await shelf.store.expired(now=expires_at - MICROSECOND, limit=10) == []
    assert await shelf.store.expired(now=expires_at, limit=10) == [ended]


async def test_expired_jobs_are_listed_with_the_earliest_first(shelf: Shelf) -> None:
    ids = []
    for ttl_s in (30, 10, 20, 999):
        new = await shelf.submitted(ttl_s=ttl_s)
        await shelf.store.finish(new.id, ending(new), tries=0)
        ids.append(new.id)
    await shelf.submitted(ttl_s=1)
    found = [each.id for each in await shelf.store.expired(now=later(30), limit=10)]
    assert found == [ids[1], ids[2], ids[0]]
    assert [each.id for each in await shelf.store.expired(now=later(30), limit=1)] == [ids[1]]


async def test_deleted_jobs_are_gone_with_their_ledgers(shelf: Shelf) -> None:
    gone, kept = await shelf.ended(), await shelf.ended()
    await shelf.store.delete([gone.id, new_id()])
    for store in (shelf.store, shelf.other):
        assert await store.get(gone.id) is None
        assert await store.history(gone.id) is None
        assert await store.existing([gone.id, kept.id]) == {kept.id}
    again = replace(job(), id=gone.id)
    await shelf.store.submit(again)
    assert (await shelf.read(gone.id)).attempts == ()
    await shelf.store.start_attempt(gone.id, started())
    await shelf.store.delete([])


async def test_which_jobs_exist(shelf: Shelf) -> None:
    new = await shelf.submitted()
    missing = [new_id() for _ in range(1200)]
    assert await shelf.store.existing([*missing, new.id]) == {new.id}
    assert await shelf.store.existing([]) == set()


async def test_a_listing_goes_back_page_by_page(shelf: Shelf) -> None:
    jobs = [await shelf.submitted() for _ in range(7)]
    seen: list[JobId] = []
    cursor: str | None = None
    sizes = []
    while True:
        page = await shelf.store.list_jobs(JobFilter(limit=3, cursor=cursor))
        seen += [each.id for each in page.jobs]
        sizes.append(len(page.jobs))
        await shelf.submitted()  # what comes meanwhile does not shift the pages
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [each.id for each in reversed(jobs)]
    assert sizes == [3, 3, 1]


async def test_a_listing_of_exactly_a_page_has_no_next(shelf: Shelf) -> None:
    for _ in range(3):
        await shelf.submitted()
    assert (await shelf.store.list_jobs(JobFilter(limit=3))).next_cursor is None
    assert (await shelf.store.list_jobs(JobFilter(limit=2))).next_cursor is not None


async def test_an_empty_listing(shelf: Shelf) -> None:
    page = await shelf.store.list_jobs(JobFilter())
    assert (page.jobs, page.next_cursor) == ((), None)


async def test_a_listing_by_status(shelf: Shelf) -> None:
    pending, running, done, lost = [await shelf.submitted() for _ in range(4)]
    for each in (running, done):
        await shelf.store.start_attempt(each.id, started())
    await shelf.store.finish(done.id, ending(done, succeeded()), tries=1, attempt=succeeded())
    await shelf.store.finish(lost.id, ending(lost), tries=0)
    expected = {
        JobStatus.PENDING: pending.id,
        JobStatus.PROCESSING: running.id,
        JobStatus.COMPLETED: done.id,
        JobStatus.FAILED: lost.id,
    }
    for status, job_id in expected.items():
        page = await shelf.store.list_jobs(JobFilter(status=status))
        assert [(each.id, each.status) for each in page.jobs] == [(job_id, status)]
    full = (await shelf.store.list_jobs(JobFilter())).jobs
    assert full[1] == (await shelf.read(done.id)).job
    assert full[1].charged is Charged.YES


# The rest


async def test_a_closed_store_is_a_storage_fault(shelf: Shelf) -> None:
    store = await shelf.open()
    await store.close()
    with pytest.raises(StorageError):
        await store.submit(job())


async def test_what_is_being_written_when_a_store_is_closed_is_kept(shelf: Shelf) -> None:
    store = await shelf.open()
    new = [job() for _ in range(50)]
    writes = [asyncio.ensure_future(store.submit(each)) for each in new]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    assert len(await shelf.store.existing([each.id for each in new])) == 50


async def test_a_write_whose_caller_left_is_seen_by_all_alike(shelf: Shelf) -> None:
    new = await shelf.submitted()
    await shelf.store.get(new.id)
    left = asyncio.ensure_future(shelf.store.start_attempt(new.id, started()))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await shelf.store.postpone(new.id, lane=PAID, due_at=later(1))
    assert (await shelf.read(new.id)).job.attempts == 1


async def test_a_fact_is_made_once_for_all_processes(shelf: Shelf) -> None:
    first, second = await shelf.open(), await shelf.open()
    facts = await asyncio.gather(first.fact("secret", b"one"), second.fact("secret", b"two"))
    assert facts[0] == facts[1]
    assert facts[0] in {b"one", b"two"}
    assert await first.fact("other", b"three") == b"three"


async def test_a_store_that_works_says_so(shelf: Shelf) -> None:
    await (await shelf.open()).check()


# The log


def told(logged: Sequence[LoggedEvent]) -> list[tuple[str, str | None, str | None]]:
    """Of each event: its name, the job's status, the attempt's state."""
    return [
        (each.event.name.value, each.event.data.get("status"), each.event.data.get("attempt", {}).get("state"))
        for each in logged
    ]


async def test_each_step_of_a_job_is_in_its_log_in_order(shelf: Shelf) -> None:
    new, other = await shelf.submitted(), await shelf.submitted()
    await shelf.store.start_attempt(new.id, started())
    await shelf.store.end_attempt(new.id, failed(ended_at=later(1)), lane=PAID, due_at=later(2))
    await shelf.store.log_event(JobEvent(job_id=new.id, name=EventName.PROGRESS, at=later(2), data={"progress": 0.5}))
    await shelf.store.start_attempt(new.id, started(2))
    last = succeeded(2, ended_at=later(4))
    await shelf.store.finish(new.id, ending(new, failed(), last, now=later(4)), tries=2, attempt=last)
    whole = await (await shelf.open()).events(new.id, after=0, limit=10)
    assert told(whole) == [
        ("job", "pending", None),
        ("job", "processing", "started"),
        ("job", "processing", "failed"),
        ("progress", None, None),
        ("job", "processing", "started"),
        ("job", "completed", "succeeded"),
    ]
    assert [each.event.at for each in whole] == [NOON, NOON, later(1), later(2), NOON, later(4)]
    assert [each.seq for each in whole] == sorted({each.seq for each in whole})
    assert await shelf.store.events(new.id, after=whole[1].seq, limit=2) == whole[2:4]
    assert told(await shelf.store.events(other.id, after=0, limit=10)) == [("job", "pending", None)]


async def test_progress_is_the_last_attempts(shelf: Shelf) -> None:
    new = await shelf.begun()
    await shelf.store.progress(new.id, 0.25, attempt=1, at=later(1))
    assert (await shelf.read(new.id)).job.progress == 0.25
    with pytest.raises(Superseded):
        await shelf.store.progress(new.id, 0.5, attempt=2, at=later(2))
    await shelf.store.end_attempt(new.id, failed(), lane=PAID, due_at=NOON)
    await shelf.store.start_attempt(new.id, started(2))
    assert (await shelf.read(new.id)).job.progress is None
    last = succeeded(2)
    await shelf.store.finish(new.id, ending(new, failed(), last), tries=2, attempt=last)
    with pytest.raises(Superseded):
        await shelf.store.progress(new.id, 1.0, attempt=2, at=later(3))
    told = await shelf.store.events(new.id, after=0, limit=10)
    assert [each.event.data for each in told if each.event.name is EventName.PROGRESS] == [{"progress": 0.25}]


async def test_previews_are_found_for_each_job(shelf: Shelf) -> None:
    new, other, none = await shelf.ended(), await shelf.begun(), await shelf.begun()
    shown = [image("a", new.id), image("b", new.id), image("c", other.id)]
    for number, (of, preview) in enumerate(zip((new, new, other), shown, strict=True)):
        await shelf.store.log_event(developed(of.id, preview, NOON, index=0, partial_index=number))
    assert await (await shelf.open()).previews([other.id, none.id, new.id]) == [shown[2], shown[0], shown[1]]
    await shelf.store.delete([new.id])
    assert await shelf.store.previews([new.id]) == []


async def test_what_did_not_happen_is_in_no_log(shelf: Shelf) -> None:
    new = await shelf.submitted()
    with pytest.raises(Superseded):
        await shelf.store.end_attempt(new.id, failed(), lane=PAID, due_at=NOON)
    assert told(await shelf.store.events(new.id, after=0, limit=10)) == [("job", "pending", None)]


async def test_a_log_goes_with_its_job(shelf: Shelf) -> None:
    new, other = await shelf.ended(), await shelf.submitted()
    await shelf.store.delete([new.id])
    assert await shelf.store.events(new.id, after=0, limit=10) == []
    assert len(await shelf.store.events(other.id, after=0, limit=10)) == 1


async def test_a_job_that_runs_is_not_deleted(shelf: Shelf) -> None:
    new = await shelf.begun()
    before = await shelf.read(new.id)
    await shelf.store.delete([new.id])
    assert await shelf.unchanged(before)
    assert len(await shelf.store.events(new.id, after=0, limit=10)) == 2


# Search


async def found(shelf: Shelf, **members: Any) -> list[JobId]:
    """What a listing shows, read two at a time, newest first."""
    ids: list[JobId] = []
    cursor = None
    while True:
        page = await shelf.store.list_jobs(JobFilter(limit=2, cursor=cursor, **members))
        ids += [each.id for each in page.jobs]
        if (cursor := page.next_cursor) is None:
            assert sum((await shelf.store.count_jobs(JobFilter(**members))).values()) == len(ids)
            return ids


async def test_jobs_are_found_by_what_they_are(shelf: Shelf) -> None:
    drawn = await shelf.submitted(metadata={"shop": "berlin", "season": "spring"}, created_at=later(1))
    edited = await shelf.submitted(
        request=request(OTHER, operation=Operation.EDIT), metadata={"shop": "berlin"}, created_at=later(2)
    )
    lost = await shelf.ended(metadata={"shop": "roma"}, created_at=later(3))
    fell_back = await shelf.submitted(created_at=later(4))
    await shelf.store.start_attempt(fell_back.id, started(target=OTHER))
    done = await shelf.begun(created_at=later(5), idempotency=Idempotency(key="k", fingerprint="f"))
    await shelf.store.finish(done.id, ending(done, succeeded()), tries=1, attempt=succeeded())
    everything = [done, fell_back, lost, edited, drawn]
    searches: list[tuple[list[Job], dict[str, Any]]] = [
        (everything, {}),
        ([edited], {"operation": Operation.EDIT}),
        ([done, fell_back, lost, drawn], {"operation": Operation.GENERATION}),
        ([edited], {"model": str(OTHER)}),
        ([fell_back, edited], {"provider": SPARE}),
        ([done, lost, drawn], {"provider": PAID}),
        ([done], {"provider": PAID, "status": JobStatus.COMPLETED}),
        ([fell_back], {"provider": SPARE, "status": JobStatus.PROCESSING}),
        ([lost], {"error_code": "unavailable"}),
        ([lost], {"status": JobStatus.FAILED}),
        ([], {"status": JobStatus.FAILED, "error_code": "other"}),
        ([done], {"idempotency_key": "k"}),
        ([done, fell_back, lost], {"created_after": later(3)}),
        ([edited, drawn], {"created_before": later(3)}),
        ([edited], {"created_after": later(2), "created_before": later(3)}),
        ([edited, drawn], {"metadata": {"shop": "berlin"}}),
        ([drawn], {"metadata": {"shop": "berlin", "season": "spring"}}),
        ([edited], {"metadata": {"shop": "berlin"}, "provider": SPARE}),
        ([drawn], {"metadata": {"shop": "berlin"}, "created_before": later(2)}),
        ([], {"metadata": {"shop": "berlin", "season": "autumn"}}),
        ([], {"metadata": {"shop": "%"}}),
        ([], {"model": "'; DROP TABLE jobs; --"}),
        ([fell_back, edited, drawn], {"alive_at": later(5000)}),
        (everything, {"alive_at": later(3)}),
    ]
    for expected, members in searches:
        assert await found(shelf, **members) == [each.id for each in expected], members


async def test_counts_are_by_status(shelf: Shelf) -> None:
    for _ in range(2):
        await shelf.submitted()
    await shelf.begun()
    for _ in range(3):
        await shelf.ended(metadata={"shop": "roma"})
    done = await shelf.begun()
    await shelf.store.finish(done.id, ending(done, succeeded()), tries=1, attempt=succeeded())
    assert await shelf.store.count_jobs(JobFilter()) == {
        JobStatus.PENDING: 2,
        JobStatus.PROCESSING: 1,
        JobStatus.COMPLETED: 1,
        JobStatus.FAILED: 3,
    }
    failed_only = await shelf.store.count_jobs(JobFilter(metadata={"shop": "roma"}))
    assert (failed_only[JobStatus.FAILED], sum(failed_only.values())) == (3, 3)


async def test_callers_find_what_is_theirs(shelf: Shelf) -> None:
    nobodys = await shelf.submitted()
    own = await shelf.submitted(owner="a", team="red")
    mates = await shelf.submitted(owner="b", team="red")
    other = await shelf.submitted(owner="c", team="blue")
    for caller, expected in (
        (ADMINISTRATOR, [other, mates, own, nobodys]),
        (ANYBODY, [nobodys]),
        (Caller(owner="a", team="red"), [own]),
        (Caller(owner="a", team="red", team_wide=True), [mates, own]),
        (Caller(owner="a", team=None, team_wide=True), [own]),
        (Caller(owner="d"), []),
    ):
        assert await found(shelf, caller=caller) == [each.id for each in expected]


@pytest.mark.parametrize("cursor", ["x", "ünïcode", "MS4", "====", "LTEuMQ", "MS4yLjM"])
async def test_a_cursor_that_is_none_is_refused(shelf: Shelf, cursor: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await shelf.store.list_jobs(JobFilter(cursor=cursor))
    assert refusal.value.param == "cursor"


async def test_labels_go_with_their_job(shelf: Shelf) -> None:
    gone, kept = await shelf.ended(metadata={"a": "b"}), await shelf.ended(metadata={"a": "b"})
    await shelf.store.delete([gone.id])
    assert await found(shelf, metadata={"a": "b"}) == [kept.id]


# One key, one job


def keyed(key: str, fingerprint: str = "f", **members: Any) -> Job:
    return job(idempotency=Idempotency(key=key, fingerprint=fingerprint), **members)


async def test_under_one_key_there_is_one_job_however_many_submit_it_at_once(shelf: Shelf) -> None:
    rivals = [keyed("k") for _ in range(50)]
    outcomes = await asyncio.gather(
        *[(shelf.store, shelf.other)[number % 2].submit(each) for number, each in enumerate(rivals)]
    )
    assert outcomes.count(None) == 1
    (winner,) = [each for each, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
    assert {outcome.id for outcome in outcomes if outcome} == {winner.id}
    assert await shelf.store.existing([each.id for each in rivals]) == {winner.id}
    assert (await shelf.read(winner.id)).job == winner
    assert len(await shelf.store.events(winner.id, after=0, limit=10)) == 1
    for loser in rivals:
        if loser is not winner:
            assert await shelf.store.get(loser.id) is None


async def test_a_key_is_its_owners_alone(shelf: Shelf) -> None:
    owners = [None, "a", "b"]
    jobs = [keyed("k", owner=owner) for owner in owners]
    assert [await shelf.store.submit(each) for each in jobs] == [None] * 3
    for owner, each in zip(owners, jobs, strict=True):
        assert await shelf.store.submitted(owner, "k", now=NOON) == each
        assert await shelf.other.submit(keyed("k", owner=owner)) == each
    assert await shelf.store.submitted("c", "k", now=NOON) is None
    assert await shelf.store.submitted(None, "other", now=NOON) is None


async def test_a_key_is_free_again_when_its_job_is_gone_or_has_expired(shelf: Shelf) -> None:
    first = keyed("k", ttl_s=10)
    await shelf.store.submit(first)
    await shelf.store.finish(first.id, ending(first), tries=0)
    assert (await shelf.store.submitted(None, "k", now=later(9))) is not None
    assert await shelf.store.submitted(None, "k", now=later(10)) is None
    second = keyed("k", created_at=later(10))
    assert await shelf.store.submit(second) is None
    await shelf.store.finish(second.id, ending(second), tries=0)
    await shelf.store.delete([second.id])
    assert await shelf.store.submit(keyed("k", created_at=later(11))) is None


async def test_the_same_key_within_one_commit_makes_one_job(shelf: Shelf) -> None:
    """Also where the commit is rolled back and each of its writes runs again alone."""
    taken = await shelf.submitted()
    rivals = [keyed("k") for _ in range(3)]
    outcomes = await asyncio.gather(
        *[shelf.store.submit(each) for each in (rivals[0], rivals[1], replace(taken, ttl_s=1), rivals[2])],
        return_exceptions=True,
    )
    assert [outcome is None for outcome in outcomes] == [True, False, False, False]
    assert isinstance(outcomes[2], Exception)
    assert [outcomes[1], outcomes[3]] == [rivals[0]] * 2


# The log of all jobs


async def test_the_log_of_all_jobs_is_in_order_and_knows_whose_they_are(shelf: Shelf) -> None:
    begin = await shelf.store.log_end()
    first = await shelf.submitted(owner="a", team="red")
    second = await shelf.submitted()
    await shelf.store.start_attempt(first.id, started())
    log = await shelf.other.log(after=begin, limit=10)
    assert [(entry.event.job_id, entry.owner, entry.team) for entry in log] == [
        (first.id, "a", "red"),
        (second.id, None, None),
        (first.id, "a", "red"),
    ]
    assert [entry.mark for entry in log] == sorted({entry.mark for entry in log})
    assert await shelf.store.log(after=log[0].mark, limit=1) == log[1:2]
    assert await shelf.store.log_end() == log[-1].mark
    assert await shelf.store.log(after=log[-1].mark, limit=10) == []


async def test_whoever_follows_the_log_while_many_write_misses_nothing(shelf: Shelf) -> None:
    mark = await shelf.store.log_end()
    seen: list[JobId] = []
    jobs = [job() for _ in range(200)]
    writing = asyncio.gather(*[(shelf.store, shelf.other)[n % 2].submit(each) for n, each in enumerate(jobs)])
    async with asyncio.timeout(20):
        while len(seen) < len(jobs):
            for entry in await shelf.store.log(after=mark, limit=7):
                mark = entry.mark
                seen.append(entry.event.job_id)
            await asyncio.sleep(0)
    await writing
    assert sorted(seen) == sorted(each.id for each in jobs)
