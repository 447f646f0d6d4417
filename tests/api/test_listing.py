"""Labels, lists and counts: over real HTTP."""

import json
from typing import Any

import pytest

from tests.api.client import SMALL, Client, check_shape, parts_of


async def listed(client: Client, query: str) -> list[dict[str, Any]]:
    reply = await client.get(f"/v1/async/jobs?{query}")
    assert reply.status == 200, reply.body
    assert reply.json.keys() == {"object", "data", "next_cursor"}
    data: list[dict[str, Any]] = reply.json["data"]
    for job in data:
        check_shape("AsyncJobResponse", job)
    return data


@pytest.mark.parametrize("kind", ["generations", "edits", "variations"])
async def test_labels_come_back_and_find_the_job(own_client: Client, kind: str) -> None:
    field = {"shop": "Zürich", "by": "body"}
    values: Any = {**SMALL, "metadata": field} if kind == "generations" else parts_of(kind, metadata=json.dumps(field))
    headers = {"x-bf-dim-by": "header", "X-Bf-Dim-Season": "spring", "x-bf-prom-season": "old", "x-bf-prom-old": "yes"}
    job = await own_client.submit(kind, values, headers=headers)
    await own_client.submit()
    labels = {"shop": "Zürich", "by": "body", "season": "spring", "old": "yes"}
    assert job["meta"]["metadata"] == labels
    assert (await own_client.end(kind, job["id"]))["meta"]["metadata"] == labels
    for query in ("metadata.shop=Z%C3%BCrich", "metadata.season=spring&metadata.by=body"):
        assert [each["id"] for each in await listed(own_client, query)] == [job["id"]]
    assert await listed(own_client, "metadata.by=header") == []


@pytest.mark.parametrize(
    "metadata",
    ["x", ["a"], {"a": 1}, {"a": None}, {"": "b"}, {"a" * 65: "b"}, {"a": "b" * 513}, {str(n): "b" for n in range(65)}],
)
async def test_labels_that_are_none_are_refused(own_client: Client, metadata: Any) -> None:
    reply = await own_client.send("generations", {**SMALL, "metadata": metadata})
    assert reply.error(400)["error"]["param"].startswith("metadata")
    reply = await own_client.send("edits", parts_of("edits", metadata=json.dumps(metadata)))
    assert reply.error(400)["error"]["param"].startswith("metadata")


async def test_labels_too_long_for_the_memory_are_refused(own_client: Client) -> None:
    reply = await own_client.send("generations", {**SMALL, "metadata": {"a": "b" * 300_000}})
    assert reply.error(400)["error"]["param"].startswith("metadata")
    reply = await own_client.send("edits", parts_of("edits", metadata="{not json"))
    assert reply.error(400)["error"]["param"].startswith("metadata")


async def test_jobs_are_listed_newest_first_page_by_page(own_client: Client) -> None:
    jobs = [await own_client.run() for _ in range(5)]
    seen: list[str] = []
    query = "limit=2"
    while query:
        page = (await own_client.get(f"/v1/async/jobs?{query}")).json
        seen += [job["id"] for job in page["data"]]
        await own_client.submit()  # what comes meanwhile shifts nothing
        query = f"limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert seen == [job["id"] for job in reversed(jobs)]


async def test_a_listed_job_is_as_its_poll_shows_it_but_with_links(own_client: Client) -> None:
    job = await own_client.run(values={**SMALL, "response_format": "b64_json"})
    assert "b64_json" in job["result"]["data"][0]
    (shown,) = await listed(own_client, "status=completed")
    (picture,) = shown["result"]["data"]
    assert picture.keys() == {"index", "url"}
    assert {**shown, "result": None} == {**job, "result": None}
    assert (await own_client.get(picture["url"].removeprefix(own_client.url))).status == 200


async def test_filters_and_counts(own_client: Client) -> None:
    done = await own_client.run()
    lost = await own_client.run(values={**SMALL, "model": "builtin/fail-moderation"})
    edit = await own_client.run("edits")
    for query, expected in (
        ("", [edit, lost, done]),
        ("status=failed", [lost]),
        ("type=image_edit", [edit]),
        ("model=builtin/fail-moderation", [lost]),
        ("provider=builtin", [edit, lost, done]),
        ("provider=openai", []),
        ("error_code=moderation_blocked", [lost]),
        (f"created_after={lost['created_at']}", [edit, lost]),
        (f"created_before={lost['created_at']}", [done]),
    ):
        assert [job["id"] for job in await listed(own_client, query)] == [job["id"] for job in expected], query
        counts = (await own_client.get(f"/v1/async/jobs/counts?{query}")).json
        assert counts.keys() == {"pending", "processing", "completed", "failed"}
        assert sum(counts.values()) == len(expected)
    assert (await own_client.get("/v1/async/jobs/counts?status=failed")).json["failed"] == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=done", "status"),
        ("status=", "status"),
        ("created_after=", "created_after"),
        ("cursor=", "cursor"),
        ("type=chat", "type"),
        ("created_after=yesterday", "created_after"),
        ("created_before=2026-11-23T10:00:00", "created_before"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("model=%00", "model"),
        ("metadata.=x", "metadata"),
    ],
)
async def test_a_filter_that_cannot_be_read_is_named(client: Client, query: str, param: str) -> None:
    assert (await client.get(f"/v1/async/jobs?{query}")).error(400)["error"]["param"] == param
