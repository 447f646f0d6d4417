"""Pausing a provider, in all processes: the record is in the database, and each process looks at it again and again."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from safelight.application.ports import Clock, JobStore, Queue
from safelight.domain.errors import StorageError
from safelight.domain.ids import ProviderName
from safelight.domain.switch import Switch

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0
_PAGE = 2000


class SwitchStore(Protocol):
    """Keeps the switches that are not on."""

    async def switches(self) -> Mapping[ProviderName, Switch]:
        """Read all. Raises `StorageError`."""
        ...

    async def set_switch(self, provider: ProviderName, switch: Switch, at: datetime) -> None:
        """Write one. Raises `StorageError`."""
        ...


@dataclass(slots=True, kw_only=True)
class Switches:
    """What this process knows of them: at most two seconds old."""

    store: SwitchStore
    jobs: JobStore
    queue: Queue
    clock: Clock
    _known: Mapping[ProviderName, Switch] = field(default_factory=dict)

    def of(self, provider: ProviderName) -> Switch:
        """How a provider is switched."""
        return self._known.get(provider, Switch.ON)

    async def turn(self, provider: ProviderName, switch: Switch) -> None:
        """Switch it, here at once and elsewhere soon. Raises `StorageError`."""
        await self.store.set_switch(provider, switch, self.clock.now())
        log.warning("provider_switched", provider=provider, switch=switch.value)
        await self.look()
        if switch is Switch.ON:
            await self._wake(provider)

    async def _wake(self, provider: ProviderName) -> None:
        """Bring forward what waits for it. What other processes keep in memory comes in its own time."""
        after, now = (0, 0), self.clock.now()
        while page := await self.jobs.due(limit=_PAGE, after=after):
            for place, job_id, lane, *_ in page:
                after = place
                if lane == provider:
                    self.queue.wake(job_id, lane=lane, at=now)

    async def look(self) -> None:
        """Read them anew. Raises `StorageError`."""
        self._known = await self.store.switches()

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.look()
            except StorageError as error:
                log.warning("switches_not_read", error=error.message)
            await asyncio.sleep(_LOOK_EVERY_S)
