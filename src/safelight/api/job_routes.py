"""What can be done with a job that there is: by its id, on the route of its operation or on that of all."""

import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api import headers as said
from safelight.api.details import Detail, wanted_details
from safelight.api.errors import json_response
from safelight.api.identity import caller_of
from safelight.api.jobs import PATHS, JobRenderer, location, running
from safelight.api.links import used_address
from safelight.api.services import Services, services_of
from safelight.application.cancel import Only
from safelight.domain.errors import InvalidRequest, NotFound
from safelight.domain.ids import JobId
from safelight.domain.image import Operation
from safelight.domain.job import Job

Endpoint = Callable[[Request], Awaitable[Response]]

ALL_JOBS = "/v1/async/jobs"
_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def job_routes() -> list[Route]:
    """Each for the jobs of one operation, and for those of any."""
    routes: list[Route] = []
    for path, operation in [*((path, operation) for operation, path in PATHS.items()), (ALL_JOBS, None)]:
        routes.append(Route(f"{path}/{{job_id}}", _one(operation), methods=["GET", "DELETE"]))
        routes.append(Route(f"{path}/{{job_id}}/retry", _retry(operation), methods=["POST"]))
    for route in routes:
        route.methods = (route.methods or set()) - {"HEAD"}
    return routes


def _one(operation: Operation | None) -> Endpoint:
    """A path has one `Route`, so that a wrong method is told of all that it has."""

    async def one(request: Request) -> Response:
        return await (_end if request.method == "DELETE" else _poll)(request, operation)

    return one


async def _poll(request: Request, operation: Operation | None) -> Response:
    services, job_id = services_of(request), job_id_of(request)
    asked_s = None
    if request.scope["query_string"] or "prefer" in request.headers:
        asked_s = said.poll_wait_s(request.query_params, request.headers)
    caller = await caller_of(request)
    job = await services.read.job(job_id, caller, operation)
    if job.status.terminal:
        services.pace.learn(job)
    elif wait_s := services.pace.moment_s(job) if asked_s is None else asked_s:
        job = await services.read.ended(job_id, caller, operation, timeout_s=wait_s)
    if request.scope["query_string"] and (wanted := wanted_details(request.query_params)):
        return await _described(request, job, wanted)
    return await answer(request, job)


async def _described(request: Request, job: Job, wanted: frozenset[Detail]) -> Response:
    services = services_of(request)
    history = await services.read.history(job.id, await caller_of(request))
    body = renderer(request).described(history, wanted)
    if history.job.status.terminal:
        return json_response(body)
    position = await services.read.queue_position(history.job)
    if position is not None:
        body["meta"]["queue_position"] = position
    return json_response(body, 202, {"Retry-After": str(services.pace.ask_again_s(history.job, position))})


def _retry(operation: Operation | None) -> Endpoint:
    async def retry(request: Request) -> Response:
        job = await services_of(request).retry.again(job_id_of(request), await caller_of(request), operation)
        return await still_running(services_of(request), job, headers={"Location": location(job)})

    return retry


async def _end(request: Request, operation: Operation | None) -> Response:
    job_id, caller = job_id_of(request), await caller_of(request)
    job = await services_of(request).cancel.end_or_delete(job_id, caller, operation, only=_only(request))
    return Response(status_code=204) if job is None else await answer(request, job)


def _only(request: Request) -> Only | None:
    text = request.query_params.get("only")
    if text is not None and text not in set(Only):
        raise InvalidRequest(f"only must be one of {', '.join(Only)}", param="only")
    return None if text is None else Only(text)


async def answer(request: Request, job: Job) -> Response:
    """A job as it is."""
    heeded = said.applied(request.headers) if "prefer" in request.headers else {}
    if job.status.terminal:
        return await renderer(request).finished(job, headers=heeded)
    return await still_running(services_of(request), job, headers=heeded)


async def still_running(services: Services, job: Job, *, headers: Mapping[str, str]) -> Response:
    """202, with when to ask again."""
    position = await services.read.queue_position(job)
    again_s = services.pace.ask_again_s(job, position)
    return running(job, headers={"Retry-After": str(again_s), **headers}, queue_position=position)


def renderer(request: Request) -> JobRenderer:
    """Makes answers with links to the address that the caller used."""
    services = services_of(request)
    return JobRenderer(
        blobs=services.blobs,
        links=services.links,
        providers=services.providers,
        base_url=lambda: used_address(request),
    )


def job_id_of(request: Request) -> JobId:
    """The id in the path; what cannot be one names no job."""
    job_id = request.path_params["job_id"]
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound("job not found or expired")
    return JobId(job_id)
