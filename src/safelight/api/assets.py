"""Files of our own pages: strict headers, and an entity tag so that nothing is sent twice."""

from collections.abc import Mapping
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

ASSET_HEADERS = {"Cache-Control": "no-cache"}

PAGE_HEADERS = {
    **ASSET_HEADERS,
    # data: holds Swagger UI's icons, blob: pictures that came as an answer or that the user has chosen.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


def entity_tag(body: bytes) -> str:
    """The same for the same bytes."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def answer(request: Request, *, body: bytes, etag: str, media_type: str, headers: Mapping[str, str]) -> Response:
    """The bytes, or 304 for whoever holds them already."""
    headers = {**headers, "ETag": etag}
    if _matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _matches(if_none_match: str, etag: str) -> bool:
    held = {item.strip().removeprefix("W/") for item in if_none_match.split(",")}
    return etag in held or "*" in held
