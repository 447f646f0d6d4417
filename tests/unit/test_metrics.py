"""What is counted, and under which labels."""

from asyncio import CancelledError
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from safelight.adapters.metrics import JOB_SECONDS, Metrics
from safelight.application.observer import Deaf, Exchange, Observers, Told
from safelight.application.queue_state import KeyUse, Lane, QueueState, Waiting
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import ErrorClass, ProviderBusy
from safelight.domain.ids import ProviderName
from safelight.domain.image import Operation, Target
from safelight.domain.job import Attempt, Priority
from safelight.domain.money import Charged
from safelight.domain.outcome import settle
from tests.doubles import ScriptedProvider
from tests.making import FLUX, NOON, OTHER, PAID, SPARE, failed, job, later, production, request, started, succeeded

SPEC = ModelSpec(name="flux", operations=frozenset(Operation), fields=frozenset(), aliases=frozenset({"flux-1"}))
WHOSE = {"type": "image_generation", "provider": "paid", "model": "flux", "key": ""}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics({PAID: ScriptedProvider(specs=[SPEC]), SPARE: ScriptedProvider()})


def waiting(count: int, oldest_s: float) -> dict[Priority, Waiting]:
    return {Priority.INTERACTIVE: Waiting(count=count, oldest_s=oldest_s)}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"safelight_{name}", labels)


def test_a_job_is_followed_from_submit_to_end(metrics: Metrics) -> None:
    new = job()
    attempt = succeeded(2, started_at=later(4), production=replace(production(), cost_micros=250_000))
    metrics.submitted(new)
    metrics.attempt_started(new, started(started_at=later(1)), after=None)
    metrics.attempt_started(new, attempt, after=failed())
    metrics.exchange(new, attempt, Exchange.START)(None)
    metrics.exchange(new, attempt, Exchange.START)(CancelledError())
    metrics.attempt_ended(new, attempt)
    metrics.ended(replace(new, started_at=later(1)), settle(new, (attempt,), error=None, now=later(9)))

    assert value(metrics, "jobs_submitted_total", **WHOSE) == 1
    assert value(metrics, "jobs_ended_total", status="completed", **WHOSE) == 1
    assert value(metrics, "job_wait_seconds_sum", provider="paid") == 1
    assert value(metrics, "job_run_seconds_sum", provider="paid", type="image_generation", status="completed") == 8
    assert value(metrics, "retries_total", provider="paid") == 1
    assert value(metrics, "attempts_total", provider="paid", model="flux", state="succeeded") == 1
    assert value(metrics, "pictures_total", provider="paid", model="flux") == 1
    assert value(metrics, "upstream_call_seconds_count", provider="paid", model="flux", call="start") == 1
    assert value(metrics, "cost_usd_total", provider="paid", model="flux", key="") == 0.25


def test_a_job_that_is_run_again_is_not_booked_twice(metrics: Metrics) -> None:
    paid = succeeded(production=replace(production(), cost_micros=250_000))
    metrics.ended(job(), settle(job(), (paid,), error=None, now=NOON))
    metrics.ended(job(cost_micros=250_000), settle(job(), (paid, replace(paid, number=2)), error=None, now=NOON))

    assert value(metrics, "cost_usd_total", provider="paid", model="flux", key="") == 0.5


def test_failures_are_counted_by_class_and_fallbacks_by_where_they_go(metrics: Metrics) -> None:
    new, other = job(), started(2, target=OTHER, route=1)
    metrics.exchange(new, started(), Exchange.POLL)(ProviderBusy("wait", status=429))
    metrics.attempt_started(new, other, after=failed())
    unknown = failed(error_class=ErrorClass.UNCERTAIN, charged=Charged.UNKNOWN)
    metrics.ended(new, settle(new, (unknown,), error=unknown.error, now=NOON))

    labels = {"provider": "paid", "model": "flux", "call": "poll", "class": "busy"}
    assert value(metrics, "upstream_errors_total", **labels) == 1
    assert value(metrics, "fallbacks_total", provider="spare") == 1
    assert value(metrics, "charges_unknown_total", provider="paid") == 1
    assert value(metrics, "jobs_ended_total", status="failed", **WHOSE) == 1


def test_what_callers_make_up_adds_no_label(metrics: Metrics) -> None:
    for number in range(50):
        metrics.submitted(job(request=request(Target(provider=PAID, model=f"made-up-{number}"))))
        metrics.submitted(job(request=request(Target(provider=ProviderName(f"nowhere-{number}"), model="flux"))))
    metrics.submitted(job(request=request(Target(provider=PAID, model="flux-1"))))
    for number in range(250):
        metrics.submitted(job(owner=f"key-{number}"))

    kind = {"type": "image_generation", "key": ""}
    assert value(metrics, "jobs_submitted_total", provider="paid", model="other", **kind) == 50
    assert value(metrics, "jobs_submitted_total", provider="other", model="other", **kind) == 50
    assert value(metrics, "jobs_submitted_total", **WHOSE) == 1
    assert value(metrics, "jobs_submitted_total", **{**WHOSE, "key": "other"}) == 50


async def test_the_queue_is_shown_as_it_is_when_asked(metrics: Metrics) -> None:
    full = QueueState(
        at=NOON,
        lanes={
            PAID: Lane(waiting=waiting(7, 12.5), processing=2, slots=64),
            ProviderName("gone"): Lane(waiting=waiting(1, 3.0)),
            ProviderName("gone-too"): Lane(waiting=waiting(2, 1.0)),
        },
        open_breakers={FLUX: later(5)},
        keys=[
            KeyUse(provider=PAID, name="main", usable=False, cooling={"flux": later(5)}, refused=False),
            KeyUse(provider=PAID, name="spare", usable=True, cooling={}, refused=False),
        ],
    )
    empty = QueueState(at=NOON, lanes={PAID: Lane(slots=64)}, open_breakers={}, keys=[])

    async def state() -> QueueState:
        return states.pop(0)

    states = [full, empty]
    assert b"safelight_queue_depth" in await metrics.page(state)
    assert value(metrics, "queue_depth", provider="paid", state="pending") == 7
    assert value(metrics, "queue_depth", provider="paid", state="processing") == 2
    assert value(metrics, "queue_depth", provider="other", state="pending") == 3
    assert value(metrics, "queue_oldest_seconds", provider="paid") == 12.5
    assert value(metrics, "queue_oldest_seconds", provider="other") == 3
    assert value(metrics, "breaker_open", provider="paid", model="flux") == 1
    assert value(metrics, "provider_key_usable", provider="paid", key="main") == 0
    assert value(metrics, "provider_key_usable", provider="paid", key="spare") == 1

    await metrics.page(state)
    assert value(metrics, "queue_depth", provider="paid", state="pending") == 0
    assert value(metrics, "queue_oldest_seconds", provider="paid") == 0
    assert value(metrics, "breaker_open", provider="paid", model="flux") is None


def test_buckets_tell_pictures_of_one_to_300_seconds_apart() -> None:
    within = [bound for bound in JOB_SECONDS if 1 <= bound <= 300]
    assert within[0] == 1
    assert within[-1] == 300
    assert all(upper / lower <= 2 for lower, upper in pairwise(within))


def test_several_observers_hear_the_same() -> None:
    heard: list[Any] = []

    class Notes(Deaf):
        def attempt_ended(self, job: Any, attempt: Attempt) -> None:
            heard.append((job.id, attempt.number))

        def exchange(self, job: Any, attempt: Attempt, exchange: Exchange) -> Told:
            return lambda error: heard.append((job.id, attempt.number, exchange, error))

    of, all_of_them = job(), Observers([Notes(), Deaf(), Notes()])
    all_of_them.attempt_ended(of, started(3))
    all_of_them.exchange(of, started(4), Exchange.START)(None)
    assert heard == [(of.id, 3)] * 2 + [(of.id, 4, Exchange.START, None)] * 2
