"""Who may administer the gateway: whoever has the admin key or, where there is none, this machine's own user."""

import hmac
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from yarl import URL

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PROXY_HEADERS = ("forwarded", "x-forwarded-for")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDoor:
    """Guards everything under `/api`."""

    key: str | None = field(repr=False)
    loopback: bool
    """Whether the gateway listens on this machine alone."""

    def knows(self, request: HTTPConnection) -> bool:
        """Whether the request shows the admin key."""
        return self.key is not None and self.fault(request) is None

    def fault(self, request: HTTPConnection) -> str | None:
        """Why this request may not administer; `None` when it may."""
        if self.key is None:
            return self._foreign(request)
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(shown.strip().encode(), self.key.encode())
        return None if known and scheme.lower() == "bearer" else "the admin key is required: Authorization: Bearer KEY"

    def _foreign(self, request: HTTPConnection) -> str | None:
        """Without a key, the address is all there is: it must be ours, and no web page or proxy may stand between."""
        if not self.loopback or any(name in request.headers for name in _PROXY_HEADERS):
            return "administration needs an admin key here: set auth.admin_key"
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if _host(host) not in _LOOPBACK or (origin is not None and origin != f"http://{host}"):
            return "without an admin key, administration is for programs and pages of this machine: set auth.admin_key"
        return None


def _host(text: str) -> str | None:
    try:
        return URL(f"http://{text}").host
    except ValueError:
        return None
