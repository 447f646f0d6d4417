"""What every store of webhook endpoints and of the outbox promises, beside the job store that writes the outbox."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from safelight.adapters.bell import LocalBell
from safelight.adapters.secret_box import AesGcmBox
from safelight.adapters.sql.database import Database
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sql.memory import NoMemory
from safelight.adapters.sql.webhooks import SqlWebhookStore
from safelight.application.ports import OUTBOX, Booking, EndpointFilter
from safelight.domain.errors import Conflict, Superseded
from safelight.domain.ids import EndpointId
from safelight.domain.job import Ending, Job, JobError
from safelight.domain.money import Charged
from safelight.domain.webhook import (
    Delivery,
    DeliveryLimits,
    Outcome,
    Reply,
    SigningSecret,
    Verdict,
    WebhookEndpoint,
    WebhookEvent,
)
from tests.making import NOON, endpoint, job, later, new_id, started
from tests.stores import ENGINES

LEASE = timedelta(seconds=30)
TAKEN = Reply(status_code=204)
REFUSED = Reply(status_code=500, error="no")
DELIVERED = Verdict(outcome=Outcome.DELIVERED)


class Shop:
    """The two stores on one database, and a second process's view of the outbox."""

    def __init__(self, database: Database, elsewhere: Database) -> None:
        self.bell = LocalBell()
        self.database, self.elsewhere = database, elsewhere
        box = AesGcmBox(["a-key-of-the-test"])
        self.jobs = SqlJobStore(database, memory=NoMemory(), ring=self.bell.ring)
        self.webhooks = SqlWebhookStore(database, box=box, ring=self.bell.ring)
        self.other = SqlWebhookStore(elsewhere, box=box)

    async def ended(self, webhook: EndpointId | None, seconds: float = 0, *, error: str | None = "no") -> Job:
        """Submit a job and let it end."""
        it = job(webhook=webhook)
        await self.jobs.submit(it)
        failure = JobError(status_code=500, code=error or "", message="no")
        ending = Ending(completed_at=later(seconds), charged=Charged.NO, cost_micros=None, error=failure)
        await self.jobs.finish(it.id, ending, tries=0)
        return it

    async def claim(
        self, of: WebhookEndpoint, seconds: float = 0, *, limit: int = 10, lease: str = "a"
    ) -> list[Delivery]:
        now = later(seconds)
        claimed = await self.webhooks.claim(of.id, limit=limit, now=now, until=now + LEASE, lease=lease)
        return list(claimed[1]) if claimed else []

    async def book(
        self, delivery: Delivery, reply: Reply, verdict: Verdict, seconds: float = 0, *, lease: str = "a"
    ) -> str | None:
        booking = Booking(delivery=delivery, reply=reply, verdict=verdict, at=later(seconds))
        return await self.webhooks.book(booking, lease=lease)


@pytest.fixture(params=ENGINES)
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    storage = ENGINES[request.param](request)
    database, elsewhere = await storage.open_database(), await storage.open_database()
    yield Shop(database, elsewhere)
    await database.close()
    await elsewhere.close()


class TestEndpoints:
    async def test_are_read_as_they_were_written(self, shop: Shop) -> None:
        it = endpoint(
            owner="key-1",
            headers={"X-Tenant": "a: b"},
            include_response=True,
            include_links=True,
            allow_private_network=True,
            url="http://127.0.0.1:9/x",
            disabled=True,
            limits=DeliveryLimits(max_retries=1, max_response_payload_kbs=7),
            secrets=(SigningSecret(value="whsec_bmV3"), SigningSecret(value="whsec_b2xk", until=later(60))),
            config_hash="abc",
        )
        await shop.webhooks.add(it)
        assert await shop.other.get(it.id) == it
        assert await shop.webhooks.get(EndpointId("none")) is None

    async def test_names_are_unique_among_the_owners_own(self, shop: Shop) -> None:
        first, own, other = endpoint(), endpoint(owner="key-1"), endpoint(name="other")
        for it in (first, own, other):
            await shop.webhooks.add(it)
        with pytest.raises(Conflict):
            await shop.webhooks.add(endpoint())
        with pytest.raises(Conflict):
            await shop.webhooks.replace(other.id, replace(other.settings, name="orders"), config_hash="", at=NOON)
        await shop.webhooks.replace(first.id, first.settings, config_hash="", at=later(1))  # its own name is free to it

    async def test_a_name_means_the_owners_own_first(self, shop: Shop) -> None:
        everybodys, own = endpoint(), endpoint(owner="key-1")
        await shop.webhooks.add(everybodys)
        await shop.webhooks.add(own)
        for owner, found in (("key-1", own), ("key-2", everybodys), (None, everybodys)):
            assert await shop.webhooks.named("orders", owner=owner) == found
        await shop.webhooks.remove(everybodys.id)
        assert await shop.webhooks.named("orders", owner="key-2") is None
        assert await shop.webhooks.named("orders", owner=None) is None

    async def test_settings_and_secrets_are_replaced_apart(self, shop: Shop) -> None:
        it = endpoint(headers={"a": "b"})
        await shop.webhooks.add(it)
        settings = endpoint(name="new", events=(WebhookEvent.STARTED,)).settings
        await shop.webhooks.replace(it.id, settings, config_hash="h", at=later(1))
        secrets = (SigningSecret(value="whsec_bmV3"),)
        await shop.webhooks.put_secrets(it.id, secrets, at=later(2))
        assert await shop.webhooks.get(it.id) == replace(
            it, settings=settings, secrets=secrets, config_hash="h", updated_at=later(2)
        )
        assert [found.id for found in await shop.webhooks.configured()] == [it.id]

    async def test_are_listed_by_what_is_asked_for(self, shop: Shop) -> None:
        shops: dict[str, dict[str, Any]] = {
            "a_shop": {"url": "https://one.example/"},
            "b-shop": {"disabled": True, "events": (WebhookEvent.STARTED,)},
            "c": {"owner": "key-1", "url": "https://TWO.example/100%"},
        }
        for name, members in shops.items():
            await shop.webhooks.add(endpoint(name=name, **members))

        async def names(**wanted: Any) -> tuple[list[str], int]:
            found, total = await shop.webhooks.endpoints(EndpointFilter(**wanted))
            return [it.settings.name for it in found], total

        assert await names() == (["a_shop", "b-shop", "c"], 3)
        assert await names(limit=1, offset=1) == (["b-shop"], 3)
        assert await names(search="SHOP") == (["a_shop", "b-shop"], 2)
        assert await names(search="a_s") == (["a_shop"], 1)
        assert await names(search="two.example/100%") == (["c"], 1)
        assert await names(search="%") == (["c"], 1)
        assert await names(events=(WebhookEvent.STARTED, WebhookEvent.CANCELLED)) == (["b-shop"], 1)
        assert await names(disabled=False) == (["a_shop", "c"], 2)
        assert await names(owner="key-1") == (["c"], 1)


class TestOutbox:
    async def test_an_end_is_owed_to_the_jobs_endpoint_by_the_same_commit(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        ring = shop.bell.listen(OUTBOX)
        await shop.ended(None)
        assert not ring.done()
        ended = await shop.ended(it.id, 5)
        assert ring.done()
        assert [(due.id, due.due_at, due.most_at_once, due.failing) for due in await shop.other.due()] == [
            (it.id, later(5), 10, False)
        ]
        (delivery,) = await shop.claim(it, 5)
        assert (delivery.job_id, delivery.event, delivery.created_at) == (ended.id, WebhookEvent.FAILED, later(5))

    async def test_nothing_is_owed_where_the_end_does_not_come_to_be(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        ended = await shop.ended(it.id)
        ending = Ending(completed_at=NOON, charged=Charged.NO, cost_micros=None)
        with pytest.raises(Superseded):
            await shop.jobs.finish(ended.id, ending, tries=0)
        assert len(await shop.claim(it)) == 1

    async def test_only_what_it_subscribed_to(self, shop: Shop) -> None:
        it = endpoint(events=(WebhookEvent.COMPLETED,))
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        assert await shop.webhooks.due() == []

    @pytest.mark.parametrize(
        ("events", "heard"),
        [
            ((WebhookEvent.FAILED,), WebhookEvent.FAILED),
            ((WebhookEvent.FAILED, WebhookEvent.CANCELLED), WebhookEvent.CANCELLED),
        ],
    )
    async def test_a_cancelled_job_is_told_once(
        self, shop: Shop, events: tuple[WebhookEvent, ...], heard: WebhookEvent
    ) -> None:
        it = endpoint(events=events)
        await shop.webhooks.add(it)
        await shop.ended(it.id, error="job_cancelled")
        assert [delivery.event for delivery in await shop.claim(it)] == [heard]

    async def test_the_first_attempt_is_the_start(self, shop: Shop) -> None:
        wants, does_not = endpoint(events=(WebhookEvent.STARTED,)), endpoint(name="other")
        for it in (wants, does_not):
            await shop.webhooks.add(it)
            begun = job(webhook=it.id)
            await shop.jobs.submit(begun)
            await shop.jobs.start_attempt(begun.id, started(1))
            ended = structs.replace(started(1), ended_at=NOON)
            await shop.jobs.end_attempt(begun.id, ended, lane=begun.lane, due_at=NOON)
            await shop.jobs.start_attempt(begun.id, started(2))
        assert [delivery.event for delivery in await shop.claim(wants)] == [WebhookEvent.STARTED]
        assert await shop.claim(does_not) == []

    async def test_outlives_its_job(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        ended = await shop.ended(it.id)
        await shop.jobs.delete([ended.id])
        assert [delivery.job_id for delivery in await shop.claim(it)] == [ended.id]


class TestClaims:
    async def test_each_delivery_goes_to_one(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        for _ in range(20):
            await shop.ended(it.id)

        async def claim(store: SqlWebhookStore, lease: str) -> list[str]:
            claimed = await store.claim(it.id, limit=15, now=NOON, until=NOON + LEASE, lease=lease)
            return [delivery.id for delivery in claimed[1]] if claimed else []

        first, second = await asyncio.gather(claim(shop.webhooks, "a"), claim(shop.other, "b"))
        rest = await claim(shop.other, "c")  # who came second at the same moment may have gone away empty-handed
        assert len(first) + len(second) + len(rest) == len({*first, *second, *rest}) == 20

    async def test_come_oldest_first_and_to_this_endpoint_alone(self, shop: Shop) -> None:
        it, other = endpoint(), endpoint(name="other")
        await shop.webhooks.add(it)
        await shop.webhooks.add(other)
        jobs = [await shop.ended(to.id, seconds) for seconds, to in ((3, it), (1, it), (0, other), (2, it))]
        assert [delivery.job_id for delivery in await shop.claim(it, 5, limit=2)] == [jobs[1].id, jobs[3].id]
        assert await shop.claim(it, 2) == []  # the third is from later on

    async def test_a_lapsed_lease_can_be_claimed_and_its_holder_is_told(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        (delivery,) = await shop.claim(it, lease="a")
        assert await shop.claim(it, 29, lease="b") == []
        assert await shop.claim(it, 30, lease="b") == [delivery]
        with pytest.raises(Superseded):
            await shop.book(delivery, TAKEN, DELIVERED, lease="a")
        await shop.book(delivery, TAKEN, DELIVERED, lease="b")
        assert (await shop.webhooks.attempts(it.id, limit=10, offset=0))[1] == 1

    async def test_leases_of_a_dead_process_can_be_dropped(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        await shop.claim(it, lease="a")
        await shop.webhooks.drop_leases()
        assert len(await shop.claim(it, lease="b")) == 1

    @pytest.mark.parametrize("how", ["disabled", "paused", "removed"])
    async def test_nothing_is_due_to_those_who_are_left_alone(self, shop: Shop, how: str) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        if how == "disabled":
            await shop.webhooks.replace(it.id, replace(it.settings, disabled=True), config_hash="", at=NOON)
        elif how == "paused":
            (delivery,) = await shop.claim(it)
            gone = Reply(status_code=410)
            assert await shop.book(delivery, gone, Verdict(outcome=Outcome.PERMANENT_FAILURE))
            await shop.ended(it.id)
        else:
            await shop.webhooks.remove(it.id)
        assert await shop.webhooks.due() == []


class TestBooking:
    async def test_history_and_counters(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        ended = await shop.ended(it.id)
        again = Verdict(outcome=Outcome.RETRYABLE_FAILURE, retry_at=later(40))
        (delivery,) = await shop.claim(it)
        assert await shop.book(delivery, REFUSED, again, 10) is None
        failing = await shop.webhooks.get(it.id)
        assert failing == replace(
            it, consecutive_failures=1, failing_since=later(10), last_failure_at=later(10), pending=1
        )
        assert [due.failing for due in await shop.webhooks.due()] == [True]
        assert await shop.claim(it, 39) == []
        (delivery,) = await shop.claim(it, 40)
        assert (delivery.attempts, delivery.tries) == (1, 1)
        await shop.book(delivery, TAKEN, DELIVERED, 50)
        assert await shop.webhooks.get(it.id) == replace(it, last_failure_at=later(10), last_success_at=later(50))
        history, total = await shop.webhooks.attempts(it.id, limit=1, offset=0)
        assert (total, len(history)) == (2, 1)
        (older,), _ = await shop.webhooks.attempts(it.id, limit=1, offset=1)
        assert [(line.number, line.outcome, line.status_code, line.error) for line in (*history, older)] == [
            (2, Outcome.DELIVERED, 204, None),
            (1, Outcome.RETRYABLE_FAILURE, 500, "no"),
        ]
        assert {(line.delivery_id, line.job_id, line.request_id) for line in (*history, older)} == {
            (delivery.id, ended.id, ended.request_id)
        }
        assert older.id != history[0].id

    async def test_lasting_failure_pauses_and_resuming_forgets_it(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        reasons = []
        for hours in range(0, 80, 8):
            (delivery,) = await shop.claim(it, hours * 3600)
            again = Verdict(outcome=Outcome.RETRYABLE_FAILURE, retry_at=later((hours + 8) * 3600))
            reasons.append(await shop.book(delivery, REFUSED, again, hours * 3600))
        assert reasons == [*[None] * 9, "nothing was taken for 3 days"]
        paused = await shop.webhooks.get(it.id)
        assert paused is not None
        assert (paused.paused_at, paused.pause_reason, paused.pending) == (later(72 * 3600), reasons[-1], 1)
        assert await shop.webhooks.due() == []
        ring = shop.bell.listen(OUTBOX)
        await shop.webhooks.resume(it.id)
        assert ring.done()
        assert [(due.id, due.failing) for due in await shop.webhooks.due()] == [(it.id, False)]

    async def test_an_endpoint_removed_meanwhile_is_no_fault(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        (delivery,) = await shop.claim(it)
        await shop.webhooks.remove(it.id)
        with pytest.raises(Superseded):
            await shop.book(delivery, REFUSED, Verdict(outcome=Outcome.EXHAUSTED))


class TestRedelivery:
    async def test_of_one(self, shop: Shop) -> None:
        it = endpoint()
        await shop.webhooks.add(it)
        await shop.ended(it.id)
        (delivery,) = await shop.claim(it)
        assert not await shop.webhooks.queue_again(delivery.id, at=later(1))  # on its way
        await shop.book(delivery, Reply(status_code=404), Verdict(outcome=Outcome.PERMANENT_FAILURE))
        (line,), _ = await shop.webhooks.attempts(it.id, limit=10, offset=0)
        done = replace(delivery, attempts=1, tries=1)
        assert await shop.webhooks.delivery(line.id) == (done, False)
        assert await shop.webhooks.delivery(delivery.id) == (done, False)
        assert await shop.webhooks.delivery("none") is None
        assert await shop.webhooks.queue_again(delivery.id, at=later(1))
        assert await shop.webhooks.delivery(delivery.id) == (replace(done, tries=0), True)
        assert await shop.claim(it, 1) == [replace(done, tries=0)]

    async def test_of_a_range(self, shop: Shop) -> None:
        it, other = endpoint(), endpoint(name="other")
        for each in (it, other):
            await shop.webhooks.add(each)
            for seconds in range(5):
                await shop.ended(each.id, seconds)
            for delivery in await shop.claim(each, 10, limit=4):
                await shop.book(delivery, TAKEN, DELIVERED, 10)
        assert await shop.webhooks.queue_range(it.id, since=later(1), until=later(3), at=later(20)) == 2
        assert await shop.webhooks.queue_range(it.id, since=later(1), until=later(9), at=later(20)) == 1
        claimed = await shop.claim(it, 20)
        assert [delivery.created_at for delivery in claimed] == [later(seconds) for seconds in (1, 2, 3, 4)]
        assert len(await shop.claim(other, 20)) == 1


async def test_old_deliveries_are_forgotten_with_their_attempts(shop: Shop) -> None:
    it = endpoint()
    await shop.webhooks.add(it)
    for seconds in (0, 1, 2):
        await shop.ended(it.id, seconds)
    for delivery in await shop.claim(it, 5):
        await shop.book(delivery, TAKEN, DELIVERED, 5)
    assert await shop.webhooks.forget(before=later(2), limit=1) == 1
    assert await shop.webhooks.forget(before=later(2), limit=10) == 1
    assert (await shop.webhooks.attempts(it.id, limit=10, offset=0))[1] == 1


async def test_a_job_that_names_no_endpoint_any_more_owes_nothing(shop: Shop) -> None:
    await shop.ended(EndpointId(str(new_id())))
    assert await shop.webhooks.due() == []
