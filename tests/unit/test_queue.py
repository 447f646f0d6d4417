"""The embedded queue: nothing is handed out twice at a time, nothing is forgotten."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from msgspec.structs import replace

from safelight.adapters.sqlite import queue as queue_module
from safelight.adapters.sqlite.queue import SqliteQueue
from safelight.application.ports import Again, Place
from safelight.domain.errors import StorageError
from safelight.domain.fairness import NOBODYS, Turn
from safelight.domain.ids import JobId, ProviderName
from tests.making import job

A, B = ProviderName("a"), ProviderName("b")


class Table:
    """The open jobs, as the store would list them."""

    def __init__(self, *jobs: tuple[str, ProviderName]) -> None:
        self.rows: dict[int, tuple[JobId, ProviderName]] = {}
        self.sequence = count(1)
        self.faults: list[Exception] = []
        self.reads: list[Place] = []
        self.during: Callable[[], None] = lambda: None
        for name, lane in jobs:
            self.add(name, lane)

    def add(self, name: str, lane: ProviderName = A) -> JobId:
        self.rows[next(self.sequence)] = JobId(name), lane
        return JobId(name)

    async def end(self, job_id: JobId) -> None:
        self.rows = {seq: row for seq, row in self.rows.items() if row[0] != job_id}

    async def due(self, *, limit: int, after: Place) -> Sequence[tuple[Place, JobId, ProviderName, datetime, Turn]]:
        self.reads.append(after)
        if self.faults:
            raise self.faults.pop(0)
        rows = [((0, seq), *row, now(), NOBODYS) for seq, row in self.rows.items() if (0, seq) > after][:limit]
        await asyncio.sleep(0)
        self.during()
        return rows


def now() -> datetime:
    return datetime.now(UTC)


class Runner:
    """Takes the steps; those of held jobs last until they are let go."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[JobId] = asyncio.Queue()
        self.order: list[JobId] = []
        self.at_work: Counter[JobId] = Counter()
        self.held: dict[str, asyncio.Event] = {}
        self.answers: dict[str, list[Again | Exception | None]] = {}
        self.on_step: Callable[[JobId], Awaitable[None]] | None = None

    def hold(self, *names: str) -> None:
        self.held.update({name: asyncio.Event() for name in names})

    def release(self, *names: str) -> None:
        for name in names:
            self.held.pop(name).set()

    async def step(self, job_id: JobId) -> Again | None:
        self.at_work[job_id] += 1
        assert self.at_work[job_id] == 1
        self.order.append(job_id)
        self.started.put_nowait(job_id)
        try:
            if job_id in self.held:
                await self.held[job_id].wait()
            if self.on_step:
                await self.on_step(job_id)
            answer = self.answers[job_id].pop(0) if self.answers.get(job_id) else None
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.at_work[job_id] -= 1

    async def next(self) -> JobId:
        return await asyncio.wait_for(self.started.get(), 5)


def queue_of(table: Table, *, concurrency: int = 8, slots: int = 8) -> SqliteQueue:
    return SqliteQueue(table, concurrency=concurrency, lane_slots=lambda _: slots, now=now)


@asynccontextmanager
async def running(queue: SqliteQueue, runner: Runner) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(queue.run(runner.step))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def quiet() -> None:
    """Let everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_open_jobs_are_taken_up_at_the_start_in_their_order() -> None:
    table = Table(("1", A), ("2", A), ("3", A))
    runner = Runner()
    async with running(queue_of(table, slots=1), runner):
        assert [await runner.next() for _ in range(3)] == ["1", "2", "3"]


async def test_a_new_job_is_taken_up_at_once() -> None:
    queue, runner = queue_of(Table()), Runner()
    async with running(queue, runner):
        await quiet()
        queue.wake(JobId("1"), lane=A, at=now())
        assert await runner.next() == "1"


async def test_a_job_that_is_woken_and_listed_is_handed_out_once() -> None:
    table, runner = Table(("1", A)), Runner()
    queue = queue_of(table)
    queue.wake(JobId("1"), lane=A, at=now())
    async with running(queue, runner):
        await runner.next()
        await quiet()
    assert runner.order == ["1"]


async def test_a_job_woken_while_it_ends_is_taken_up_again() -> None:
    """As when a caller has it run again in the moment between its last commit and the end of the step."""
    queue, runner = queue_of(Table()), Runner()

    async def wake_again(job_id: JobId) -> None:
        if len(runner.order) == 1:
            queue.wake(job_id, lane=A, at=now())

    runner.on_step = wake_again
    async with running(queue, runner):
        queue.wake(JobId("1"), lane=A, at=now())
        assert [await runner.next(), await runner.next()] == ["1", "1"]
        await quiet()
        assert runner.order == ["1", "1"]
        assert (queue._known, queue._woken_again) == (set(), set())


async def test_a_lane_has_its_slots_and_all_lanes_together_have_theirs() -> None:
    table, runner = Table(*[(f"a{n}", A) for n in range(4)], *[(f"b{n}", B) for n in range(4)]), Runner()
    runner.hold(*[f"{lane}{n}" for lane in "ab" for n in range(4)])
    async with running(queue_of(table, concurrency=3, slots=2), runner):
        await runner.next()
        await quiet()
        assert sorted(runner.order) == ["a0", "a1", "b0"]
        runner.release("a0")
        await quiet()
        assert runner.order[3:] == ["b1"]
        runner.release("b0", "b1")
        await quiet()
        assert runner.order[4:] == ["a2", "b2"]


async def test_a_waiting_job_knows_how_many_are_handed_out_before_it() -> None:
    table, runner = Table(), Runner()
    queue = queue_of(table, slots=1)
    runner.hold("j0", "j1", "j2")
    jobs = [replace(job(), id=JobId(f"j{number}"), lane=A) for number in range(3)]
    other = replace(job(), id=JobId("other"), lane=B)
    for waiting in (*jobs, other):
        queue.wake(waiting.id, lane=waiting.lane, at=now())
    assert [await queue.position(waiting) for waiting in (*jobs, other)] == [0, 1, 2, 0]
    async with running(queue, runner):
        assert {await runner.started.get(), await runner.started.get()} == {jobs[0].id, other.id}
        assert [await queue.position(waiting) for waiting in jobs] == [None, 0, 1]
        runner.release("j0")
        assert await runner.started.get() == jobs[1].id
        assert await queue.position(jobs[2]) == 0
        runner.release("j1", "j2")
    later = replace(job(), id=JobId("later"), lane=A)
    queue.wake(later.id, lane=A, at=now() + timedelta(hours=1))
    assert await queue.position(later) is None


async def test_a_lane_that_never_runs_dry_does_not_starve_the_others() -> None:
    table, runner = Table(*[(f"a{n}", A) for n in range(10)], ("b0", B)), Runner()
    async with running(queue_of(table, concurrency=1, slots=8), runner):
        for _ in range(11):
            await runner.next()
    assert runner.order.index(JobId("b0")) == 1


async def test_a_job_comes_back_when_its_time_has_come_in_its_new_lane() -> None:
    table, runner = Table(("1", A)), Runner()
    queue = queue_of(table)
    due = now() + timedelta(milliseconds=30)
    runner.answers["1"] = [Again(at=due, lane=B)]
    async with running(queue, runner):
        await runner.next()
        await quiet()
        assert queue.running == set()
        await runner.next()
        assert now() >= due
    assert runner.order == ["1", "1"]


async def test_the_earliest_comes_first_whatever_is_still_waited_for() -> None:
    table, runner = Table(("1", A), ("2", A)), Runner()
    queue = queue_of(table)
    runner.answers["1"] = [Again(at=now() + timedelta(hours=1), lane=A)]
    runner.answers["2"] = [Again(at=now() + timedelta(milliseconds=20), lane=A)]
    async with running(queue, runner):
        assert [await runner.next() for _ in range(3)] == ["1", "2", "2"]


@pytest.mark.parametrize("fault", [StorageError("locked"), RuntimeError("bug")])
async def test_a_step_that_fails_is_taken_again(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_PAUSE_AFTER_FAULT", timedelta(milliseconds=10))
    table, runner = Table(("1", A)), Runner()
    runner.answers["1"] = [fault, fault]
    queue = queue_of(table)
    async with running(queue, runner):
        assert [await runner.next() for _ in range(3)] == ["1"] * 3
        await quiet()
        assert (queue._free, queue._known, queue._lanes) == (8, set(), {})


async def test_a_table_that_cannot_be_read_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_PAUSE_AFTER_FAULT", timedelta(milliseconds=10))
    table, runner = Table(("1", A)), Runner()
    table.faults = [StorageError("locked")] * 2
    async with running(queue_of(table), runner):
        assert await runner.next() == "1"


async def test_lanes_that_callers_make_up_leave_nothing_behind() -> None:
    table, runner = Table(*[(f"{n}", ProviderName(f"lane-{n}")) for n in range(50)]), Runner()
    queue = queue_of(table)
    async with running(queue, runner):
        for _ in range(50):
            await runner.next()
        await quiet()
        assert queue._lanes == {}


async def test_a_clock_that_jumps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_LONGEST_SLEEP_S", 0.01)
    moment = [now()]
    table, runner = Table(), Runner()
    queue = SqliteQueue(table, concurrency=1, lane_slots=lambda _: 1, now=lambda: moment[0])
    async with running(queue, runner):
        queue.wake(JobId("1"), lane=A, at=moment[0] + timedelta(hours=1))
        await quiet()
        moment[0] += timedelta(hours=1)
        assert await runner.next() == "1"


# More than memory holds


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_MOST_IN_MEMORY", 20)
    monkeypatch.setattr(queue_module, "_PAGE", 4)


@pytest.mark.usefixtures("small")
async def test_what_memory_does_not_hold_is_read_when_there_is_room() -> None:
    table, runner = Table(*[(f"{n}", A) for n in range(100)]), Runner()
    queue = queue_of(table, slots=2)

    async def forget(job_id: JobId) -> None:
        await table.end(job_id)
        assert len(queue._known) <= 20

    runner.on_step = forget
    async with running(queue, runner):
        assert [await runner.next() for _ in range(100)] == [f"{n}" for n in range(100)]
        await quiet()
        assert (queue._known, queue._later) == (set(), [])


@pytest.mark.usefixtures("small")
async def test_jobs_that_were_turned_away_are_not_forgotten() -> None:
    table, runner = Table(), Runner()
    queue = queue_of(table, slots=1)
    runner.hold("0")
    runner.on_step = table.end
    async with running(queue, runner):
        for n in range(60):
            queue.wake(table.add(f"{n}"), lane=A, at=now())
            await quiet()
        assert len(queue._known) == 20
        runner.release("0")
        found = {await runner.next() for _ in range(60)}
    assert found == {f"{n}" for n in range(60)}


@pytest.mark.usefixtures("small")
async def test_a_job_turned_away_while_the_table_is_read_is_not_forgotten() -> None:
    """The page was read before the job was committed, and memory filled up before the page came."""
    table, runner = Table(), Runner()
    queue = queue_of(table, slots=1)
    runner.hold("0")
    runner.on_step = table.end

    def many_at_once() -> None:
        table.during = lambda: None
        for n in range(30):
            queue.wake(table.add(f"{n}"), lane=A, at=now())

    table.during = many_at_once
    async with running(queue, runner):
        await runner.next()
        runner.release("0")
        found = {"0"} | {await runner.next() for _ in range(29)}
    assert found == {f"{n}" for n in range(30)}


# Stopping


async def test_nothing_starts_after_stop_and_what_runs_is_waited_for() -> None:
    table, runner = Table(("1", A), ("2", A)), Runner()
    runner.hold("1")
    queue = queue_of(table, slots=1)
    runner.answers["1"] = [Again(at=now(), lane=A)]
    async with running(queue, runner) as task:
        await runner.next()
        queue.stop()
        await quiet()
        assert not task.done()
        runner.release("1")
        await asyncio.wait_for(task, 5)
    assert runner.order == ["1"]


async def test_nothing_starts_when_stop_comes_while_the_table_is_read() -> None:
    table, runner = Table(("1", A)), Runner()
    queue = queue_of(table)
    table.during = queue.stop
    async with running(queue, runner) as task:
        await asyncio.wait_for(task, 5)
    assert runner.order == []


async def test_cancelling_the_queue_cancels_what_runs() -> None:
    table, runner = Table(("1", A)), Runner()
    runner.hold("1")
    queue = queue_of(table)
    async with running(queue, runner):
        await runner.next()
        assert queue.running == {A}
    assert runner.at_work["1"] == 0  # type: ignore[index]  # a job id
    assert queue.running == set()


# Work that a provider has accepted


def accepted(seconds: float = 0.0) -> Again:
    return Again(at=now() + timedelta(seconds=seconds), lane=A, at_work=True)


async def test_accepted_work_keeps_its_slot_until_it_has_ended() -> None:
    table, runner = Table(("1", A), ("2", A), ("3", A)), Runner()
    runner.answers = {"1": [accepted(0.02), accepted(0.02), None], "2": [accepted(0.01)]}
    queue = queue_of(table, slots=2)
    async with running(queue, runner):
        assert [await runner.next() for _ in range(2)] == ["1", "2"]
        await quiet()
        assert runner.started.empty()
        assert (queue.running, queue._lanes[A].taken) == (set(), 2)
        assert await runner.next() == "2"
        assert await runner.next() == "3"
        assert [await runner.next() for _ in range(2)] == ["1", "1"]
        await quiet()
        assert (queue._lanes, queue._free) == ({}, 8)


async def test_asking_for_accepted_work_waits_for_no_slot() -> None:
    table, runner = Table(("1", A), ("2", A)), Runner()
    runner.answers = {"1": [accepted(0.02)]}
    runner.hold("2")
    async with running(queue_of(table, slots=2), runner):
        assert [await runner.next() for _ in range(3)] == ["1", "2", "1"]


async def test_accepted_work_that_goes_elsewhere_gives_its_slot_back() -> None:
    table, runner = Table(("1", A), ("2", A)), Runner()
    runner.answers = {"1": [accepted(), Again(at=now(), lane=B)]}
    queue = queue_of(table, slots=1)
    async with running(queue, runner):
        assert sorted([await runner.next() for _ in range(4)]) == ["1", "1", "1", "2"]
        await quiet()
        assert queue._lanes == {}


async def test_a_fault_while_accepted_work_is_asked_for_gives_the_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "_PAUSE_AFTER_FAULT", timedelta(milliseconds=10))
    table, runner = Table(("1", A)), Runner()
    runner.answers = {"1": [accepted(), StorageError("locked"), accepted(), None]}
    queue = queue_of(table, slots=1)
    async with running(queue, runner):
        assert [await runner.next() for _ in range(4)] == ["1"] * 4
        await quiet()
        assert (queue._lanes, queue._free) == ({}, 8)


async def test_what_was_to_come_later_is_brought_forward_and_keeps_its_slot() -> None:
    queue, runner = queue_of(Table(), slots=1), Runner()
    runner.answers = {"1": [Again(at=now() + timedelta(hours=1), lane=A, at_work=True)]}
    async with running(queue, runner):
        queue.wake(JobId("1"), lane=A, at=now())
        await runner.next()
        await quiet()
        queue.wake(JobId("2"), lane=A, at=now())
        await quiet()
        assert runner.order == ["1"]
        queue.wake(JobId("1"), lane=A, at=now())
        assert [await runner.next(), await runner.next()] == ["1", "2"]


async def test_what_is_woken_during_its_step_takes_another_at_once() -> None:
    queue, runner = queue_of(Table()), Runner()
    runner.answers = {"1": [Again(at=now() + timedelta(hours=1), lane=A, at_work=True)]}
    runner.hold("1")
    async with running(queue, runner):
        queue.wake(JobId("1"), lane=A, at=now())
        await runner.next()
        queue.wake(JobId("1"), lane=A, at=now())
        runner.release("1")
        assert await runner.next() == "1"


async def test_a_later_wake_does_not_put_off_what_comes_sooner() -> None:
    queue, runner = queue_of(Table()), Runner()
    soon = now() + timedelta(milliseconds=30)
    async with running(queue, runner):
        queue.wake(JobId("1"), lane=A, at=soon)
        await quiet()
        queue.wake(JobId("1"), lane=A, at=now() + timedelta(hours=1))
        assert await runner.next() == "1"
        await quiet()
    assert runner.order == ["1"]
