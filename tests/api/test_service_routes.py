"""Everything that is no job: unknown routes and methods, storage faults, readiness, models, and files by signed link."""

import asyncio
import hashlib
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec.structs import replace

from safelight.api.docs import openapi_document
from safelight.domain.caller import ANYBODY
from safelight.domain.ids import BlobKey
from tests.api.client import KINDS, SMALL, Client, parts_of
from tests.api.serving import ServedGateway

GONE = "file not found or expired"
OPERATIONS = [
    (path, {method.upper() for method in item} & {"GET", "HEAD", "POST", "PUT", "DELETE"})
    for path, item in openapi_document()["paths"].items()
]


# ------------------------------------------------------------------------------------------------- routes and methods


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/v1",
        "/v1/",
        "/v1/async/images",
        "/v1/async/images/generations/",
        "/v1/async/images/generations/a/b",
        "/v1/async/images/unknown",
        "/v1/images/generations/",
        "/v1/models/",
        "/health/",
        "/v1/../health",
        "/V1/models",
        "/v1/files/",
        "/v1/files/a",
        "/api/anything",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/%00",
        "/" + "x" * 5000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_unknown_route(client: Client, method: str, path: str) -> None:
    reply = await client.ask(method, path)

    if path == "/v1/../health":  # the client itself makes /health of it
        assert reply.status in {200, 405}
    else:
        body = reply.error(404, "no route /")
        assert len(body["error"]["message"]) < 300


@pytest.mark.parametrize(("path", "allowed"), OPERATIONS, ids=[path for path, _ in OPERATIONS])
async def test_other_methods_are_refused_by_name(client: Client, path: str, allowed: set[str]) -> None:
    concrete = re.sub(r"\{[a-z_]+\}", "0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44", path)
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
        reply = await client.ask(method, concrete)

        assert reply.status == 405, method
        assert {name.strip() for name in reply.headers["allow"].split(",")} == allowed
        if method != "HEAD":
            reply.error(405, f"method {method} is not allowed here")


async def test_method_that_nobody_knows(client: Client) -> None:
    reply = await client.ask("BREW", "/v1/models")

    reply.error(reply.status)
    assert reply.status in {400, 405}


# ------------------------------------------------------------------------------------------------------------- health


async def test_health_and_readiness(client: Client) -> None:
    health, ready = await client.get("/health"), await client.get("/ready")

    assert (health.status, health.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json) == (200, {"status": "ready"})


class BrokenConnection:
    """As SQLite fails when the disk does."""

    def execute(self, *_: object) -> sqlite3.Cursor:
        raise sqlite3.OperationalError("disk I/O error")

    def close(self) -> None:
        pass


def break_database(gateway: ServedGateway) -> None:
    """Nothing can be read or written any more, and nothing is remembered."""
    store: Any = gateway.gateway._store
    database = store._database
    gateway.call(database.close)
    database._lookup = BrokenConnection()
    store._memory = type(store._memory)()


def break_blobs(gateway: ServedGateway) -> None:
    """Put a file where the folder was."""
    folder = gateway.settings.storage.data_dir / "blobs"
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")


@pytest.mark.parametrize("break_it", [break_database, break_blobs])
async def test_not_ready_without_storage(
    own_client: Client, own: ServedGateway, break_it: Callable[[ServedGateway], None]
) -> None:
    await asyncio.to_thread(break_it, own)

    reply = await own_client.get("/ready")

    assert reply.error(503, "the storage is not available")["is_bifrost_error"] is True
    assert int(reply.headers["retry-after"]) >= 1
    assert (await own_client.get("/health")).status == 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wait", [True, False], ids=["awaited", "async"])
async def test_database_that_fails_is_503(own_client: Client, own: ServedGateway, kind: str, *, wait: bool) -> None:
    """9.5: never a 404, and no image of a job that is not there."""
    job = await own_client.run(kind)
    kept = set(own.blobs)
    await asyncio.to_thread(break_database, own)

    submitted = await own_client.send(kind, wait=wait)
    polled = await own_client.get(f"/v1/async/images/{kind}/{job['id']}")
    fetched = await own_client.get(job["result"]["data"][0]["url"])

    for reply in (submitted, polled, fetched):
        body = reply.error(503, "the storage is not available")
        assert body["error"]["code"] == "storage_unavailable"
        assert body["is_bifrost_error"] is True
        assert int(reply.headers["retry-after"]) >= 1
    assert set(own.blobs) == kept


async def test_disk_that_takes_no_image_is_503(own_client: Client, own: ServedGateway) -> None:
    await asyncio.to_thread(break_blobs, own)

    for kind in ("edits", "variations"):
        reply = await own_client.send(kind, parts_of(kind))
        reply.error(503, "the storage is not available")
        assert int(reply.headers["retry-after"]) >= 1
    assert own.job_count() == 0


@pytest.mark.parametrize("size", ["16x16", "600x600"])
async def test_picture_that_cannot_be_read_is_told_before_the_answer_begins(
    own_client: Client, own: ServedGateway, size: str
) -> None:
    job = await own_client.run(values={**SMALL, "size": size, "response_format": "b64_json"})
    [blob] = own.blobs
    blob.unlink()
    blob.mkdir()

    reply = await own_client.get(f"/v1/async/images/generations/{job['id']}")

    reply.error(503, "the storage is not available")


# ------------------------------------------------------------------------------------------------------------- models


async def test_models_in_openais_shape(client: Client) -> None:
    reply = await client.get("/v1/models")

    assert reply.json["object"] == "list"
    models = {model["id"]: model for model in reply.json["data"]}
    assert len(models) == len(reply.json["data"])
    sketch = models["builtin/sketch"]
    assert (sketch["object"], sketch["owned_by"]) == ("model", "builtin")
    assert sketch["safelight"]["operations"] == ["image_edit", "image_generation", "image_variation"]
    assert sketch["safelight"]["pixel_rule"] == {"min_side": 16, "max_side": 2048}
    assert models["openai/gpt-image-2"]["safelight"]["response_formats"] == ["b64_json"]


# -------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
async def link(client: Client) -> str:
    """The path and query of a picture's link."""
    url = urlsplit((await client.run(values={**SMALL, "response_format": "url"}))["result"]["data"][0]["url"])
    return f"{url.path}?{url.query}"


async def test_file_by_its_link(client: Client, link: str) -> None:
    reply = await client.get(link)

    assert reply.status == 200
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["etag"] == f'"{hashlib.sha256(reply.body).hexdigest()}"'
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-disposition"].startswith('inline; filename="')
    assert reply.headers["content-disposition"].endswith('.png"')
    assert reply.headers["cache-control"].startswith("private, max-age=")
    head = await client.ask("HEAD", link)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(reply.body)
    assert head.headers["etag"] == reply.headers["etag"]


@pytest.mark.parametrize("held", ["{}", "W/{}", '"x", {}', "*"])
async def test_file_that_is_held_already(client: Client, link: str, held: str) -> None:
    etag = (await client.ask("HEAD", link)).headers["etag"]

    for method in ("GET", "HEAD"):
        reply = await client.ask(method, link, headers={"if-none-match": held.format(etag)})
        assert (reply.status, reply.body) == (304, b"")
        assert reply.headers["etag"] == etag


RANGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("bytes=0-0", lambda whole: whole[:1]),
    ("bytes=0-", lambda whole: whole),
    ("bytes=5-9", lambda whole: whole[5:10]),
    ("bytes=5-999999999999999999", lambda whole: whole[5:]),
    ("bytes=-1", lambda whole: whole[-1:]),
    ("bytes=-999999999999999999", lambda whole: whole),
    ("Bytes=5-9", lambda whole: whole[5:10]),
    ("bytes=0005-0009", lambda whole: whole[5:10]),
]


@pytest.mark.parametrize(("asked", "part"), RANGES)
async def test_part_of_a_file(client: Client, link: str, asked: str, part: Callable[[bytes], bytes]) -> None:
    whole = (await client.get(link)).body

    reply = await client.get(link, headers={"range": asked})

    assert reply.status == 206
    assert reply.body == part(whole)
    start = whole.index(reply.body) if len(reply.body) > 1 else None
    if start is not None:
        assert reply.headers["content-range"] == f"bytes {start}-{start + len(reply.body) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=999999-", "bytes=-0", "bytes=999999999999999999-"])
async def test_part_outside_a_file(client: Client, link: str, asked: str) -> None:
    size = int((await client.ask("HEAD", link)).headers["content-length"])

    reply = await client.get(link, headers={"range": asked})

    reply.error(416, "the range lies outside the file")
    assert reply.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=-",
        "bytes=",
        "bytes=a-b",
        "bytes=0-1,3-4",
        "lines=0-1",
        "0-1",
        "bytes=--1",
        "bytes=0x0-1",
        "bytes=²-3",
        "",
        "bytes=" + "9" * 5000 + "-",
    ],
)
async def test_range_that_cannot_be_read_is_ignored(client: Client, link: str, asked: str) -> None:
    reply = await client.get(link, headers={"range": asked})

    assert reply.status == 200
    assert len(reply.body) == int(reply.headers["content-length"])


async def test_range_holds_only_for_the_bytes_that_are_known(client: Client, link: str) -> None:
    etag = (await client.ask("HEAD", link)).headers["etag"]

    known = await client.get(link, headers={"range": "bytes=0-0", "if-range": etag})
    other = await client.get(link, headers={"range": "bytes=0-0", "if-range": '"other"'})

    assert (known.status, other.status) == (206, 200)


async def test_link_is_proof_against_tampering(client: Client, link: str) -> None:
    path, _, query = link.partition("?")
    said = {name: values[0] for name, values in parse_qs(query).items()}
    other = urlsplit((await client.run(values={**SMALL, "response_format": "url"}))["result"]["data"][0]["url"])
    folder, _, name = path.rpartition("/")
    wrong = [
        path,
        f"{path}?expires={said['expires']}",
        f"{path}?signature={said['signature']}",
        f"{path}?expires={int(said['expires']) + 1}&signature={said['signature']}",
        f"{path}?expires=%2b{said['expires']}&signature={said['signature']}",
        f"{path}?expires=+{said['expires']}&signature={said['signature']}",
        f"{path}?expires={said['expires']}.0&signature={said['signature']}",
        f"{path}?expires={'9' * 5000}&signature={said['signature']}",
        f"{path}?expires=-1&signature={said['signature']}",
        f"{path}?expires=&signature=",
        f"{path}?expires={said['expires']}&signature={said['signature'][:-1]}",
        f"{path}?expires={said['expires']}&signature={said['signature']}x",
        f"{path}?expires={said['expires']}&signature={said['signature'].swapcase()}",
        f"{path}?expires={said['expires']}&signature=%00%ff%f0%9f%a6%8a",
        f"{path}?expires={said['expires']}&signature={'A' * 20_000}",
        f"{other.path}?{query}",
        f"{path}?{other.query}" if other.query != query else path,
        f"{folder}/x{name}?{query}",
        f"/v1/files/{folder.rpartition('/')[2].upper()}/{name}?{query}",
        f"{folder}/%00{name}?{query}",
        f"{folder}/{name.partition('.')[0]}%00.png?{query}",
    ]
    for attempt in wrong:
        (await client.get(attempt)).error(403, "the link is not signed by this gateway")
        assert (await client.ask("HEAD", attempt)).status == 403


async def test_extension_is_only_for_show(client: Client, link: str) -> None:
    path, _, query = link.partition("?")

    reply = await client.get(f"{path.removesuffix('.png')}.exe?{query}")

    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["content-disposition"].endswith('.png"')


async def test_signed_link_shows_what_a_job_was_given_and_made_and_nothing_else(
    own_client: Client, own: ServedGateway
) -> None:
    """Another job's image is not given out, though it lies in the same store: even with a signature of ours."""
    other = await own_client.run()
    job = await own_client.run("edits", parts_of("edits", response_format="url"))
    expires_at = datetime.fromisoformat(job["expires_at"])
    stored = await asyncio.to_thread(own.call, lambda: own.gateway.read.job(job["id"], ANYBODY))
    links = own.gateway.app.services.links
    assert stored.result is not None
    [output] = stored.result.production.outputs

    shown = links.url(output.image, expires_at=expires_at, base_url="")
    given = links.url(stored.request.images[0].image, expires_at=expires_at, base_url="")
    strange = replace(output.image, blob=BlobKey(output.image.blob.replace(job["id"], other["id"])))
    hidden = links.url(strange, expires_at=expires_at, base_url="")

    assert (await own_client.get(shown)).status == 200
    assert (await own_client.get(given)).status == 200
    (await own_client.get(hidden)).error(404, GONE)


def test_data_dir_of_the_shared_gateway_is_private(served: ServedGateway) -> None:
    folder: Path = served.settings.storage.data_dir
    assert folder.stat().st_mode & 0o077 == 0
