"""The console as it is served: whole, from this gateway alone, and without inline code."""

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette

from safelight.api.console import routes
from tests.api.asgi import request

APP = Starlette(routes=routes.console_routes())
STATIC = Path(routes.__file__).parent / "static"
SOURCES = sorted(STATIC.iterdir())


async def test_page_loads_only_what_is_served_beside_it() -> None:
    page = await request(APP, "GET", "/")

    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = set(re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode())) - {"docs"}
    assert "console/main.js" in links
    for link in links:
        assert (await request(APP, "GET", f"/{link}")).status == 200


async def test_page_allows_no_inline_code_and_no_other_address() -> None:
    page = await request(APP, "GET", "/")

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page.body.decode())


@pytest.mark.parametrize("name", routes.asset_names())
async def test_asset_has_its_type_and_is_not_sent_twice(name: str) -> None:
    answer = await request(APP, "GET", f"/console/{name}")

    assert answer.status == 200
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[Path(name).suffix])
    again = await request(APP, "GET", f"/console/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_names_another_host_or_reads_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")

    assert {host for host in re.findall(r"https?://([^/\"]+)", text) if not host.endswith(".example")} == set()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


@pytest.mark.parametrize("path", [each for each in SOURCES if each.suffix == ".js"], ids=lambda path: path.name)
def test_modules_import_files_that_there_are(path: Path) -> None:
    imported = re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8"))

    assert set(imported) <= set(routes.asset_names())


@pytest.mark.parametrize("name", ["index.html", "routes.py", "..%2Froutes.py", "%2e%2e/routes.py", ""])
async def test_nothing_else_is_given_out(name: str) -> None:
    assert (await request(APP, "GET", f"/console/{name}")).status in {404, 307}


@pytest.mark.parametrize("path", ["/", "/console/main.js"])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_other_methods_are_refused_with_allow(method: str, path: str) -> None:
    answer = await request(APP, method, path)

    assert (answer.status, answer.headers["allow"]) == (405, "GET")
