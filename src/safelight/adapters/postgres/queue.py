"""The queue of several processes, on PgQueuer: it spreads the entries over the workers, within the limits of the lanes.

PgQueuer brings the table, and the query that hands entries out: to one worker each, at most so many of a lane over all
workers, those of dead workers too. Its own loop is not used. After a fault of the
database it waits for everything that runs before it goes on, calls to providers of minutes; it can end an entry or repeat
it in the same lane, but ours move to other lanes and keep their seats; and it drops what is cancelled.

A worker that is not heard of for `lease` loses its entries to others. It may still be there: the ledger is the fence (see
`JobStore`). All times are the database's.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random
from uuid import uuid4

import structlog
from pgqueuer.domain import models
from pgqueuer.domain.types import JobId as EntryId
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.ports.repository import EntrypointExecutionParameter

from safelight.adapters.postgres import entries, fairness
from safelight.adapters.postgres.database import PostgresDatabase
from safelight.adapters.postgres.entries import Back, Entry
from safelight.adapters.postgres.lookups import SharedLookUp
from safelight.adapters.postgres.pgq import Pgq
from safelight.adapters.sql.database import Transaction
from safelight.adapters.sql.rows import from_micros
from safelight.application.keep_going import keep_going
from safelight.application.ports import Again, StepHandler
from safelight.domain.errors import StorageError
from safelight.domain.fairness import Turn
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Job

log = structlog.get_logger(__name__)

_OTHER = "(other)"
"""The lane of all providers that are not in the settings: their jobs end, or move to a fallback."""
_OTHER_SLOTS = 16
_MOST_AT_ONCE = 32
_LOOK_AGAIN_S = 1.0
"""What other workers put back for later, and seats that they freed, are not told of."""
_PAUSE_AFTER_FAULT = timedelta(seconds=1)
_BEATS_PER_LEASE = 4
_TIDY_EVERY_S = 30.0
_MOST_MISSING = 1000


class PostgresQueue:
    """Hands out entries to this worker, at most `concurrency` at a time."""

    def __init__(
        self,
        database: PostgresDatabase,
        *,
        concurrency: int,
        lanes: Mapping[ProviderName, int],
        lease: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        """`lanes` says how many jobs of each provider may run at a time, over all workers: all must say the same."""
        self._database = database
        self._concurrency = concurrency
        self._seats: dict[str, int] = {**{str(lane): seats for lane, seats in lanes.items()}, _OTHER: _OTHER_SLOTS}
        self._limits = {
            QueueEntrypoint(lane): EntrypointExecutionParameter(concurrency_limit=seats)
            for lane, seats in self._seats.items()
        }
        self._lease = lease
        self._now = now
        self._pgq = Pgq()
        self._positions = SharedLookUp(self._find_positions)
        self._worker = uuid4()
        self._steps: dict[asyncio.Task[None], Entry] = {}
        self._backs: list[Back] = []
        self._ended: list[Entry] = []
        self._later: list[float] = []
        """When entries that this worker put back are due, in the loop's time."""
        self._changed = asyncio.Event()
        self._stopping = False

    # Into the queue

    async def enqueue(
        self, transaction: Transaction, job_id: JobId, lane: ProviderName, at: datetime, turn: Turn | None = None
    ) -> None:
        """Have a job handed out at `at`, by an entry made in the transaction that writes the job. See `Enqueue`."""
        delay = at - self._now()
        priority = await fairness.priority(transaction, job_id, lane, turn) if turn is not None else 0
        if not await entries.put(transaction, job_id, lane=self._lane(lane), priority=priority, delay=delay):
            await entries.wake(transaction, job_id, delay)

    def wake(self, job_id: JobId, *, lane: ProviderName, at: datetime, turn: Turn | None = None) -> None:
        """See `Queue.wake`: the entry is there and told of; this worker need not wait for the news."""
        del job_id, lane, at, turn
        self._changed.set()

    def look(self) -> None:
        """See whether there is something to do: others have changed the table, or may have."""
        self._changed.set()

    async def position(self, job: Job) -> int | None:
        """See `Queue.position`."""
        return await self._positions.get(job.id)

    async def _find_positions(self, job_ids: Sequence[JobId]) -> Mapping[JobId, int]:
        return await self._database.look_up(lambda transaction: entries.positions(transaction, job_ids))

    # Out of the queue

    def stop(self) -> None:
        """See `Queue.stop`."""
        self._stopping = True
        self._changed.set()

    @property
    def running(self) -> set[ProviderName]:
        """The lanes in which this worker takes a step."""
        return {entry.lane for entry in self._steps.values()}

    async def run(self, handler: StepHandler) -> None:
        """See `Queue.run`. When cancelled, what still runs is cancelled with it, and goes on elsewhere."""
        beside = [
            asyncio.create_task(keep_going("heartbeat", self._beat_for_ever)),
            asyncio.create_task(keep_going("tidy", self._tidy_for_ever)),
        ]
        try:
            while not self._stopping:
                self._changed.clear()
                more = await self._survived(handler)
                if not more:
                    await self._sleep()
            while self._steps:
                await asyncio.wait(self._steps)
        finally:
            for task in beside:
                task.cancel()
            steps = list(self._steps)
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, *beside, return_exceptions=True)
            with contextlib.suppress(StorageError):
                await self._settle()

    async def _survived(self, handler: StepHandler) -> bool:
        try:
            await self._settle()
            return await self._take(handler)
        except StorageError as error:
            log.warning("queue_failed", error=error.message)
            await asyncio.sleep(_PAUSE_AFTER_FAULT.total_seconds())
            return True

    async def _settle(self) -> None:
        """Tell the table of the steps that have ended, before new ones are asked for: their seats are free."""
        backs, ended = self._backs, self._ended
        self._backs, self._ended = [], []

        async def write(transaction: Transaction) -> None:
            await entries.put_back(transaction, backs, worker=self._worker)
            await entries.remove(transaction, ended, worker=self._worker)

        if not (backs or ended):
            return
        try:
            await self._database.read(write)  # both statements stand for themselves
        except BaseException:
            self._backs, self._ended = [*backs, *self._backs], [*ended, *self._ended]
            raise

    async def _take(self, handler: StepHandler) -> bool:
        """Begin the next steps; whether there may be more."""
        wanted = min(self._concurrency - len(self._steps), _MOST_AT_ONCE)
        if wanted <= 0 or self._stopping:
            return False
        picked = await self._database.read(lambda transaction: self._hand_out(transaction, wanted))
        own = {entry.id for entry in self._steps.values()}
        for row in picked:
            if row.id in own:  # a lease that lapsed while we were still at it
                continue
            job_id = JobId((row.payload or b"").decode())
            entry = Entry(id=row.id, attempts=row.attempts, job_id=job_id, lane=ProviderName(row.entrypoint))
            step = asyncio.create_task(self._step(entry, handler))
            self._steps[step] = entry
            step.add_done_callback(self._forget)
        return len(picked) == wanted

    async def _hand_out(self, transaction: Transaction, wanted: int) -> Sequence[models.Job]:
        if not await entries.any_due(transaction, lease=self._lease):
            return ()
        return await self._pgq.on(transaction).dequeue(
            batch_size=wanted,
            entrypoints=self._limits,
            queue_manager_id=QueueManagerId(self._worker),
            global_concurrency_limit=None,
            heartbeat_timeout=self._lease,
        )

    def _forget(self, step: "asyncio.Task[None]") -> None:
        del self._steps[step]
        self._changed.set()

    async def _step(self, entry: Entry, handler: StepHandler) -> None:
        again: Again | None = Again(at=self._now(), lane=entry.lane)
        try:
            again = await handler(entry.job_id)
        except StorageError as error:
            log.warning("step_postponed", job_id=entry.job_id, error=error.message)
            again = Again(at=self._now() + _PAUSE_AFTER_FAULT, lane=entry.lane)
        except Exception:
            log.exception("step_crashed", job_id=entry.job_id)
            again = Again(at=self._now() + _PAUSE_AFTER_FAULT, lane=entry.lane)
        finally:
            if again is None:
                self._ended.append(entry)
            else:
                self._put_back(entry, again)

    def _put_back(self, entry: Entry, again: Again) -> None:
        delay = max(timedelta(0), again.at - self._now())
        self._backs.append(Back(entry=entry, lane=self._lane(again.lane), delay=delay, at_work=again.at_work))
        heapq.heappush(self._later, asyncio.get_running_loop().time() + delay.total_seconds())

    def _lane(self, name: ProviderName) -> str:
        return name if name in self._seats else _OTHER

    async def _sleep(self) -> None:
        """Wait for news, or for the first entry that is due, at most until it is time to look again."""
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0] <= now:
            heapq.heappop(self._later)
        delay = min(self._later[0] - now, _LOOK_AGAIN_S) if self._later else _LOOK_AGAIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._changed.wait()

    # Beside it

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / _BEATS_PER_LEASE)
            try:
                await self.beat()
            except StorageError as error:
                log.warning("heartbeat_failed", error=error.message)

    async def beat(self) -> None:
        """Tell that this worker still has its entries."""
        held = [EntryId(entry.id) for entry in self._steps.values()]
        if held:
            await self._database.read(lambda transaction: self._pgq.on(transaction).update_heartbeat(held))

    async def _tidy_for_ever(self) -> None:
        random = Random()
        while True:
            try:
                await self.tidy()
            except StorageError as error:
                log.warning("queue_not_tidied", error=error.message)
            await asyncio.sleep(_TIDY_EVERY_S * random.uniform(0.8, 1.2))

    async def tidy(self) -> None:
        """Make the queue agree with the jobs table, which is the record."""

        async def add_missing(transaction: Transaction) -> int:
            missing = await entries.without_entry(transaction, limit=_MOST_MISSING)
            for job_id, lane, due_at in missing:
                await self.enqueue(transaction, job_id, lane, from_micros(due_at))
            return len(missing)

        lanes = tuple(self._seats)
        while await self._database.write(add_missing) == _MOST_MISSING:
            pass
        await self._database.read(lambda transaction: entries.tidy(transaction, lanes=lanes, other=_OTHER))
        self._changed.set()
