"""The queue of one process: ids in memory, the jobs table behind them.

Each provider has a lane with its own number of slots, so that a slow provider does not hold up the others. A job that
the provider has accepted keeps its slot until it has ended, but asking for it waits for none. Memory
holds at most `_MOST_IN_MEMORY` ids; past that, jobs stay in the table alone and are read when half of it is free.
"""

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from safelight.application.ports import Again, Place, StepHandler
from safelight.domain.errors import StorageError
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Job

_MOST_IN_MEMORY = 50_000
_PAGE = 2_000
_BEGINNING = (-1, -1)
_PAUSE_AFTER_FAULT = timedelta(seconds=1)
_LONGEST_SLEEP_S = 30.0
"""The wall clock may be set, and a machine may sleep, without the loop's timers knowing."""

log = structlog.get_logger(__name__)


class OpenJobs(Protocol):
    """The part of the job store that the queue reads."""

    async def due(self, *, limit: int, after: Place) -> Sequence[tuple[Place, JobId, ProviderName, datetime]]:
        """See `JobStore.due`."""
        ...


@dataclass(slots=True)
class _Lane:
    slots: int
    ready: deque[JobId] = field(default_factory=deque)
    at_work: deque[JobId] = field(default_factory=deque)
    """Due again, and holding a slot already."""
    taken: int = 0
    """Slots that are not free."""
    steps: int = 0
    """Steps that are being taken now."""
    lined_up: int = 0
    """How many have stood in `ready` so far."""
    handed_out: int = 0

    @property
    def can_start(self) -> bool:
        return bool(self.at_work or (self.ready and self.taken < self.slots))

    @property
    def idle(self) -> bool:
        return not (self.ready or self.at_work or self.taken)


class SqliteQueue:
    """Hands out ids, fairly over the lanes, at most `concurrency` at a time."""

    def __init__(
        self,
        jobs: OpenJobs,
        *,
        concurrency: int,
        lane_slots: Callable[[ProviderName], int],
        now: Callable[[], datetime],
    ) -> None:
        """`lane_slots` says how many jobs of a provider may run at a time."""
        self._jobs = jobs
        self._free = concurrency
        self._lane_slots = lane_slots
        self._now = now
        self._lanes: dict[ProviderName, _Lane] = {}
        self._later: list[tuple[datetime, JobId]] = []
        self._parked: dict[JobId, Again] = {}
        """Those in `_later`. An entry there that is not of this time is left from before the job was brought forward."""
        self._known: set[JobId] = set()
        self._numbers: dict[JobId, int] = {}
        """Of each job in a lane's `ready`: how many had lined up there before it."""
        self._woken_again: set[JobId] = set()
        self._reading = True
        self._read_up_to: Place = _BEGINNING
        self._turned_away = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, job_id: JobId, *, lane: ProviderName, at: datetime) -> None:
        """See `Queue.wake`."""
        if (parked := self._parked.get(job_id)) is not None:
            self._place(job_id, replace(parked, at=min(at, parked.at)))
            self._changed.set()
        elif job_id in self._known:
            self._woken_again.add(job_id)
        elif len(self._known) < _MOST_IN_MEMORY:
            self._known.add(job_id)
            self._place(job_id, Again(at=at, lane=lane))
            self._changed.set()
        else:
            self._turned_away = True

    async def position(self, job: Job) -> int | None:
        """See `Queue.position`."""
        number, lane = self._numbers.get(job.id), self._lanes.get(job.lane)
        return None if number is None or lane is None else number - lane.handed_out

    def stop(self) -> None:
        """See `Queue.stop`."""
        self._stopping = True
        self._changed.set()

    @property
    def running(self) -> set[ProviderName]:
        """The lanes in which a step is being taken."""
        return {name for name, lane in self._lanes.items() if lane.steps}

    async def run(self, handler: StepHandler) -> None:
        """See `Queue.run`. When cancelled, what still runs is cancelled with it."""
        try:
            while not self._stopping:
                self._changed.clear()
                await self._read_more()
                self._promote()
                self._hand_out(handler)
                await self._sleep()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _place(self, job_id: JobId, again: Again) -> None:
        if again.at <= self._now():
            self._parked.pop(job_id, None)
            self._line_up(job_id, again.lane, at_work=again.at_work)
        else:
            self._parked[job_id] = again
            heapq.heappush(self._later, (again.at, job_id))

    def _lane(self, name: ProviderName) -> _Lane:
        if (lane := self._lanes.get(name)) is None:
            lane = self._lanes[name] = _Lane(slots=self._lane_slots(name))
        return lane

    async def _read_more(self) -> None:
        """Fill memory from the table: at the start, and after it had overflowed."""
        if len(self._known) > _MOST_IN_MEMORY // 2:
            return
        while (self._reading or self._turned_away) and len(self._known) + _PAGE <= _MOST_IN_MEMORY:
            if not self._reading:
                self._reading, self._turned_away, self._read_up_to = True, False, _BEGINNING
            try:
                page = await self._jobs.due(limit=_PAGE, after=self._read_up_to)
            except StorageError as error:
                log.warning("queue_read_failed", error=error.message)
                asyncio.get_running_loop().call_later(_PAUSE_AFTER_FAULT.total_seconds(), self._changed.set)
                return
            for place, job_id, lane, at in page:
                self._read_up_to = place
                if job_id not in self._known:
                    self._known.add(job_id)
                    self._place(job_id, Again(at=at, lane=lane))
            self._reading = len(page) == _PAGE

    def _promote(self) -> None:
        now = self._now()
        while self._later and self._later[0][0] <= now:
            at, job_id = heapq.heappop(self._later)
            parked = self._parked.get(job_id)
            if parked is not None and parked.at == at:
                del self._parked[job_id]
                self._line_up(job_id, parked.lane, at_work=parked.at_work)

    def _line_up(self, job_id: JobId, name: ProviderName, *, at_work: bool) -> None:
        lane = self._lane(name)
        if at_work:
            lane.at_work.append(job_id)
            return
        lane.ready.append(job_id)
        self._numbers[job_id] = lane.lined_up
        lane.lined_up += 1

    def _hand_out(self, handler: StepHandler) -> None:
        """One id of each lane in turn, as long as slots are free."""
        while self._free > 0 and not self._stopping and (name := self._next_lane()) is not None:
            lane = self._lanes[name] = self._lanes.pop(name)  # to the end: next time the others come first
            self._start(self._taken_from(lane), name, lane, handler)

    def _next_lane(self) -> ProviderName | None:
        return next((name for name, lane in self._lanes.items() if lane.can_start), None)

    def _taken_from(self, lane: _Lane) -> JobId:
        if lane.at_work:
            return lane.at_work.popleft()
        job_id = lane.ready.popleft()
        lane.taken += 1
        lane.handed_out += 1
        del self._numbers[job_id]
        return job_id

    def _start(self, job_id: JobId, name: ProviderName, lane: _Lane, handler: StepHandler) -> None:
        self._free -= 1
        self._woken_again.discard(job_id)
        lane.steps += 1
        task = asyncio.create_task(self._step(job_id, name, lane, handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _step(self, job_id: JobId, name: ProviderName, lane: _Lane, handler: StepHandler) -> None:
        again: Again | None = None
        try:
            again = await handler(job_id)
        except StorageError as error:
            log.warning("step_postponed", job_id=job_id, error=error.message)
            again = Again(at=self._now() + _PAUSE_AFTER_FAULT, lane=name)
        except Exception:
            log.exception("step_crashed", job_id=job_id)
            again = Again(at=self._now() + _PAUSE_AFTER_FAULT, lane=name)
        finally:
            self._free += 1
            lane.steps -= 1
            lane.taken -= again is None or not again.at_work
            self._put_back(job_id, name, again)
            if lane.idle:
                del self._lanes[name]  # callers name providers that do not exist, each a lane of its own
            self._changed.set()

    def _put_back(self, job_id: JobId, name: ProviderName, again: Again | None) -> None:
        if job_id in self._woken_again:
            self._woken_again.remove(job_id)
            again = replace(again or Again(at=self._now(), lane=name), at=self._now())
        if again is None:
            self._known.discard(job_id)
        else:
            self._place(job_id, again)

    async def _sleep(self) -> None:
        """Wait for news, or for the first of those that come later."""
        delay = (self._later[0][0] - self._now()).total_seconds() if self._later else _LONGEST_SLEEP_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(0.0, delay), _LONGEST_SLEEP_S)):
                await self._changed.wait()
