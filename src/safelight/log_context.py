"""Which request, job and trace a log line is about. Costs next to nothing until a line is written."""

from collections.abc import Callable
from contextvars import ContextVar

from structlog.typing import EventDict, WrappedLogger

current_request: ContextVar[Callable[[], str] | None] = ContextVar("current_request", default=None)
"""Gives the id of the request that this task answers."""
current_job: ContextVar[str | None] = ContextVar("current_job", default=None)
"""The job that this task works for."""
current_trace: ContextVar[str | None] = ContextVar("current_trace", default=None)
"""The W3C trace context (`traceparent`) of what this task does, for those who are called on the way."""


def work_for(job_id: str, request_id: str) -> None:
    """Say whom the lines of this task are about from here on."""
    current_job.set(job_id)
    current_request.set(lambda: request_id)


def add_context(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the ids beside what the line says; what it says itself wins."""
    if (request_id := current_request.get()) is not None:
        event.setdefault("request_id", request_id())
    if (job_id := current_job.get()) is not None:
        event.setdefault("job_id", job_id)
    if (trace := current_trace.get()) is not None:
        event.setdefault("trace_id", trace.split("-")[1])
    return event
