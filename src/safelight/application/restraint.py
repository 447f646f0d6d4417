"""Which targets are left alone, and which retries must wait, where much fails. This process alone knows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from safelight.domain.breaker import Breaker, BreakerPolicy
from safelight.domain.errors import ErrorClass
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target
from safelight.domain.job import JobHistory
from safelight.domain.retry_budget import RetryBudget
from safelight.domain.schedule import RetryPolicy

log = structlog.get_logger(__name__)

_MOST_BREAKERS = 10_000
"""Models are named by callers; what is remembered of them must not grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restraint:
    """What has come of the calls so far, over all jobs."""

    _breakers: dict[Target, Breaker] = field(default_factory=dict)
    """Of the targets whose last call failed; the others are closed."""
    _budgets: dict[ProviderName, RetryBudget] = field(default_factory=dict)

    def closed_until(self, target: Target) -> datetime | None:
        """Until when a target is left alone because it fails."""
        breaker = self._breakers.get(target)
        return breaker.open_until if breaker else None

    def open_breakers(self, now: datetime) -> Mapping[Target, datetime]:
        """The targets that are left alone now, and until when."""
        return {
            target: breaker.open_until
            for target, breaker in self._breakers.items()
            if breaker.open_until is not None and breaker.open_until > now
        }

    def allows(self, history: JobHistory, target: Target, policy: RetryPolicy, now: datetime) -> bool:
        """Book a call that is about to be made, unless it is a retry that would be one too many."""
        budget = self._budgets.get(target.provider)
        if budget is None:
            budget = self._budgets[target.provider] = RetryBudget(share=policy.share, least=policy.least)
        last = history.run[-1] if history.run else None
        retry = (
            last is not None
            and last.target.provider == target.provider
            and last.error_class not in {None, ErrorClass.ABANDONED}  # where we stopped, the provider is not at fault
        )
        if retry and not budget.allows(now):
            log.info("retry_put_off", job_id=history.job.id, provider=target.provider)
            return False
        budget.count(now, retry=retry)
        return True

    def probe(self, target: Target, policy: BreakerPolicy, now: datetime) -> None:
        """Where a call goes to see whether a target is back, hold back all others meanwhile."""
        breaker = self._breakers.get(target)
        if breaker is not None and breaker.open_until is not None:
            log.info("breaker_half_open", target=str(target))
            self._breakers[target] = breaker.probed(policy, now)

    def answered(self, target: Target) -> None:
        """Learn that somebody is there."""
        breaker = self._breakers.pop(target, None)
        if breaker is not None and breaker.open_until is not None:
            log.warning("breaker_closed", target=str(target))

    def faulted(self, target: Target, policy: BreakerPolicy, now: datetime) -> None:
        """Learn that nobody answered, or with a 5xx."""
        if len(self._breakers) >= _MOST_BREAKERS:
            self._breakers.clear()
        before = self._breakers.get(target, Breaker())
        after = self._breakers[target] = before.failed(policy, now)
        if after.open_until is not None and before.open_until is None:
            log.warning("breaker_open", target=str(target), failures=after.failures, until=after.open_until.isoformat())
