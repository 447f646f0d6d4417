"""How many jobs may wait in the gateway as a whole."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from safelight.application.ports import Clock
from safelight.domain.errors import QueueFull

_COUNT_AGAIN = timedelta(seconds=5)
"""What other processes let in is seen after so long at the latest."""
_RETRY_AFTER_S = 5.0


@dataclass(slots=True, kw_only=True)
class Backlog:
    """Counts in the table when it must: as long as there is room for all that came since the last time, it need not."""

    most: int
    count: Callable[[int], Awaitable[int]]
    """How many jobs wait, up to a number."""
    clock: Clock
    _waiting: int = 0
    """At the last count, and all that came since."""
    _counted_at: datetime | None = field(default=None)

    async def let_in(self) -> None:
        """Take one more job in; raises `QueueFull`, `StorageError`."""
        now = self.clock.now()
        if self._counted_at is None or self._waiting >= self.most or now - self._counted_at >= _COUNT_AGAIN:
            self._counted_at = now
            self._waiting = await self.count(self.most)
        if self._waiting >= self.most:
            raise QueueFull(f"{self.most} jobs wait already, and no more are taken", retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
