"""A thread that works for the event loop, many calls at a time.

Calls that wait while one batch is being synced to disk share the next one: a durable write costs one sync for all of
them, one wake-up of the loop, and one of the thread for all that a turn of the loop asks for.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from safelight.adapters.gathering import Gathering
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
        self._asked: Gathering[Call] = Gathering(self._hand_over)
        self._waiting: queue.SimpleQueue[list[Call] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[Subject], T], *, then: Callable[[], None] | None = None) -> T:
        """Have `work` done; raises what it raises, and `StorageError` once closed.

        `then` is called in the loop once it is done, also when the caller has been cancelled meanwhile.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.ask((work, then, done))
        return await done

    def ask(self, call: "Call") -> None:
        """Have a call done, and its future told of it."""
        _, _, done = call
        if not self._closed:
            self._asked.add(call)
        elif not done.done():
            done.set_exception(StorageError("the storage is closed"))

    def _hand_over(self, asked: "list[Call]") -> None:
        self._waiting.put(asked)

    async def close(self) -> None:
        """Finish what was asked for, and end the thread."""
        if not self._closed:
            self._closed = True
            self._asked.flush()
            self._waiting.put(None)
            await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        go_on = True
        while go_on:
            asked = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    asked.append(self._waiting.get_nowait())
            go_on = None not in asked
            calls = [call for turn in asked if turn is not None for call in turn]
            for start in range(0, len(calls), _MOST_AT_ONCE):
                batch = calls[start : start + _MOST_AT_ONCE]
                _answer(batch, self._outcomes([work for work, _, _ in batch]))
        self._at_end()

    def _outcomes(self, batch: Sequence[Callable[[Subject], Any]]) -> Sequence[Outcome]:
        try:
            return self._handle(batch)
        except Exception as error:  # noqa: BLE001 - a thread that died would leave everybody waiting for ever
            return [(None, error)] * len(batch)


Call = tuple[Callable[[Any], Any], Callable[[], None] | None, asyncio.Future[Any]]
"""What is to be done, what is to be called once it is, and who waits for it."""


def _answer(calls: list[Call], outcomes: Sequence[Outcome]) -> None:
    """Hand the outcomes to their event loop in one go."""
    with contextlib.suppress(RuntimeError):  # the loop is gone, and so is whoever waited
        calls[0][2].get_loop().call_soon_threadsafe(_resolve, calls, outcomes)


def _resolve(calls: list[Call], outcomes: Sequence[Outcome]) -> None:
    for (_, then, future), (value, error) in zip(calls, outcomes, strict=True):
        if error is None and then is not None:
            then()
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
