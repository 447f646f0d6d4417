"""A database whose work is timed."""

import time
from collections.abc import Callable
from typing import TypeVar

from safelight.adapters.sql.database import Database, Work

T = TypeVar("T")

Timed = Callable[[str, float], None]
"""Takes the kind of work and the seconds that it took."""


class TimedDatabase:
    """See `Database`. Look-ups take microseconds and are not timed: that would cost as much as they do."""

    def __init__(self, database: Database, timed: Timed) -> None:
        self._database = database
        self._timed = timed
        self.settled = database.settled

    async def write(self, work: Work[T], *, then: Callable[[], None] | None = None, job_id: str | None = None) -> T:
        """See `Database.write`."""
        begun = time.perf_counter()
        try:
            return await self._database.write(work, then=then, job_id=job_id)
        finally:
            self._timed("write", time.perf_counter() - begun)

    async def read(self, work: Work[T]) -> T:
        """See `Database.read`."""
        begun = time.perf_counter()
        try:
            return await self._database.read(work)
        finally:
            self._timed("read", time.perf_counter() - begun)

    async def look_up(self, work: Work[T]) -> T:
        """See `Database.look_up`."""
        return await self._database.look_up(work)

    async def close(self) -> None:
        """See `Database.close`."""
        await self._database.close()
