"""When to stop calling what has failed again and again, and when to see whether it is back."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from safelight.domain.errors import ErrorClass

FAULTS = frozenset({ErrorClass.UNAVAILABLE, ErrorClass.UNCERTAIN})
"""What counts: no connection, a clear 5xx, no answer in time. Any other answer shows that somebody is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """How many failures in a row open it (0: none ever do), and for how long."""

    failures: int = 10
    open_for_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One model at one provider since its last success.

    Closed: `open_until` is `None`. Open: nobody calls before then. Half open: from then on one call goes to see, and
    the others wait as long again, unless it tells sooner. A success ends it: a new one takes its place.
    """

    failures: int = 0
    open_until: datetime | None = None

    def failed(self, policy: BreakerPolicy, now: datetime) -> "Breaker":
        """Count a failure."""
        counted = replace(self, failures=self.failures + 1)
        return counted.probed(policy, now) if 0 < policy.failures <= counted.failures else counted

    def probed(self, policy: BreakerPolicy, now: datetime) -> "Breaker":
        """Let nobody call for a while."""
        return replace(self, open_until=now + timedelta(seconds=policy.open_for_s))
