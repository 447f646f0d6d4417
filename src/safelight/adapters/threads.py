"""A thread that works for the event loop, many calls at a time.

Calls that wait while one batch is being synced to disk share the next one: a durable write costs one sync for all of
them, and one wake-up of the loop.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from safelight.domain.errors import StorageError

Subject = TypeVar("Subject")
T = TypeVar("T")
Outcome = tuple[Any, BaseException | None]
"""What a call brought, or what it raised."""

_MOST_AT_ONCE = 512


class BatchThread(Generic[Subject]):
    """Takes functions of a subject, such as a connection, and gives them to `handle` in batches, in order."""

    def __init__(
        self,
        handle: Callable[[Sequence[Callable[[Subject], Any]]], Sequence[Outcome]],
        *,
        name: str,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`handle` gives an outcome for each function. Both callbacks run in the thread."""
        self._handle = handle
        self._at_end = at_end
        self._waiting: queue.SimpleQueue[tuple[Callable[[Subject], Any], asyncio.Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Subject], T]) -> T:
        """Have `work` done; raises what it raises, and `StorageError` once closed."""
        return await self.begin(work)

    def begin(self, work: Callable[[Subject], T]) -> "asyncio.Future[T]":
        """Ask for `work`. Cancelling the future does not stop it. Raises `StorageError` once closed."""
        if self._closed:
            raise StorageError("the storage is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put((work, future))
        return future

    async def close(self) -> None:
        """Finish what was asked for, and end the thread."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        go_on = True
        while go_on:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _MOST_AT_ONCE:
                    batch.append(self._waiting.get_nowait())
            go_on = None not in batch
            calls = [call for call in batch if call is not None]
            if calls:
                _answer([future for _, future in calls], self._outcomes([work for work, _ in calls]))
        self._at_end()

    def _outcomes(self, batch: Sequence[Callable[[Subject], Any]]) -> Sequence[Outcome]:
        try:
            return self._handle(batch)
        except Exception as error:  # noqa: BLE001 - a thread that died would leave everybody waiting for ever
            return [(None, error)] * len(batch)


def _answer(futures: list[asyncio.Future[Any]], outcomes: Sequence[Outcome]) -> None:
    """Hand the outcomes to their event loop in one call."""
    with contextlib.suppress(RuntimeError):  # the loop is gone, and so is whoever waited
        futures[0].get_loop().call_soon_threadsafe(_resolve, futures, outcomes)


def _resolve(futures: list[asyncio.Future[Any]], outcomes: Sequence[Outcome]) -> None:
    for future, (value, error) in zip(futures, outcomes, strict=True):
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
