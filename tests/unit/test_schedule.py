"""Retry times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.domain.schedule import RetryPolicy, ask_again_s, left_s


@pytest.mark.parametrize(("retry", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (8, 30.0)])
def test_the_delay_doubles_up_to_its_most(retry: int, seconds: float) -> None:
    assert RetryPolicy().delay_s(retry, jitter=1.0) == seconds
    assert RetryPolicy().delay_s(retry, jitter=0.5) == seconds / 2


@given(
    retry=st.integers(1, 10**9),
    jitter=st.floats(0, 1),
    initial_s=st.floats(0, 1e6),
    max_delay_s=st.floats(0, 1e6),
)
def test_no_delay_is_negative_or_above_the_most(
    retry: int, jitter: float, initial_s: float, max_delay_s: float
) -> None:
    policy = RetryPolicy(initial_s=initial_s, max_delay_s=max_delay_s)
    assert 0 <= policy.delay_s(retry, jitter=jitter) <= max_delay_s


@pytest.mark.parametrize(
    ("run_s", "ran_s", "ahead", "slots", "expected"),
    [
        (0.2, 0, 0, 1, 1),
        (8, 0, 0, 4, 8),
        (8, 5.5, 0, 4, 3),
        (8, 0, 3, 4, 8),
        (8, 0, 4, 4, 16),
        (8, 0, 7, 0, 60),
        (8, 0, 10**6, 4, 60),
        (8, 8, 0, 4, 2),
        (8, 40, 0, 4, 8),
        (8, 10**6, 0, 4, 60),
    ],
)
def test_asking_again_is_worth_it_when_the_job_is_likely_to_have_ended(
    run_s: float, ran_s: float, ahead: int, slots: int, expected: int
) -> None:
    assert ask_again_s(left_s(run_s=run_s, ran_s=ran_s, ahead=ahead, slots=slots)) == expected
