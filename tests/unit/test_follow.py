"""Following one job and all: nothing missed, nothing twice, and an end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application import follow as follow_module
from safelight.application.follow import Follow, Tail
from safelight.application.ports import LogEntry
from safelight.domain.caller import ADMINISTRATOR, ANYBODY, Caller
from safelight.domain.event import progressed
from safelight.domain.outcome import settle
from tests.making import NOON, failed, job, started


@pytest.fixture
def follow(store: SqlJobStore, bell: LocalBell) -> Follow:
    return Follow(store=store, bell=bell, tail=Tail(store))


async def end(store: SqlJobStore, of: Any) -> None:
    await store.start_attempt(of.id, started())
    ending = settle(of, (failed(),), error=failed().error, now=NOON)
    await store.finish(of.id, ending, tries=1, attempt=failed(ended_at=NOON))


async def statuses(events: AsyncIterator[Any]) -> list[str]:
    async with asyncio.timeout(10):
        return [logged.event.data["status"] async for logged in events]


async def test_a_job_is_followed_to_its_end(follow: Follow, store: SqlJobStore) -> None:
    new = job()
    await store.submit(new)
    following = asyncio.create_task(statuses(follow.job(new.id, after=0)))
    await asyncio.sleep(0)
    await end(store, new)
    assert await following == ["pending", "processing", "failed"]
    assert await statuses(follow.job(new.id, after=0)) == ["pending", "processing", "failed"]


async def test_what_is_known_already_is_not_told_again(follow: Follow, store: SqlJobStore) -> None:
    new = job()
    await store.submit(new)
    await end(store, new)
    log = await store.events(new.id, after=0, limit=10)
    for number, logged in enumerate(log):
        rest = [each async for each in follow.job(new.id, after=logged.seq)]
        assert rest == log[number + 1 :]


async def test_a_retried_job_is_followed_past_its_first_end(follow: Follow, store: SqlJobStore) -> None:
    new = job()
    await store.submit(new)
    await end(store, new)
    ended = await store.get(new.id)
    assert ended is not None
    await store.retry(ended.renewed(NOON))
    following = asyncio.create_task(statuses(follow.job(new.id, after=0)))
    await asyncio.sleep(0)
    await store.finish(new.id, settle(new, (), error=failed().error, now=NOON), tries=1)
    assert await following == ["pending", "processing", "failed", "pending", "failed"]


async def test_a_long_log_is_read_page_by_page(
    follow: Follow, store: SqlJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "_PAGE", 2)
    new = job()
    await store.submit(new)
    for step in range(5):
        await store.log_event(progressed(new.id, step / 10, NOON))
    await end(store, new)
    assert len([each async for each in follow.job(new.id, after=0)]) == 8


async def test_a_quiet_stream_says_that_it_is_there(store: SqlJobStore, bell: LocalBell) -> None:
    new = job()
    await store.submit(new)
    follow = Follow(store=store, bell=bell, tail=Tail(store), heartbeat_s=0.01)
    events = follow.job(new.id, after=0)
    assert (await anext(events)) is not None
    assert await anext(events) is None
    assert await anext(events) is None


async def test_streams_end_when_the_gateway_does(follow: Follow, store: SqlJobStore, bell: LocalBell) -> None:
    new = job()
    await store.submit(new)
    one = asyncio.create_task(statuses(follow.job(new.id, after=0)))
    every = asyncio.create_task(collected(follow, ANYBODY))
    await asyncio.sleep(0.01)
    bell.silence()
    assert await one == ["pending"]
    assert await every == []


async def collected(follow: Follow, caller: Caller, **members: Any) -> list[LogEntry]:
    return [told async for told in follow.jobs(caller, **{"after": None, **members}) if isinstance(told, LogEntry)]


async def test_a_deleted_job_ends_its_streams(follow: Follow, store: SqlJobStore) -> None:
    new = job()
    await store.submit(new)
    await end(store, new)
    await store.delete([new.id])
    assert [each async for each in follow.job(new.id, after=0)] == []


async def test_all_jobs_are_followed_from_now_on(follow: Follow, store: SqlJobStore, bell: LocalBell) -> None:
    await store.submit(job())
    begun = asyncio.Event()
    owned, other = job(owner="a"), job(owner="b")

    async def listen(caller: Caller) -> list[Any]:
        heard = []
        async for told in follow.jobs(caller, after=None):
            begun.set()
            if isinstance(told, LogEntry):
                heard.append(told.event.job_id)
        return heard

    listeners = [asyncio.create_task(listen(who)) for who in (ADMINISTRATOR, Caller(owner="a"), ANYBODY)]
    await begun.wait()
    await asyncio.sleep(0.2)
    await store.submit(owned)
    await store.submit(other)
    await asyncio.sleep(0.3)
    bell.silence()
    assert await asyncio.gather(*listeners) == [[owned.id, other.id], [owned.id], []]


@pytest.mark.parametrize("recent", [0, 5_000])
async def test_all_jobs_are_followed_from_any_place(
    store: SqlJobStore, bell: LocalBell, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    """Whether memory still has it or not."""
    monkeypatch.setattr(follow_module, "_MOST_RECENT", recent)
    follow = Follow(store=store, bell=bell, tail=Tail(store))
    await follow.tail.end()
    jobs = [job() for _ in range(5)]
    for each in jobs:
        await store.submit(each)
    log = await store.log(after=(0, 0), limit=100)
    for number, entry in enumerate(log):
        following = asyncio.create_task(collected(follow, ANYBODY, after=entry.mark))
        await asyncio.sleep(0.15)
        following.cancel()
        rest: list[LogEntry] = []
        async for told in follow.jobs(ANYBODY, after=entry.mark):
            if isinstance(told, LogEntry):
                rest.append(told)
            if len(rest) == len(log) - number - 1:
                break
        assert rest == log[number + 1 :]


async def test_many_who_follow_share_one_reader(
    follow: Follow, store: SqlJobStore, bell: LocalBell, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    log = SqlJobStore.log

    async def counted(self: SqlJobStore, **members: Any) -> Any:
        nonlocal reads
        reads += 1
        return await log(self, **members)

    monkeypatch.setattr(SqlJobStore, "log", counted)
    listeners = [asyncio.create_task(collected(follow, ANYBODY)) for _ in range(500)]
    await asyncio.sleep(0.3)
    before = reads
    await store.submit(job())
    await asyncio.sleep(0.3)
    bell.silence()
    assert {len(heard) for heard in await asyncio.gather(*listeners)} == {1}
    assert reads - before < 10
