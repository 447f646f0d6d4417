"""Who sent a request."""

from starlette.requests import Request

from safelight.domain.caller import ANYBODY, Caller


async def caller_of(request: Request) -> Caller:
    """Tell who asks. Nobody is asked for a key yet, so it is anybody."""
    del request
    return ANYBODY
