"""Where providers call back when work is over. Their own signatures are the only key."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.body import body_chunks
from safelight.api.errors import unavailable
from safelight.api.services import services_of
from safelight.domain.errors import ProviderError
from safelight.domain.ids import JobId, ProviderName

_LARGEST_BYTES = 8 * 1024 * 1024
"""A provider may repeat a whole request in its call, pictures and all."""


def callback_routes() -> list[Route]:
    """`POST` of a provider."""
    return [Route("/v1/callbacks/{provider}/{job_id}", _callback, methods=["POST"])]


async def _callback(request: Request) -> Response:
    services = services_of(request)
    provider, job_id = ProviderName(request.path_params["provider"]), JobId(request.path_params["job_id"])
    services.callback.expects(provider, job_id, request.query_params.get("token", ""))
    chunks = body_chunks(request, limit_bytes=_LARGEST_BYTES, idle_timeout_s=services.limits.body_idle_timeout_s)
    body = b"".join([chunk async for chunk in chunks])
    try:
        await services.callback.apply(provider, job_id, request.headers, body)
    except ProviderError as error:
        return unavailable(f"the callback cannot be checked now: {error.message}", error.code)
    return Response(status_code=204)
