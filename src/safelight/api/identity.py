"""Who sent a request."""

from starlette.datastructures import Headers
from starlette.requests import Request

from safelight.api.services import services_of
from safelight.domain.access import Grant
from safelight.domain.caller import ADMINISTRATOR, ANYBODY, Caller
from safelight.domain.errors import AdminRequired

PREFIX = "sk-bf-"
"""How a virtual key begins where other keys could stand in the same header (contract 6.1)."""

_OWN_HEADER = b"x-bf-vk"
_BEARER_HEADER = b"authorization"
_SHARED_HEADERS = (b"x-api-key", b"x-goog-api-key", b"api-key")
_KEY_HEADERS = frozenset({_OWN_HEADER, _BEARER_HEADER, *_SHARED_HEADERS})


async def caller_of(request: Request) -> Caller:
    """Tell who asks: a virtual key, the administrator, or anybody. Raises `KeyUnknown`, `AccessBlocked`."""
    grant = await grant_of(request)
    if grant is not None:
        return grant.caller
    return ADMINISTRATOR if services_of(request).admin.knows(request) else ANYBODY


async def grant_of(request: Request) -> Grant | None:
    """The virtual key that a request shows, `None` where it shows none. Raises `KeyUnknown`, `AccessBlocked`."""
    shown = shown_key(request.headers)
    return await services_of(request).callers.grant(shown) if shown else None


async def submitter_of(request: Request) -> Grant | None:
    """As `grant_of`, where something is to be spent: raises `KeyRequired` as well, but not for the administrator."""
    grant = await grant_of(request)
    services = services_of(request)
    if grant is None and not services.admin.knows(request):
        services.callers.refuse_anybody()
    return grant


def shown_key(headers: Headers) -> str | None:
    """The virtual key in any of the headers that may hold one; `x-bf-vk` wins, and takes keys of any form."""
    found = {name: value.decode("latin-1") for name, value in reversed(headers.raw) if name in _KEY_HEADERS}
    if not found:
        return None
    if own := found.get(_OWN_HEADER, "").strip():
        return own
    scheme, _, token = found.get(_BEARER_HEADER, "").partition(" ")
    candidates = [token if scheme.lower() == "bearer" else "", *(found.get(name, "") for name in _SHARED_HEADERS)]
    return next((text for each in candidates if (text := each.strip()).startswith(PREFIX)), None)


async def require_admin(request: Request) -> None:
    """Let an administrator pass; raises `AdminRequired` for everybody else."""
    fault = services_of(request).admin.fault(request)
    if fault is not None:
        raise AdminRequired(fault)
