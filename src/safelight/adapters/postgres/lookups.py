"""Look-ups by key that share queries, as writes share commits: what a query costs is the way there and back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_MOST_AT_ONCE = 100


class SharedLookUp(Generic[K, V]):
    """Asks one query at a time. Whoever comes meanwhile shares the next one: no answer is older than its question."""

    def __init__(self, find: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        """`find` reads what there is of some keys."""
        self._find = find
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """What there is of a key. Raises what `find` raises."""
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await future

    async def _ask(self) -> None:
        while self._waiting:
            asked = {key: self._waiting.pop(key) for key in list(self._waiting)[:_MOST_AT_ONCE]}
            try:
                found = await self._find(list(asked))
            except Exception as error:  # noqa: BLE001 - given to those who asked
                for _, future in _open(asked):
                    future.set_exception(error)
            else:
                for key, future in _open(asked):
                    future.set_result(found.get(key))
        self._asking = None


def _open(asked: Mapping[K, Sequence["asyncio.Future[V]"]]) -> Iterator[tuple[K, "asyncio.Future[V]"]]:
    """Those who still wait, with what they asked for."""
    return ((key, future) for key, futures in asked.items() for future in futures if not future.done())
