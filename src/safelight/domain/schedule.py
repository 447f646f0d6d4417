"""Retry times as pure functions. All times are seconds."""

from dataclasses import dataclass

_MOST_DOUBLINGS = 62
"""More would pass any delay, and in the end a float's range."""


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
