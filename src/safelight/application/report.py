"""What is told of a call while it is out: how far it is, and how its pictures look by now."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from safelight.application.ports import Call, Clock, JobStore, Provider
from safelight.domain.errors import ProviderError, ProviderUnavailable, StorageError, Superseded
from safelight.domain.event import developed
from safelight.domain.ids import JobId
from safelight.domain.image import StoredImage
from safelight.domain.job import Job

log = structlog.get_logger(__name__)

_EVERY = timedelta(seconds=1)
"""Progress is written at most so often, and only where it has come a whole percent further."""
_WATCH_PAUSE_S = 5.0
"""After a look that failed."""


class CallReport(Struct, kw_only=True):
    """See `Report`. At most as many previews are kept of each picture as the caller has asked for."""

    store: JobStore
    clock: Clock
    job: Job
    attempt: int
    n: int
    offset: int
    """How many pictures of the job were made before."""
    _percent: int | None = None
    _told_at: datetime | None = None
    _share: float = 0.0
    _previews: dict[int, int] = {}

    def __post_init__(self) -> None:
        """Go on from what was told before."""
        self._percent = None if self.job.progress is None else round(self.job.progress * 100)

    @property
    def wants_preview(self) -> bool:
        """Spread them evenly over the work."""
        kept = sum(self._previews.values())
        wanted = (self.job.request.partial_images or 0) * self.n
        return kept < wanted and self._share >= (kept + 1) / (wanted + 1)

    async def progress(self, share: float) -> None:
        """See `Report.progress`."""
        self._share = min(max(share, 0.0), 1.0)
        done = (self.offset + self._share * self.n) / self.job.request.count
        percent, now = round(done * 100), self.clock.now()
        if percent == self._percent or (self._told_at is not None and now - self._told_at < _EVERY):
            return
        self._percent, self._told_at = percent, now
        await _told(self.store.progress(self.job.id, percent / 100, attempt=self.attempt, at=now))

    async def preview(self, image: StoredImage, *, index: int = 0) -> None:
        """See `Report.preview`."""
        number = self._previews.get(index, 0)
        if number >= (self.job.request.partial_images or 0):
            return
        self._previews[index] = number + 1
        event = developed(self.job.id, image, self.clock.now(), index=self.offset + index, partial_index=number)
        await _told(self.store.log_event(event))


async def _told(writing: Awaitable[None]) -> None:
    """What cannot be told is left out: the work is what counts."""
    try:
        await writing
    except (StorageError, Superseded) as error:
        log.info("report_lost", error=error.message)


async def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Those who look at work that is out, one for each job whose provider can be watched. Ended with `close`."""

    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    _tasks: dict[JobId, asyncio.Task[None]] = field(default_factory=dict)

    def begin(
        self, job_id: JobId, provider: Provider, call: Call, *, unwanted: Callable[[], Awaitable[bool]] = _never
    ) -> None:
        """Look at a job's work from now on, unless somebody does already or there is nothing to see.

        Once it is `unwanted`, the provider is asked to stop: a call that is out has no handle to do so by.
        """
        if provider.watchable and job_id not in self._tasks:
            self._tasks[job_id] = asyncio.create_task(self._watch(provider, call, unwanted))

    def end(self, job_id: JobId) -> None:
        """Look no more."""
        if (task := self._tasks.pop(job_id, None)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Send everybody home."""
        tasks = list(self._tasks.values())
        for job_id in list(self._tasks):
            self.end(job_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, provider: Provider, call: Call, unwanted: Callable[[], Awaitable[bool]]) -> None:
        try:
            while (again_s := await _looked(provider, call)) is not None:
                if await unwanted() and await provider.cancel(None, call):
                    return
                await self.pause(again_s)
        except (ProviderError, StorageError) as error:
            log.info("watch_ended", error=error.message)
        except Exception:
            log.exception("watch_crashed")


async def _looked(provider: Provider, call: Call) -> float | None:
    """Look once; where nobody answered, somebody may later."""
    try:
        return await provider.watch(call)
    except ProviderUnavailable:
        return _WATCH_PAUSE_S
