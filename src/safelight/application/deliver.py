"""Deliver what the outbox holds: claim what is due, send, book. Every process that works does so."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import uuid4

import structlog

from safelight.application.observer import Deaf, Observer
from safelight.application.ports import OUTBOX, Bell, Booking, Clock, DueEndpoint, JobStore, WebhookSender, WebhookStore
from safelight.domain.errors import StorageError, Superseded
from safelight.domain.ids import EndpointId
from safelight.domain.job import Job
from safelight.domain.webhook import Delivery, Reply, Verdict, WebhookEndpoint, judge

log = structlog.get_logger(__name__)

Render = Callable[[WebhookEndpoint, Delivery, Job | None], Awaitable[bytes]]
"""Makes the body of a delivery, as its job is now; `None` for one that is gone."""

_MOST_AT_ONCE = 500
"""Connections of one process, so that receivers that hang do not use up all it may have."""
_LONGEST_SLEEP_S = 30.0
"""A lease of a process that died lapses without a ring."""
_PAUSE = timedelta(seconds=1)
_FORGET_AT_ONCE = 1000


class Deliver:
    """An endpoint has at most so many calls out at a time as it says, and one alone while it fails.

    So a receiver that is slow or down keeps its own deliveries waiting and nobody else's.
    """

    def __init__(
        self,
        *,
        store: WebhookStore,
        jobs: JobStore,
        sender: WebhookSender,
        render: Render,
        bell: Bell,
        clock: Clock,
        random: Random | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Begin with nothing out."""
        self._store = store
        self._jobs = jobs
        self._sender = sender
        self._render = render
        self._bell = bell
        self._clock = clock
        self._random = random or Random()
        self._observer = observer or Deaf()
        self._out: Counter[EndpointId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Deliver until the bell is silent and the last call is booked. When cancelled, what is out is cut off."""
        try:
            while not self._bell.silent:
                ring = self._bell.listen(OUTBOX)
                try:
                    await self._sleep(ring, await self._survived())
                finally:
                    ring.cancel()
            await self.idle()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def hand_out(self) -> datetime | None:
        """Begin all that is due and has room; tell when the next one is due. Raises `StorageError`."""
        self._freed.clear()
        while True:
            now, claimed, upcoming = self._clock.now(), 0, None
            for endpoint in await self._store.due():
                if endpoint.due_at > now:
                    upcoming = upcoming or endpoint.due_at
                    break
                if room := self._room(endpoint):
                    found = await self._claim(endpoint, room, now)
                    claimed += found
                    if not found:  # another process was faster, and may have left something
                        upcoming = now + _PAUSE
            if not claimed:
                return upcoming

    async def idle(self) -> None:
        """Wait until nothing is out."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def forget(self, older_than: timedelta) -> None:
        """Remove the history of what happened so long ago. Raises `StorageError`."""
        before = self._clock.now() - older_than
        while await self._store.forget(before=before, limit=_FORGET_AT_ONCE) == _FORGET_AT_ONCE:
            pass

    async def _survived(self) -> float:
        """Hand out; how many seconds to sleep at most."""
        try:
            upcoming = await self.hand_out()
        except StorageError as error:
            log.warning("webhooks_postponed", error=error.message)
            return _PAUSE.total_seconds()
        if upcoming is None:
            return _LONGEST_SLEEP_S
        return min(_LONGEST_SLEEP_S, max(0.0, (upcoming - self._clock.now()).total_seconds()))

    async def _sleep(self, ring: "asyncio.Future[None]", longest_s: float) -> None:
        """Wait for a ring, for room, or for the time."""
        freed = asyncio.ensure_future(self._freed.wait())
        news: set[asyncio.Future[Any]] = {ring, freed}
        try:
            await asyncio.wait(news, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            freed.cancel()

    def _room(self, endpoint: DueEndpoint) -> int:
        allowed = 1 if endpoint.failing else endpoint.most_at_once
        return max(0, min(allowed - self._out[endpoint.id], _MOST_AT_ONCE - len(self._tasks)))

    async def _claim(self, endpoint: DueEndpoint, room: int, now: datetime) -> int:
        lease = str(uuid4())
        claimed = await self._store.claim(endpoint.id, limit=room, now=now, until=now + endpoint.lease, lease=lease)
        if claimed is None:
            return 0
        receiver, deliveries = claimed
        for delivery in deliveries:
            self._out[endpoint.id] += 1
            task = asyncio.create_task(self._deliver(receiver, delivery, lease))
            self._tasks.add(task)
            task.add_done_callback(self._done(endpoint.id))
        return len(deliveries)

    def _done(self, endpoint_id: EndpointId) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._out[endpoint_id] -= 1
            if not self._out[endpoint_id]:
                del self._out[endpoint_id]
            self._freed.set()

        return forget

    async def _deliver(self, endpoint: WebhookEndpoint, delivery: Delivery, lease: str) -> None:
        """One attempt. What is not booked, for whatever reason, is made again once the lease has lapsed."""
        reply = await self._attempt(endpoint, delivery)
        now = self._clock.now()
        limits = endpoint.settings.limits
        verdict = judge(reply, limits, tries=delivery.tries + 1, now=now, jitter=self._random.random())
        self._tell(endpoint, delivery, reply, verdict)
        self._observer.delivered(delivery, verdict.outcome, now)
        booking = Booking(delivery=delivery, reply=reply, verdict=verdict, at=now)
        try:
            paused = await self._store.book(booking, lease=lease)
        except (StorageError, Superseded) as error:
            log.warning("webhook_not_booked", webhook_id=delivery.id, error=error.message)
            return
        if paused is not None:
            log.warning("webhook_endpoint_paused", endpoint=endpoint.settings.name, reason=paused)

    async def _attempt(self, endpoint: WebhookEndpoint, delivery: Delivery) -> Reply:
        try:
            job = await self._jobs.get(delivery.job_id)
            body = await self._render(endpoint, delivery, job)
            with self._observer.sending(delivery, job):
                return await self._sender.send(endpoint, delivery.id, delivery.event, body)
        except Exception as error:  # whatever it is, the delivery must not be tried for ever without being counted
            log.exception("webhook_crashed", webhook_id=delivery.id)
            return Reply(error=f"internal error: {type(error).__name__}")

    @staticmethod
    def _tell(endpoint: WebhookEndpoint, delivery: Delivery, reply: Reply, verdict: Verdict) -> None:
        tell = log.debug if reply.delivered else log.info
        tell(
            "webhook_attempted",
            endpoint=endpoint.settings.name,
            webhook_id=delivery.id,
            job_id=delivery.job_id,
            attempt=delivery.attempts + 1,
            outcome=verdict.outcome.value,
            status_code=reply.status_code,
        )
