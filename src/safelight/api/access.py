"""What is told of each request: a line in the log, a time for the metrics, and its id on every line between."""

import time
from collections.abc import Callable, MutableMapping
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

import structlog
from starlette.datastructures import Headers
from starlette.types import Scope

from safelight.api import headers as said
from safelight.log_context import current_job, current_request, current_trace

log = structlog.get_logger("safelight.access")

Served = Callable[[str, str, int, float], None]
"""Takes the route's template, the method, the status and the seconds that the whole answer took."""

_SLOW_S = 1.0
_NOWHERE = "none"


class AccessLog(StrEnum):
    """Which requests get a line."""

    ALL = "all"
    CHANGES = "changes"
    """All but reads that went well within a second: those are polls, and there are many."""
    NONE = "none"

    def wants(self, method: str, status: int, seconds: float) -> bool:
        """Whether this request gets one."""
        if self is AccessLog.CHANGES:
            return method not in {"GET", "HEAD"} or status >= 400 or seconds >= _SLOW_S
        return self is AccessLog.ALL


class RequestSpans(Protocol):
    """Traces requests."""

    def begin(self, scope: Scope) -> Any | None:
        """Open the span of a request; `None` for one that is not traced."""
        ...

    def end(self, span: Any, *, method: str, template: str, status: int) -> None:
        """Close it."""
        ...


class Access:
    """Told of the begin and the end of each request."""

    def __init__(
        self, *, served: Served = lambda *_: None, kept: AccessLog = AccessLog.NONE, spans: RequestSpans | None = None
    ) -> None:
        """`served` hears of every request, the log of those that are `kept`, `spans` of all, where there are any."""
        self._served = served
        self._kept = kept
        self._spans = spans

    def begins(self, scope: Scope) -> float:
        """Name the request on every line to come; gives the moment for `ended`."""
        current_request.set(partial(request_id_of, scope))
        current_job.set(None)  # a connection answers one request after the other
        if self._spans is not None:
            current_trace.set(None)
            scope["span"] = self._spans.begin(scope)
        return time.perf_counter()

    def ended(self, scope: Scope, status: int, begun: float) -> None:
        """The answer has gone out."""
        seconds, method = time.perf_counter() - begun, scope["method"]
        template = scope.get("template", _NOWHERE)
        self._served(template, method, status, seconds)
        if self._kept.wants(method, status, seconds):
            _tell(scope, method, status, seconds)
        if self._spans is not None and scope["span"] is not None:
            self._spans.end(scope["span"], method=method, template=template, status=status)


def _tell(scope: Scope, method: str, status: int, seconds: float) -> None:
    """The path alone, never the query: a signed link's signature stands there."""
    job_id = scope.get("path_params", {}).get("job_id")
    of_job = {"job_id": job_id} if job_id else {}
    log.info(
        "request", method=method, path=scope["path"], status=status, duration_ms=round(seconds * 1000, 1), **of_job
    )


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The caller's own name of the request, or one that is made when it is first asked for."""
    known: str | None = scope.get("request_id")
    if known is None:
        known = scope["request_id"] = said.request_id(Headers(scope=scope))
    return known
