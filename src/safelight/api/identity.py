"""Who sent a request."""

from starlette.requests import Request

from safelight.api.services import services_of
from safelight.domain.caller import ANYBODY, Caller
from safelight.domain.errors import AdminRequired


async def caller_of(request: Request) -> Caller:
    """Tell who asks. Nobody is asked for a key yet, so it is anybody."""
    del request
    return ANYBODY


async def require_admin(request: Request) -> None:
    """Let an administrator pass; raises `AdminRequired` for everybody else."""
    fault = services_of(request).admin.fault(request)
    if fault is not None:
        raise AdminRequired(fault)
