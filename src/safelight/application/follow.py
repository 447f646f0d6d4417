"""Follow what happens: to one job, or to all that a caller may see. Nothing is missed, and nothing told twice."""

import asyncio
import bisect
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from safelight.application.ports import EVERY_JOB, Bell, JobStore, LogEntry, Mark
from safelight.domain.caller import Caller
from safelight.domain.event import LoggedEvent
from safelight.domain.ids import JobId

_PAGE = 200
_MOST_RECENT = 5_000
_REST_S = 0.05
"""Between two looks at the whole log, however much happens."""
_LOOK_AGAIN_S = 1.0
"""What is committed is not always to be seen at once (see `JobStore.log`)."""


@dataclass(slots=True)
class Tail:
    """The end of the log, read once for all who follow it in this process."""

    store: JobStore
    _recent: list[LogEntry] = field(default_factory=list)
    _end: Mark | None = None
    """Up to here it was read; `None` before anybody followed."""
    _begin: Mark = (0, 0)
    """All that comes behind this is in `_recent`, up to `_end`."""
    _looking: "asyncio.Task[Mark] | None" = None
    _looked_at: float = -1.0
    """In the loop's time."""

    async def end(self) -> Mark:
        """Look what is new; whoever asks meanwhile shares the look. Raises `StorageError`."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Mark:
        now = asyncio.get_running_loop().time
        if (rest_s := self._looked_at + _REST_S - now()) > 0:
            await asyncio.sleep(rest_s)
        self._looked_at = now()
        if self._end is None:
            self._begin = self._end = await self.store.log_end()
            return self._end
        while page := await self.store.log(after=self._end, limit=_PAGE):
            self._recent += page
            self._end = page[-1].mark
        if (surplus := len(self._recent) - _MOST_RECENT) > 0:
            self._begin = self._recent[surplus - 1].mark
            del self._recent[:surplus]
        return self._end

    async def after(self, mark: Mark) -> Sequence[LogEntry]:
        """A page of what comes behind a place; from the database where that is too long ago."""
        if mark < self._begin:
            return await self.store.log(after=mark, limit=_PAGE)
        at = bisect.bisect_right(self._recent, mark, key=lambda entry: entry.mark)
        return self._recent[at : at + _PAGE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Streams end when the gateway does: they are resumed at another process, or after the restart."""

    store: JobStore
    bell: Bell
    tail: Tail
    heartbeat_s: float = 15.0

    async def job(self, job_id: JobId, *, after: int) -> AsyncIterator[LoggedEvent | None]:
        """A job's log from behind number `after` to its end, and beyond as long as it runs; `None` for a heartbeat."""
        while True:
            ring = self.bell.listen(job_id)
            try:
                job = await self.store.get(job_id)  # before the log: an end that is seen here is in what is read there
                page = await self.store.events(job_id, after=after, limit=_PAGE)
                for logged in page:
                    after = logged.seq
                    yield logged
                if len(page) == _PAGE:
                    continue
                if job is None or job.status.terminal or self.bell.silent:
                    return
                if not await _rung(ring, self.heartbeat_s):
                    yield None
            finally:
                ring.cancel()

    async def jobs(self, caller: Caller, *, after: Mark | None) -> AsyncIterator[LogEntry | Mark | None]:
        """The log of all jobs of a caller, from behind `after`, or from now on; `None` for a heartbeat.

        First comes where it begins, so that it can be resumed before anything has happened.
        """
        mark = await self.tail.end() if after is None else after
        yield mark
        quiet_s, rung = 0.0, False
        while not self.bell.silent:
            ring = self.bell.listen(EVERY_JOB)
            try:
                before = mark
                await self.tail.end()
                while page := await self.tail.after(mark):
                    for entry in page:
                        mark = entry.mark
                        if caller.lists(entry):
                            quiet_s = 0.0
                            yield entry
                pause_s = _REST_S if rung and mark == before else _LOOK_AGAIN_S
                rung = await _rung(ring, pause_s)
                quiet_s += 0.0 if rung else pause_s
                if quiet_s >= self.heartbeat_s:
                    quiet_s = 0.0
                    yield None
            finally:
                ring.cancel()


async def _rung(ring: "asyncio.Future[None]", timeout_s: float) -> bool:
    """Wait for a ring; false when none came in time."""
    done, _ = await asyncio.wait([ring], timeout=timeout_s)
    return bool(done)
