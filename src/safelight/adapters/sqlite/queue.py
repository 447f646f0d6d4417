"""The queue of one process: ids in memory, the jobs table behind them.

Each provider has a lane with its own number of slots, so that a slow provider does not hold up the others. In a lane, owners
take turns (see `domain/fairness.py`). A job that
the provider has accepted keeps its slot until it has ended, but asking for it waits for none. Memory
holds at most `_MOST_IN_MEMORY` ids; past that, jobs stay in the table alone and are read when half of it is free.
"""

import asyncio
import contextlib
import heapq
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from msgspec.structs import replace

from safelight.application.ports import Again, Place, StepHandler
from safelight.domain.errors import StorageError
from safelight.domain.fairness import NOBODYS, FairOrder, Turn
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Job

_MOST_IN_MEMORY = 50_000
_ALWAYS_IN_SIGHT = 100
"""So many jobs of each owner are in memory even when it is full."""
_TAKEN_KEPT = 1_000
_PAGE = 2_000
_BEGINNING = (-1, -1)
_PAUSE_AFTER_FAULT = timedelta(seconds=1)
_LONGEST_SLEEP_S = 30.0
"""The wall clock may be set, and a machine may sleep, without the loop's timers knowing."""

log = structlog.get_logger(__name__)


class OpenJobs(Protocol):
    """The part of the job store that the queue reads."""

    async def due(self, *, limit: int, after: Place) -> Sequence[tuple[Place, JobId, ProviderName, datetime, Turn]]:
        """See `JobStore.due`."""
        ...


Entry = tuple[int, int, JobId]
"""A job in line: its rank, a number that tells equal ones apart, its id."""


class _Line:
    """Entries in their order. Most come at the end, all go at the beginning, and each can be asked for its place."""

    __slots__ = ("_begin", "_entries")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._begin = 0

    def __len__(self) -> int:
        return len(self._entries) - self._begin

    def add(self, entry: Entry) -> None:
        insort(self._entries, entry, lo=self._begin)

    def take(self) -> Entry:
        entry = self._entries[self._begin]
        self._begin += 1
        if self._begin > _TAKEN_KEPT and 2 * self._begin > len(self._entries):
            del self._entries[: self._begin]
            self._begin = 0
        return entry

    def place(self, entry: Entry) -> int:
        """How many come before it."""
        return bisect_left(self._entries, entry, lo=self._begin) - self._begin


@dataclass(slots=True)
class _Lane:
    slots: int
    ready: _Line = field(default_factory=_Line)
    order: FairOrder = field(default_factory=FairOrder)
    at_work: deque[JobId] = field(default_factory=deque)
    """Due again, and holding a slot already."""
    taken: int = 0
    """Slots that are not free."""
    steps: int = 0
    """Steps that are being taken now."""
    lined_up: int = 0
    """How many have stood in `ready` so far."""

    @property
    def can_start(self) -> bool:
        return bool(self.at_work or (len(self.ready) and self.taken < self.slots))

    @property
    def idle(self) -> bool:
        return not (len(self.ready) or self.at_work or self.taken)


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
        self._entries: dict[JobId, Entry] = {}
        """Of each job in a lane's `ready`."""
        self._turns: dict[JobId, Turn] = {}
        """Of the known jobs that have an owner."""
        self._counted: set[JobId] = set()
        """Those that have stood in line before: they are not to put their owner back again."""
        self._of_owner: Counter[str] = Counter()
        """How many jobs of an owner are known."""
        self._running: dict[str, set[JobId]] = {}
        """The jobs at work of owners who may have only so many."""
        self._held_back: dict[str, list[tuple[Entry, ProviderName]]] = {}
        """Those whose turn came while their owner had as many at work as may be; the first in line first."""
        self._woken_again: set[JobId] = set()
        self._reading = True
        self._read_up_to: Place = _BEGINNING
        self._turned_away = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, job_id: JobId, *, lane: ProviderName, at: datetime, turn: Turn | None = None) -> None:
        """See `Queue.wake`."""
        if (parked := self._parked.get(job_id)) is not None:
            self._place(job_id, replace(parked, at=min(at, parked.at)))
            self._changed.set()
        elif job_id in self._known:
            self._woken_again.add(job_id)
        elif len(self._known) < _MOST_IN_MEMORY or self._has_few(turn):
            self._know(job_id, turn)
            self._place(job_id, Again(at=at, lane=lane))
            self._changed.set()
        else:
            self._turned_away = True

    def _has_few(self, turn: Turn | None) -> bool:
        """Whether an owner is in sight so little that somebody else's crowd must not keep them out."""
        return turn is not None and turn.owner is not None and self._of_owner[turn.owner] < _ALWAYS_IN_SIGHT

    def _know(self, job_id: JobId, turn: Turn | None) -> None:
        self._known.add(job_id)
        if turn is not None and turn is not NOBODYS:
            self._turns[job_id] = turn
            if turn.owner is not None:
                self._of_owner[turn.owner] += 1

    def _forget(self, job_id: JobId) -> None:
        self._known.discard(job_id)
        self._counted.discard(job_id)
        turn = self._turns.pop(job_id, None)
        if turn is not None and turn.owner is not None:
            self._of_owner[turn.owner] -= 1
            if not self._of_owner[turn.owner]:
                del self._of_owner[turn.owner]
            self._stopped(job_id, turn.owner)

    async def position(self, job: Job) -> int | None:
        """See `Queue.position`."""
        entry, lane = self._entries.get(job.id), self._lanes.get(job.lane)
        return None if entry is None or lane is None else lane.ready.place(entry)

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
        self._reading, self._read_up_to = True, _BEGINNING  # run again, it takes up what was cancelled
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
            for place, job_id, lane, at, turn in page:
                self._read_up_to = place
                if job_id not in self._known:
                    self._know(job_id, turn)
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
        turn = self._turns.get(job_id, NOBODYS)
        rank = lane.order.rank(turn, again=job_id in self._counted)
        self._counted.add(job_id)
        entry = self._entries[job_id] = (rank, lane.lined_up, job_id)
        lane.ready.add(entry)
        lane.lined_up += 1

    def _hand_out(self, handler: StepHandler) -> None:
        """One id of each lane in turn, as long as slots are free."""
        while self._free > 0 and not self._stopping and (name := self._next_lane()) is not None:
            lane = self._lanes[name] = self._lanes.pop(name)  # to the end: next time the others come first
            if (job_id := self._taken_from(lane, name)) is not None:
                self._start(job_id, name, lane, handler)

    def _next_lane(self) -> ProviderName | None:
        return next((name for name, lane in self._lanes.items() if lane.can_start), None)

    def _taken_from(self, lane: _Lane, name: ProviderName) -> JobId | None:
        """The job whose turn it is; `None` when its owner has as many at work as may be."""
        if lane.at_work:
            return lane.at_work.popleft()
        entry = lane.ready.take()
        rank, _, job_id = entry
        del self._entries[job_id]
        if not self._may_run(job_id):
            heapq.heappush(self._held_back.setdefault(self._turns[job_id].owner or "", []), (entry, name))
            return None
        lane.order.take(rank)
        lane.taken += 1
        return job_id

    def _may_run(self, job_id: JobId) -> bool:
        """Count a job among those of its owner at work, if there may be one more."""
        turn = self._turns.get(job_id, NOBODYS)
        if turn.most_running is None or turn.owner is None:
            return True
        running = self._running.setdefault(turn.owner, set())
        if job_id in running or len(running) < turn.most_running:
            running.add(job_id)
            return True
        return False

    def _stopped(self, job_id: JobId, owner: str) -> None:
        """Let the next job of an owner back into its line, where it stood."""
        running = self._running.get(owner)
        if running is None or job_id not in running:
            return
        running.discard(job_id)
        if not running:
            del self._running[owner]
        if held_back := self._held_back.get(owner):
            entry, name = heapq.heappop(held_back)
            self._entries[entry[2]] = entry
            self._lane(name).ready.add(entry)
            if not held_back:
                del self._held_back[owner]

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
            self._forget(job_id)
        else:
            self._place(job_id, again)

    async def _sleep(self) -> None:
        """Wait for news, or for the first of those that come later."""
        delay = (self._later[0][0] - self._now()).total_seconds() if self._later else _LONGEST_SLEEP_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(0.0, delay), _LONGEST_SLEEP_S)):
                await self._changed.wait()
