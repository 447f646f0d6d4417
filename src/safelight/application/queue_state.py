"""What waits, what runs, and what is left alone: for the console, `/api/queue` and the metrics, which therefore agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from safelight.application.advance import Advance
from safelight.application.ports import Clock
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target
from safelight.domain.job import JobStatus, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenJobs:
    """Jobs of one lane, state and priority. `oldest` is when the first of them was submitted."""

    lane: ProviderName
    status: JobStatus
    priority: Priority
    count: int
    oldest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """All that is still to be done. `oldest_webhook` is when the first that is owed happened."""

    jobs: Sequence[OpenJobs]
    held_micros: int = 0
    webhooks: int = 0
    oldest_webhook: datetime | None = None


class OpenCounts(Protocol):
    """The part of the record that is counted: over all processes."""

    async def open(self) -> Open:
        """Count it in one look. Raises `StorageError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Jobs that have not started."""

    count: int
    oldest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The jobs of one provider that have not ended."""

    waiting: Mapping[Priority, Waiting] = field(default_factory=dict)
    processing: int = 0
    slots: int | None = None
    """How many may be at work there at a time, in each process; `None` where the provider is not configured."""

    @property
    def pending(self) -> int:
        """How many have not started."""
        return sum(waiting.count for waiting in self.waiting.values())

    @property
    def oldest_pending_s(self) -> float | None:
        """Age of the oldest of them."""
        return max((waiting.oldest_s for waiting in self.waiting.values()), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """A provider's key as this process sees it."""

    provider: ProviderName
    name: str
    usable: bool
    cooling: Mapping[str, datetime]
    """Until when it is left alone, by model."""
    refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """The counts are of all processes; breakers and keys are what this one has learned."""

    at: datetime
    lanes: Mapping[ProviderName, Lane]
    open_breakers: Mapping[Target, datetime]
    keys: Sequence[KeyUse]
    held_micros: int = 0
    """Set aside for jobs that have not ended."""
    webhooks_pending: int = 0
    oldest_webhook_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadQueue:
    """Reading it changes nothing."""

    counts: OpenCounts
    advance: Advance
    clock: Clock

    async def state(self) -> QueueState:
        """Look now. Raises `StorageError`."""
        now = self.clock.now()
        lanes = {name: Lane(slots=entry.concurrency) for name, entry in self.advance.providers.items()}
        counted = await self.counts.open()
        for found in counted.jobs:
            lanes[found.lane] = _with(lanes.get(found.lane, Lane()), found, now)
        return QueueState(
            at=now,
            lanes=lanes,
            open_breakers=self.advance.restraint.open_breakers(now),
            keys=tuple(self._keys(now)),
            held_micros=counted.held_micros,
            webhooks_pending=counted.webhooks,
            oldest_webhook_s=_age_s(counted.oldest_webhook, now) if counted.oldest_webhook else None,
        )

    def _keys(self, now: datetime) -> list[KeyUse]:
        pool = self.advance.keys
        return [
            KeyUse(
                provider=provider,
                name=name,
                usable=not pool.refused(provider, name) and not pool.cooling(provider, name, now),
                cooling=pool.cooling(provider, name, now),
                refused=pool.refused(provider, name),
            )
            for provider, entry in self.advance.providers.items()
            for name in (key.key.name for key in entry.keys)
            if name is not None
        ]


def _with(lane: Lane, found: OpenJobs, now: datetime) -> Lane:
    if found.status is JobStatus.PROCESSING:
        return replace(lane, processing=lane.processing + found.count)
    waiting = Waiting(count=found.count, oldest_s=_age_s(found.oldest, now))
    return replace(lane, waiting={**lane.waiting, found.priority: waiting})


def _age_s(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
