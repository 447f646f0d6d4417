"""How long jobs take, as far as this process has seen, so that callers are told when it is worth asking again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safelight.application.ports import Clock
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target
from safelight.domain.job import Job
from safelight.domain.schedule import ask_again_s, left_s

_WEIGHT = 0.2
"""Of the newest job in the running estimate."""
_MOMENT_S = 0.2
"""An end that is so near is waited for: cheaper for both sides than another question."""
_MOST_TARGETS = 10_000
"""Models are named by callers; what is remembered of them must not grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A running estimate for each target."""

    slots: Mapping[ProviderName, int]
    """How many jobs of a provider run at a time."""
    clock: Clock
    _run_s: dict[Target, float] = field(default_factory=dict)

    def learn(self, job: Job) -> None:
        """Take a completed job into account."""
        if job.result is None:
            return
        run_s = job.result.latency_ms / 1000
        before = self._run_s.get(job.request.target)
        if before is None and len(self._run_s) >= _MOST_TARGETS:
            self._run_s.clear()
        self._run_s[job.request.target] = run_s if before is None else before + _WEIGHT * (run_s - before)

    def ask_again_s(self, job: Job, position: int | None) -> int:
        """When to ask again for a job that has not ended, in whole seconds."""
        left = self._left_s(job, position)
        return 1 if left is None else ask_again_s(left)

    def moment_s(self, job: Job) -> float:
        """How long to hold a question that says nothing of waiting: no time at all, unless the end is near."""
        left = self._left_s(job, None)
        return _MOMENT_S if left is not None and left <= _MOMENT_S else 0.0

    def _left_s(self, job: Job, position: int | None) -> float | None:
        run_s = self._run_s.get(job.request.target)
        if run_s is None:
            return None
        ran_s = (self.clock.now() - job.started_at).total_seconds() if job.started_at is not None else 0.0
        return left_s(run_s=run_s, ran_s=ran_s, ahead=position or 0, slots=self.slots.get(job.lane, 1))
