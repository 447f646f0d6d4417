"""`/metrics`, for Prometheus."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.identity import require_admin
from safelight.api.services import services_of

_CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


def metrics_routes() -> list[Route]:
    """`/metrics`, for GET alone."""
    route = Route("/metrics", _metrics, methods=["GET"])
    route.methods = {"GET"}
    return [route]


async def _metrics(request: Request) -> Response:
    services = services_of(request)
    if services.metrics.protected:
        await require_admin(request)
    return Response(await services.metrics.page(), media_type=_CONTENT_TYPE)
