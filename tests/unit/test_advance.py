"""The engine on the real store, with providers that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs

from safelight.adapters.bell import LocalBell
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.adapters.images import JobWorkspace
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application import restraint
from safelight.application.advance import Advance
from safelight.application.key_pool import KeyEntry, KeyPool
from safelight.application.ports import (
    Accepted,
    Again,
    Call,
    Failed,
    Finished,
    ProviderKey,
    RemotePicture,
    Running,
    StoredPicture,
)
from safelight.application.provider_entry import ProviderEntry
from safelight.domain.breaker import BreakerPolicy
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import (
    ErrorClass,
    InvalidRequest,
    NotFound,
    ProviderAuthError,
    ProviderBusy,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    StorageError,
    UnsupportedFeature,
)
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import Operation, Target, Usage
from safelight.domain.job import Attempt, AttemptState, Job, JobHistory, JobStatus
from safelight.domain.money import Charged
from safelight.domain.plan import OnUnknown
from safelight.domain.price import ImagePrice, Price
from safelight.domain.schedule import RetryPolicy
from tests.doubles import (
    FakeClock,
    FaultyStore,
    ScriptedFetcher,
    ScriptedProvider,
    drawn,
    png,
    read_all,
    sha256,
    stored,
)
from tests.making import FLUX, NOON, OTHER, PAID, SPARE, image, job, later, request

SPEC = ModelSpec(name="flux", operations=frozenset(Operation), fields=frozenset(), max_n=2)


class NoChance(Random):
    """Always the least."""

    def random(self) -> float:
        return 0.0


class Bench:
    """An engine with two providers, `paid` and `spare`, each with a key for every model and one for `flux` alone."""

    def __init__(self, store: SqlJobStore, blobs: LocalBlobStore, bell: LocalBell) -> None:
        self.store = FaultyStore(store)
        self.blobs = blobs
        self.clock = FakeClock()
        self.bell = bell
        self.keys = KeyPool(random=Random(7))
        self.fetcher = ScriptedFetcher()
        self.paid = ScriptedProvider()
        self.spare = ScriptedProvider()
        self.providers: dict[ProviderName, ProviderEntry] = {}
        self.offer(PAID, self.paid)
        self.offer(SPARE, self.spare)
        self.agains: list[Again] = []

    def offer(
        self, name: ProviderName, provider: ScriptedProvider, *, keys: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        entries = [
            KeyEntry(key=ProviderKey(name=key, value=f"secret-{key}"), models=(models,))
            for key, models in (keys or {"main": "*"}).items()
        ]
        self.providers[name] = ProviderEntry(
            **{
                "provider": provider,
                "keys": tuple(entries),
                "repeatable": False,
                "retry": RetryPolicy(),
                "concurrency": 1,
                **members,
            }
        )

    def engine(self, **members: Any) -> Advance:
        return Advance(
            **{
                "store": self.store,
                "providers": self.providers,
                "workspace": self.workspace,
                "fetcher": self.fetcher,
                "blobs": self.blobs,
                "clock": self.clock,
                "on_unknown": OnUnknown.FAIL,
                "random": Random(7),
                "pause": self.clock.pause,
                "keys": self.keys,
                **members,
            }
        )

    def workspace(self, job_id: JobId) -> JobWorkspace:
        return JobWorkspace(self.blobs, job_id, clock=self.clock, max_bytes=10**6, max_pixels=10**6)

    async def submit(self, **members: Any) -> Job:
        new = job(**members)
        await self.store.submit(new)
        return new

    async def run(self, new: Job, **members: Any) -> JobHistory:
        """Take the job up again and again, each time when its time has come, until it has ended."""
        engine = self.engine(**members)
        for _ in range(100):
            again = await engine.step(new.id)
            if again is None:
                return await self.history(new)
            self.agains.append(again)
            self.clock.moment = max(self.clock.moment, again.at)
        raise AssertionError("the job never ended")

    async def history(self, new: Job) -> JobHistory:
        history = await self.store.history(new.id)
        assert isinstance(history, JobHistory)
        return history


@pytest.fixture
async def bench(store: SqlJobStore, bell: LocalBell, tmp_path: Path) -> AsyncIterator[Bench]:
    blobs = LocalBlobStore(tmp_path / "blobs")
    yield Bench(store, blobs, bell)
    await blobs.close()


def states(history: JobHistory) -> list[str]:
    return [attempt.state.value for attempt in history.attempts]


def ended(history: JobHistory) -> tuple[JobStatus, str | None, Charged]:
    return history.job.status, history.job.error.code if history.job.error else None, history.job.charged


async def left_open(bench: Bench, **members: Any) -> Job:
    """A job that a process has left behind with a call out, or with accepted work."""
    new = await bench.submit()
    attempt = Attempt(number=1, route=0, target=FLUX, key_name="main", n=1, state=AttemptState.STARTED, started_at=NOON)
    await bench.store.start_attempt(new.id, attempt)
    if handle := members.get("handle"):
        accepted = Attempt(
            number=1,
            route=0,
            target=FLUX,
            key_name="main",
            n=1,
            state=AttemptState.ACCEPTED,
            started_at=NOON,
            handle=handle,
        )
        await bench.store.accept_attempt(new.id, accepted, due_at=NOON)
    return new


# The plain way


async def test_a_job_is_called_once_and_its_picture_kept(bench: Bench) -> None:
    ring = bench.bell.listen((new := await bench.submit(request=request(response_format=None))).id)
    usage = Usage(total_tokens=5)
    bench.paid.answers = [lambda call: drawn(call, usage=usage, cost_micros=40_000, model="flux-1", via="edit")]
    bench.clock.move(2)
    history = await bench.run(new)
    assert ended(history) == (JobStatus.COMPLETED, None, Charged.YES)
    assert states(history) == ["succeeded"]
    assert ring.done()
    result = history.job.result
    assert result is not None
    assert (result.production.usage, result.production.via, result.production.model) == (usage, "edit", "flux-1")
    assert history.job.cost_micros == 40_000
    assert (history.job.started_at, history.job.completed_at) == (later(2), later(2))
    (output,) = result.production.outputs
    assert sha256(await read_all(bench.blobs.read(output.image.blob))) == output.image.sha256 == sha256(png())
    (call,) = bench.paid.calls
    assert (call.model, call.n, call.attempt, call.token) == ("flux", 1, 1, f"{new.id}-1")
    assert call.key.value == "secret-main"


async def test_the_attempt_is_written_down_before_the_call(bench: Bench) -> None:
    new = await bench.submit()

    async def look(call: Call) -> Finished:
        seen.append(await bench.history(new))
        return await drawn(call)

    seen: list[JobHistory] = []
    bench.paid.answers = [look]
    await bench.run(new)
    assert states(seen[0]) == ["started"]
    assert seen[0].job.status is JobStatus.PROCESSING


async def test_nothing_is_done_for_a_job_that_is_gone_or_has_ended(bench: Bench) -> None:
    assert await bench.engine().step(job().id) is None
    new = await bench.submit()
    await bench.run(new)
    assert await bench.engine().step(new.id) is None
    assert len(bench.paid.calls) == 1


# Where it cannot go


async def test_a_provider_that_is_not_configured_fails_the_job(bench: Bench) -> None:
    del bench.providers[PAID]
    history = await bench.run(await bench.submit())
    assert ended(history) == (JobStatus.FAILED, "provider_not_configured", Charged.NO)
    assert history.attempts == ()


@pytest.mark.parametrize("key_name", [None, "other"])
async def test_a_model_without_a_key_fails_the_job(bench: Bench, key_name: str | None) -> None:
    bench.offer(PAID, bench.paid, keys={"main": "sd*"})
    history = await bench.run(await bench.submit(request=request(key_name=key_name)))
    assert ended(history) == (JobStatus.FAILED, "provider_key_missing", Charged.NO)


async def test_the_key_that_the_caller_named_is_used(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, keys={"main": "*", "mine": "fl*"})
    await bench.run(await bench.submit(request=request(key_name="mine")))
    assert [call.key.name for call in bench.paid.calls] == ["mine"]


async def test_what_a_model_cannot_express_goes_to_the_fallback_in_its_own_lane(bench: Bench) -> None:
    bench.paid.specs = [SPEC]
    history = await bench.run(await bench.submit(request=request(style="vivid", fallbacks=(OTHER,))))
    assert ended(history)[0] is JobStatus.COMPLETED
    assert bench.paid.calls == []
    assert bench.agains == [Again(at=NOON, lane=SPARE)]
    assert history.job.lane == SPARE
    assert history.job.result is not None
    assert history.job.result.target == OTHER


async def test_what_no_model_can_express_fails_the_job(bench: Bench) -> None:
    bench.paid.specs = [SPEC]
    history = await bench.run(await bench.submit(request=request(style="vivid")))
    assert history.job.error is not None
    assert (history.job.error.code, history.job.error.param) == ("unsupported_feature", "style")


async def test_an_adapter_that_cannot_express_it_counts_as_one_that_does_not_offer_it(bench: Bench) -> None:
    bench.paid.answers = [UnsupportedFeature("no tags", param="prompt")]
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    assert (ended(history)[0], states(history)) == (JobStatus.COMPLETED, ["failed", "succeeded"])
    bench.paid.answers = [UnsupportedFeature("no tags", param="prompt")]
    alone = await bench.run(await bench.submit())
    assert alone.job.error is not None
    assert (alone.job.error.status_code, alone.job.error.code) == (400, "unsupported_feature")
    assert alone.job.error.param == "prompt"


# Failures


async def test_a_refusal_ends_the_job_with_the_providers_own_words(bench: Bench) -> None:
    bench.paid.answers = [
        ProviderRejected(
            "not nice",
            status=400,
            provider_code="moderation_blocked",
            provider_type="user_error",
            param="prompt",
            request_id="q1",
        )
    ]
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    error = history.job.error
    assert error is not None
    assert (error.status_code, error.code, error.message) == (400, "moderation_blocked", "not nice")
    assert (error.type, error.param, error.request_id, error.gateway_fault) == ("user_error", "prompt", "q1", False)
    assert history.job.charged is Charged.NO
    assert bench.spare.calls == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ProviderBusy("b"), 429, "provider_busy"),
        (ProviderUnavailable("u", status=503), 503, "provider_unavailable"),
        (ProviderUnavailable("u", status=302), 502, "provider_unavailable"),
        (ProviderModelGone("g"), 404, "model_not_found"),
        (ProviderAuthError("a", status=403, provider_code="no_access"), 403, "no_access"),
        (ProviderUncertain("x", provider_code="their_word"), 504, "outcome_unknown"),
        (ProviderProtocolError("p", status=200), 502, "provider_answer_unreadable"),
    ],
)
async def test_each_error_reaches_the_job(bench: Bench, error: ProviderError, status: int, code: str) -> None:
    bench.offer(PAID, bench.paid, retry=RetryPolicy(max=0))
    bench.paid.answers = [error]
    history = await bench.run(await bench.submit())
    assert history.job.error is not None
    assert (history.job.error.status_code, history.job.error.code) == (status, code)
    assert history.job.charged is (Charged.UNKNOWN if error.error_class.may_be_charged else Charged.NO)


async def test_retries_wait_longer_each_time(bench: Bench) -> None:
    bench.paid.answers = [ProviderUnavailable("down")] * 3
    history = await bench.run(await bench.submit())
    assert states(history) == ["failed"] * 3
    first, second = [again.at for again in bench.agains]
    drawn_before = Random(7)
    assert first - NOON == timedelta(seconds=0.5 * drawn_before.random())
    assert second - first == timedelta(seconds=1.0 * drawn_before.random())
    assert ended(history) == (JobStatus.FAILED, "provider_unavailable", Charged.NO)


async def test_the_waits_of_a_fallback_begin_anew(bench: Bench) -> None:
    bench.paid.answers = [ProviderUnavailable("down")] * 3
    bench.spare.answers = [ProviderUnavailable("down")]
    await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    before, after = bench.agains[-2:]
    assert after.at - before.at <= timedelta(seconds=0.5)


async def test_a_busy_provider_is_heard(bench: Bench) -> None:
    bench.paid.answers = [ProviderBusy("wait", retry_after_s=90.0)]
    history = await bench.run(await bench.submit())
    assert bench.agains == [Again(at=later(90), lane=PAID)]
    assert history.attempts[0].retry_at == later(90)
    assert ended(history)[0] is JobStatus.COMPLETED


async def test_a_provider_that_says_at_once_gets_a_pause_all_the_same(bench: Bench) -> None:
    bench.paid.answers = [ProviderBusy("wait", retry_after_s=0.0)]
    await bench.run(await bench.submit())
    assert bench.agains[0].at > NOON


async def test_a_job_taken_up_too_early_waits_on(bench: Bench) -> None:
    bench.keys.random = NoChance()
    bench.paid.answers = [ProviderBusy("wait", retry_after_s=90.0)]
    new = await bench.submit()
    engine = bench.engine()
    first = await engine.step(new.id)
    assert await engine.step(new.id) == first == Again(at=later(90), lane=PAID)
    assert len(bench.paid.calls) == 1


async def test_a_key_that_is_refused_gives_way_to_another(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, keys={"a": "*", "b": "*"})
    bench.paid.answers = [ProviderAuthError("no")]
    history = await bench.run(await bench.submit())
    assert sorted(attempt.key_name or "" for attempt in history.attempts) == ["a", "b"]
    assert ended(history)[0] is JobStatus.COMPLETED


# Our own faults


async def test_a_crash_of_an_adapter_is_an_unknown_outcome_and_the_gateways_fault(bench: Bench) -> None:
    bench.paid.answers = [RuntimeError("secret")]
    history = await bench.run(await bench.submit())
    error = history.job.error
    assert error is not None
    assert (error.status_code, error.code, error.gateway_fault) == (500, "provider_answer_unreadable", True)
    assert "secret" not in error.message
    assert history.job.charged is Charged.UNKNOWN


async def test_an_answer_that_cannot_be_stored_is_an_unknown_outcome(bench: Bench) -> None:
    bench.paid.answers = [StorageError("disk full")]
    history = await bench.run(await bench.submit())
    assert ended(history) == (JobStatus.FAILED, "outcome_unknown", Charged.UNKNOWN)
    assert len(bench.paid.calls) == 1


async def test_an_answer_that_is_no_picture_is_an_unknown_outcome(bench: Bench) -> None:
    bench.paid.answers = [InvalidRequest("is not an image")]
    history = await bench.run(await bench.submit())
    assert ended(history) == (JobStatus.FAILED, "provider_answer_unreadable", Charged.UNKNOWN)


async def test_an_input_that_is_gone_is_our_fault_and_costs_nothing(bench: Bench) -> None:
    bench.paid.answers = [NotFound("the image is gone")]
    history = await bench.run(await bench.submit())
    assert ended(history) == (JobStatus.FAILED, "input_lost", Charged.NO)
    assert history.job.error is not None
    assert (history.job.error.status_code, history.job.error.gateway_fault) == (500, True)


async def test_an_answer_without_a_picture_is_an_unknown_outcome(bench: Bench) -> None:
    bench.paid.answers = [Finished(pictures=())]
    assert ended(await bench.run(await bench.submit())) == (
        JobStatus.FAILED,
        "provider_answer_unreadable",
        Charged.UNKNOWN,
    )


# Unknown outcomes


async def test_a_repeatable_provider_is_called_again(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, repeatable=True)
    bench.paid.answers = [ProviderUncertain("lost"), ProviderProtocolError("torn")]
    history = await bench.run(await bench.submit())
    assert states(history) == ["unknown", "unknown", "succeeded"]
    assert [attempt.charged for attempt in history.attempts] == [Charged.NO, Charged.NO, Charged.YES]


@pytest.mark.parametrize(
    ("on_unknown", "paid", "spare", "status"),
    [
        (OnUnknown.FAIL, 1, 0, JobStatus.FAILED),
        (OnUnknown.RETRY, 2, 0, JobStatus.COMPLETED),
        (OnUnknown.FALLBACK, 1, 1, JobStatus.COMPLETED),
    ],
)
async def test_the_setting_decides_after_an_unknown_outcome(
    bench: Bench, on_unknown: OnUnknown, paid: int, spare: int, status: JobStatus
) -> None:
    bench.paid.answers = [ProviderUncertain("lost")]
    new = await bench.submit(request=request(fallbacks=(OTHER,)))
    history = await bench.run(new, on_unknown=on_unknown)
    assert (len(bench.paid.calls), len(bench.spare.calls)) == (paid, spare)
    assert history.job.status is status
    assert history.job.charged is (Charged.UNKNOWN if status is JobStatus.FAILED else Charged.YES)


async def test_a_call_that_a_dead_process_left_is_not_made_again(bench: Bench) -> None:
    history = await bench.run(await left_open(bench))
    assert ended(history) == (JobStatus.FAILED, "outcome_unknown", Charged.UNKNOWN)
    assert bench.paid.calls == []


async def test_a_call_that_a_dead_process_left_is_repeated_where_that_is_free(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, repeatable=True)
    history = await bench.run(await left_open(bench))
    assert states(history) == ["unknown", "succeeded"]
    assert history.attempts[0].error_class is ErrorClass.ABANDONED
    assert bench.paid.calls[0].attempt == 2


async def test_a_call_left_by_a_dead_process_ends_though_its_provider_is_gone(bench: Bench) -> None:
    new = await left_open(bench)
    del bench.providers[PAID]
    assert ended(await bench.run(new)) == (JobStatus.FAILED, "outcome_unknown", Charged.UNKNOWN)


# Work under a handle


async def test_how_far_accepted_work_is_can_be_read(bench: Bench) -> None:
    new = await bench.submit(request=request(n=2))
    bench.offer(PAID, bench.paid)
    bench.paid.max_n = 1
    bench.paid.answers = [Accepted(handle="h", poll_after_s=1)]
    bench.paid.polls = [Running(poll_after_s=2, progress=0.5), Running(poll_after_s=2)]
    engine = bench.engine()
    told = []
    for _ in range(3):
        again = await engine.step(new.id)
        assert again is not None
        told.append((await bench.history(new)).job.progress)
        bench.clock.moment = again.at
    assert told == [None, 0.25, 0.25]


async def test_work_is_watched_from_its_start_to_its_end(bench: Bench) -> None:
    new = await bench.submit(request=request(partial_images=1))
    bench.paid.watchable = True
    bench.paid.answers = [Accepted(handle="h", poll_after_s=1)]
    bench.paid.polls = [Running(poll_after_s=1)]
    seen, ended = asyncio.Event(), asyncio.Event()

    async def look(call: Call) -> None:
        await call.report.progress(0.4)
        shown = await stored(call.workspace.open_sink(), png())
        await call.report.preview(shown)
        seen.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bench.paid.looks = [look]
    engine = bench.engine()
    again = await engine.step(new.id)
    await seen.wait()
    assert len(await bench.store.previews([new.id])) == 1
    assert (await bench.history(new)).job.progress == 0.4
    while again is not None:
        assert not ended.is_set()
        bench.clock.moment = again.at
        again = await engine.step(new.id)
    await ended.wait()
    assert (await bench.history(new)).job.status is JobStatus.COMPLETED


async def test_work_that_another_process_left_is_watched_on(bench: Bench) -> None:
    new = await left_open(bench, handle="h")
    bench.paid.watchable = True
    bench.paid.polls = [Running(poll_after_s=1)]
    looked = asyncio.Event()

    async def look(_: Call) -> None:
        looked.set()

    bench.paid.looks = [look]
    await bench.engine().step(new.id)
    await looked.wait()


async def test_accepted_work_is_polled_until_it_is_done(bench: Bench) -> None:
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    bench.paid.polls = [Running(poll_after_s=2), Running(poll_after_s=3)]
    new = await bench.submit()
    history = await bench.run(new)
    assert bench.agains == [Again(at=later(after), lane=PAID, at_work=True) for after in (1, 3, 6)]
    assert bench.paid.polled == ["h1"] * 3
    assert ended(history) == (JobStatus.COMPLETED, None, Charged.YES)
    assert (states(history), history.attempts[0].handle) == (["succeeded"], "h1")


async def test_accepted_work_of_a_dead_process_is_polled_not_bought_again(bench: Bench) -> None:
    history = await bench.run(await left_open(bench, handle="h1"))
    assert (bench.paid.calls, bench.paid.polled) == ([], ["h1"])
    assert ended(history)[0] is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "fault",
    [
        ProviderBusy("b", retry_after_s=7.0),
        ProviderUnavailable("u"),
        ProviderUncertain("x"),
        ProviderAuthError("a"),
        StorageError("full"),
    ],
)
async def test_a_poll_that_fails_is_repeated_and_the_work_not_bought_again(bench: Bench, fault: Exception) -> None:
    bench.offer(PAID, bench.paid, keys={"a": "*", "b": "*"})
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    bench.paid.polls = [fault] * 5
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    assert (len(bench.paid.calls), len(bench.paid.polled), bench.spare.calls) == (1, 6, [])
    assert ended(history)[0] is JobStatus.COMPLETED
    pause_s = 7 if isinstance(fault, ProviderBusy) else 5
    assert bench.agains[1].at - bench.agains[0].at == timedelta(seconds=pause_s)


@pytest.mark.parametrize(
    ("fault", "code", "charged"),
    [
        (ProviderRejected("no", provider_code="blocked"), "blocked", Charged.NO),
        (ProviderModelGone("404"), "outcome_unknown", Charged.UNKNOWN),
        (ProviderProtocolError("odd"), "provider_answer_unreadable", Charged.UNKNOWN),
        (RuntimeError("bug"), "provider_answer_unreadable", Charged.UNKNOWN),
    ],
)
async def test_work_that_is_lost_at_the_provider_is_not_bought_again(
    bench: Bench, fault: Exception, code: str, charged: Charged
) -> None:
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    bench.paid.polls = [fault]
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    assert ended(history) == (JobStatus.FAILED, code, charged)
    assert (len(bench.paid.calls), bench.spare.calls) == (1, [])


@pytest.mark.parametrize(
    ("error", "charged", "expected", "paid", "spare"),
    [
        (ProviderRejected("blocked"), Charged.NO, (JobStatus.FAILED, "provider_rejected", Charged.NO), 1, 0),
        (ProviderRejected("blocked"), Charged.YES, (JobStatus.FAILED, "provider_rejected", Charged.YES), 1, 0),
        (ProviderUnavailable("dropped"), Charged.NO, (JobStatus.COMPLETED, None, Charged.YES), 2, 0),
        (ProviderModelGone("gone"), Charged.NO, (JobStatus.COMPLETED, None, Charged.YES), 1, 1),
        (
            ProviderUnavailable("dropped"),
            Charged.UNKNOWN,
            (JobStatus.FAILED, "provider_unavailable", Charged.UNKNOWN),
            1,
            0,
        ),
        (ProviderUncertain("stopped"), Charged.UNKNOWN, (JobStatus.FAILED, "outcome_unknown", Charged.UNKNOWN), 1, 0),
    ],
)
async def test_work_that_ended_badly_goes_on_as_its_error_and_its_charge_let_it(
    bench: Bench,
    error: ProviderError,
    charged: Charged,
    expected: tuple[JobStatus, str | None, Charged],
    paid: int,
    spare: int,
) -> None:
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    bench.paid.polls = [Failed(error=error, charged=charged)]
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    assert ended(history) == expected
    assert (len(bench.paid.calls), len(bench.spare.calls)) == (paid, spare)
    assert history.attempts[0].charged is charged


async def test_what_is_refused_and_billed_all_the_same_is_booked(bench: Bench) -> None:
    bench.paid.answers = [ProviderRejected("moderated", charged=Charged.YES, cost_micros=7)]
    history = await bench.run(await bench.submit())
    assert ended(history) == (JobStatus.FAILED, "provider_rejected", Charged.YES)
    assert history.job.cost_micros == 7


async def test_accepted_work_ends_as_unknown_when_its_provider_is_gone(bench: Bench) -> None:
    new = await left_open(bench, handle="h1")
    del bench.providers[PAID]
    assert ended(await bench.run(new)) == (JobStatus.FAILED, "outcome_unknown", Charged.UNKNOWN)


async def test_accepted_work_is_polled_with_its_own_key_or_none(bench: Bench) -> None:
    new = await left_open(bench, handle="h1")
    bench.offer(PAID, bench.paid, keys={"new": "*"})
    seen: list[Call] = []

    async def look(call: Call) -> Finished:
        seen.append(call)
        return await drawn(call)

    bench.paid.polls = [look]
    await bench.run(new)
    assert (seen[0].key.name, seen[0].key.value) == ("main", None)


# Links

LINK = RemotePicture(url="https://cdn.example/1.png", revised_prompt="a red fox")
SECOND = RemotePicture(url="https://cdn.example/2.png")


async def test_links_are_fetched_at_once(bench: Bench) -> None:
    bench.paid.answers = [Finished(pictures=(LINK,))]
    history = await bench.run(await bench.submit())
    assert history.job.result is not None
    (output,) = history.job.result.production.outputs
    assert output.revised_prompt == "a red fox"
    assert output.image.sha256 == sha256(png())


@pytest.mark.parametrize("fault", [ProviderUnavailable("cdn down"), StorageError("full")])
async def test_a_link_that_fails_is_tried_for_minutes_before_a_paid_picture_is_given_up(
    bench: Bench, fault: Exception
) -> None:
    bench.fetcher.faults = [fault] * 8
    bench.paid.answers = [Finished(pictures=(LINK,))]
    history = await bench.run(await bench.submit())
    assert ended(history)[0] is JobStatus.COMPLETED
    assert sum(bench.clock.pauses) > 120


@pytest.mark.parametrize("fault", [ProviderUnavailable("cdn down"), ProviderProtocolError("404"), StorageError("full")])
async def test_a_picture_that_is_paid_for_and_lost_is_not_bought_again(bench: Bench, fault: Exception) -> None:
    bench.fetcher.broken = {LINK.url: fault}
    bench.paid.answers = [Finished(pictures=(LINK,))]
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))))
    assert (history.job.status, history.job.charged) == (JobStatus.FAILED, Charged.UNKNOWN)
    assert (states(history), len(bench.paid.calls), bench.spare.calls) == (["unknown"], 1, [])


async def test_the_pictures_that_can_be_had_are_kept(bench: Bench) -> None:
    bench.fetcher.broken = {LINK.url: ProviderProtocolError("404")}
    bench.paid.answers = [Finished(pictures=(LINK, SECOND))]
    history = await bench.run(await bench.submit(request=request(n=2)))
    assert history.job.result is not None
    assert len(history.job.result.production.outputs) == 1
    assert history.job.result.shortfall is not None
    assert history.job.result.shortfall.code == "fewer_images"


async def test_accepted_work_whose_link_fails_is_polled_again(bench: Bench) -> None:
    bench.fetcher.faults = [ProviderUnavailable("cdn down")] * 9
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    bench.paid.polls = [Finished(pictures=(LINK,)), Finished(pictures=(SECOND,))]
    history = await bench.run(await bench.submit())
    assert (ended(history)[0], bench.paid.polled) == (JobStatus.COMPLETED, ["h1", "h1"])
    assert bench.fetcher.fetched[-1] == SECOND.url


# Several calls


async def test_more_pictures_than_a_call_gives_are_bought_in_several(bench: Bench) -> None:
    bench.paid.specs = [SPEC]
    history = await bench.run(await bench.submit(request=request(n=5)))
    assert [call.n for call in bench.paid.calls] == [2, 2, 1]
    assert history.job.result is not None
    assert len(history.job.result.production.outputs) == 5
    assert len({output.image.blob for output in history.job.result.production.outputs}) == 5


async def test_pictures_that_came_are_kept_when_a_later_call_fails(bench: Bench) -> None:
    bench.paid.specs = [SPEC]
    bench.paid.answers = [drawn, ProviderUncertain("lost")]
    history = await bench.run(await bench.submit(request=request(n=4)))
    assert history.job.status is JobStatus.COMPLETED
    assert history.job.result is not None
    assert len(history.job.result.production.outputs) == 2
    assert history.job.result.shortfall is not None
    assert history.job.result.shortfall.code == "outcome_unknown"


async def test_a_ledger_that_is_complete_but_not_settled_is_settled(bench: Bench) -> None:
    """A crash between two commits cannot leave this today; whoever finds it must still end the job."""
    new = await bench.submit(request=request(n=4))
    bench.paid.specs = [SPEC]
    engine = bench.engine()
    await engine.step(new.id)
    bench.paid.specs = [ModelSpec(name="flux", operations=frozenset(), fields=frozenset())]
    history = await bench.run(new)
    assert history.job.status is JobStatus.COMPLETED
    assert history.job.result is not None
    assert history.job.result.shortfall is not None


async def test_a_model_that_nobody_knows_is_asked_for_as_many_as_its_provider_gives(bench: Bench) -> None:
    bench.paid.max_n = 1
    await bench.run(await bench.submit(request=request(n=3, seed=7)))
    assert [(call.n, call.offset, call.request.seed) for call in bench.paid.calls] == [(1, 0, 7), (1, 1, 8), (1, 2, 9)]
    await bench.run(await bench.submit(request=request(n=2)))
    assert [call.request.seed for call in bench.paid.calls[3:]] == [None, None]


# Repeats that the provider knows


def tokens(bench: Bench) -> list[str]:
    return [call.token.rsplit("-", 1)[1] for call in bench.paid.calls]


async def test_a_repeat_shows_the_token_of_the_call_whose_outcome_is_unknown(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, repeatable=True, retry=RetryPolicy(max=3))
    bench.paid.specs = [SPEC]
    bench.paid.answers = [ProviderUncertain("lost"), ProviderUnavailable("down"), ProviderUncertain("lost")]
    await bench.run(await bench.submit(request=request(n=4)))
    assert tokens(bench) == ["1", "1", "1", "1", "5"]


async def test_after_work_that_clearly_failed_comes_new_work(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, repeatable=True)
    bench.paid.answers = [ProviderUncertain("lost"), Accepted(handle="h1", poll_after_s=1)]
    bench.paid.polls = [Failed(error=ProviderUnavailable("dropped"), charged=Charged.NO)]
    await bench.run(await bench.submit())
    assert tokens(bench) == ["1", "1", "3"]


@pytest.mark.parametrize(
    ("on_unknown", "paid", "spare", "status"),
    [
        (OnUnknown.FAIL, 2, 0, JobStatus.FAILED),
        (OnUnknown.FALLBACK, 2, 1, JobStatus.COMPLETED),
        (OnUnknown.RETRY, 3, 0, JobStatus.COMPLETED),
    ],
)
async def test_where_a_repeat_is_known_by_its_key_another_key_needs_consent(
    bench: Bench, on_unknown: OnUnknown, paid: int, spare: int, status: JobStatus
) -> None:
    bench.offer(PAID, bench.paid, keys={"a": "*", "b": "*"}, repeatable=True, deduplicated=True)
    bench.paid.answers = [ProviderUncertain("lost"), ProviderAuthError("no", status=401)]
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER,))), on_unknown=on_unknown)
    assert (len(bench.paid.calls), len(bench.spare.calls), history.job.status) == (paid, spare, status)
    assert history.attempts[0].charged is Charged.UNKNOWN
    assert bench.paid.calls[0].key == bench.paid.calls[1].key


async def test_a_known_repeat_waits_and_is_made_with_the_same_key(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, keys={"a": "*", "b": "*"}, repeatable=True, deduplicated=True)
    bench.paid.answers = [ProviderUncertain("lost"), ProviderBusy("wait", retry_after_s=50.0)]
    history = await bench.run(await bench.submit())
    assert history.job.status is JobStatus.COMPLETED
    assert (tokens(bench), len({call.key.name for call in bench.paid.calls})) == (["1", "1", "1"], 1)
    assert bench.agains[-1].at >= later(50)


# What other jobs learn from it


async def test_a_busy_key_is_left_alone_by_all_jobs_and_costs_them_no_retry(bench: Bench) -> None:
    bench.keys.random = NoChance()
    bench.offer(PAID, bench.paid, retry=RetryPolicy(max=0))
    bench.paid.answers = [ProviderBusy("wait", retry_after_s=60.0)]
    await bench.run(await bench.submit())
    history = await bench.run(await bench.submit())
    assert (states(history), bench.agains[-1].at) == (["succeeded"], later(60))
    assert ended(await bench.run(await bench.submit()))[0] is JobStatus.COMPLETED


async def test_jobs_that_wait_for_one_key_do_not_come_back_all_at_once(bench: Bench) -> None:
    bench.paid.answers = [ProviderBusy("wait", retry_after_s=60.0)]
    engine = bench.engine()
    for _ in range(20):
        new = await bench.submit()
        again = await engine.step(new.id)
        assert again is not None
        bench.agains.append(again)
    moments = sorted(again.at for again in bench.agains)
    assert len(bench.paid.calls) == 1
    assert later(60) <= moments[0]
    assert moments[-1] <= later(75)
    assert moments[-1] - moments[0] > timedelta(seconds=5)


async def test_a_fallback_that_is_shut_down_is_passed_over(bench: Bench) -> None:
    bench.paid.answers = [ProviderModelGone("gone")]
    bench.spare.specs = [replace(SPEC, name="sd", shutdown_date=NOON.date())]
    third = Target(provider=SPARE, model="newer")
    history = await bench.run(await bench.submit(request=request(fallbacks=(OTHER, third))))
    assert [attempt.target for attempt in history.attempts] == [FLUX, third]
    assert ended(history)[0] is JobStatus.COMPLETED


async def test_a_key_without_money_is_left_while_there_is_another(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, keys={"a": "*", "b": "*"})
    bench.paid.answers = [ProviderAuthError("no credit", status=402)]
    for _ in range(3):
        assert ended(await bench.run(await bench.submit()))[0] is JobStatus.COMPLETED
    names = [call.key.name for call in bench.paid.calls]
    assert names.count(names[0]) == 1


async def test_a_key_that_is_refused_is_left_while_there_is_another(bench: Bench) -> None:
    first = bench.providers[PAID].keys[0]
    spare = replace(first, key=ProviderKey(name="spare", value="s"), weight=0)
    bench.providers[PAID] = replace(bench.providers[PAID], keys=(first, spare))
    bench.paid.answers = [ProviderAuthError("no", status=401)]
    for _ in range(2):
        assert ended(await bench.run(await bench.submit()))[0] is JobStatus.COMPLETED
    assert [call.key.name for call in bench.paid.calls] == [first.key.name, "spare", "spare"]


async def test_an_only_key_is_tried_again_though_it_was_refused(bench: Bench) -> None:
    bench.paid.answers = [ProviderAuthError("no", status=401)]
    assert ended(await bench.run(await bench.submit()))[1] == "provider_auth_failed"
    assert ended(await bench.run(await bench.submit()))[0] is JobStatus.COMPLETED


async def test_a_key_has_so_many_jobs_at_a_time(bench: Bench) -> None:
    bench.keys.random = NoChance()
    entry = bench.providers[PAID]
    bench.providers[PAID] = replace(entry, keys=(replace(entry.keys[0], concurrency=1),))
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    engine, first, second = bench.engine(), await bench.submit(), await bench.submit()
    await engine.step(first.id)
    assert await engine.step(second.id) == Again(at=later(0.5), lane=PAID)
    await engine.step(first.id)
    assert await engine.step(second.id) is None
    assert len(bench.paid.calls) == 2


async def test_what_fails_again_and_again_is_left_alone_then_probed_by_one(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, retry=RetryPolicy(max=0), breaker=BreakerPolicy(failures=2, open_for_s=30))
    bench.paid.answers = [ProviderUnavailable("down")] * 3
    engine = bench.engine()
    for _ in range(2):
        assert await engine.step((await bench.submit()).id) is None
    assert bench.spare.calls == []
    waiting = await bench.submit()
    assert await engine.step(waiting.id) == Again(at=later(30), lane=PAID)
    await engine.step((fallen := await bench.submit(request=request(fallbacks=(OTHER,)))).id)
    assert (await bench.history(fallen)).job.lane == SPARE

    bench.clock.move(30)
    assert await engine.step(waiting.id) is None
    late = await bench.submit()
    assert await engine.step(late.id) == Again(at=later(60), lane=PAID)
    bench.clock.move(30)
    bench.paid.answers = [Accepted(handle="h1", poll_after_s=1)]
    await engine.step(late.id)
    assert await engine.step((await bench.submit()).id) is None
    assert len(bench.paid.calls) == 5


async def test_a_retry_that_would_be_one_too_many_waits(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, retry=RetryPolicy(max=5, initial_s=0, least=2))
    bench.paid.answers = [ProviderUnavailable("down")] * 4
    history = await bench.run(await bench.submit())
    assert states(history) == ["failed"] * 4 + ["succeeded"]
    assert bench.clock.moment >= later(50)


async def test_what_is_remembered_of_models_does_not_grow_without_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restraint, "_MOST_BREAKERS", 1)
    bench.offer(PAID, bench.paid, retry=RetryPolicy(max=0), breaker=BreakerPolicy(failures=1))
    bench.paid.answers = [ProviderUnavailable("down")] * 2
    engine = bench.engine()
    for target in (FLUX, structs.replace(FLUX, model="sd")):
        await engine.step((await bench.submit(request=request(target))).id)
    assert await engine.step((await bench.submit()).id) is None


def test_keys_that_have_left_the_settings_still_ask_for_accepted_work(bench: Bench) -> None:
    entry = bench.providers[PAID].with_keys((KeyEntry(key=ProviderKey(name="new", value="n")),))
    assert (entry.key("main").value, entry.key("new").value, entry.key("odd").value) == ("secret-main", "n", None)
    back = entry.with_keys((KeyEntry(key=ProviderKey(name="main", value="m")),))
    assert (back.key("main").value, back.key("new").value) == ("m", "n")


# Faults of the store


async def test_a_fault_before_the_call_is_left_to_the_queue(bench: Bench) -> None:
    new = await bench.submit()
    for method in ("history", "start_attempt"):
        bench.store.fail(method)
        with pytest.raises(StorageError):
            await bench.engine().step(new.id)
    assert bench.paid.calls == []
    assert ended(await bench.run(new))[0] is JobStatus.COMPLETED


@pytest.mark.parametrize("method", ["finish", "end_attempt", "accept_attempt"])
async def test_what_was_paid_for_is_booked_however_long_the_store_fails(bench: Bench, method: str) -> None:
    answers: dict[str, list[Any]] = {
        "finish": [],
        "end_attempt": [ProviderUnavailable("down")],
        "accept_attempt": [Accepted(handle="h1", poll_after_s=1)],
    }
    bench.paid.answers = answers[method]
    bench.store.fail(method, *[StorageError("locked")] * 60)
    history = await bench.run(await bench.submit())
    assert history.job.status is JobStatus.COMPLETED
    assert bench.clock.pauses == [1.0] * 60


async def test_a_job_that_was_ended_meanwhile_stays_as_it_is(bench: Bench) -> None:
    new = await bench.submit()

    async def overtaken(call: Call) -> Finished:
        bench.providers.pop(PAID)
        await bench.engine().step(new.id)
        return await drawn(call)

    bench.paid.answers = [overtaken]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.FAILED, "outcome_unknown", Charged.UNKNOWN)


async def test_two_that_take_up_one_job_make_one_call(bench: Bench) -> None:
    new = await bench.submit()
    seen = await bench.history(new)
    await bench.engine().step(new.id)

    async def stale(_: JobId) -> JobHistory:
        return seen

    bench.store.instead["history"] = stale
    assert await bench.engine().step(new.id) is None
    assert len(bench.paid.calls) == 1


# What it costs


PRICE = Price(per_image=(ImagePrice(usd=Decimal("0.02")),))


async def test_a_cost_that_nobody_told_comes_from_the_price_list(bench: Bench) -> None:
    bench.paid.specs = [replace(SPEC, price=PRICE)]
    history = await bench.run(await bench.submit(request=request(n=3)))
    assert [attempt.n for attempt in history.attempts] == [2, 1]
    assert history.job.cost_micros == 60_000


async def test_the_providers_own_word_wins_over_the_list(bench: Bench) -> None:
    bench.paid.specs = [replace(SPEC, price=PRICE)]
    bench.paid.answers = [lambda call: drawn(call, cost_micros=0)]
    assert (await bench.run(await bench.submit())).job.cost_micros == 0


async def test_the_operators_price_wins_over_the_list(bench: Bench) -> None:
    dearer = Price(per_image=(ImagePrice(usd=Decimal("0.5")),))
    bench.paid.specs = [replace(SPEC, price=PRICE)]
    bench.offer(PAID, bench.paid, prices={"flux": dearer})
    assert (await bench.run(await bench.submit())).job.cost_micros == 500_000


async def test_the_operator_prices_a_model_that_nobody_knows(bench: Bench) -> None:
    bench.offer(PAID, bench.paid, prices={"flux": PRICE})
    assert (await bench.run(await bench.submit())).job.cost_micros == 20_000


async def test_a_model_without_a_price_has_no_known_cost(bench: Bench) -> None:
    assert (await bench.run(await bench.submit())).job.cost_micros is None


def test_a_price_by_the_models_own_name_holds_for_its_aliases(bench: Bench) -> None:
    bench.paid.specs = [replace(SPEC, aliases=frozenset({"flux-2026"}))]
    bench.offer(PAID, bench.paid, prices={"flux": PRICE})
    assert bench.providers[PAID].price("flux-2026") is PRICE


# Small things


def test_a_key_serves_the_models_that_it_names() -> None:
    entry = KeyEntry(key=ProviderKey(name="k", value="v"), models=("flux-*", "sd"))
    assert [entry.serves(model) for model in ("flux-1", "sd", "sd3", "Flux-1")] == [True, True, False, False]


def test_a_key_never_prints() -> None:
    assert "secret" not in repr(ProviderKey(name="k", value="secret"))


async def test_a_stored_picture_keeps_its_revised_prompt(bench: Bench) -> None:
    async def answer(call: Call) -> Finished:
        picture = await stored(call.workspace.open_sink(), png())
        return Finished(pictures=(StoredPicture(image=picture, revised_prompt="redder"),))

    bench.paid.answers = [answer]
    history = await bench.run(await bench.submit())
    assert history.job.result is not None
    assert history.job.result.production.outputs[0].revised_prompt == "redder"
    assert image().blob


# Cancel and retry


async def test_accepted_work_is_stopped_once_and_then_asked_how_it_ended(bench: Bench) -> None:
    new = await left_open(bench, handle="h")
    await bench.store.cancel(new.id, NOON, lane=PAID, tries=1)
    bench.paid.polls = [
        Running(poll_after_s=5),
        Failed(error=ProviderUncertain("stopped"), charged=Charged.YES),
    ]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.YES)
    assert (bench.paid.stopped, bench.paid.polled) == (["h"], ["h", "h"])
    assert history.attempts[0].stop_asked_at == NOON
    assert history.job.status_code == 499


async def test_a_stop_that_did_not_get_through_is_asked_again(bench: Bench) -> None:
    new = await left_open(bench, handle="h")
    await bench.store.cancel(new.id, NOON, lane=PAID, tries=1)
    bench.paid.stops = [ProviderUnavailable("down"), ProviderRejected("over already")]
    bench.paid.polls = [Running(poll_after_s=5), Running(poll_after_s=5)]
    history = await bench.run(new)
    assert bench.paid.stopped == ["h", "h"]
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.YES)


async def test_what_comes_of_cancelled_work_is_dropped_and_its_cost_booked(bench: Bench) -> None:
    new = await left_open(bench, handle="h")
    await bench.store.cancel(new.id, NOON, lane=PAID, tries=1)
    bench.paid.polls = [lambda call: drawn(call, cost_micros=40_000)]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.YES)
    assert (history.job.result, history.job.cost_micros) == (None, 40_000)
    assert await blobs_of(bench) == []


async def test_a_result_that_comes_after_the_cancel_is_dropped(bench: Bench) -> None:
    """Cancelled while the call was out, by whomever: the commit of the result is refused."""
    new = await bench.submit()

    async def cancelled(call: Call) -> Finished:
        await bench.store.cancel(new.id, NOON, lane=PAID, tries=1)
        return await drawn(call, cost_micros=40_000)

    bench.paid.answers = [cancelled]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.YES)
    assert (history.job.cost_micros, states(history)) == (40_000, ["succeeded"])
    assert await blobs_of(bench) == []


async def test_a_cancelled_job_is_not_tried_again(bench: Bench) -> None:
    new = await bench.submit(request=request(fallbacks=(OTHER,)))

    async def cancelled(_: Call) -> Finished:
        await bench.store.cancel(new.id, NOON, lane=PAID, tries=1)
        raise ProviderUnavailable("down")

    bench.paid.answers = [cancelled]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.NO)
    assert (states(history), bench.spare.calls) == (["failed"], [])


async def test_pictures_of_the_calls_before_a_cancel_are_dropped_too(bench: Bench) -> None:
    bench.paid.max_n = 1
    new = await bench.submit(request=request(n=2))

    async def cancelled(call: Call) -> Finished:
        await bench.store.cancel(new.id, NOON, lane=PAID, tries=2)
        return await drawn(call)

    bench.paid.answers = [drawn, cancelled]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.YES)
    assert await blobs_of(bench) == []


async def test_a_call_that_was_out_when_the_process_died_ends_as_cancelled_and_unknown(bench: Bench) -> None:
    new = await left_open(bench)
    await bench.store.cancel(new.id, NOON, lane=PAID, tries=1)
    history = await bench.run(new, on_unknown=OnUnknown.RETRY)
    assert ended(history) == (JobStatus.FAILED, "job_cancelled", Charged.UNKNOWN)
    assert bench.paid.calls == []


async def test_a_retried_job_begins_anew_and_adds_to_the_cost(bench: Bench) -> None:
    bench.paid.answers = [ProviderUncertain("lost", cost_micros=1_000, charged=Charged.YES)]
    new = await bench.submit()
    lost = await bench.run(new)
    assert ended(lost) == (JobStatus.FAILED, "outcome_unknown", Charged.YES)
    await bench.store.retry(lost.job.renewed(bench.clock.now()))
    bench.paid.answers = [lambda call: drawn(call, cost_micros=40_000)]
    history = await bench.run(new)
    assert ended(history) == (JobStatus.COMPLETED, None, Charged.YES)
    assert (states(history), history.job.cost_micros) == (["unknown", "succeeded"], 41_000)


async def test_a_retry_of_what_was_cancelled_half_way_makes_all_pictures_with_their_own_seeds(bench: Bench) -> None:
    bench.paid.max_n = 1
    new = await bench.submit(request=request(n=2, seed=7))

    async def cancelled(call: Call) -> Finished:
        await bench.store.cancel(new.id, NOON, lane=PAID, tries=2)
        return await drawn(call)

    bench.paid.answers = [drawn, cancelled]
    dropped = await bench.run(new)
    await bench.store.retry(dropped.job.renewed(bench.clock.now()))
    history = await bench.run(new)
    assert history.job.result is not None
    assert len(history.job.result.production.outputs) == 2
    assert [call.request.seed for call in bench.paid.calls] == [7, 8, 7, 8]
    assert (history.job.cancelled_at, history.job.attempts) == (None, 4)


async def blobs_of(bench: Bench) -> list[str]:
    return [blob async for blobs in bench.blobs.written_before(later(10**6)) for blob in blobs]
