"""Deliveries in simulated time: the real stores, a real receiver, and a clock that the test moves."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.secret_box import AesGcmBox
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sql.webhooks import SqlWebhookStore
from safelight.adapters.sqlite.database import SqliteDatabase
from safelight.adapters.sqlite.recent import RecentJobs
from safelight.adapters.webhooks import HttpWebhookSender
from safelight.application.deliver import Deliver
from safelight.domain.errors import StorageError
from safelight.domain.job import Ending, Job, JobError
from safelight.domain.money import Charged
from safelight.domain.webhook import Delivery, DeliveryLimits, WebhookEndpoint
from tests.doubles import FakeClock
from tests.making import NOON, WEBHOOK_SECRET, endpoint, job
from tests.receiver import Receiver, signatures

DAY_S = 86_400


class Shop:
    """Everything that delivers, over one database."""

    def __init__(self, path: Path) -> None:
        self.clock, self.bell = FakeClock(), LocalBell()
        self.database = SqliteDatabase(path)
        self.jobs = SqlJobStore(self.database, memory=RecentJobs(), ring=self.bell.ring)
        self.endpoints = SqlWebhookStore(self.database, box=AesGcmBox(["a-key"]), ring=self.bell.ring)
        self.sender = HttpWebhookSender(clock=self.clock)
        self.faults: list[Exception] = []
        self.deliver = self.process()

    def process(self) -> Deliver:
        return Deliver(
            store=self.endpoints,
            jobs=self.jobs,
            sender=self.sender,
            render=self.render,
            bell=self.bell,
            clock=self.clock,
            random=random.Random(7),
        )

    async def render(self, _: WebhookEndpoint, delivery: Delivery, __: Job | None) -> bytes:
        if self.faults:
            raise self.faults.pop()
        return delivery.job_id.encode()

    async def add(self, receiver: Receiver, **members: object) -> WebhookEndpoint:
        it = endpoint(url=receiver.url, allow_private_network=True, **members)
        await self.endpoints.add(it)
        return it

    async def ended(self, of: WebhookEndpoint) -> str:
        it = job(webhook=of.id, created_at=self.clock.now(), due_at=self.clock.now())
        await self.jobs.submit(it)
        failure = JobError(status_code=500, code="no", message="no")
        ending = Ending(completed_at=self.clock.now(), charged=Charged.NO, cost_micros=None, error=failure)
        await self.jobs.finish(it.id, ending, tries=0)
        return it.id

    async def until(self, moment: datetime) -> None:
        """Deliver what falls due, as time goes by, up to a moment."""
        while True:
            upcoming = await self.deliver.hand_out()
            if self.deliver._tasks:
                await self.deliver.idle()
            elif upcoming is None or upcoming > moment:
                break
            else:
                self.clock.moment = max(upcoming, self.clock.now())
        self.clock.moment = moment

    async def close(self) -> None:
        await self.sender.close()
        await self.database.close()


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path / "jobs.db")
    yield shop
    await shop.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


async def test_two_days_of_failure_lose_nothing(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    receiver.answer = lambda: 503
    jobs = []
    for hour in range(0, 48, 6):
        await shop.until(NOON + timedelta(hours=hour))
        jobs.append(await shop.ended(it))
    await shop.until(NOON + timedelta(days=2))
    assert receiver.calls
    assert {call.answered for call in receiver.calls} == {503}
    receiver.answer = lambda: 204
    await shop.until(NOON + timedelta(days=3))
    taken = Counter(call.body.decode() for call in receiver.calls if call.answered == 204)
    assert taken == Counter(jobs)
    ids = {call.body: call.id for call in receiver.calls}
    assert all(ids[call.body] == call.id for call in receiver.calls)
    assert all(signatures(WEBHOOK_SECRET, call.headers, call.body) == 1 for call in receiver.calls)
    healed = await shop.endpoints.get(it.id)
    assert healed is not None
    assert (healed.pending, healed.paused_at, healed.consecutive_failures) == (0, None, 0)


async def test_a_failure_that_lasts_pauses_and_a_range_catches_up(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    receiver.answer = lambda: 500
    early = await shop.ended(it)
    await shop.until(NOON + timedelta(days=2))
    late = await shop.ended(it)
    await shop.until(NOON + timedelta(days=5))
    paused = await shop.endpoints.get(it.id)
    assert paused is not None
    assert paused.pause_reason == "nothing was taken for 3 days"
    tried = len(receiver.calls)
    await shop.until(NOON + timedelta(days=9))
    assert len(receiver.calls) == tried
    receiver.answer = lambda: 204
    await shop.endpoints.resume(it.id)
    await shop.endpoints.queue_range(it.id, since=NOON, until=shop.clock.now(), at=shop.clock.now())
    await shop.until(NOON + timedelta(days=10))
    assert {call.body.decode() for call in receiver.calls if call.answered == 204} == {early, late}


async def test_a_failing_endpoint_is_called_once_at_a_time(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver, limits=DeliveryLimits(max_concurrent_deliveries=4))
    for _ in range(6):
        await shop.ended(it)
    receiver.hold()
    receiver.answer = lambda: 500
    await shop.deliver.hand_out()
    await receiver.until(lambda it: it.at_work == 4)
    receiver.release()
    await shop.deliver.idle()
    receiver.most_at_work = 0
    await shop.until(NOON + timedelta(seconds=20))  # the two that are left
    assert (len(receiver.calls), receiver.most_at_work) == (6, 1)
    receiver.answer = lambda: 204
    receiver.hold()
    shop.clock.move(60)
    await shop.deliver.hand_out()
    await receiver.until(lambda it: it.at_work == 1)
    receiver.release()
    await shop.deliver.idle()
    assert receiver.most_at_work == 1
    receiver.hold()
    await shop.deliver.hand_out()
    await receiver.until(lambda it: it.at_work == 4)  # it has taken one, so it is trusted again
    receiver.release()
    await shop.deliver.idle()


async def test_slow_receivers_take_no_place_from_others(shop: Shop, receiver: Receiver) -> None:
    async with Receiver() as slow:
        slow.hold()
        late = await shop.add(slow, limits=DeliveryLimits(max_concurrent_deliveries=2))
        quick = await shop.add(receiver, name="quick")
        for _ in range(20):
            await shop.ended(late)
        for _ in range(30):
            await shop.ended(quick)
        task = asyncio.create_task(shop.deliver.run())
        await receiver.received(30)
        assert (slow.at_work, len(slow.calls)) == (2, 0)
        slow.release()
        await slow.received(20)
        assert slow.most_at_work == 2
        shop.bell.silence()
        await task


async def test_a_new_event_wakes_the_deliverer_by_the_bell(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    task = asyncio.create_task(shop.deliver.run())
    await asyncio.sleep(0)
    await shop.ended(it)
    await receiver.received(1)
    shop.bell.silence()
    await task


async def test_our_own_fault_is_counted_and_tried_again(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    shop.faults = [StorageError("broken"), ValueError("broken")]
    await shop.ended(it)
    await shop.until(NOON + timedelta(minutes=5))
    history, total = await shop.endpoints.attempts(it.id, limit=10, offset=0)
    assert total == 3
    assert [line.error for line in history] == [
        None,
        "internal error: StorageError",
        "internal error: ValueError",
    ]


async def test_what_another_process_took_over_is_left_to_it(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    await shop.ended(it)
    receiver.hold()
    other = shop.process()
    await shop.deliver.hand_out()
    await receiver.until(lambda it: it.at_work == 1)
    await other.hand_out()
    assert receiver.at_work == 1  # under its lease
    shop.clock.move(31)
    await other.hand_out()
    await receiver.until(lambda it: it.at_work == 2)
    receiver.release()
    await shop.deliver.idle()
    await other.idle()
    assert len({call.id for call in receiver.calls}) == 1
    assert (await shop.endpoints.attempts(it.id, limit=10, offset=0))[1] == 1
    assert await shop.endpoints.due() == []


async def test_a_rotated_secret_ceases_to_sign_with_its_time(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    fresh = f"{WEBHOOK_SECRET[:-4]}AAAA"
    await shop.endpoints.put_secrets(it.id, it.rotated(fresh, NOON, timedelta(hours=1)), at=NOON)
    for hours in (0, 1):
        await shop.until(NOON + timedelta(hours=hours))
        await shop.ended(it)
        await shop.until(NOON + timedelta(hours=hours, minutes=1))
    signed = [
        [signatures(each, call.headers, call.body) for each in (fresh, WEBHOOK_SECRET)] for call in receiver.calls
    ]
    assert signed == [[1, 1], [1, 0]]


async def test_history_is_forgotten_after_its_time(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    await shop.ended(it)
    await shop.until(NOON + timedelta(days=1))
    await shop.deliver.forget(timedelta(days=2))
    assert (await shop.endpoints.attempts(it.id, limit=10, offset=0))[1] == 1
    await shop.deliver.forget(timedelta(hours=23))
    assert (await shop.endpoints.attempts(it.id, limit=10, offset=0))[1] == 0


async def test_a_disabled_endpoint_keeps_what_it_is_owed(shop: Shop, receiver: Receiver) -> None:
    it = await shop.add(receiver)
    await shop.ended(it)
    await shop.endpoints.replace(it.id, replace(it.settings, disabled=True), config_hash="", at=NOON)
    await shop.until(NOON + timedelta(hours=1))
    assert receiver.calls == []
    await shop.endpoints.replace(it.id, it.settings, config_hash="", at=NOON)
    await shop.until(NOON + timedelta(hours=2))
    assert len(receiver.calls) == 1
