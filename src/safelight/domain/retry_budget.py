"""How many of a provider's calls may be retries, so that its outage is not multiplied by those who try again."""

from dataclasses import dataclass, field
from datetime import datetime

_SPAN_S = 10
_SPANS = 6


@dataclass(slots=True, kw_only=True)
class RetryBudget:
    """Counts the calls of the last minute, in six spans of ten seconds."""

    share: float = 0.2
    """Of all calls, so many may be retries."""
    least: int = 10
    """So many may be retries however few calls there were."""
    _spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Calls and retries by the number of the span."""

    def count(self, now: datetime, *, retry: bool) -> None:
        """Book a call."""
        span = _span(now)
        if span not in self._spans:
            self._forget(span)
        calls, retries = self._spans.get(span, (0, 0))
        self._spans[span] = (calls + 1, retries + retry)

    def allows(self, now: datetime) -> bool:
        """Whether one more retry may be made."""
        self._forget(_span(now))
        calls = sum(calls for calls, _ in self._spans.values())
        retries = sum(retries for _, retries in self._spans.values())
        return retries + 1 <= max(self.least, self.share * (calls + 1))

    def _forget(self, span: int) -> None:
        for old in [each for each in self._spans if each <= span - _SPANS]:
            del self._spans[old]


def _span(now: datetime) -> int:
    return int(now.timestamp()) // _SPAN_S
