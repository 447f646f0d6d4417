"""Every error in the contract's one shape, `BifrostError`."""

from collections.abc import Mapping
from math import ceil
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from safelight.api.body import BodyError
from safelight.domain.errors import (
    Conflict,
    IdempotencyConflict,
    NotFound,
    PolicyRefusal,
    QueueFull,
    RequestError,
    StorageError,
)
from safelight.domain.job import JobError

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 1
"""What a 429 or a 503 tells the caller to wait."""

_LONGEST_PATH_SHOWN = 200
_TEMPORARY = frozenset({429, 503})


def error_body(
    *,
    message: str,
    status: int,
    gateway_fault: bool = False,
    code: str | None = None,
    type_: str | None = None,
    param: Any = None,
    extra_fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`$defs/HandlerError` of the contract, without empty members."""
    known = {"message": message, "type": type_, "code": code, "param": param}
    return {
        "is_bifrost_error": gateway_fault,
        "status_code": status,
        "error": {name: value for name, value in known.items() if value is not None},
        "extra_fields": dict(extra_fields or {}),
    }


def job_error_body(error: JobError, extra_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The error of a failed job."""
    if error.request_id:
        extra_fields = {**extra_fields, "provider_request_id": error.request_id}
    return error_body(
        message=error.message,
        status=error.status_code,
        gateway_fault=error.gateway_fault,
        code=error.code,
        type_=error.type,
        param=error.param,
        extra_fields=extra_fields,
    )


_REQUEST_STATUS: Mapping[type[RequestError], int] = {NotFound: 404, IdempotencyConflict: 422, Conflict: 409}
"""Of the kinds that are no 400; the first that fits counts."""


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def refused(error: RequestError, extra_fields: Mapping[str, Any] | None = None) -> Response:
    """The caller's fault, in most cases 400."""
    missing = isinstance(error, NotFound)
    status = next((status for kind, status in _REQUEST_STATUS.items() if isinstance(error, kind)), 400)
    body = error_body(
        message=error.message,
        status=status,
        code=None if missing else error.code,
        type_=None if missing else "invalid_request_error",
        param=error.param,
        extra_fields=extra_fields,
    )
    return json_response(body, status)


def retry_after(status: int) -> Mapping[str, str]:
    """The header that 429 and 503 carry (design, beyond the contract 1)."""
    return {"Retry-After": str(RETRY_AFTER_S)} if status in _TEMPORARY else {}


def unavailable(message: str, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """503 with `Retry-After`."""
    body = error_body(message=message, status=503, gateway_fault=True, code=code)
    return json_response(body, 503, {**retry_after(503), **(headers or {})})


def denied(error: PolicyRefusal) -> Response:
    """The gateway's rules forbid it: without `is_bifrost_error`, as the contract has it for these alone (5.6)."""
    status = error.status
    said = {"message": error.message, "type": error.code, **({"code": error.reason} if error.reason else {})}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(ceil(error.retry_after_s))
    if (quota := error.quota) is not None:
        headers["RateLimit-Policy"] = f'"{quota.name}";q={quota.most};w={quota.window_s}'
        headers["RateLimit"] = f'"{quota.name}";r={quota.left};t={ceil(error.retry_after_s or 0)}'
    own = {"is_bifrost_error": True} if isinstance(error, QueueFull) else {}  # it is not the caller's key that is full
    body = {"type": error.code, **own, "status_code": status, "error": said, "extra_fields": {}}
    return json_response(body, status, headers)


def error_response(request: Request, error: Exception) -> Response:
    """The answer to a request whose endpoint raised `error`."""
    match error:
        case RequestError():
            return refused(error)
        case PolicyRefusal():
            return denied(error)
        case HTTPException():
            return _no_route(request, error)
        case StorageError():
            log.warning("storage_failed", error=error.message)
            return unavailable("the storage is not available", error.code)
        case BodyError():
            return _broken_body(error)
        case _:
            log.error("request_crashed", exc_info=error)
            body = error_body(message="internal server error", status=500, gateway_fault=True)
            return json_response(body, 500)


def _no_route(request: Request, error: HTTPException) -> Response:
    """Answer an unknown route or a wrong method."""
    messages = {
        404: f"no route {request.scope['path'][:_LONGEST_PATH_SHOWN]}",
        405: f"method {request.method} is not allowed here",
    }
    message = messages.get(error.status_code, error.detail)
    return json_response(error_body(message=message, status=error.status_code), error.status_code, error.headers)


def _broken_body(error: BodyError) -> Response:
    """Answer a body that could not be read. What is left of it is not read, so the connection ends."""
    body = error_body(message=error.message, status=error.status, type_="invalid_request_error")
    return json_response(body, error.status, {"Connection": "close"})
