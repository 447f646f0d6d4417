"""Waiting, cancelling, deleting, retrying: over real HTTP."""

import asyncio
import time
from typing import Any

import pytest

from tests.api.client import KINDS, Client, check_shape
from tests.api.serving import ServedGateway

SOON_S = 1.0
"""Far less than the wait that was asked for, far more than a busy machine needs."""


def path_of(kind: str, job_id: str) -> str:
    return f"/v1/async/images/{kind}/{job_id}"


@pytest.fixture
def slow() -> dict[str, Any]:
    """A job that takes a while, without anybody at work."""
    return {"model": "builtin/slow-2", "prompt": "a fox", "size": "16x16"}


# Waiting


@pytest.mark.parametrize("route", ["typed", "any"])
@pytest.mark.parametrize("how", ["query", "header"])
async def test_a_poll_that_waits_is_answered_when_the_job_ends(client: Client, route: str, how: str) -> None:
    job = await client.submit(values={"model": "builtin/slow-1", "prompt": "a fox", "size": "16x16"})
    path = path_of("generations", job["id"]) if route == "typed" else f"/v1/async/jobs/{job['id']}"
    before = time.monotonic()
    if how == "query":
        reply = await client.get(f"{path}?wait=30")
        assert "preference-applied" not in reply.headers
    else:
        reply = await client.get(path, headers={"Prefer": "handling=lenient, wait=30"})
        assert reply.headers["preference-applied"] == "wait=30"
    assert (reply.status, reply.json["status"]) == (200, "completed")
    assert time.monotonic() - before < 1 + SOON_S


async def test_a_wait_that_is_over_before_the_job_answers_202(client: Client, slow: dict[str, Any]) -> None:
    job = await client.submit(values=slow)
    reply = await client.get(f"/v1/async/jobs/{job['id']}?wait=0.05")
    assert reply.status == 202
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "inf", "", "1_0"])
async def test_a_wait_that_is_no_number_is_refused(client: Client, wait: str, slow: dict[str, Any]) -> None:
    job = await client.submit(values=slow)
    reply = await client.get(f"/v1/async/jobs/{job['id']}?wait={wait}")
    assert reply.error(400)["error"]["param"] == "wait"


async def test_a_preference_that_cannot_be_read_is_ignored(client: Client, slow: dict[str, Any]) -> None:
    job = await client.submit(values=slow)
    reply = await client.get(f"/v1/async/jobs/{job['id']}", headers={"Prefer": "wait=soon, await=30"})
    assert reply.status == 202


async def test_a_poll_is_told_when_such_jobs_are_done(own_client: Client) -> None:
    first = await own_client.submit(values={"model": "builtin/slow-3", "prompt": "a fox", "size": "16x16"})
    assert (await own_client.get(f"/v1/async/jobs/{first['id']}?wait=30")).status == 200
    assert (await own_client.get(f"/v1/async/jobs/{first['id']}")).status == 200
    second = await own_client.send("generations", {"model": "builtin/slow-3", "prompt": "a fox", "size": "16x16"})
    assert 3 <= int(second.headers["retry-after"]) <= 5


async def test_many_wait_for_one_job(client: Client) -> None:
    job = await client.submit(values={"model": "builtin/slow-2", "prompt": "a fox", "size": "16x16"})
    replies = await asyncio.gather(*[client.get(f"/v1/async/jobs/{job['id']}?wait=30") for _ in range(200)])
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1


# Any type by its id


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_of_any_type_is_found_by_its_id(client: Client, kind: str) -> None:
    job = await client.run(kind)
    reply = await client.get(f"/v1/async/jobs/{job['id']}")
    assert (reply.status, reply.json) == (200, (await client.poll(kind, job["id"])).json)


@pytest.mark.parametrize("method", ["GET", "DELETE", "RETRY"])
@pytest.mark.parametrize(
    "job_id", ["0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44", "x", "0C4F3F0E-6F0A-4B7E-9A51-0D6C3A1F2B44"]
)
async def test_what_is_not_there_is_404_on_all_routes(client: Client, method: str, job_id: str) -> None:
    for base in ("/v1/async/jobs", *(f"/v1/async/images/{kind}" for kind in KINDS)):
        path = f"{base}/{job_id}"
        reply = await (client.ask("POST", f"{path}/retry") if method == "RETRY" else client.ask(method, path))
        assert reply.error(404)["error"]["message"] == "job not found or expired"


@pytest.mark.parametrize("what", ["DELETE", "RETRY"])
async def test_a_job_of_another_operation_is_left_alone(client: Client, what: str) -> None:
    job = await client.run("generations")
    path = path_of("edits", job["id"])
    reply = await (client.ask("POST", f"{path}/retry") if what == "RETRY" else client.ask("DELETE", path))
    assert reply.error(404)["error"]["message"] == "operation type mismatch"
    assert (await client.poll("generations", job["id"])).status == 200


async def test_a_wrong_method_is_told_of_all_that_there_are(client: Client) -> None:
    reply = await client.ask("PUT", "/v1/async/jobs/0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44")
    reply.error(405)
    assert set(reply.headers["allow"].split(", ")) == {"GET", "DELETE"}


# Cancel and delete


async def test_a_job_that_runs_is_cancelled_and_what_comes_of_it_is_dropped(
    own_client: Client, own: ServedGateway
) -> None:
    job = await own_client.submit(values={"model": "builtin/handle-1", "prompt": "a fox", "size": "16x16"})
    path = path_of("generations", job["id"])
    await own_client.until("generations", job["id"], lambda reply: reply.json["status"] == "processing")
    for _ in range(2):
        reply = await own_client.ask("DELETE", path)
        assert (reply.status, reply.json["status"], reply.json["meta"]["cancelled"]) == (202, "processing", True)
        check_shape("AsyncJobRunning", reply.json)
    ended = await own_client.get(f"{path}?wait=30")
    check_shape("AsyncJobFinished", ended.json)
    assert (ended.status, ended.json["status"], ended.json["status_code"]) == (200, "failed", 499)
    assert ended.json["error"]["error"]["code"] == "job_cancelled"
    assert ended.json["error"]["is_bifrost_error"] is False
    assert (ended.json["meta"]["cancelled"], ended.json["meta"]["charged"]) == (True, "no")
    assert own.blobs == []


async def test_a_finished_job_is_deleted_with_its_images(own_client: Client, own: ServedGateway) -> None:
    job = await own_client.run("edits")
    assert len(own.blobs) == 2
    reply = await own_client.ask("DELETE", path_of("edits", job["id"]))
    assert (reply.status, reply.body) == (204, b"")
    assert (own.blobs, own.job_count()) == ([], 0)
    (await own_client.poll("edits", job["id"])).error(404)
    (await own_client.ask("DELETE", path_of("edits", job["id"]))).error(404)


async def test_whoever_waits_for_a_job_that_is_deleted_is_told(own_client: Client) -> None:
    """It cannot be deleted while it runs, so it is cancelled first; the second waiter comes in between."""
    job = await own_client.submit(values={"model": "builtin/handle-1", "prompt": "a fox", "size": "16x16"})
    waiting = asyncio.create_task(own_client.get(f"/v1/async/jobs/{job['id']}?wait=30"))
    await own_client.until("generations", job["id"], lambda reply: reply.json["status"] == "processing")
    assert (await own_client.ask("DELETE", f"/v1/async/jobs/{job['id']}")).status == 202
    assert (await waiting).json["status_code"] == 499


# Retry


async def test_a_failed_job_is_run_again_under_its_id(own_client: Client) -> None:
    job = await own_client.run(values={"model": "builtin/fail-busy-once", "prompt": "a fox", "size": "16x16"})
    assert (job["status"], job["meta"]["attempts"]) == ("failed", 1)
    path = path_of("generations", job["id"])
    reply = await own_client.ask("POST", f"{path}/retry")
    assert (reply.status, reply.headers["location"]) == (202, path)
    check_shape("AsyncJobSubmitted", reply.json)
    assert (reply.json["created_at"], reply.json["meta"]["attempts"]) == (job["created_at"], 1)
    ended = await own_client.get(f"{path}?wait=30")
    assert (ended.json["status"], ended.json["meta"]["attempts"]) == ("completed", 2)


async def test_what_has_not_failed_is_not_run_again(client: Client, slow: dict[str, Any]) -> None:
    running, done = await client.submit(values=slow), await client.run()
    for job in (running, done):
        body = (await client.ask("POST", f"/v1/async/jobs/{job['id']}/retry")).error(409)
        assert body["error"]["code"] == "not_retryable"
    assert (await client.get(f"/v1/async/jobs/{running['id']}?wait=30")).json["status"] == "completed"
    body = (await client.ask("POST", f"/v1/async/jobs/{running['id']}/retry")).error(409)
    assert body["error"]["code"] == "not_retryable"
