"""A thread that works in batches."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from safelight.adapters.threads import BatchThread, Outcome
from safelight.domain.errors import StorageError


class Worker:
    """Does what it is given; the first call of a batch may be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.ended = threading.Event()
        self.fault: Exception | None = None
        self.thread: BatchThread[None] = BatchThread(self.handle, name="test", at_end=self.ended.set)

    def handle(self, batch: Sequence[Callable[[None], Any]]) -> Sequence[Outcome]:
        self.sizes.append(len(batch))
        if self.fault:
            raise self.fault
        return [(work(None), None) for work in batch]


async def test_calls_that_wait_share_a_batch_in_their_order() -> None:
    worker = Worker()
    gate, order = threading.Event(), list[int]()
    first = asyncio.create_task(worker.thread.run(lambda _: gate.wait()))
    while not worker.sizes:  # noqa: ASYNC110 - the thread has no event of this loop
        await asyncio.sleep(0.001)

    def noted(number: int) -> Callable[[None], int]:
        def work(_: None) -> int:
            order.append(number)
            return number

        return work

    others = [asyncio.create_task(worker.thread.run(noted(number))) for number in range(600)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(first, *others) == [True, *range(600)]
    assert order == list(range(600))
    assert worker.sizes == [1, 512, 88]
    await worker.thread.close()


async def test_a_worker_that_breaks_tells_all_who_wait_and_goes_on() -> None:
    worker = Worker()
    worker.fault = RuntimeError("bug")
    with pytest.raises(RuntimeError):
        await worker.thread.run(lambda _: 1)
    worker.fault = None
    assert await worker.thread.run(lambda _: 1) == 1
    await worker.thread.close()


async def test_closing_finishes_what_was_asked_for() -> None:
    worker = Worker()
    gate = threading.Event()
    calls = [asyncio.create_task(worker.thread.run(lambda _: gate.wait())) for _ in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(worker.thread.close())
    await asyncio.sleep(0)
    with pytest.raises(StorageError):
        await worker.thread.run(lambda _: 1)
    gate.set()
    assert await asyncio.gather(*calls) == [True] * 5
    await closing
    assert worker.ended.is_set()
    await worker.thread.close()


async def test_a_caller_that_left_disturbs_nobody() -> None:
    worker = Worker()
    gate = threading.Event()
    left = asyncio.create_task(worker.thread.run(lambda _: gate.wait()))
    stays = asyncio.create_task(worker.thread.run(lambda _: 2))
    await asyncio.sleep(0)
    left.cancel()
    gate.set()
    assert await stays == 2
    await worker.thread.close()


def test_a_loop_that_is_gone_is_no_fault() -> None:
    gate = threading.Event()

    async def leave() -> Worker:
        worker = Worker()
        task = asyncio.create_task(worker.thread.run(lambda _: gate.wait()))
        await asyncio.sleep(0)
        task.cancel()
        return worker

    worker = asyncio.run(leave())
    gate.set()
    asyncio.run(worker.thread.close())
    assert worker.ended.is_set()
