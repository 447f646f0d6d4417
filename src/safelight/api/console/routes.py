"""Serves the console at `/`, and its files beside it."""

from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.assets import ASSET_HEADERS, MEDIA_TYPES, PAGE_HEADERS, answer, entity_tag

_FOLDER = Path(__file__).parent / "static"
_PAGE = "index.html"


def console_routes() -> list[Route]:
    """`/` and `/console/{asset}`, for GET alone."""
    routes = [Route("/", _page, methods=["GET"]), Route("/console/{asset}", _asset, methods=["GET"])]
    for route in routes:
        route.methods = {"GET"}
    return routes


def asset_names() -> list[str]:
    """All that `/console/{asset}` gives out."""
    return sorted(path.name for path in _FOLDER.iterdir() if path.name != _PAGE)


# Plain functions: Starlette runs them in a thread, so reading files does not hold up the event loop.


def _page(request: Request) -> Response:
    body, etag = _read(_PAGE)
    return answer(request, body=body, etag=etag, media_type=MEDIA_TYPES[".html"], headers=PAGE_HEADERS)


def _asset(request: Request) -> Response:
    name = request.path_params["asset"]
    if name not in asset_names():
        raise HTTPException(404, "file not found or expired")
    body, etag = _read(name)
    return answer(request, body=body, etag=etag, media_type=MEDIA_TYPES[Path(name).suffix], headers=ASSET_HEADERS)


@cache
def _read(name: str) -> tuple[bytes, str]:
    body = (_FOLDER / name).read_bytes()
    return body, entity_tag(body)
