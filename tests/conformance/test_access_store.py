"""The record of who may do what, on every engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from safelight.adapters.sql.access import SqlAccessStore
from safelight.application.administer import Administer, Declared, DeclaredKey
from safelight.application.callers import Callers, keyed_hash
from safelight.domain.access import Team, VirtualKey
from safelight.domain.budget import HolderKind
from safelight.domain.errors import Conflict, KeyUnknown
from tests.doubles import FakeClock
from tests.stores import Storage

AT = datetime(2026, 11, 25, tzinfo=UTC)
KEY = "sk-bf-of-the-first-team"


@pytest.fixture
async def processes(storage: Storage) -> AsyncIterator[list[Administer]]:
    """Two processes, each with its own memory of keys."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            database = await storage.open_database()
            stack.push_async_callback(database.close)
            store, clock = SqlAccessStore(database), FakeClock(AT)
            callers = Callers(store, digest=keyed_hash(b"k"), clock=clock, required=True)
            made.append(Administer(store=store, callers=callers, clock=clock))
        yield made


def declared(value: str | None = KEY, name: str = "a") -> Declared:
    key = VirtualKey(id="", name=name, team="shop")
    return Declared(teams=(Team(id="", name="shop"),), keys=(DeclaredKey(key=key, value=value),))


async def test_processes_that_start_together_agree_on_the_settings(processes: list[Administer]) -> None:
    for _ in range(5):
        await asyncio.gather(*[each.reconcile(declared()) for each in processes])
    grants = [await each.callers.grant(KEY) for each in processes]
    assert grants[0] == grants[1]
    assert (await processes[0].store.holders(HolderKind.KEY, search="", limit=9, offset=0)).total == 1


async def test_a_change_is_seen_by_the_others_within_a_second(processes: list[Administer]) -> None:
    one, two = processes
    await one.reconcile(declared())
    grant = await two.callers.grant(KEY)
    _, new = await one.rotate(grant.key.id, overlap_s=0, actor="test")
    clock = two.clock
    assert isinstance(clock, FakeClock)
    clock.move(1)
    with pytest.raises(KeyUnknown):
        await two.callers.grant(KEY)
    assert (await two.callers.grant(new)).key.id == grant.key.id


async def test_two_keys_do_not_read_alike(processes: list[Administer]) -> None:
    await processes[0].reconcile(declared())
    with pytest.raises(Conflict, match="reads just like"):
        await processes[0].create_key(VirtualKey(id="", name="b"), actor="test", value=KEY)
