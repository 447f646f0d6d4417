"""What goes on as long as the process does."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

_PAUSE_S = 1.0


async def keep_going(
    name: str, work: Callable[[], Awaitable[None]], *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Do `work` until it ends by itself. After a fault of our own it begins anew, for nobody would see that it has stopped."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("work_crashed", work=name, again_in_s=_PAUSE_S)
            await pause(_PAUSE_S)
