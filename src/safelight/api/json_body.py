"""Reads the small JSON bodies of the administration."""

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from safelight.api.body import UnsupportedContentType, body_chunks
from safelight.api.services import services_of
from safelight.domain.errors import InvalidRequest

T = TypeVar("T")

_MOST_BYTES = 256 * 1024


async def json_body(request: Request, kind: type[T], *, empty: T | None = None) -> T:
    """Read a body of this kind; `empty` takes the place of none at all. Raises `InvalidRequest`, `BodyError`."""
    limits = services_of(request).limits
    chunks = body_chunks(request, limit_bytes=_MOST_BYTES, idle_timeout_s=limits.body_idle_timeout_s)
    text = b"".join([chunk async for chunk in chunks])
    if not text and empty is not None:
        return empty
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise UnsupportedContentType("Invalid request payload: Content-Type must be application/json")
    try:
        return msgspec.convert(_with_whole_numbers(msgspec.json.decode(text)), kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"Invalid request payload: {error}") from error


def _with_whole_numbers(value: Any) -> Any:
    """To JSON Schema `4.0` is an integer; to msgspec it is not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _with_whole_numbers(member) for name, member in value.items()}
    return [_with_whole_numbers(member) for member in value] if isinstance(value, list) else value
