"""The API's description: `/openapi.json` from the YAML beside this file, and `/docs` to read and try it.

The page is ours; Swagger UI comes from the installed package `swagger-ui-py`. Nothing is loaded from elsewhere.
"""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.assets import ASSET_HEADERS, MEDIA_TYPES, PAGE_HEADERS, answer, entity_tag

HERE = Path(__file__).parent

ASSETS = ("docs.css", "docs.js", "swagger-ui-bundle.js", "swagger-ui.css")
"""All that `/docs/{asset}` gives out; the package holds much more."""


def docs_routes() -> list[Route]:
    """`/openapi.json`, `/docs` and `/docs/{asset}`, for GET alone."""
    routes = [
        Route("/openapi.json", _openapi_json, methods=["GET"]),
        Route("/docs", _docs_page, methods=["GET"]),
        Route("/docs/{asset}", _docs_asset, methods=["GET"]),
    ]
    for route in routes:
        route.methods = {"GET"}  # Starlette adds HEAD, which the description does not have
    return routes


@cache
def openapi_document() -> dict[str, Any]:
    """Read the description, with the installed version in it. Shared by all callers: do not change it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = cast("dict[str, Any]", yaml.load((HERE / "openapi.yaml").read_bytes(), Loader=loader))  # noqa: S506 - both loaders are safe
    document["info"]["version"] = version("safelight")
    return document


# Plain functions: Starlette runs them in a thread, so reading and parsing files does not hold up the event loop.


def _openapi_json(request: Request) -> Response:
    body, etag = _openapi_bytes()
    return answer(request, body=body, etag=etag, media_type="application/json", headers={"Cache-Control": "no-cache"})


def _docs_page(_: Request) -> Response:
    return Response((HERE / "page" / "docs.html").read_bytes(), headers=PAGE_HEADERS, media_type="text/html")


def _docs_asset(request: Request) -> Response:
    path = _asset_path(request.path_params["asset"])
    if path is None:
        raise HTTPException(404, "file not found or expired")
    body = path.read_bytes()  # not kept: 1.5 MB that hardly anybody asks for
    return answer(request, body=body, etag=entity_tag(body), media_type=MEDIA_TYPES[path.suffix], headers=ASSET_HEADERS)


@cache
def _openapi_bytes() -> tuple[bytes, str]:
    body = msgspec.json.encode(openapi_document())
    return body, entity_tag(body)


def _asset_path(name: str) -> Path | None:
    if name not in ASSETS:
        return None
    folder = HERE / "page" if name.startswith("docs.") else _swagger_ui_folder()
    path = folder / name if folder else None
    return path if path and path.is_file() else None


@cache
def _swagger_ui_folder() -> Path | None:
    """Where the package keeps its files; found without importing it, as it would pull in a template engine."""
    spec = find_spec("swagger_ui")
    return Path(spec.origin).parent / "static" if spec and spec.origin else None
