"""Look-ups that share queries: none is answered by a query that began before it, and a fault hits those who share it."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from safelight.adapters.postgres.lookups import SharedLookUp
from safelight.domain.errors import StorageError


class Table:
    """Answers each query when it is told to, with what it holds then."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.go = asyncio.Semaphore(0)
        self.fault: Exception | None = None

    async def find(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(list(keys))
        found = {key: self.rows[key] for key in keys if key in self.rows}
        await self.go.acquire()
        if self.fault is not None:
            raise self.fault
        return found


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_come_while_a_query_is_out_share_the_next() -> None:
    table = Table()
    table.rows = {"a": 1, "b": 2}
    look_up = SharedLookUp(table.find)
    first = asyncio.create_task(look_up.get("a"))
    await settle()
    table.rows["a"] = 3
    others = [asyncio.create_task(look_up.get(key)) for key in ("a", "b", "a", "gone")]
    await settle()
    assert table.asked == [["a"]]
    table.go.release()
    table.go.release()
    assert await first == 1
    assert await asyncio.gather(*others) == [3, 2, 3, None]
    assert table.asked == [["a"], ["a", "b", "gone"]]


async def test_one_who_has_gone_takes_nothing_from_the_others() -> None:
    table = Table()
    table.rows = {"a": 1}
    look_up = SharedLookUp(table.find)
    gone, stays = (asyncio.create_task(look_up.get("a")) for _ in range(2))
    await settle()
    gone.cancel()
    table.go.release()
    assert await stays == 1


async def test_a_fault_is_told_to_those_who_shared_it_and_then_forgotten() -> None:
    table = Table()
    table.rows = {"a": 1}
    table.fault = StorageError("away")
    look_up = SharedLookUp(table.find)
    shared = [asyncio.create_task(look_up.get(key)) for key in ("a", "b")]
    await settle()
    table.go.release()
    for each in shared:
        with pytest.raises(StorageError):
            await each
    table.fault = None
    table.go.release()
    assert await look_up.get("a") == 1


async def test_more_than_fit_into_one_query_take_several() -> None:
    table = Table()
    table.rows = {str(number): number for number in range(150)}
    look_up = SharedLookUp(table.find)
    table.go.release()
    table.go.release()
    assert await asyncio.gather(*(look_up.get(key) for key in table.rows)) == list(range(150))
    assert [len(keys) for keys in table.asked] == [100, 50]
