"""What is done next with a job, in every situation, and that it always ends."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from safelight.domain.errors import ErrorClass
from safelight.domain.job import Attempt, AttemptState, Job, JobError, JobHistory
from safelight.domain.money import Charged
from safelight.domain.plan import (
    MOST_ABANDONED,
    PATIENCE,
    Abandon,
    Complete,
    GiveUp,
    OnUnknown,
    Poll,
    Route,
    Start,
    Step,
    Wait,
    decide,
    made_before,
    repeats,
)
from safelight.domain.schedule import RetryPolicy
from tests.making import FLUX, NOON, OTHER, failed, job, later, production, request, started, succeeded

REFUSED = JobError(status_code=400, code="unsupported_feature", message="cannot")
ONE = (Route(target=FLUX),)
TWO = (Route(target=FLUX), Route(target=OTHER))


def step(
    *attempts: Attempt,
    routes: Sequence[Route] = ONE,
    n: int | None = None,
    on_unknown: OnUnknown = OnUnknown.FAIL,
    now: datetime = NOON,
) -> Step:
    history = JobHistory(job=job(request=request(n=n)), attempts=attempts)
    return decide(history, routes, on_unknown=on_unknown, now=now)


def given_up(found: Step) -> str:
    assert isinstance(found, GiveUp)
    return found.error.code


# The beginning


def test_a_new_job_starts_at_its_target_with_the_first_key() -> None:
    routes = (Route(target=FLUX, keys=("main", "spare")),)
    assert step(routes=routes, n=3) == Start(route=0, key_name="main", n=3)


def test_a_target_that_cannot_be_used_is_passed_over() -> None:
    assert step(routes=(replace(TWO[0], refusal=REFUSED), TWO[1])) == Start(route=1, key_name=None, n=1)


def test_the_first_refusal_is_the_reason_when_no_target_can_be_used() -> None:
    other = replace(REFUSED, code="provider_not_configured")
    routes = (replace(TWO[0], refusal=REFUSED), replace(TWO[1], refusal=other))
    assert given_up(step(routes=routes)) == "unsupported_feature"


def test_a_job_without_any_target_fails() -> None:
    assert given_up(step(routes=())) == "no_route"


# Open attempts


def test_an_attempt_that_was_left_started_is_abandoned() -> None:
    assert step(started()) == Abandon(attempt=started())


def test_accepted_work_is_polled_whatever_the_target_looks_like_now() -> None:
    accepted = started(state=AttemptState.ACCEPTED, handle="h")
    assert step(accepted, routes=(replace(ONE[0], refusal=REFUSED),)) == Poll(attempt=accepted)


# After a failure


@pytest.mark.parametrize(
    ("error_class", "expected"),
    [
        (ErrorClass.REJECTED, "rejected"),
        (ErrorClass.MODEL_GONE, Start(route=1, key_name=None, n=1)),
        (ErrorClass.AUTH, Start(route=1, key_name=None, n=1)),
        (ErrorClass.BUSY, Start(route=0, key_name=None, n=1)),
        (ErrorClass.UNAVAILABLE, Start(route=0, key_name=None, n=1)),
        (ErrorClass.UNCERTAIN, "uncertain"),
        (ErrorClass.ABANDONED, "abandoned"),
        (ErrorClass.PROTOCOL, "protocol"),
    ],
)
def test_each_class_of_error_has_its_next_step(error_class: ErrorClass, expected: Step | str) -> None:
    found = step(failed(error_class=error_class), routes=TWO)
    assert (given_up(found) if isinstance(expected, str) else found) == expected


@pytest.mark.parametrize("error_class", list(ErrorClass))
def test_when_nothing_is_left_the_last_error_is_the_jobs(error_class: ErrorClass) -> None:
    assert given_up(step(*[failed(number, error_class) for number in (1, 2, 3)])) == error_class.value


def test_an_attempt_without_a_reason_is_final() -> None:
    assert given_up(step(started(state=AttemptState.FAILED))) == "no_route"


def test_a_target_gets_its_retries_and_then_the_next_one_its_own() -> None:
    attempts = [failed(1), failed(2), failed(3)]
    assert step(*attempts[:2], routes=TWO) == Start(route=0, key_name=None, n=1)
    assert step(*attempts, routes=TWO) == Start(route=1, key_name=None, n=1)
    fallback = [failed(number, route=1) for number in (4, 5)]
    assert step(*attempts, *fallback, routes=TWO) == Start(route=1, key_name=None, n=1)
    assert given_up(step(*attempts, *fallback, failed(6, route=1), routes=TWO)) == "unavailable"


def test_no_retries_means_one_try() -> None:
    assert given_up(step(failed(), routes=(Route(target=FLUX, retry=RetryPolicy(max=0)),))) == "unavailable"


def test_a_target_that_is_refused_meanwhile_is_left() -> None:
    assert step(failed(), routes=(replace(TWO[0], refusal=REFUSED), TWO[1])) == Start(route=1, key_name=None, n=1)
    assert given_up(step(failed(), routes=(replace(ONE[0], refusal=REFUSED),))) == "unavailable"
    busy = failed(error_class=ErrorClass.BUSY)
    assert step(busy, routes=(replace(TWO[0], refusal=REFUSED, keys=("a", "b")), TWO[1])) == Start(
        route=1, key_name=None, n=1
    )


def test_a_retry_waits_for_its_time() -> None:
    assert step(failed(retry_at=later(1))) == Wait(until=later(1), route=0)
    assert step(failed(retry_at=later(1)), now=later(1)) == Start(route=0, key_name=None, n=1)
    assert step(failed(retry_at=None)) == Start(route=0, key_name=None, n=1)


def test_a_long_wait_is_worth_it_only_without_a_fallback() -> None:
    long = NOON + PATIENCE + timedelta(microseconds=1)
    busy = failed(error_class=ErrorClass.BUSY, retry_at=long)
    assert step(busy, routes=ONE) == Wait(until=long, route=0)
    assert step(busy, routes=TWO) == Start(route=1, key_name=None, n=1)
    assert step(busy, routes=(TWO[0], replace(TWO[1], refusal=REFUSED))) == Wait(until=long, route=0)
    short = failed(error_class=ErrorClass.BUSY, retry_at=NOON + PATIENCE)
    assert step(short, routes=TWO) == Wait(until=NOON + PATIENCE, route=0)


# Keys


KEYS = (Route(target=FLUX, keys=("a", "b")), Route(target=OTHER))


@pytest.mark.parametrize("error_class", [ErrorClass.AUTH, ErrorClass.BUSY])
def test_another_key_is_taken_at_once(error_class: ErrorClass) -> None:
    first = failed(1, error_class, key_name="a", retry_at=later(60))
    assert step(first, routes=KEYS) == Start(route=0, key_name="b", n=1)


def test_keys_that_are_all_refused_lead_to_the_fallback() -> None:
    attempts = [failed(number, ErrorClass.AUTH, key_name=key) for number, key in ((1, "a"), (2, "b"))]
    assert step(*attempts, routes=KEYS) == Start(route=1, key_name=None, n=1)


def test_a_refused_key_is_not_taken_again_while_another_is_only_busy() -> None:
    refused = failed(1, ErrorClass.AUTH, key_name="a")
    busy = failed(2, ErrorClass.BUSY, key_name="b", retry_at=later(5))
    assert step(refused, busy, routes=KEYS) == Wait(until=later(5), route=0)
    assert step(refused, busy, routes=KEYS, now=later(5)) == Start(route=0, key_name="b", n=1)


def test_a_busy_key_is_waited_for_when_the_other_is_refused() -> None:
    busy = failed(1, ErrorClass.BUSY, key_name="a", retry_at=later(5))
    refused = failed(2, ErrorClass.AUTH, key_name="b", retry_at=later(1))
    assert step(busy, refused, routes=KEYS) == Wait(until=later(5), route=0)


def test_of_busy_keys_the_first_that_will_be_free_is_taken() -> None:
    first = failed(1, ErrorClass.BUSY, key_name="a", retry_at=later(60))
    second = failed(2, ErrorClass.BUSY, key_name="b", retry_at=later(1))
    assert step(first, second, routes=KEYS) == Wait(until=later(1), route=0)
    assert step(first, second, routes=KEYS, now=later(1)) == Start(route=0, key_name="b", n=1)


def test_a_server_that_fails_is_tried_again_with_the_same_key() -> None:
    first = failed(1, ErrorClass.BUSY, key_name="a", retry_at=NOON)
    assert step(first, failed(2, key_name="b"), routes=KEYS) == Start(route=0, key_name="b", n=1)


def test_a_key_that_is_gone_from_the_settings_is_replaced() -> None:
    assert step(failed(key_name="old"), routes=KEYS) == Start(route=0, key_name="a", n=1)
    gone = (Route(target=FLUX, keys=(), refusal=REFUSED), KEYS[1])
    assert step(failed(key_name="old"), routes=gone) == Start(route=1, key_name=None, n=1)


# Unknown outcomes


@pytest.mark.parametrize("error_class", [ErrorClass.UNCERTAIN, ErrorClass.ABANDONED, ErrorClass.PROTOCOL])
@pytest.mark.parametrize(
    ("repeatable", "on_unknown", "expected"),
    [
        (False, OnUnknown.FAIL, None),
        (False, OnUnknown.RETRY, 0),
        (False, OnUnknown.FALLBACK, 1),
        (True, OnUnknown.FAIL, 0),
        (True, OnUnknown.RETRY, 0),
        (True, OnUnknown.FALLBACK, 0),
    ],
)
def test_an_unknown_outcome_is_repeated_only_with_consent(
    *, error_class: ErrorClass, repeatable: bool, on_unknown: OnUnknown, expected: int | None
) -> None:
    routes = (replace(TWO[0], repeatable=repeatable), TWO[1])
    found = step(failed(error_class=error_class), routes=routes, on_unknown=on_unknown)
    if expected is None:
        assert given_up(found) == error_class.value
    else:
        assert found == Start(route=expected, key_name=None, n=1)


def test_consent_to_a_fallback_is_none_to_a_retry() -> None:
    assert given_up(step(failed(error_class=ErrorClass.UNCERTAIN), on_unknown=OnUnknown.FALLBACK)) == "uncertain"


def test_our_own_crashes_spend_no_retries_where_a_repeat_is_free() -> None:
    routes = (Route(target=FLUX, repeatable=True, retry=RetryPolicy(max=0)),)
    crashes = [failed(number, ErrorClass.ABANDONED) for number in range(1, MOST_ABANDONED + 1)]
    assert step(*crashes, routes=routes) == Start(route=0, key_name=None, n=1)
    assert given_up(step(*crashes, failed(99), routes=routes)) == "unavailable"
    assert given_up(step(*crashes, failed(99, ErrorClass.ABANDONED), routes=routes)) == "abandoned"


def test_our_own_crashes_spend_the_retries_that_the_caller_has_consented_to_pay_for() -> None:
    crashes = [failed(number, ErrorClass.ABANDONED) for number in (1, 2, 3)]
    assert step(*crashes[:2], on_unknown=OnUnknown.RETRY) == Start(route=0, key_name=None, n=1)
    assert given_up(step(*crashes, on_unknown=OnUnknown.RETRY)) == "abandoned"


# Several calls


def test_more_pictures_than_a_call_gives_become_several_calls() -> None:
    routes = (Route(target=FLUX, max_n=4),)
    assert step(routes=routes, n=10) == Start(route=0, key_name=None, n=4)
    assert step(succeeded(1, 4), routes=routes, n=10) == Start(route=0, key_name=None, n=4)
    assert step(succeeded(1, 4), succeeded(2, 4), routes=routes, n=10) == Start(route=0, key_name=None, n=2)
    assert step(succeeded(1, 4), succeeded(2, 4), succeeded(3, 2), routes=routes, n=10) == Complete()


def test_each_call_has_tries_of_its_own_and_stays_where_the_last_went_well() -> None:
    routes = (Route(target=FLUX, max_n=1), Route(target=OTHER, max_n=1))
    attempts = [failed(1), failed(2), failed(3), succeeded(4, route=1)]
    assert step(*attempts, routes=routes, n=2) == Start(route=1, key_name=None, n=1)
    assert step(*attempts, failed(5, route=1), routes=routes, n=2) == Start(route=1, key_name=None, n=1)


def test_a_later_call_that_fails_leaves_a_shortfall() -> None:
    found = step(succeeded(), failed(2, ErrorClass.REJECTED), routes=(Route(target=FLUX, max_n=1),), n=2)
    assert isinstance(found, Complete)
    assert found.shortfall is not None
    assert found.shortfall.code == "rejected"


def test_fewer_pictures_than_asked_for_are_a_shortfall_and_not_asked_for_again() -> None:
    found = step(succeeded(1, 3, production=production(2)), n=3)
    assert isinstance(found, Complete)
    assert found.shortfall == JobError(
        status_code=502, code="fewer_images", message="2 of 3 images came from the provider"
    )


def test_more_pictures_than_asked_for_are_welcome() -> None:
    assert step(succeeded(1, 1, production=production(2)), n=1) == Complete()


# Whatever happens

route_lists = st.lists(
    st.builds(
        Route,
        target=st.sampled_from([FLUX, OTHER]),
        keys=st.sampled_from([(None,), ("a",), ("a", "b"), ("a", "b", "c")]),
        repeatable=st.booleans(),
        deduplicated=st.booleans(),
        free_at=st.sampled_from([{}, {}, {"a": later(40), None: later(300)}]),
        closed_until=st.sampled_from([None, None, later(50)]),
        retry=st.builds(RetryPolicy, max=st.integers(0, 4)),
        max_n=st.none() | st.integers(1, 3),
        refusal=st.sampled_from([None, None, None, REFUSED]),
    ),
    min_size=1,
    max_size=3,
)
outcomes = st.sampled_from([*ErrorClass, "success", "crash", "accepted"])


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[Attempt], Step, Sequence[Route], OnUnknown]:
    """Live through a whole job whose calls end in any way."""
    routes = tuple(draw(route_lists))
    on_unknown = draw(st.sampled_from(OnUnknown))
    wanted = job(request=request(n=draw(st.integers(1, 6))))
    return (
        *_live(wanted, routes, on_unknown, lambda: draw(outcomes), lambda: draw(st.integers(0, 400))),
        routes,
        on_unknown,
    )


def _live(
    wanted: Job,
    routes: Sequence[Route],
    on_unknown: OnUnknown,
    outcome: Callable[[], object],
    wait_s: Callable[[], int],
) -> tuple[list[Attempt], Step]:
    attempts: list[Attempt] = []
    now = NOON
    for _ in range(1000):
        found = decide(JobHistory(job=wanted, attempts=tuple(attempts)), routes, on_unknown=on_unknown, now=now)
        match found:
            case Start(route=route, key_name=key_name, n=n):
                attempts.append(
                    started(len(attempts) + 1, route=route, target=routes[route].target, key_name=key_name, n=n)
                )
                ended = outcome()
                if ended == "accepted":
                    attempts[-1] = replace(attempts[-1], state=AttemptState.ACCEPTED, handle="h")
                elif ended != "crash":
                    attempts[-1] = _ended(attempts[-1], ended, now + timedelta(seconds=wait_s()))
            case Poll(attempt=open_) | Abandon(attempt=open_):
                assert open_ == attempts[-1]
                polled = outcome() if isinstance(found, Poll) else ErrorClass.ABANDONED
                if polled not in {"accepted", "crash"}:
                    attempts[-1] = _ended(open_, polled, now)
            case Wait(until=until):
                assert until > now
                now = until
            case Complete() | GiveUp():
                return attempts, found
    raise AssertionError("the job never ended")


def _ended(attempt: Attempt, outcome: object, retry_at: datetime) -> Attempt:
    if isinstance(outcome, ErrorClass):
        return replace(
            failed(attempt.number, outcome),
            route=attempt.route,
            target=attempt.target,
            key_name=attempt.key_name,
            n=attempt.n,
            handle=attempt.handle,
            retry_at=retry_at,
        )
    return replace(
        succeeded(attempt.number, attempt.n), route=attempt.route, target=attempt.target, key_name=attempt.key_name
    )


def _calls(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """Split a ledger into the calls that each success ends."""
    calls: list[list[Attempt]] = [[]]
    for attempt in attempts:
        calls[-1].append(attempt)
        if attempt.state is AttemptState.SUCCEEDED:
            calls.append([])
    return calls


@settings(max_examples=300, deadline=None)
@given(runs())
def test_every_job_ends_within_its_tries(run: tuple[list[Attempt], Step, Sequence[Route], OnUnknown]) -> None:
    attempts, end, routes, _ = run
    for call in _calls(attempts):
        for index, route in enumerate(routes):
            here = [attempt for attempt in call if attempt.route == index]
            abandoned = [attempt for attempt in here if attempt.error_class is ErrorClass.ABANDONED]
            free = len(abandoned) if route.repeatable else 0
            assert free <= MOST_ABANDONED + 1
            assert len(here) - free <= route.retry.max + len(route.keys)
            assert not here or route.refusal is None
        assert [attempt.route for attempt in call] == sorted(attempt.route for attempt in call)
    assert not any(attempt.state.open for attempt in attempts)
    succeeded_any = any(attempt.state is AttemptState.SUCCEEDED for attempt in attempts)
    assert isinstance(end, Complete) == succeeded_any


@settings(max_examples=300, deadline=None)
@given(runs())
def test_nothing_is_bought_again_after_an_unknown_outcome_without_consent(
    run: tuple[list[Attempt], Step, Sequence[Route], OnUnknown],
) -> None:
    attempts, _, routes, on_unknown = run
    for attempt, following in pairwise(attempts):
        if attempt.state is AttemptState.UNKNOWN and not routes[attempt.route].repeatable:
            assert on_unknown is not OnUnknown.FAIL
            if on_unknown is OnUnknown.FALLBACK:
                assert following.route > attempt.route


@settings(max_examples=300, deadline=None)
@given(runs())
def test_a_doubt_that_a_repeat_could_settle_is_never_left_for_another_key_or_target(
    run: tuple[list[Attempt], Step, Sequence[Route], OnUnknown],
) -> None:
    attempts, _, routes, on_unknown = run
    doubt: Attempt | None = None
    for attempt in attempts:
        route = routes[attempt.route]
        if doubt is not None and on_unknown is OnUnknown.FAIL:
            assert (attempt.route, attempt.key_name, attempt.n) == (doubt.route, doubt.key_name, doubt.n)
        over = attempt.state is AttemptState.SUCCEEDED or (
            attempt.state is AttemptState.FAILED and attempt.handle is not None
        )
        if over:
            doubt = None
        elif attempt.state is AttemptState.UNKNOWN and route.repeatable and route.deduplicated:
            doubt = doubt or attempt


@settings(max_examples=300, deadline=None)
@given(runs())
def test_no_call_asks_for_more_than_is_missing(run: tuple[list[Attempt], Step, Sequence[Route], OnUnknown]) -> None:
    attempts, _, routes, _ = run
    for attempt in attempts:
        assert 1 <= attempt.n <= (routes[attempt.route].max_n or 6)


# Keys that cool, targets that are closed


def test_a_key_that_is_free_is_taken_before_those_that_cool() -> None:
    routes = (replace(KEYS[0], free_at={"a": later(9)}), KEYS[1])
    assert step(routes=routes) == Start(route=0, key_name="b", n=1)
    busy = failed(error_class=ErrorClass.BUSY, key_name="b", retry_at=later(3))
    assert step(busy, routes=routes) == Wait(until=later(3), route=0)


def test_when_all_keys_cool_the_first_is_waited_for() -> None:
    cooling = replace(KEYS[0], free_at={"a": later(9), "b": later(5)})
    assert step(routes=(cooling, KEYS[1])) == Wait(until=later(5), route=0)
    assert step(routes=(cooling, KEYS[1]), now=later(5)) == Start(route=0, key_name="b", n=1)


def test_a_long_cooling_is_worth_the_fallback() -> None:
    long = NOON + PATIENCE + timedelta(seconds=1)
    cooling = replace(TWO[0], free_at={None: long})
    assert step(routes=(cooling, TWO[1])) == Start(route=1, key_name=None, n=1)
    assert step(routes=(cooling,)) == Wait(until=long, route=0)


def test_a_closed_target_is_passed_over_and_waited_for_where_there_is_no_other() -> None:
    closed = replace(TWO[0], closed_until=later(30))
    assert step(routes=(closed, TWO[1])) == Start(route=1, key_name=None, n=1)
    assert step(routes=(closed, replace(TWO[1], closed_until=later(20)))) == Wait(until=later(20), route=1)
    assert step(routes=(closed, replace(TWO[1], refusal=REFUSED))) == Wait(until=later(30), route=0)
    assert step(routes=(closed,), now=later(30)) == Start(route=0, key_name=None, n=1)


def test_a_target_that_closes_after_a_failure_is_left_where_there_is_another() -> None:
    closed = replace(TWO[0], closed_until=later(30))
    assert step(failed(), routes=(closed, TWO[1])) == Start(route=1, key_name=None, n=1)
    assert step(failed(), routes=(closed, replace(TWO[1], closed_until=later(5)))) == Wait(until=later(30), route=0)


# Repeats


KNOWN = (replace(KEYS[0], repeatable=True, deduplicated=True), KEYS[1])
LOST = failed(1, ErrorClass.UNCERTAIN, key_name="a")


@pytest.mark.parametrize("error_class", [ErrorClass.BUSY, ErrorClass.UNAVAILABLE, ErrorClass.UNCERTAIN])
def test_a_known_repeat_is_made_with_the_same_key(error_class: ErrorClass) -> None:
    assert step(LOST, failed(2, error_class, key_name="a"), routes=KNOWN) == Start(route=0, key_name="a", n=1)


@pytest.mark.parametrize("error_class", [ErrorClass.AUTH, ErrorClass.MODEL_GONE])
def test_where_it_cannot_be_made_the_outcome_stays_unknown(error_class: ErrorClass) -> None:
    attempts = (LOST, failed(2, error_class, key_name="a"))
    assert given_up(step(*attempts, routes=KNOWN)) == "uncertain"
    assert step(*attempts, routes=KNOWN, on_unknown=OnUnknown.FALLBACK) == Start(route=1, key_name=None, n=1)
    assert given_up(step(LOST, routes=(replace(KNOWN[0], keys=("b",)), KEYS[1]))) == "uncertain"


def test_a_repeat_that_is_refused_is_final() -> None:
    assert given_up(step(LOST, failed(2, ErrorClass.REJECTED, key_name="a"), routes=KNOWN)) == "rejected"


def test_work_that_has_clearly_failed_is_in_no_doubt() -> None:
    over = failed(2, key_name="a", handle="h")
    assert step(LOST, over, failed(3, ErrorClass.AUTH, key_name="a"), routes=KNOWN) == Start(route=0, key_name="b", n=1)


def test_what_was_charged_and_failed_is_bought_again_only_with_consent() -> None:
    paid = failed(charged=Charged.YES)
    assert given_up(step(paid, routes=TWO)) == "unavailable"
    assert step(paid, routes=TWO, on_unknown=OnUnknown.RETRY) == Start(route=0, key_name=None, n=1)
    assert step(paid, routes=TWO, on_unknown=OnUnknown.FALLBACK) == Start(route=1, key_name=None, n=1)


def test_a_repeat_is_known_by_target_key_and_count() -> None:
    again = started(3, key_name="a")
    assert repeats((LOST, failed(2, key_name="a")), again) == 1
    assert repeats((LOST, failed(2, key_name="a", handle="h")), again) == 3
    assert repeats((LOST, succeeded(2)), again) == 3
    for other in (replace(again, key_name="b"), replace(again, n=2), replace(again, route=1)):
        assert repeats((LOST,), other) == 3
    assert repeats((), started()) == 1


def test_pictures_that_were_made_before_are_counted() -> None:
    assert made_before((succeeded(1, 2), failed(2), succeeded(3, 1)), 3) == 2
