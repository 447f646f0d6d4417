"""Images by signed link, with `ETag` and `Range` (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from safelight.api.errors import error_body, json_response
from safelight.api.jobs import stored_bytes
from safelight.api.links import EXTENSIONS
from safelight.api.services import services_of
from safelight.domain.errors import NotFound
from safelight.domain.ids import JobId
from safelight.domain.image import StoredImage

_RANGE = re.compile(r"bytes=(?=.*[0-9])([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_EXPIRES = re.compile(r"[0-9]{1,18}")
_DIRECT_S = 600.0
_REUSE_S = 60
_GONE = "file not found or expired"


def file_routes() -> list[Route]:
    """`GET` and `HEAD` of an image."""
    return [Route("/v1/files/{job_id}/{name}", _file, methods=["GET", "HEAD"])]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Bytes `start` to `end`, exclusive."""

    start: int
    end: int


async def _file(request: Request) -> Response:
    services = services_of(request)
    job_id, name = JobId(request.path_params["job_id"]), request.path_params["name"].partition(".")[0]
    expires = request.query_params.get("expires", "")
    signature = request.query_params.get("signature", "")
    if not _EXPIRES.fullmatch(expires) or not services.links.valid(job_id, name, expires=expires, signature=signature):
        return json_response(error_body(message="the link is not signed by this gateway", status=403), 403)
    left_s = int(expires) - int(services.read.clock.now().timestamp())
    if left_s <= 0:
        raise NotFound(_GONE)
    image = await services.read.image(job_id, name)
    headers = {
        "ETag": f'"{image.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": f"private, max-age={left_s}, immutable",
        "Content-Disposition": f'inline; filename="{name}.{EXTENSIONS[image.content_type]}"',
    }
    if _holds(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        length = {"Content-Length": str(image.size_bytes)}
        return Response(None, 200, {**headers, **length}, image.content_type)
    if (direct := await _direct(request, image, left_s)) is not None:
        return direct
    return await _bytes(request, image, headers)


async def _direct(request: Request, image: StoredImage, left_s: int) -> Response | None:
    """Send whoever asks to the store itself, where it can sign.

    Our own link lives as long as the job, a store's at most a week, and not longer than the credentials that made it;
    so each gets a fresh one, which needs to last for this one fetch. Pages of ours show images of ours alone.
    """
    if request.headers.get("sec-fetch-site") == "same-origin":
        return None
    link = await services_of(request).blobs.link(image.blob, lifetime_s=min(left_s, _DIRECT_S))
    if link is None:
        return None
    return Response(status_code=307, headers={"Location": link, "Cache-Control": f"private, max-age={_REUSE_S}"})


async def _bytes(request: Request, image: StoredImage, headers: dict[str, str]) -> Response:
    asked = request.headers.get("range", "")
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        asked = ""
    status, span = 200, _Span(start=0, end=image.size_bytes)
    if found := _RANGE.fullmatch(asked):
        status, span = 206, _span(found.group(1), found.group(2), image.size_bytes)
        if span.start >= span.end:
            refusal = error_body(message="the range lies outside the file", status=416)
            return json_response(refusal, 416, {"Content-Range": f"bytes */{image.size_bytes}"})
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{image.size_bytes}"
    headers["Content-Length"] = str(span.end - span.start)
    chunks = stored_bytes(services_of(request).blobs, image.blob, start=span.start, end=span.end)
    first = await anext(chunks)  # a blob that cannot be read is told before the answer has begun
    return StreamingResponse(_joined(first, chunks), status, headers, image.content_type)


def _span(first: str, last: str, size: int) -> _Span:
    """Read `first-last`, both inclusive; `-N` means the last N bytes. An empty span is out of range."""
    if not first:
        return _Span(start=max(0, size - int(last)), end=size)
    return _Span(start=int(first), end=min(size, int(last) + 1) if last else size)


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _holds(if_none_match: str, etag: str) -> bool:
    held = {item.strip().removeprefix("W/") for item in if_none_match.split(",")}
    return etag in held or "*" in held
