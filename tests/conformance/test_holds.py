"""Budgets and limits, exact on every engine: what is held, settled and released, and a ledger that always adds up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from safelight.adapters.sql.access import SqlAccessStore
from safelight.adapters.sql.database import Database, Row
from safelight.application.access_ports import Change
from safelight.domain.access import ProviderLimits, VirtualKey
from safelight.domain.budget import Allowance, Draw, HolderKind, Meter, Period, Unit
from safelight.domain.errors import BudgetExceeded, RateLimited, RequestLimited, Superseded
from safelight.domain.image import Target
from safelight.domain.job import Attempt, Ending, Job, JobError
from safelight.domain.ledger import Terms
from safelight.domain.money import Charged
from safelight.domain.outcome import settle
from tests.making import FLUX, NOON, OTHER, failed, job, later, new_id, production, started, succeeded
from tests.stores import Storage

HOUR, DAY = Period(text="1h"), Period(text="1d", calendar=True)
BROKEN = JobError(status_code=502, code="broken", message="no")


def dollars(limit: int, period: Period = HOUR) -> Allowance:
    return Allowance(unit=Unit.USD, limit=limit, period=period)


class Till:
    """A job store and the record of access beside it, on one storage; `other` is what another process has."""

    def __init__(self, store: Any, other: Any, database: Database) -> None:
        self.store, self.other = store, other
        self.database = database
        self.access = SqlAccessStore(database)

    async def key(self, *allowances: Allowance) -> tuple[str, tuple[Meter, ...]]:
        """A new virtual key with these allowances: its id, and its meters."""
        key = VirtualKey(id=str(new_id()), name=str(new_id()), allowances=allowances)
        await self.access.save(key, change(key.id), source="api")
        return key.id, tuple(r.meter for r in await self.access.readings(HolderKind.KEY, key.id, key.name, NOON))

    async def left(self, key_id: str, now: datetime = NOON) -> list[int]:
        return [reading.left for reading in await self.access.readings(HolderKind.KEY, key_id, "", now)]

    async def rows(self, statement: str, *values: object) -> Sequence[Row]:
        return await self.database.read(lambda transaction: transaction.fetch(statement, *values))

    async def submit(self, owner: str, *draws: tuple[Meter, int], store: Any = None, **members: Any) -> Job:
        each = {str(FLUX): max((amount for meter, amount in draws if meter.unit is Unit.USD), default=0)}
        new = job(owner=owner, estimates=members.pop("estimates", each), **members)
        terms = Terms(draws=tuple(Draw(meter=meter, amount=amount) for meter, amount in draws))
        await (store or self.store).submit(new, terms)
        return new

    async def finish(self, new: Job, *attempts: Attempt, at: datetime = NOON) -> Ending:
        """Run a job's attempts; the last one ends it."""
        for attempt in attempts[:-1]:
            await self.store.start_attempt(new.id, begun(attempt))
            await self.store.end_attempt(new.id, attempt, lane=new.lane, due_at=NOON)
        await self.store.start_attempt(new.id, begun(attempts[-1]))
        done = settle(new, attempts, error=None if attempts[-1].production else BROKEN, now=at)
        await self.store.finish(new.id, done, tries=len(attempts), attempt=attempts[-1])
        return done

    async def check(self) -> None:
        """Hold the ledger against everything that is derived from it."""
        balances = Counter[tuple[int, str]]()
        for meter_id, debit, credit, amount in await self.rows("SELECT meter_id, debit, credit, amount FROM ledger"):
            balances[meter_id, debit] -= amount
            balances[meter_id, credit] += amount
        assert sum(balances.values()) == 0
        held = Counter[int]()
        for meter_id, amount in await self.rows("SELECT meter_id, amount FROM holds"):
            held[meter_id] += amount
        for meter_id, told in await self.rows("SELECT id, held FROM meters WHERE unit = 'usd'"):
            assert told == held[meter_id] == balances[meter_id, "held"] >= 0
            used = await self.rows("SELECT used FROM meter_slots WHERE meter_id = $1", meter_id)
            assert sum(row[0] for row in used) == balances[meter_id, "spent"]
        open_jobs = {row[0] for row in await self.rows("SELECT id FROM jobs WHERE due_at IS NOT NULL")}
        assert {row[0] for row in await self.rows("SELECT job_id FROM holds")} <= open_jobs


def change(subject_id: str) -> Change:
    return Change(at=NOON, actor="test", action="created", subject="key", subject_id=subject_id)


def begun(attempt: Attempt) -> Attempt:
    return started(attempt.number, target=attempt.target, n=attempt.n)


def bought(number: int = 1, *, cost: int | None = None, target: Target = FLUX, **members: Any) -> Attempt:
    made = production(cost_micros=cost)
    return succeeded(number, target=target, production=made, **members)


@pytest.fixture
async def till(storage: Storage) -> AsyncIterator[Till]:
    async with AsyncExitStack() as stack:
        store, other, database = await storage.open(), await storage.open(), await storage.open_database()
        for each in (store, other, database):
            stack.push_async_callback(each.close)
        yield Till(store, other, database)


async def test_an_estimate_is_held_then_the_true_cost_is_booked_and_the_rest_released(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    new = await till.submit(owner, (meter, 40))
    assert await till.left(owner) == [60]

    await till.finish(new, bought(cost=25))

    assert await till.left(owner) == [75]
    moves = await till.rows("SELECT debit, credit, amount, estimated FROM ledger ORDER BY seq")
    assert [tuple(row) for row in moves] == [("free", "held", 40, 0), ("held", "spent", 25, 0), ("held", "free", 15, 0)]
    await till.check()


async def test_a_cost_above_the_estimate_is_booked_as_it_is(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    await till.finish(await till.submit(owner, (meter, 40)), bought(cost=130))
    assert await till.left(owner) == [0]
    with pytest.raises(BudgetExceeded, match=r"has \$0.00 left of \$0.0001 per 1h"):
        await till.submit(owner, (meter, 1))
    await till.check()


async def test_what_cost_nothing_frees_all_of_it(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    await till.finish(await till.submit(owner, (meter, 40)), failed(charged=Charged.NO))
    assert await till.left(owner) == [100]
    await till.check()


@pytest.mark.parametrize("charged", [Charged.YES, Charged.UNKNOWN])
async def test_where_nobody_knows_the_cost_the_estimate_is_booked_and_marked(till: Till, charged: Charged) -> None:
    owner, (meter,) = await till.key(dollars(100))
    await till.finish(await till.submit(owner, (meter, 40)), failed(charged=charged))
    assert await till.left(owner) == [60]
    [(amount, estimated)] = await till.rows("SELECT amount, estimated FROM ledger WHERE credit = 'spent'")
    assert (amount, estimated) == (40, 1)
    await till.check()


async def test_every_call_of_a_job_counts(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(1000))
    new = await till.submit(owner, (meter, 40), estimates={str(FLUX): 40, str(OTHER): 7})
    lost = failed(1, charged=Charged.UNKNOWN, n=1)
    await till.finish(new, lost, bought(2, target=OTHER, cost=5))
    assert await till.left(owner) == [1000 - 40 - 5]
    await till.check()


async def test_a_provider_pays_for_its_own_calls_alone(till: Till) -> None:
    limits = ProviderLimits(id=str(OTHER.provider), name=str(OTHER.provider), allowances=(dollars(50),))
    await till.access.save(limits, change(limits.id), source="api")
    (of_provider,) = (await till.access.provider_meters())[str(OTHER.provider)]
    owner, (meter,) = await till.key(dollars(100))
    new = await till.submit(owner, (meter, 40), (of_provider, 9), estimates={str(FLUX): 40, str(OTHER): 9})
    await till.finish(new, bought(1, cost=30), bought(2, target=OTHER, cost=4))
    [reading] = await till.access.readings(of_provider.kind, limits.id, "", NOON)
    assert (reading.used, await till.left(owner)) == (4, [66])
    await till.check()


async def test_several_budgets_must_all_have_enough(till: Till) -> None:
    owner, meters = await till.key(dollars(100), dollars(50, DAY))
    await till.submit(owner, *[(meter, 30) for meter in meters])
    with pytest.raises(BudgetExceeded, match="per 1d"):
        await till.submit(owner, *[(meter, 30) for meter in meters])
    assert await till.left(owner) == [70, 20]
    assert len(await till.rows("SELECT 1 FROM jobs")) == 1
    await till.check()


async def test_the_refusal_says_what_is_left_and_when_it_resets(till: Till) -> None:
    owner, meters = await till.key(dollars(2_500_000, DAY))
    await till.submit(owner, (meters[0], 2_000_000))
    with pytest.raises(BudgetExceeded) as caught:
        await till.submit(owner, (meters[0], 1_000_000))
    assert "$0.50 left of $2.50 per 1d" in caught.value.message
    assert f"resets at {(NOON + timedelta(days=1)).date().isoformat()}T00:00:00Z" in caught.value.message
    assert caught.value.retry_after_s == 12 * 3600


@pytest.mark.parametrize("count", [200])
async def test_no_number_of_concurrent_submits_overshoots(till: Till, count: int) -> None:
    """A budget with room for ten, two hundred who want it, in two processes at a time."""
    owner, (meter,) = await till.key(dollars(100))
    stores = [till.store, till.other] if till.other is not till.store else [till.store]

    async def one(at: int) -> bool:
        try:
            await till.submit(owner, (meter, 10), store=stores[at % len(stores)])
        except BudgetExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*[one(at) for at in range(count)])) == 10
    assert await till.left(owner) == [0]
    assert len(await till.rows("SELECT 1 FROM jobs")) == 10
    await till.check()


async def test_requests_and_images_are_counted_in_their_windows(till: Till) -> None:
    minute = Period(text="1m")
    requests, images = (Allowance(unit=unit, limit=3, period=minute) for unit in (Unit.REQUESTS, Unit.IMAGES))
    owner, (a, b) = await till.key(requests, images)
    await till.submit(owner, (a, 1), (b, 2))
    with pytest.raises(RateLimited, match="images limit reached") as caught:
        await till.submit(owner, (a, 1), (b, 2))
    assert not isinstance(caught.value, RequestLimited)
    await till.submit(owner, (a, 1), (b, 0))
    await till.submit(owner, (a, 1), (b, 0))
    with pytest.raises(RequestLimited) as refused:
        await till.submit(owner, (a, 1), (b, 0))
    quota = refused.value.quota
    assert quota is not None
    assert (quota.name, quota.most, quota.left, quota.window_s) == ("key-requests", 3, 0, 60)
    assert 59 <= (refused.value.retry_after_s or 0) <= 62
    await till.submit(owner, (a, 1), (b, 2), created_at=later(62), due_at=later(62))


async def test_no_more_jobs_wait_than_may(till: Till) -> None:
    owner, _ = await till.key()
    terms = Terms(max_waiting=10)

    async def one(at: int) -> bool:
        try:
            await (till.store, till.other)[at % 2].submit(job(owner=owner), terms)
        except RateLimited:
            return False
        return True

    assert sum(await asyncio.gather(*[one(at) for at in range(60)])) == 10
    [(first,)] = await till.rows("SELECT id FROM jobs ORDER BY seq LIMIT 1")
    await till.store.start_attempt(first, started())
    assert await one(0)


async def test_a_job_is_settled_exactly_once(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    new = await till.submit(owner, (meter, 40))
    attempt = bought(cost=25)
    await till.finish(new, attempt)
    with pytest.raises(Superseded):
        await till.other.finish(new.id, settle(new, [attempt], error=None, now=NOON), tries=1, attempt=attempt)
    assert await till.left(owner) == [75]
    await till.check()


async def test_a_job_that_never_starts_gives_all_back(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    new = await till.submit(owner, (meter, 40))
    await till.store.finish(new.id, settle(new, (), error=BROKEN, now=NOON), tries=0)
    assert await till.left(owner) == [100]
    await till.check()


async def test_a_budget_that_is_taken_away_or_changed_while_jobs_run_does_no_harm(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    new = await till.submit(owner, (meter, 40))
    holder = await till.access.holder(HolderKind.KEY, owner)
    assert holder is not None
    assert isinstance(holder.holder, VirtualKey)
    await till.access.save(replace(holder.holder, allowances=(dollars(70),)), change(owner), source="api")
    assert await till.left(owner) == [30]
    await till.access.save(replace(holder.holder, allowances=()), change(owner), source="api")
    await till.submit(owner, (meter, 1000))
    await till.finish(new, bought(cost=25))
    assert await till.left(owner) == []


@dataclass(frozen=True)
class Step:
    action: str
    key: int
    pick: int
    amount: int
    minutes: int


steps = st.builds(
    Step,
    action=st.sampled_from(["submit", "submit", "submit", "cost", "unknown", "free", "never", "twice"]),
    key=st.integers(0, 1),
    pick=st.integers(0, 5),
    amount=st.integers(0, 60),
    minutes=st.integers(0, 3),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(steps, min_size=1, max_size=25))
async def test_the_ledger_adds_up_after_any_history(till: Till, history: list[Step]) -> None:
    """At any time: what is held and spent, by the ledger, is what the meters say, and never above the limit but for costs that outran their estimates."""
    keys = [await till.key(dollars(100), dollars(150, DAY)) for _ in range(2)]
    waiting: list[tuple[Job, int]] = []
    outran = 0
    now = NOON
    for step in history:
        now += timedelta(minutes=step.minutes)
        if step.action == "submit":
            owner, meters = keys[step.key]
            try:
                new = await till.submit(owner, *[(meter, step.amount) for meter in meters], created_at=now, due_at=now)
                waiting.append((new, step.amount))
            except BudgetExceeded:
                assert min(await till.left(owner, now)) < step.amount
        elif waiting:
            new, held = waiting.pop(step.pick % len(waiting))
            if step.action == "never":
                await till.store.finish(new.id, settle(new, (), error=BROKEN, now=now), tries=0)
            else:
                outran += max(0, step.amount - held) if step.action in {"cost", "twice"} else 0
                attempt = {
                    "cost": bought(cost=step.amount),
                    "twice": bought(cost=step.amount),
                    "unknown": failed(charged=Charged.UNKNOWN),
                    "free": failed(charged=Charged.NO),
                }[step.action]
                ending = await till.finish(new, attempt, at=now)
                if step.action == "twice":
                    with pytest.raises(Superseded):
                        await till.store.finish(new.id, ending, tries=1, attempt=attempt)
        await till.check()
        for owner, _ in keys:
            for reading in await till.access.readings(HolderKind.KEY, owner, "", now):
                assert reading.held + reading.used <= reading.limit + outran


async def test_a_job_that_is_run_again_holds_anew_and_pays_for_its_new_calls_alone(till: Till) -> None:
    owner, (meter,) = await till.key(dollars(100))
    new = await till.submit(owner, (meter, 40))
    ending = await till.finish(new, failed(charged=Charged.UNKNOWN))
    assert await till.left(owner) == [60]
    ended = structs.replace(new.ended(ending), attempts=1)
    renewed = structs.replace(ended.renewed(later(5)), estimates={str(FLUX): 50})
    with pytest.raises(BudgetExceeded):
        await till.store.retry(renewed, Terms(draws=(Draw(meter=meter, amount=61),)))
    await till.store.retry(renewed, Terms(draws=(Draw(meter=meter, amount=50),)))
    assert await till.left(owner) == [10]
    again = bought(2, cost=30)
    await till.store.start_attempt(new.id, begun(again))
    await till.store.finish(new.id, settle(renewed, (again,), error=None, now=later(9)), tries=2, attempt=again)
    assert await till.left(owner) == [30]
    await till.check()
