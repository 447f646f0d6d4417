"""Retry times as pure functions. All times are seconds."""

import math
from dataclasses import dataclass

_MOST_DOUBLINGS = 62
"""More would pass any delay, and in the end a float's range."""

_LONGEST_PAUSE_S = 60
_LATE_SHARE = 0.2
"""A job that takes longer than others did is asked for again after so much of what it has taken."""


def left_s(*, run_s: float, ran_s: float, ahead: int, slots: int) -> float:
    """How long a job may still take.

    `run_s` is how long such jobs take, `ran_s` how long this one has run, `ahead` how many of its lane start before it,
    `slots` how many of those run at a time.
    """
    left = run_s * (1 + ahead // max(1, slots)) - ran_s
    return left if left > 0 else ran_s * _LATE_SHARE


def ask_again_s(left_s: float) -> int:
    """When it is worth asking again for a job that may take so much longer, in whole seconds from 1 to 60."""
    return min(_LONGEST_PAUSE_S, max(1, math.ceil(left_s)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how fast one target is tried again."""

    max: int = 2
    initial_s: float = 0.5
    max_delay_s: float = 30.0
    share: float = 0.2
    """Of a provider's calls in a minute, so many may be retries (see `retry_budget.py`)."""
    least: int = 100
    """So many may be retries however few calls there were."""

    def delay_s(self, retry: int, *, jitter: float) -> float:
        """Exponential backoff with full jitter: `retry` from 1, `jitter` in [0, 1)."""
        ceiling: float = min(self.max_delay_s, self.initial_s * 2.0 ** min(retry - 1, _MOST_DOUBLINGS))
        return ceiling * jitter
