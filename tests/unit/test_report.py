"""What is told of a call while it is out."""

import asyncio
from typing import Any, cast

import pytest

from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.report import CallReport, Watchers
from safelight.domain.errors import ProviderRejected, ProviderUnavailable, StorageError
from safelight.domain.event import EventName, preview_of
from safelight.domain.job import Job
from tests.doubles import FakeClock, FaultyStore, ScriptedProvider, Told
from tests.making import image, job, later, request, started


class Desk:
    def __init__(self, store: SqlJobStore) -> None:
        self.store = FaultyStore(store)
        self.clock = FakeClock()

    async def begun(self, **members: Any) -> Job:
        new = job(request=request(**members))
        await self.store.submit(new)
        await self.store.start_attempt(new.id, started())
        return new

    def report(self, of: Job, **members: Any) -> CallReport:
        wanted = {"store": self.store, "clock": self.clock, "job": of, "attempt": 1, "n": 1, "offset": 0, **members}
        return CallReport(**wanted)

    async def events(self, of: Job, name: EventName) -> list[Any]:
        logged = await self.store.events(of.id, after=0, limit=100)
        return [each.event.data for each in logged if each.event.name is name]

    async def shares(self, of: Job) -> list[float]:
        return [data["progress"] for data in await self.events(of, EventName.PROGRESS)]


@pytest.fixture
def desk(store: SqlJobStore) -> Desk:
    return Desk(store)


async def test_progress_is_in_the_job_and_in_its_log(desk: Desk) -> None:
    new = await desk.begun()
    await desk.report(new).progress(0.424)
    assert (await desk.store.get(new.id)).progress == 0.42
    assert await desk.shares(new) == [0.42]


async def test_progress_is_told_once_a_second_and_only_where_there_is_any(desk: Desk) -> None:
    new = await desk.begun()
    report = desk.report(new)
    for seconds, share in [(0, 0.1), (0.9, 0.2), (1.0, 0.2), (2.0, 0.204), (3.0, 0.3), (4.0, 7.0), (5.0, -1.0)]:
        desk.clock.moment = later(seconds)
        await report.progress(share)
    assert await desk.shares(new) == [0.1, 0.2, 0.3, 1.0, 0.0]


async def test_a_new_report_knows_what_the_last_one_has_told(desk: Desk) -> None:
    new = await desk.begun()
    await desk.report(new).progress(0.29)
    await desk.report(await desk.store.get(new.id)).progress(0.29)
    assert await desk.shares(new) == [0.29]


async def test_a_call_for_some_of_the_pictures_counts_for_those(desk: Desk) -> None:
    new = await desk.begun(n=4)
    await desk.report(new, n=2, offset=1).progress(0.5)
    assert await desk.shares(new) == [0.5]


async def test_who_was_overtaken_is_not_heard(desk: Desk) -> None:
    new = await desk.begun()
    await desk.report(new, attempt=2).progress(0.5)
    assert (await desk.store.get(new.id)).progress is None
    assert await desk.shares(new) == []


async def test_what_cannot_be_written_is_left_out(desk: Desk) -> None:
    new = await desk.begun(partial_images=1)
    desk.store.fail("progress", StorageError("full"))
    desk.store.fail("log_event", StorageError("full"))
    await desk.report(new).progress(0.5)
    await desk.report(new).preview(image(job_id=new.id))
    assert await desk.store.events(new.id, after=2, limit=10) == []


async def test_previews_are_in_the_log_with_the_place_of_their_picture(desk: Desk) -> None:
    new = await desk.begun(n=3, partial_images=2)
    report = desk.report(new, n=2, offset=1)
    shown = [image(f"p{number}", new.id) for number in range(4)]
    for picture, index in zip(shown, (0, 0, 0, 1), strict=True):
        await report.preview(picture, index=index)
    told = await desk.events(new, EventName.PARTIAL_IMAGE)
    assert [(data["index"], data["partial_index"]) for data in told] == [(1, 0), (1, 1), (2, 0)]
    kept = [shown[0], shown[1], shown[3]]
    assert [data["blob"] for data in told] == [each.blob for each in kept]
    assert (told[0]["content_type"], told[0]["width"], told[0]["height"]) == ("image/png", 3, 2)
    assert await desk.store.previews([new.id]) == kept
    logged = await desk.store.events(new.id, after=0, limit=10)
    assert [preview_of(each.event) for each in logged if each.event.name is EventName.PARTIAL_IMAGE] == kept


async def test_previews_are_spread_over_the_work(desk: Desk) -> None:
    new = await desk.begun(partial_images=2)
    report = desk.report(new)
    wanted = []
    for step in range(1, 13):
        await report.progress(step / 12)
        if report.wants_preview:
            wanted.append(step)
            await report.preview(image(job_id=new.id))
    assert wanted == [4, 8]
    report = desk.report(await desk.begun())
    await report.progress(1.0)
    assert not report.wants_preview


def looked_at(*looks: Any) -> ScriptedProvider:
    provider = ScriptedProvider()
    provider.watchable = True
    provider.looks = list(looks)
    return provider


async def ends(watchers: Watchers, provider: ScriptedProvider, call: Any) -> None:
    """Watch to the end."""
    new = job()
    watchers.begin(new.id, provider, call)
    await asyncio.gather(*watchers._tasks.values())


async def test_a_watcher_looks_until_there_is_no_more_to_see() -> None:
    clock, told = FakeClock(), Told()
    call: Any = type("Call", (), {"report": told})

    async def half(call: Any) -> float:
        await call.report.progress(0.5)
        return 2.0

    provider = looked_at(half, ProviderUnavailable("away"), 1.0)
    await ends(Watchers(pause=clock.pause), provider, call)
    assert told.shares == [0.5]
    assert clock.pauses == [2.0, 5.0, 1.0]


@pytest.mark.parametrize("fault", [ProviderRejected("no"), StorageError("full"), ValueError("a mistake of ours")])
async def test_a_watcher_that_cannot_look_goes(fault: Exception) -> None:
    clock = FakeClock()
    provider = looked_at(fault, 1.0)
    await ends(Watchers(pause=clock.pause), provider, None)
    assert (clock.pauses, provider.looks) == ([], [1.0])


@pytest.mark.parametrize("heard", [True, ProviderRejected("no")])
async def test_work_that_nobody_wants_any_more_is_stopped(heard: Any) -> None:
    clock, words = FakeClock(), [False, True, True]

    async def unwanted() -> bool:
        return words.pop(0)

    provider = looked_at(1.0, 2.0, 3.0, 4.0)
    provider.stops = [False, heard] if heard is True else [heard]
    watchers, call = Watchers(pause=clock.pause), cast("Any", None)
    watchers.begin(job().id, provider, call, unwanted=unwanted)
    await asyncio.gather(*watchers._tasks.values())
    assert provider.stopped == ([None, None] if heard is True else [None])
    assert clock.pauses == ([1.0, 2.0] if heard is True else [1.0])


async def test_a_job_has_one_watcher_and_it_can_be_sent_home() -> None:
    watchers, new, other = Watchers(), job(), job()
    waiting = asyncio.Event()
    begun: list[str] = []

    async def long(_: Any) -> float:
        begun.append("a look")
        await waiting.wait()
        return 1.0

    provider = looked_at(long, long, long)
    call: Any = None
    watchers.begin(new.id, provider, call)
    watchers.begin(new.id, provider, call)
    watchers.begin(other.id, provider, call)
    watchers.begin(job().id, ScriptedProvider(), call)
    await asyncio.sleep(0)
    assert len(begun) == 2
    watchers.end(new.id)
    watchers.end(new.id)
    await watchers.close()
    assert watchers._tasks == {}
