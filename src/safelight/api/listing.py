"""Lists and counts of the caller's jobs."""

import contextlib
from datetime import datetime

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api import fields
from safelight.api.details import Detail, wanted_details
from safelight.api.errors import json_response
from safelight.api.identity import caller_of
from safelight.api.job_routes import ALL_JOBS, renderer
from safelight.api.services import services_of
from safelight.application.ports import JobFilter
from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import ProviderName
from safelight.domain.image import Operation
from safelight.domain.job import JobHistory, JobStatus

_MOST, _USUAL = 200, 50
_LABEL = "metadata."


def listing_routes() -> list[Route]:
    """The list, and the counts by status."""
    routes = [
        Route(ALL_JOBS, _list, methods=["GET"]),
        Route(f"{ALL_JOBS}/counts", _counts, methods=["GET"]),
    ]
    for route in routes:
        route.methods = {"GET"}
    return routes


async def _list(request: Request) -> Response:
    wanted = wanted_details(request.query_params)
    if Detail.LEDGER in wanted:
        raise InvalidRequest("a list has no ledgers: ask for one job's", param="expand")
    page, show = await services_of(request).read.jobs(await _wanted(request)), renderer(request).described
    jobs = [show(JobHistory(job=job), wanted) for job in page.jobs]
    return json_response({"object": "list", "data": jobs, "next_cursor": page.next_cursor})


async def _counts(request: Request) -> Response:
    counts = await services_of(request).read.counts(await _wanted(request))
    return json_response({status.value: count for status, count in counts.items()})


async def _wanted(request: Request) -> JobFilter:
    """Read the filters."""
    query = request.query_params
    for name, value in query.items():
        if "\x00" in name or "\x00" in value:
            raise InvalidRequest(f"{name[:100]} must not hold NUL characters", param=name[:100])
    provider = query.get("provider")
    return JobFilter(
        caller=await caller_of(request),
        status=_status(query.get("status")),
        operation=_operation(query.get("type")),
        model=query.get("model"),
        provider=None if provider is None else ProviderName(provider),
        created_after=_moment(query, "created_after"),
        created_before=_moment(query, "created_before"),
        error_code=query.get("error_code"),
        idempotency_key=query.get("idempotency_key"),
        metadata=fields.labels(
            {name.removeprefix(_LABEL): value for name, value in query.items() if name.startswith(_LABEL)}
        ),
        cursor=query.get("cursor"),
        limit=_limit(query.get("limit")),
    )


def _status(word: str | None) -> JobStatus | None:
    try:
        return None if word is None else JobStatus(word)
    except ValueError as error:
        raise InvalidRequest(f"status must be one of {', '.join(JobStatus)}", param="status") from error


def _operation(word: str | None) -> Operation | None:
    try:
        return None if word is None else Operation(word)
    except ValueError as error:
        raise InvalidRequest(f"type must be one of {', '.join(Operation)}", param="type") from error


def _moment(query: QueryParams, name: str) -> datetime | None:
    text = query.get(name)
    if text is None:
        return None
    moment = None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise InvalidRequest(f"{name} must be a time with its zone, such as 2026-11-23T10:00:00Z", param=name)
    return moment


def _limit(text: str | None) -> int:
    if text is None:
        return _USUAL
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= _MOST):
        raise InvalidRequest(f"limit must be a whole number from 1 to {_MOST}", param="limit")
    return int(text)
