"""Accepting a request."""

import asyncio
from dataclasses import replace
from datetime import datetime

import pytest
from msgspec import structs

from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.ports import JobFilter
from safelight.application.submit import Submission, Submit
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import IdempotencyConflict, StorageError, UnsupportedFeature
from safelight.domain.fairness import Turn
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import Operation, Target
from safelight.domain.job import Job, JobStatus
from tests.doubles import FakeClock, FaultyStore, ScriptedProvider
from tests.making import NOON, OTHER, PAID, new_id, request

SPEC = ModelSpec(name="flux", operations=frozenset({Operation.GENERATION}), fields=frozenset())


class Wakes:
    """A queue that remembers what it was told, and what the store knew then."""

    def __init__(self) -> None:
        self.heard: list[tuple[JobId, ProviderName, datetime]] = []

    def wake(self, job_id: JobId, *, lane: ProviderName, at: datetime, turn: Turn | None = None) -> None:
        del turn
        self.heard.append((job_id, lane, at))

    async def position(self, job: Job) -> int | None:
        raise NotImplementedError

    async def run(self, handler: object) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class Desk:
    def __init__(self, store: SqlJobStore) -> None:
        self.store = FaultyStore(store)
        self.queue = Wakes()
        self.submit = Submit(
            store=self.store,
            queue=self.queue,
            providers={PAID: ScriptedProvider(specs=[SPEC])},
            clock=FakeClock(),
        )


def submission() -> Submission:
    return Submission(job_id=new_id(), request_id="r1", request=request(), ttl_s=60)


async def test_a_job_is_stored_before_the_queue_is_woken(store: SqlJobStore) -> None:
    desk = Desk(store)
    accepted = (await desk.submit.accept(submission())).job
    assert await store.get(accepted.id) == accepted
    assert (accepted.status, accepted.lane, accepted.ttl_s) == (JobStatus.PENDING, PAID, 60)
    assert accepted.created_at == accepted.due_at == NOON
    assert desk.queue.heard == [(accepted.id, PAID, NOON)]


async def test_a_job_that_cannot_be_stored_is_not_accepted(store: SqlJobStore) -> None:
    desk = Desk(store)
    desk.store.fail("submit")
    wanted = submission()
    with pytest.raises(StorageError):
        await desk.submit.accept(wanted)
    assert desk.queue.heard == []
    assert await store.get(wanted.job_id) is None


async def test_many_at_once_are_all_stored(store: SqlJobStore) -> None:
    desk = Desk(store)
    receipts = await asyncio.gather(*[desk.submit.accept(submission()) for _ in range(200)])
    jobs = [receipt.job for receipt in receipts]
    assert await store.existing([job.id for job in jobs]) == {job.id for job in jobs}
    assert len(desk.queue.heard) == 200


async def test_what_a_known_model_cannot_express_is_refused(store: SqlJobStore) -> None:
    desk = Desk(store)
    desk.submit.check(request())
    with pytest.raises(UnsupportedFeature):
        desk.submit.check(request(style="vivid"))


async def test_an_unknown_model_or_provider_is_no_reason_to_refuse(store: SqlJobStore) -> None:
    desk = Desk(store)
    desk.submit.check(request(target=OTHER, style="vivid"))
    desk.submit.check(request(target=type(OTHER)(provider=PAID, model="new"), style="vivid"))


async def test_a_retired_model_is_refused_before_all_else(store: SqlJobStore) -> None:
    desk = Desk(store)
    gone = replace(SPEC, name="old", shutdown_date=NOON.date(), operations=frozenset())
    desk.submit = replace(desk.submit, providers={PAID: ScriptedProvider(specs=[SPEC, gone])})
    with pytest.raises(UnsupportedFeature, match=r"model old was shut down on 2026-11-23; use flux instead"):
        desk.submit.check(request(target=Target(provider=PAID, model="old"), style="vivid"))


# One key, one request


async def test_a_replay_changes_nothing_and_tells_of_the_first(store: SqlJobStore) -> None:
    desk = Desk(store)
    first = await desk.submit.accept(structs.replace(submission(), idempotency_key="k"))
    again = await desk.submit.accept(structs.replace(submission(), idempotency_key="k"))
    assert (first.replayed, again.replayed, again.job) == (False, True, first.job)
    with pytest.raises(IdempotencyConflict):
        await desk.submit.accept(structs.replace(submission(), idempotency_key="k", request=request(prompt="a dog")))
    assert len((await store.list_jobs(JobFilter())).jobs) == 1
