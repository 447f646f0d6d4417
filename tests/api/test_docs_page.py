import re

import pytest
import yaml
from starlette.applications import Starlette

from safelight.api.docs import ASSETS, HERE, docs_routes, openapi_document
from tests.api.asgi import request

APP = Starlette(routes=docs_routes())


async def test_description_is_the_yaml_as_json() -> None:
    answer = await request(APP, "GET", "/openapi.json")

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    written = yaml.safe_load((HERE / "openapi.yaml").read_text())
    written["info"]["version"] = openapi_document()["info"]["version"]
    assert answer.json() == written


async def test_description_can_be_embedded_below_a_prefix() -> None:
    """No address in it, so that it works behind any proxy."""
    answer = await request(APP, "GET", "/openapi.json")

    assert [server["url"] for server in answer.json()["servers"]] == ["/"]


@pytest.mark.parametrize("path", ["/openapi.json", *(f"/docs/{name}" for name in ASSETS)])
async def test_what_is_held_already_is_not_sent_again(path: str) -> None:
    first = await request(APP, "GET", path)
    etag = first.headers["etag"]

    for held in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = await request(APP, "GET", path, headers={"If-None-Match": held})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == etag
    assert (await request(APP, "GET", path, headers={"If-None-Match": '"other"'})).status == 200


async def test_page_loads_only_what_is_served_beside_it() -> None:
    page = await request(APP, "GET", "/docs")

    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert {f"docs/{name}" for name in ASSETS} < set(links)
    for link in set(links) - {"data:,"}:
        assert (await request(APP, "GET", f"/{link}")).status == 200


async def test_page_needs_no_inline_script_or_style() -> None:
    page = await request(APP, "GET", "/docs")

    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|https?://", page.body.decode())


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("swagger-ui-bundle.js", "text/javascript"), ("docs.js", "text/javascript"), ("docs.css", "text/css")],
)
async def test_asset_has_its_type(name: str, media_type: str) -> None:
    answer = await request(APP, "GET", f"/docs/{name}")

    assert answer.status == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.body


@pytest.mark.parametrize("name", ["docs.html", "swagger-ui.js", "index.css", "..%2Fopenapi.yaml", "%2e%2e/docs.py", ""])
async def test_nothing_else_of_either_folder_is_given_out(name: str) -> None:
    answer = await request(APP, "GET", f"/docs/{name}")

    assert answer.status in {404, 307}
    assert b"openapi" not in answer.body


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/docs.js"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "DELETE"])
async def test_other_methods_are_refused_with_allow(method: str, path: str) -> None:
    answer = await request(APP, method, path)

    assert answer.status == 405
    assert answer.headers["allow"] == "GET"
