"""The HTTP application: finds the endpoint of a request, and turns what it raises into the one shape of errors.

Routes are Starlette's, and so are requests and responses; the way between them is our own. Starlette's walks through
every route and two layers of exception handling, twice: most of what a poll of a running job costs.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from safelight.api.batches import batch_routes
from safelight.api.callbacks import callback_routes
from safelight.api.console.routes import console_routes
from safelight.api.docs import docs_routes
from safelight.api.errors import error_response
from safelight.api.estimate import estimate_routes
from safelight.api.events import event_routes
from safelight.api.files import file_routes
from safelight.api.governance import governance_routes
from safelight.api.headers import NamedHeaders
from safelight.api.images import image_routes
from safelight.api.job_routes import job_routes
from safelight.api.listing import listing_routes
from safelight.api.metrics import metrics_routes
from safelight.api.operations import operation_routes
from safelight.api.service import service_routes
from safelight.api.services import Services
from safelight.api.webhooks import webhook_routes

Endpoint = Callable[[Request], Awaitable[Response]]
_Methods = dict[str, Endpoint]
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer: nothing is guessed, links that are signed do not leak, no page of others shows ours."""


class Api:
    """The ASGI application. Whoever starts the services also stops them."""

    def __init__(self, services: Services, *, routes: Sequence[Route] | None = None) -> None:
        """`services` is what the endpoints use; `routes` are all that there are, unless they are given."""
        self.services = services
        self._access = services.access
        self.routes = routes or [
            *image_routes(),
            *job_routes(),
            *batch_routes(),
            *listing_routes(),
            *event_routes(),
            *file_routes(),
            *callback_routes(),
            *governance_routes(),
            *service_routes(),
            *estimate_routes(),
            *metrics_routes(),
            *operation_routes(),
            *webhook_routes(),
            *docs_routes(),
            *console_routes(),
        ]
        self._table = RouteTable(self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self
        request = _Request(scope, receive)
        begun, status = self._access.begins(scope), 500
        try:
            try:
                response = await self._table.endpoint(scope)(request)
            except Exception as error:  # noqa: BLE001 - each gets its answer, whatever it is
                response = error_response(request, error)
            status = response.status_code
            response.raw_headers += _SECURITY_HEADERS
            await response(scope, receive, send)
        finally:
            self._access.ended(scope, status, begun)


class _Request(Request):
    """Starlette's, with headers that are found faster."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self._named = NamedHeaders(scope)

    @property
    def headers(self) -> NamedHeaders:
        """What the request's headers say."""
        return self._named


class RouteTable:
    """Finds endpoints: by the whole path, by all but its last part, or else by going through the other routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """The order of the routes does not matter: none of them hides another."""
        self._exact: dict[str, _Methods] = {}
        self._by_parent: dict[str, tuple[str, _Methods, str]] = {}
        self._others: dict[str, tuple[Route, _Methods]] = {}
        for route in routes:
            self._methods_of(route).update(dict.fromkeys(route.methods or (), _asynchronous(route.endpoint)))

    def _methods_of(self, route: Route) -> _Methods:
        parent, _, last = route.path.rpartition("/")
        if "{" not in route.path:
            return self._exact.setdefault(route.path, {})
        if "{" not in parent and last == f"{{{last[1:-1]}}}" and ":" not in last:
            return self._by_parent.setdefault(parent, (last[1:-1], {}, route.path))[1]
        return self._others.setdefault(route.path, (route, {}))[1]

    def endpoint(self, scope: Scope) -> Endpoint:
        """The endpoint of a request, its path's parameters put into the scope. Raises `HTTPException` 404 and 405."""
        methods, parameters, scope["template"] = self._found(scope["path"])
        scope["path_params"] = parameters
        endpoint = methods.get(scope["method"])
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        return endpoint

    def _found(self, path: str) -> tuple[_Methods, Mapping[str, Any], str]:
        """The endpoints of a path, its parameters, and the path with their names in the place of their values."""
        if (methods := self._exact.get(path)) is not None:
            return methods, {}, path
        parent, _, last = path.rpartition("/")
        if last and (found := self._by_parent.get(parent)) is not None:
            return found[1], {found[0]: last}, found[2]
        for route, methods in self._others.values():
            if match := route.path_regex.fullmatch(path):
                parameters = match.groupdict().items()
                values = {name: route.param_convertors[name].convert(value) for name, value in parameters}
                return methods, values, route.path
        raise HTTPException(404)


def _asynchronous(endpoint: Callable[[Request], Any]) -> Endpoint:
    """An endpoint that is a plain function reads files: it runs in a thread."""
    if iscoroutinefunction(endpoint):
        return endpoint

    async def run(request: Request) -> Response:
        return cast("Response", await run_in_threadpool(endpoint, request))

    return run
