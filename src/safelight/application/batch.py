"""Batches: accept thousands of requests as one, and feed them to the queue a few at a time."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import structlog
from msgspec.structs import replace

from safelight.application.govern import Govern
from safelight.application.ports import EVERY_JOB, BatchLines, BatchStore, Bell, Clock, JobStore, Queue
from safelight.domain.access import Grant
from safelight.domain.batch import Batch, BatchEntry, BatchProgress, BatchResult, NewLine
from safelight.domain.caller import Caller
from safelight.domain.errors import NotFound, PolicyRefusal, RateLimited, RequestError, StorageError, Superseded
from safelight.domain.fairness import stride, turn_of
from safelight.domain.ids import BatchId, JobId, ProviderName, new_job_id
from safelight.domain.job import BatchLine, Job, JobHistory, Priority
from safelight.domain.ledger import NO_TERMS, Terms
from safelight.domain.refusal import as_job_error
from safelight.randomness import random_bytes

log = structlog.get_logger(__name__)

NEW_BATCH = "batches"
"""The topic of those who feed batches."""

_MOST_OPEN = 100
"""Batches that are fed at a time."""
_MOST_AT_ONCE = 100
"""Lines in one commit."""
_CANCELLED_AT_ONCE = 100


class _Gone(NotFound):
    """One message for all that there is not, or not any more, or that is somebody else's."""

    def __init__(self) -> None:
        super().__init__("batch not found or expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPage:
    """One page of a listing, newest first, and where the next one begins."""

    batches: Sequence[BatchProgress]
    next_before: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPage:
    """One page of a batch's results, and where the next one begins; `None` when every line has been told."""

    batch: Batch
    results: Sequence[BatchResult]
    next_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """What callers can do with batches."""

    store: BatchStore
    lines: BatchLines
    bell: Bell
    clock: Clock
    jobs: JobStore
    cancel_job: Callable[[JobHistory], Awaitable[object]]
    """Ends one job as its own caller would. Raises `Superseded` when it has moved on meanwhile."""

    async def accept(self, batch: Batch, terms: Terms = NO_TERMS) -> Batch:
        """Store a batch whose lines are stored; durable when this returns. Gives the earlier one of the same key.

        `terms` are those of all its lines together: one check for the whole. What is spent besides while it runs may
        still leave too little for its last lines, for each holds its own money when it becomes a job. Raises
        `IdempotencyConflict`, `PolicyRefusal`, `StorageError`.
        """
        accepted = await self.store.submit(batch, terms)
        self.bell.ring(NEW_BATCH)
        return accepted

    async def read(self, batch_id: BatchId, caller: Caller) -> BatchProgress:
        """Read a batch that has not expired. Raises `NotFound`, `StorageError`."""
        progress = await self.store.progress(batch_id)
        if progress is None or progress.batch.expired(self.clock.now()) or not caller.may_see(progress.batch):
            raise _Gone
        return progress

    async def page(self, caller: Caller, *, before: int | None, limit: int) -> BatchPage:
        """One page of the caller's batches, newest first."""
        seen: list[BatchProgress] = []
        last: int | None = None
        async for sequence, batch in self._newest(before):
            if len(seen) == limit:
                return BatchPage(batches=seen, next_before=last)
            with contextlib.suppress(NotFound):
                seen.append(await self.read(batch.id, caller))
            last = sequence
        return BatchPage(batches=seen, next_before=None)

    async def _newest(self, before: int | None) -> AsyncIterator[tuple[int, Batch]]:
        while found := await self.store.list_batches(before=before, limit=_MOST_OPEN):
            for each in found:
                yield each
            before = found[-1][0]

    async def results(self, batch_id: BatchId, caller: Caller, *, after: int, limit: int) -> ResultPage:
        """What became of the lines behind `after`, up to the first that has not ended."""
        progress = await self.read(batch_id, caller)
        batch, now = progress.batch, self.clock.now()
        up_to = min(after + limit, batch.total)
        jobs = await self.store.results(batch_id, after=after, up_to=up_to)
        found: list[BatchResult] = []
        for number in range(after + 1, up_to + 1):
            job = jobs.get(number)
            if job is None and number > batch.fed_lines and batch.cancelled_at is None:
                break
            if job is not None and not job.status.terminal:
                break
            found.append(BatchResult(number=number, job=None if job is None or job.expired(now) else job))
        reached = after + len(found)
        return ResultPage(batch=batch, results=found, next_after=reached if reached < batch.total else None)

    async def cancel(self, batch_id: BatchId, caller: Caller) -> BatchProgress:
        """Start no line any more, and end those that run as their own callers would. Raises `NotFound`."""
        await self.read(batch_id, caller)
        await self.store.cancel(batch_id, at=self.clock.now())
        seen: set[JobId] = set()
        while new := set(await self.store.open_jobs(batch_id, limit=len(seen) + _CANCELLED_AT_ONCE)) - seen:
            seen |= new
            await asyncio.gather(*[self._cancel(job_id) for job_id in new])
        self.bell.ring(NEW_BATCH)
        return await self.read(batch_id, caller)

    async def _cancel(self, job_id: JobId) -> None:
        while (history := await self.jobs.history(job_id)) is not None and not history.job.status.terminal:
            with contextlib.suppress(Superseded):
                await self.cancel_job(history)
                return

    async def retry_failed(self, batch_id: BatchId, caller: Caller) -> BatchProgress:
        """Run the lines again that have failed, and those that a cancel kept back. Raises `NotFound`."""
        await self.read(batch_id, caller)
        await self.store.retry_failed(batch_id, before=self.clock.now())
        self.bell.ring(NEW_BATCH)
        return await self.read(batch_id, caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Makes jobs of the lines of batches. Run by every process that works; the cursor in the record says who was first.

    Only so many lines wait or run in a lane at a time: the queue stays short, and other jobs find free slots.
    """

    store: BatchStore
    lines: BatchLines
    queue: Queue
    bell: Bell
    clock: Clock
    lane_share: Callable[[ProviderName], int]
    """How many lines may wait or run in a lane."""
    retry_job: Callable[[JobId], Awaitable[object]]
    """Runs a failed job again, as its own caller would."""
    govern: Govern | None = None
    """Without it nothing is limited."""
    tick_s: float = 1.0
    """How long to wait for news while there is a batch: it may come from another process."""
    idle_s: float = 5.0
    least_s: float = 0.02
    """Between two rounds, however much news there is."""

    async def run(self) -> None:
        """Feed as long as the process works. Faults are left for the next round."""
        while not self.bell.silent:
            new, moved = self.bell.listen(NEW_BATCH), self.bell.listen(EVERY_JOB)
            try:
                busy = await self._survived()
                heard = [new, moved] if busy else [new]
                await asyncio.wait(heard, timeout=self.tick_s if busy else self.idle_s, return_when="FIRST_COMPLETED")
            finally:
                new.cancel()
                moved.cancel()
            await asyncio.sleep(self.least_s)

    async def _survived(self) -> bool:
        try:
            return await self.once()
        except StorageError as error:
            log.warning("feed_failed", error=error.message)
        except Exception:
            log.exception("feed_crashed")
        return True

    async def once(self) -> bool:
        """Feed what there is room for; whether any batch is left."""
        batches = await self.store.open_batches(limit=_MOST_OPEN)
        taken = Counter(await self.store.open_lines()) if batches else Counter[ProviderName]()
        for batch in batches:
            with contextlib.suppress(Superseded):  # another process was first, or it has just been cancelled
                await self._feed(batch, taken)
        return bool(batches)

    async def _feed(self, batch: Batch, taken: "Counter[ProviderName]") -> None:
        if batch.retry_before is not None:
            await self._retry(batch, batch.retry_before, taken)
        if batch.waiting_lines:
            await self._next_lines(batch, taken)
        elif batch.retry_before is None and not await self.store.open_jobs(batch.id, limit=1):
            await self._complete(batch)

    async def _complete(self, batch: Batch) -> None:
        progress = await self.store.progress(batch.id)
        if progress is not None and not progress.open:
            await self.store.complete(batch.id, at=self.clock.now())
            log.info("batch_ended", batch_id=batch.id, status=progress.status.value, lines=batch.total)

    async def _next_lines(self, batch: Batch, taken: "Counter[ProviderName]") -> None:
        """Make jobs of as many lines as there is room for; none is skipped."""
        lines: list[NewLine] = []
        grant = await self.govern.grant_of(batch.owner) if self.govern else None
        async with aclosing(self.lines.read(batch.lines, start=batch.fed_bytes)) as entries:
            async for entry, end in entries:
                lane = entry.request.target.provider
                if taken[lane] >= self.lane_share(lane) or len(lines) == _MOST_AT_ONCE:
                    break
                taken[lane] += 1
                lines.append(await self._line(batch, entry, batch.fed_lines + len(lines) + 1, end, grant))
        if lines:
            await self._fed(batch, lines)

    async def _line(self, batch: Batch, entry: BatchEntry, number: int, end: int, grant: Grant | None) -> NewLine:
        job = self._job(batch, entry, number)
        if self.govern is None:
            return NewLine(job=job, end=end)
        try:
            agreed = await self.govern.agree(grant, entry.request)
        except PolicyRefusal as error:
            return NewLine(job=job, end=end, error=as_job_error(error))
        job = replace(
            job,
            stride=agreed.stride or job.stride,
            max_running=grant.key.max_running if grant else None,
            estimates=agreed.estimates,
            provider_keys=agreed.provider_keys,
        )
        return NewLine(job=job, end=end, terms=agreed.terms)

    async def _fed(self, batch: Batch, lines: Sequence[NewLine]) -> None:
        """Store lines together; one by one where a limit is in the way. Limits are waited for, all else is the line's end."""
        try:
            fed = await self.store.feed(batch, lines)
        except PolicyRefusal as error:
            if len(lines) > 1:
                for line in lines:
                    await self._fed(batch, [line])
                    batch = replace(batch, fed_lines=batch.fed_lines + 1, fed_bytes=line.end)
                return
            if isinstance(error, RateLimited):
                raise Superseded(f"batch {batch.id} waits for a limit: {error.message}") from error
            fed = await self.store.feed(batch, [replace(lines[0], terms=None, error=as_job_error(error))])
        for job in fed:
            self.queue.wake(job.id, lane=job.lane, at=job.created_at, turn=turn_of(job))

    def _job(self, batch: Batch, entry: BatchEntry, number: int) -> Job:
        now = self.clock.now()
        return Job(
            id=new_job_id(now, random_bytes(10)),
            request_id=batch.request_id,
            request=entry.request,
            created_at=now,
            due_at=now,
            ttl_s=batch.ttl_s,
            lane=entry.request.target.provider,
            webhook=batch.webhook,
            metadata={**batch.metadata, **entry.metadata},
            idempotency=entry.idempotency,
            batch=BatchLine(batch_id=batch.id, number=number),
            owner=batch.owner,
            team=batch.team,
            priority=Priority.BULK,
            stride=stride(entry.request.count, weight=1),
        )

    async def _retry(self, batch: Batch, before: datetime, taken: "Counter[ProviderName]") -> None:
        """Run failed lines again, as many as there is room for. One that is tried leaves the list by itself."""
        after = 0
        while failed := await self.store.failed_jobs(batch.id, before=before, after=after, limit=_MOST_AT_ONCE):
            for _, job_id, lane in failed:
                if taken[lane] >= self.lane_share(lane):
                    return
                taken[lane] += 1
                try:
                    await self.retry_job(job_id)
                except RateLimited:
                    return
                except (RequestError, Superseded):
                    pass  # deleted, or run again by somebody else
                except PolicyRefusal as error:
                    log.info("line_not_retried", job_id=job_id, error=error.message)
            after = failed[-1][0]
        await self.store.retried_all(batch.id, before=before)
