"""Server-sent events: what happens to one job, or to all of the caller's."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from safelight.api.identity import caller_of
from safelight.api.job_routes import ALL_JOBS, Endpoint, job_id_of, renderer
from safelight.api.jobs import PATHS, JobRenderer, timestamp
from safelight.api.services import Services, services_of
from safelight.application.ports import LogEntry, Mark
from safelight.domain.caller import LINK_HOLDER
from safelight.domain.errors import InvalidRequest, NotFound, StorageError
from safelight.domain.event import EventName, JobEvent, preview_of
from safelight.domain.image import Operation
from safelight.domain.job import JobStatus

log = structlog.get_logger(__name__)

EVENTS = "/v1/async/events"
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""What proxies on the way are asked for: not to keep, change or collect it."""
_HEARTBEAT = b": still here\n\n"
_PREVIEW_LINK = timedelta(days=30)
_EVENT_ID = re.compile(r"(?:([0-9]{1,18})-)?([0-9]{1,18})")
_ENDED = {JobStatus.COMPLETED, JobStatus.FAILED}


def event_routes() -> list[Route]:
    """Of one job, by its own route or that of all; and of all jobs."""
    routes = [Route(EVENTS, _all, methods=["GET"])]
    for path, operation in [*((path, operation) for operation, path in PATHS.items()), (ALL_JOBS, None)]:
        routes.append(Route(f"{path}/{{job_id}}/events", _of_job(operation), methods=["GET"]))
    for route in routes:
        route.methods = {"GET"}
    return routes


def _of_job(operation: Operation | None) -> Endpoint:
    async def of_job(request: Request) -> Response:
        services, after = services_of(request), _after(request)
        job = await services.read.job(job_id_of(request), await caller_of(request), operation)
        show = _Show(services, renderer(request))

        async def stream() -> AsyncIterator[bytes]:
            async for logged in services.follow.job(job.id, after=after[1] if after else 0):
                yield _HEARTBEAT if logged is None else await show.block((0, logged.seq), logged.event)

        return _streamed(stream())

    return of_job


async def _all(request: Request) -> Response:
    services, after, caller = services_of(request), _after(request), await caller_of(request)
    show = _Show(services, renderer(request))

    async def stream() -> AsyncIterator[bytes]:
        async for told in services.follow.jobs(caller, after=after):
            if told is None:
                yield _HEARTBEAT
            elif isinstance(told, LogEntry):
                yield await show.block(told.mark, told.event)
            else:
                yield b"id: %b\n\n" % _id(told)

    return _streamed(stream())


def _streamed(stream: AsyncIterator[bytes]) -> Response:
    """A fault of the storage ends the stream: it can be resumed."""

    async def survived() -> AsyncIterator[bytes]:
        try:
            async for block in stream:
                yield block
        except StorageError as error:
            log.warning("event_stream_ended", error=error.message)

    return StreamingResponse(survived(), headers=_HEADERS, media_type="text/event-stream")


class _Show:
    """Writes events. The same event is always written the same."""

    def __init__(self, services: Services, jobs: JobRenderer) -> None:
        self._services = services
        self._jobs = jobs

    async def block(self, mark: Mark, event: JobEvent) -> bytes:
        """One event with its id, name and data."""
        name, data = await self._told(event)
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (_id(mark), name.encode(), msgspec.json.encode(data))

    async def _told(self, event: JobEvent) -> tuple[str, Any]:
        about = {"job_id": event.job_id, "at": timestamp(event.at)}
        if event.name is EventName.PARTIAL_IMAGE:
            return event.name, {**about, **self._preview(event)}
        if event.name is not EventName.JOB:
            return event.name, {**about, **event.data}
        attempt = event.data.get("attempt")
        if event.data["status"] in _ENDED:
            return event.name, await self._end(event)
        if attempt is not None and attempt["state"] != "started":
            return "attempt", {**about, **attempt}
        return event.name, {"id": event.job_id, **about, **event.data}

    def _preview(self, event: JobEvent) -> dict[str, Any]:
        """A picture as it looks by now, as a link; it leads nowhere any more once the job is gone."""
        image, data = preview_of(event), event.data
        return {
            "index": data["index"],
            "partial_index": data["partial_index"],
            "url": self._jobs.link(image, expires_at=event.at + _PREVIEW_LINK),
            "content_type": image.content_type,
            "width": image.dimensions.width,
            "height": image.dimensions.height,
        }

    async def _end(self, event: JobEvent) -> Any:
        """The final body; of an end before a retry, or of a job that is gone, what the log says."""
        try:
            job = await self._services.read.job(event.job_id, LINK_HOLDER)
        except NotFound:
            job = None
        if job is not None and job.completed_at == event.at:
            return self._jobs.listed(job)
        return {"id": event.job_id, "job_id": event.job_id, "at": timestamp(event.at), **event.data}


def _id(mark: Mark) -> bytes:
    era, number = mark
    return b"%d-%d" % (era, number) if era else b"%d" % number


def _after(request: Request) -> Mark | None:
    """Where to go on: the id of the last event that the caller has; an empty one is none."""
    for name, text in (
        ("last_event_id", request.query_params.get("last_event_id")),
        ("Last-Event-ID", request.headers.get("last-event-id")),
    ):
        if text:
            found = _EVENT_ID.fullmatch(text)
            if found is None:
                raise InvalidRequest(f"{name} must be the id of an event", param=name)
            return int(found[1] or 0), int(found[2])
    return None
