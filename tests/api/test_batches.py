"""Batches over HTTP: what is taken, what is refused as a whole, what becomes of each line."""

import asyncio
import base64
import gzip
import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.api.client import END_S, Client, Reply, check_shape, png
from tests.api.serving import ServedGateway

BATCHES = "/v1/async/batches"
JSONL = {"content-type": "application/jsonl"}
LINE = {"model": "builtin/sketch", "prompt": "a red kite", "size": "16x16"}

Line = Mapping[str, Any]


def lines_of(lines: Iterable[Line]) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


async def submit(client: Client, lines: Iterable[Line] | bytes, **headers: str) -> Reply:
    data = lines if isinstance(lines, bytes) else lines_of(lines)
    return await client.ask("POST", BATCHES, data=data, headers={**JSONL, **headers})


async def accepted(client: Client, lines: Iterable[Line] | bytes, **headers: str) -> dict[str, Any]:
    reply = await submit(client, lines, **headers)
    assert reply.status == 202, reply.body
    body: dict[str, Any] = reply.json
    assert reply.headers["location"] == f"{BATCHES}/{body['id']}"
    return body


async def read(client: Client, batch_id: str) -> dict[str, Any]:
    reply = await client.get(f"{BATCHES}/{batch_id}")
    assert reply.status == 200, reply.body
    body: dict[str, Any] = reply.json
    assert sum(body["counts"].values()) == body["total"]
    return body


async def until(client: Client, path: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Poll until `done`."""
    async with asyncio.timeout(END_S):
        while True:
            reply = await client.get(f"{BATCHES}/{path}")
            assert reply.status == 200, reply.body
            body: dict[str, Any] = reply.json
            if done(body):
                return body
            await asyncio.sleep(0.02)  # the poll's own pace


async def ended(client: Client, batch_id: str) -> dict[str, Any]:
    return await until(client, batch_id, lambda body: body["status"] != "running" and not body["counts"]["processing"])


async def results(client: Client, batch_id: str, *, limit: int = 2) -> list[dict[str, Any]]:
    """All of them, page by page."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        reply = await client.get(f"{BATCHES}/{batch_id}/results?limit={limit}{cursor}")
        assert reply.status == 200, reply.body
        found += reply.json["data"]
        if reply.json["next_cursor"] is None:
            return found
        cursor = f"&cursor={reply.json['next_cursor']}"


async def test_every_line_becomes_a_job_with_its_picture(client: Client) -> None:
    lines = [
        {**LINE, "prompt": f"kite {n}", "metadata": {"n": str(n)}, "response_format": "b64_json"} for n in range(5)
    ]
    batch = await accepted(client, lines, **{"x-bf-dim-run": "7", "x-request-id": "mine"})
    assert (batch["object"], batch["total"], batch["request_id"]) == ("batch", 5, "mine")
    assert batch["metadata"] == {"run": "7"}
    body = await ended(client, batch["id"])
    assert (body["status"], body["counts"]["completed"]) == ("completed", 5)
    found = await results(client, batch["id"])
    assert [each["line"] for each in found] == [1, 2, 3, 4, 5]
    for number, each in enumerate(found):
        check_shape("AsyncJobFinished", each["job"])
        assert each["job"]["meta"]["metadata"] == {"run": "7", "n": str(number)}
        [picture] = each["job"]["result"]["data"]
        assert "b64_json" not in picture, "never in a list"
        fetched = await client.get(picture["url"])
        assert Image.open(io.BytesIO(fetched.body)).size == (16, 16)


async def test_some_lines_fail_and_the_others_do_not_mind(client: Client) -> None:
    batch = await accepted(client, [LINE, {**LINE, "model": "builtin/fail-moderation"}, {**LINE, "model": "nobody/x"}])
    body = await ended(client, batch["id"])
    assert body["counts"] == {"pending": 0, "processing": 0, "completed": 1, "failed": 2}
    assert body["status"] == "completed"
    codes = [each["job"].get("error", {}).get("error", {}).get("code") for each in await results(client, batch["id"])]
    assert codes == [None, "moderation_blocked", "provider_not_configured"]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n\n\n"])
async def test_lines_may_end_as_they_like(client: Client, ending: bytes) -> None:
    batch = await accepted(client, lines_of([LINE]) + b"\r\n\n" + lines_of([LINE]) + ending)
    assert batch["total"] == 2


async def test_a_file_in_a_form_and_a_compressed_body(client: Client) -> None:
    form = aiohttp.FormData()
    form.add_field("file", lines_of([LINE] * 3), filename="prompts.jsonl", content_type="application/jsonl")
    reply = await client.ask("POST", BATCHES, data=form)
    assert (reply.status, reply.json["total"]) == (202, 3)
    batch = await accepted(client, gzip.compress(lines_of([LINE] * 4)), **{"content-encoding": "gzip"})
    assert batch["total"] == 4


async def test_a_line_may_bring_images(client: Client, own: ServedGateway, own_client: Client) -> None:
    line = {**LINE, "model": "gpu-box/any", "input_images": [base64.b64encode(png()).decode()]}
    batch = await accepted(client, [line, line])
    assert (await ended(client, batch["id"]))["counts"]["completed"] == 2
    (await submit(own_client, [line, {}])).error(400, "line 2")
    assert own.blobs == [], "a refusal leaves no image behind"


@pytest.mark.parametrize(
    ("bad", "message", "param"),
    [
        ({**LINE, "n": 11}, "line 2: n must be 1 to 10", "lines[2].n"),
        ({**LINE, "prompt": ""}, "line 2: prompt cannot be empty", "lines[2].prompt"),
        ({"prompt": "x"}, "line 2: model is required", "lines[2].model"),
        ({**LINE, "size": "9999x9999"}, "line 2: ", "lines[2].size"),
        ({**LINE, "stream": True}, "line 2: stream is not supported", "lines[2].stream"),
        ({**LINE, "metadata": {"a": 1}}, "line 2: metadata.a must be a string", "lines[2].metadata.a"),
        ({**LINE, "metadata": []}, "line 2: metadata must be", "lines[2].metadata"),
        ({**LINE, "idempotency_key": "ä"}, "line 2: idempotency_key must be", "lines[2].idempotency_key"),
        ([], "line 2: Invalid request payload", "lines[2]"),
        ({**LINE, "input_images": ["bm8="]}, "line 2: input_images[0]", "lines[2].input_images[0]"),
    ],
)
async def test_a_bad_line_refuses_all_with_its_number_and_field(
    own: ServedGateway, own_client: Client, bad: Any, message: str, param: str
) -> None:
    reply = await submit(own_client, lines_of([LINE, bad, LINE]))
    body = reply.error(400, message)
    assert body["error"]["param"] == param
    assert (await own_client.get(BATCHES)).json == {"object": "list", "data": [], "next_cursor": None}
    assert own.blobs == []


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", {}, 400),
        (b"\n\n", {}, 400),
        (b"{}", {"content-type": "application/json"}, 415),
        (b"not a form", {"content-type": "multipart/form-data; boundary=x"}, 400),
        (b"x" * 2_100_000, {}, 413),
    ],
)
async def test_what_is_no_batch_is_refused(
    own: ServedGateway, own_client: Client, content: bytes, headers: Mapping[str, str], status: int
) -> None:
    (await submit(own_client, content, **headers)).error(status)
    assert own.blobs == []


async def test_the_same_key_is_the_same_batch(client: Client) -> None:
    key = {"Idempotency-Key": "batch-key-1"}
    first = await submit(client, [LINE], **key)
    again = await submit(client, [LINE], **key)
    assert (again.status, again.json["id"]) == (202, first.json["id"])
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    body = (await submit(client, [LINE, LINE], **key)).error(422)
    assert body["error"]["code"] == "idempotency_conflict"


async def test_lines_with_the_key_of_an_earlier_job_share_it(client: Client) -> None:
    line = {**LINE, "idempotency_key": "line-key-1"}
    first = await accepted(client, [line])
    await ended(client, first["id"])
    again = await accepted(client, [{**LINE, "prompt": "another"}, line, {**line, "prompt": "not the same"}])
    await ended(client, again["id"])
    [mine] = await results(client, first["id"])
    _, shared, conflict = await results(client, again["id"])
    assert shared["job"]["id"] == mine["job"]["id"]
    assert conflict["job"]["error"]["error"]["code"] == "idempotency_conflict"


async def test_results_come_while_it_runs(client: Client) -> None:
    batch = await accepted(client, [LINE, LINE, {**LINE, "model": "builtin/slow-2"}, LINE])
    page = await until(client, f"{batch['id']}/results", lambda page: len(page["data"]) >= 2)
    assert page["next_cursor"] == "2"
    assert (await read(client, batch["id"]))["status"] == "running"
    reply = await client.ask("POST", f"{BATCHES}/{batch['id']}/cancel")
    assert reply.json["status"] == "cancelled"
    await ended(client, batch["id"])
    assert len(await results(client, batch["id"])) == 4


async def test_a_cancelled_batch_can_be_taken_up_again(client: Client) -> None:
    lines = [{**LINE, "model": "builtin/handle-30"}, *[{**LINE, "prompt": f"{n}"} for n in range(200)]]
    batch = await accepted(client, lines)
    cancelled = (await client.ask("POST", f"{BATCHES}/{batch['id']}/cancel")).json
    assert cancelled["status"] == "cancelled"
    assert cancelled["counts"]["failed"] > 0
    still = await ended(client, batch["id"])
    assert still["counts"]["pending"] == 0
    found = await results(client, batch["id"], limit=1000)
    codes = {(each.get("job", each).get("error") or {}).get("error", {}).get("code") for each in found}
    assert codes <= {None, "job_cancelled"}
    assert "cancelled_at" in still
    assert (await client.ask("POST", f"{BATCHES}/{batch['id']}/retry-failed")).json["status"] == "running"
    await client.ask("POST", f"{BATCHES}/{batch['id']}/cancel")


async def test_only_failed_lines_run_again(own_client: Client) -> None:
    batch = await accepted(own_client, [LINE, {**LINE, "model": "builtin/fail-moderation"}])
    await ended(own_client, batch["id"])
    before = await results(own_client, batch["id"])
    await own_client.ask("POST", f"{BATCHES}/{batch['id']}/retry-failed")
    body = await ended(own_client, batch["id"])
    after = await results(own_client, batch["id"])
    assert body["counts"]["failed"] == 1
    assert before[0] == {**after[0], "job": {**after[0]["job"], "result": before[0]["job"]["result"]}}
    assert before[1]["job"]["id"] == after[1]["job"]["id"]
    assert after[1]["job"]["meta"]["attempts"] == 2


async def test_batches_are_listed(own_client: Client) -> None:
    made = [(await accepted(own_client, [LINE]))["id"] for _ in range(3)]
    page = (await own_client.get(f"{BATCHES}?limit=2")).json
    assert [each["id"] for each in page["data"]] == made[:0:-1]
    rest = (await own_client.get(f"{BATCHES}?limit=2&cursor={page['next_cursor']}")).json
    assert ([each["id"] for each in rest["data"]], rest["next_cursor"]) == ([made[0]], None)


@pytest.mark.parametrize("batch_id", ["0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44", "nonsense"])
async def test_an_unknown_batch_is_not_found(client: Client, batch_id: str) -> None:
    for method, what in [("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("POST", "/retry-failed")]:
        (await client.ask(method, f"{BATCHES}/{batch_id}{what}")).error(404, "batch not found or expired")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=-1"])
async def test_a_page_that_cannot_be_is_refused(client: Client, query: str) -> None:
    (await client.get(f"{BATCHES}?{query}")).error(400)


async def test_other_jobs_do_not_wait_behind_a_batch(own_client: Client) -> None:
    """Lines hold at most a share of the slots: half of 64."""
    batch = await accepted(own_client, [{**LINE, "model": "builtin/slow-2", "prompt": f"{n}"} for n in range(300)])
    counts = (await until(own_client, batch["id"], lambda body: body["counts"]["processing"] >= 32))["counts"]
    assert (await own_client.run())["status"] == "completed"
    assert counts == {"pending": 268, "processing": 32, "completed": 0, "failed": 0}
    await own_client.ask("POST", f"{BATCHES}/{batch['id']}/cancel")
