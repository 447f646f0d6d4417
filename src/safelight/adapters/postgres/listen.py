"""Hears what other processes have committed: LISTEN and NOTIFY, on one connection a process."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from safelight.adapters.postgres.database import CONNECT_TIMEOUT_S, Connection
from safelight.adapters.postgres.faults import translated
from safelight.domain.errors import StorageError

log = structlog.get_logger(__name__)

EVENTS = "safelight_events"
"""The channel on which the trigger of the events table tells whose event it was."""

DELIVERIES = "safelight_outbox"
"""The channel on which the trigger of the outbox tells that there is something to deliver."""

_RECONNECT_S = 0.2
_PING_EVERY_S = 10.0
_PING_TIMEOUT_S = 5.0
_NOW = "SELECT clock_timestamp()"
_SESSION = {"application_name": "safelight listener"}


class Listener:
    """Calls back for what it hears. After a gap it calls `missed`: whoever waits must look for himself."""

    def __init__(
        self,
        url: str,
        heard: Mapping[str, Callable[[str], None]],
        *,
        missed: Callable[[], None],
        told_time: Callable[[datetime, float], None],
    ) -> None:
        """`heard` by channel. `told_time` gets the database's time now and then, with the seconds that asking took."""
        self._url = url
        self._heard = heard
        self._missed = missed
        self._told_time = told_time

    async def run(self) -> None:
        """Listen until cancelled; connects again after each fault."""
        while True:
            try:
                await self._listen()
            except Exception as error:
                if not isinstance(translated(error), StorageError):
                    raise
                log.warning("listener_cut_off", error=str(error) or type(error).__name__)
            await asyncio.sleep(_RECONNECT_S)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT_S, server_settings=_SESSION)
        try:
            gone = asyncio.Event()
            connection.add_termination_listener(lambda _: gone.set())
            for channel, heard in self._heard.items():
                await connection.add_listener(channel, _relay(heard))
            self._missed()
            while not gone.is_set():
                await self._ping(connection)
                await _wait(gone, _PING_EVERY_S)
        finally:
            connection.terminate()

    async def _ping(self, connection: Connection) -> None:
        """Find out whether the server is still there, and what time it has."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        now: datetime = await connection.fetchval(_NOW, timeout=_PING_TIMEOUT_S)
        self._told_time(now, loop.time() - asked_at)


def _relay(heard: Callable[[str], None]) -> Callable[..., None]:
    def relay(_connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        heard(str(payload))

    return relay


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
