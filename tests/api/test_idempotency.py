"""One `Idempotency-Key`, one job: over real HTTP."""

import asyncio
from typing import Any

import pytest

from tests.api.client import KINDS, SMALL, Client, File, Reply, parts_of, png
from tests.api.serving import ServedGateway, SimulatorThread
from tests.simulators._base import Fault
from tests.simulators.openai import OpenAISimulator

KEY = {"Idempotency-Key": "order-17"}


def without_place(reply: Reply) -> dict[str, Any]:
    """The job of an answer, but for its place in the queue."""
    job: dict[str, Any] = reply.json
    job["meta"].pop("queue_position", None)
    return job


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_request_under_the_same_key_is_the_same_job(
    own_client: Client, own: ServedGateway, kind: str
) -> None:
    first = await own_client.send(kind, headers={**KEY, "x-request-id": "first"})
    assert (first.status, "idempotent-replayed" in first.headers) == (202, False)
    await own_client.end(kind, first.json["id"])
    blobs = len(own.blobs)
    again = await own_client.send(kind, headers={**KEY, "x-bf-async-job-result-ttl": "60", "x-request-id": "second"})
    assert (again.status, again.headers["idempotent-replayed"]) == (202, "true")
    assert without_place(again) == without_place(first)
    assert again.headers["location"] == first.headers["location"]
    assert (len(own.blobs), own.job_count()) == (blobs, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_another_request_under_the_same_key_is_refused(own_client: Client, own: ServedGateway, kind: str) -> None:
    await own_client.submit(kind, headers=KEY)
    others: list[Any] = (
        [{**SMALL, "prompt": "another"}, {**SMALL, "n": 2}]
        if kind == "generations"
        else [
            [*[part for part in parts_of(kind) if not isinstance(part, File)], File("image", png(3, 5))],
            parts_of(kind, size="32x32"),
        ]
    )
    blobs = len(own.blobs)
    for values in others:
        reply = await own_client.send(kind, values, headers=KEY)
        body = reply.error(422)
        assert (body["error"]["code"], body["error"]["param"]) == ("idempotency_conflict", "Idempotency-Key")
    assert own.job_count() == 1
    assert len(own.blobs) <= blobs + 1  # the job's own picture may have come meanwhile


async def test_the_order_of_members_and_what_does_not_change_the_picture_make_no_other_request(
    own_client: Client,
) -> None:
    job = await own_client.submit(values=SMALL, headers=KEY)
    turned: dict[str, Any] = dict(reversed(list({**SMALL, "seed": None, "fallbacks": []}.items())))
    assert (await own_client.send("generations", turned, headers=KEY)).json["id"] == job["id"]


async def test_the_awaited_route_answers_with_the_end_of_the_same_job(own_client: Client) -> None:
    first = await own_client.send("generations", wait=True, headers=KEY)
    again = await own_client.send("generations", wait=True, headers=KEY)
    assert (first.status, again.status, again.json) == (200, 200, first.json)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-safelight-job-id"] == first.headers["x-safelight-job-id"]
    async_ = await own_client.send("generations", headers=KEY)
    assert async_.json["id"] == first.headers["x-safelight-job-id"]


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256])
async def test_a_key_that_is_none_is_refused(own_client: Client, own: ServedGateway, key: str) -> None:
    reply = await own_client.send("generations", headers={"Idempotency-Key": key})
    assert reply.error(400)["error"]["param"] == "Idempotency-Key"
    assert own.job_count() == 0


async def test_a_refused_request_leaves_its_key_free(own_client: Client) -> None:
    (await own_client.send("generations", {**SMALL, "n": 99}, headers=KEY)).error(400)
    (await own_client.send("edits", parts_of("edits", size="huge"), headers=KEY)).error(400)
    assert (await own_client.send("generations", headers=KEY)).status == 202


async def test_a_key_lives_as_long_as_its_job(own_client: Client) -> None:
    job = await own_client.submit(headers=KEY)
    assert [each["id"] for each in (await own_client.get("/v1/async/jobs?idempotency_key=order-17")).json["data"]] == [
        job["id"]
    ]
    assert (await own_client.get("/v1/async/jobs?idempotency_key=order")).json["data"] == []
    await own_client.end("generations", job["id"])
    assert (await own_client.ask("DELETE", f"/v1/async/jobs/{job['id']}")).status == 204
    again = await own_client.submit(values={**SMALL, "prompt": "another"}, headers=KEY)
    assert again["id"] != job["id"]


async def test_a_retried_job_keeps_its_key(own_client: Client) -> None:
    values = {**SMALL, "model": "builtin/fail-busy-once"}
    job = await own_client.run(values=values, headers=KEY)
    assert (await own_client.ask("POST", f"/v1/async/jobs/{job['id']}/retry")).status == 202
    assert (await own_client.send("generations", values, headers=KEY)).json["id"] == job["id"]


async def test_fifty_at_once_make_one_job_and_one_call(
    client: Client, upstream: OpenAISimulator, upstream_thread: SimulatorThread[OpenAISimulator]
) -> None:
    upstream.faults.push(Fault(hold=True))
    before = upstream.submissions
    values = {"model": "openai/gpt-image-2", "prompt": "a fox", "size": "1024x1024"}
    replies = await asyncio.gather(*[client.send("generations", values, headers=KEY) for _ in range(50)])
    assert {reply.status for reply in replies} == {202}
    assert len({reply.json["id"] for reply in replies}) == 1
    assert sum("idempotent-replayed" in reply.headers for reply in replies) == 49
    await upstream_thread.wait_for_submissions(before + 1)
    upstream_thread.release()
    ended = await client.get(f"/v1/async/jobs/{replies[0].json['id']}?wait=30")
    assert (ended.json["status"], upstream.submissions - before) == ("completed", 1)


async def test_fifty_edits_at_once_keep_one_set_of_images(own_client: Client, own: ServedGateway) -> None:
    replies = await asyncio.gather(*[own_client.send("edits", headers=KEY) for _ in range(50)])
    assert len({reply.json["id"] for reply in replies}) == 1
    await own_client.end("edits", replies[0].json["id"])
    assert (len(own.blobs), own.job_count()) == (2, 1)
