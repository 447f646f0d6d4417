"""Server-sent events over real HTTP, cut off at every byte."""

import asyncio
import json
from typing import Any

import pytest

from tests.api.client import KINDS, SMALL, Client, check_shape

Event = tuple[str, str, Any]
"""Its id, its name, its data."""


def parsed(stream: bytes) -> list[Event]:
    """The events of a stream that came whole; an id without data is none."""
    events = []
    for block in stream.split(b"\n\n")[:-1]:
        members = dict(line.split(": ", 1) for line in block.decode().split("\n"))
        if "data" in members:
            events.append((members["id"], members["event"], json.loads(members["data"])))
    return events


async def whole(client: Client, path: str, **headers: str) -> bytes:
    reply = await client.get(path, headers=headers)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    assert reply.headers["x-accel-buffering"] == "no"
    return reply.body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_is_told_from_its_submit_to_its_end(client: Client, kind: str) -> None:
    job = await client.submit(kind)
    stream = await whole(client, f"/v1/async/images/{kind}/{job['id']}/events")
    events = parsed(stream)
    ids = [int(event[0]) for event in events]
    assert ids == sorted(set(ids))
    assert [(name, data["status"]) for _, name, data in events] == [
        ("job", "pending"),
        ("job", "processing"),
        ("job", "completed"),
    ]
    assert {data["id"] for _, _, data in events} == {job["id"]}
    assert events[1][2]["attempt"]["provider"] == "builtin"
    final = events[-1][2]
    check_shape("AsyncJobFinished", final)
    assert final == (await client.poll(kind, job["id"])).json
    assert await whole(client, f"/v1/async/jobs/{job['id']}/events") == stream


async def test_the_final_event_has_links_whatever_was_asked_for(client: Client) -> None:
    job = await client.run(values={**SMALL, "response_format": "b64_json"})
    final = parsed(await whole(client, f"/v1/async/jobs/{job['id']}/events"))[-1][2]
    assert final["result"]["data"][0].keys() == {"index", "url"}


async def test_a_stream_that_is_cut_at_any_byte_goes_on_whole(own_client: Client) -> None:
    job = await own_client.run(values={**SMALL, "model": "builtin/fail-unavailable", "fallbacks": ["builtin/sketch"]})
    path = f"/v1/async/jobs/{job['id']}/events"
    stream = await whole(own_client, path)
    events = parsed(stream)
    assert [event[1] for event in events].count("attempt") == 1
    for cut in range(len(stream) + 1):
        begun = parsed(stream[:cut])
        last = {"Last-Event-ID": begun[-1][0]} if begun else {}
        assert begun + parsed(await whole(own_client, path, **last)) == events, cut


async def test_the_id_may_stand_in_the_query_and_wins_there(client: Client) -> None:
    job = await client.run()
    path = f"/v1/async/jobs/{job['id']}/events"
    events = parsed(await whole(client, path))
    rest = parsed(await whole(client, f"{path}?last_event_id={events[1][0]}", **{"Last-Event-ID": events[0][0]}))
    assert rest == events[2:]
    for headers, query, param in (
        ({"Last-Event-ID": "x"}, "", "Last-Event-ID"),
        ({}, "?last_event_id=x", "last_event_id"),
    ):
        reply = await client.get(f"{path}{query}", headers=headers)
        assert reply.error(400)["error"]["param"] == param


async def test_progress_and_previews_are_told_as_they_come(own_client: Client) -> None:
    job = await own_client.submit(values={**SMALL, "size": "256x256", "partial_images": 2, "model": "builtin/slow-2"})
    events = parsed(await whole(own_client, f"/v1/async/jobs/{job['id']}/events"))
    names = {event[1] for event in events}
    assert "progress" in names
    for _, name, data in events:
        if name == "progress":
            assert (data["job_id"], 0 <= data["progress"] <= 1) == (job["id"], True)
        if name == "partial_image":
            assert {"job_id", "index", "partial_index", "url", "content_type"} <= data.keys()
            assert "blob" not in data
            picture = await own_client.get(data["url"].removeprefix(own_client.url))
            assert (picture.status, picture.headers["content-type"]) == (200, data["content_type"])


async def test_what_is_not_there_has_no_stream(client: Client) -> None:
    (await client.get("/v1/async/jobs/0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44/events")).error(404)
    (await client.get("/v1/async/jobs/x/events")).error(404)
    job = await client.run()
    (await client.get(f"/v1/async/images/edits/{job['id']}/events")).error(404)


async def test_all_jobs_are_told_from_now_on_and_from_any_event(own_client: Client) -> None:
    await own_client.run()
    stream = b""
    async with own_client.session.get("/v1/async/events") as response:
        assert response.status == 200
        begin, _ = await response.content.readuntil(b"\n\n"), None
        assert begin.startswith(b"id: ")
        jobs = [await own_client.submit() for _ in range(3)]
        async with asyncio.timeout(20):
            while sum(b'"completed"' in block for block in stream.split(b"\n\n")) < len(jobs):
                stream += await response.content.readuntil(b"\n\n")
    events = [event for event in parsed(stream) if event[1] == "job"]
    for job in jobs:
        told = [data["status"] for _, _, data in events if data["id"] == job["id"]]
        assert told == ["pending", "processing", "completed"]
    last = begin.decode().split()[1]
    for cut in (0, 2, len(events) - 1):
        after = events[cut - 1][0] if cut else last
        async with own_client.session.get("/v1/async/events", headers={"Last-Event-ID": after}) as response:
            assert (await response.content.readuntil(b"\n\n")).startswith(b"id: ")
            block = await response.content.readuntil(b"\n\n")
            assert parsed(block)[0] == events[cut]
