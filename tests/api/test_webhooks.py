"""Webhooks from end to end: a gateway, a receiver, and the administration between them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from safelight.api.docs import openapi_document
from tests.api.client import KINDS, REQUEST_TYPES, SMALL, Client, Reply, check_shape
from tests.api.serving import ServedGateway, settings_for
from tests.receiver import END_S, Receiver, signatures

KEY = "an-administrators-key-of-32-signs"
ADMIN = {"Authorization": f"Bearer {KEY}"}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FAST = {"max_retries": 2, "retry_backoff_initial_seconds": 1, "retry_backoff_max_seconds": 1}
FAILING = {**SMALL, "model": "builtin/fail-moderation"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGateway]:
    settings = settings_for(tmp_path_factory.mktemp("webhooks") / "data", auth={"admin_key": KEY})
    with ServedGateway(settings) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: ServedGateway) -> AsyncIterator[Client]:
    async with Client(gateway.url) as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


class Endpoint:
    """An endpoint of a gateway, through its administration."""

    def __init__(self, client: Client, created: dict[str, Any]) -> None:
        self.client = client
        self.created = created["endpoint"]
        self.id = created["endpoint"]["id"]
        self.name = created["endpoint"]["name"]
        self.secret = created["secret"]
        self.headers = {"x-bf-async-webhook": self.name}

    async def ask(self, method: str, path: str = "", **options: Any) -> Reply:
        return await admin(self.client, method, f"/api/webhooks/{self.id}{path}", **options)

    async def shown(self) -> dict[str, Any]:
        reply = await self.ask("GET")
        assert reply.status == 200, reply.body
        check_endpoint(reply.json)
        return dict(reply.json)

    async def history(self) -> list[dict[str, Any]]:
        reply = await self.ask("GET", "/deliveries")
        assert reply.status == 200, reply.body
        for line in reply.json["deliveries"]:
            check_shape("WebhookDelivery", line)
        return list(reply.json["deliveries"])

    async def history_of(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many booked attempts; gives them in order."""
        async with asyncio.timeout(END_S):
            while len(lines := await self.history()) < count:  # noqa: ASYNC110 - it is asked for over HTTP
                await asyncio.sleep(0.01)
        return lines[::-1]


async def admin(client: Client, method: str, path: str, **options: Any) -> Reply:
    return await client.ask(method, path, **{"headers": ADMIN, **options})


def body_of(receiver: str, **members: Any) -> dict[str, Any]:
    return {
        "name": f"hook-{uuid4()}",
        "url": receiver,
        "events": ["async_job.completed", "async_job.failed"],
        "allow_private_network": True,
        **members,
    }


async def created(client: Client, url: str, **members: Any) -> Endpoint:
    reply = await admin(client, "POST", "/api/webhooks", json=body_of(url, **members))
    assert reply.status == 201, reply.body
    check_endpoint(reply.json["endpoint"])
    return Endpoint(client, reply.json)


def check_endpoint(body: Any) -> None:
    """Hold an endpoint to our own description and, but for the events that are ours, to the contract."""
    check_ours(body, "Webhook")
    check_shape("WebhookEndpoint", {**body, "events": ["async_job.failed"]})


def check_ours(body: Any, name: str = "WebhookMessage") -> None:
    """Hold a body to our own description, which knows more than the contract."""
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(body)] == [], body


class TestDelivery:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_completed_job(self, client: Client, receiver: Receiver, kind: str) -> None:
        endpoint = await created(client, receiver.url, headers={"X-Tenant": "blue"})
        job = await client.run(kind, headers=endpoint.headers)
        (call,) = await receiver.received(1)
        check_shape("WebhookEvent", call.json)
        check_ours(call.json)
        assert call.json["event"] == call.headers["X-Bifrost-Event"] == "async_job.completed"
        assert call.headers["Content-Type"] == "application/json"
        assert call.headers["User-Agent"] == "Bifrost-Webhooks/1.0"
        assert call.headers["X-Tenant"] == "blue"
        assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 60
        assert signatures(endpoint.secret, call.headers, call.body) == 1
        assert call.data == {
            "job_id": job["id"],
            "request_type": REQUEST_TYPES[kind],
            "status": "completed",
            "status_code": 200,
            "created_at": job["created_at"],
            "completed_at": job["completed_at"],
            "result_url": f"/v1/async/images/{kind}/{job['id']}",
            "result_expires_at": job["expires_at"],
        }
        assert (await client.get(call.data["result_url"])).json["id"] == job["id"]
        (line,) = await endpoint.history_of(1)
        assert line["webhook_id"] == call.id
        assert (line["outcome"], line["status_code"], line["attempt_no"]) == ("delivered", 204, 1)
        assert (line["async_job_id"], line["request_id"]) == (job["id"], job["request_id"])
        shown = await endpoint.shown()
        assert (shown["consecutive_failures"], shown["pending_deliveries"]) == (0, 0)
        assert shown["last_success_at"] == line["created_at"]

    async def test_a_failed_job(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, include_response=True)
        job = await client.run(values=FAILING, headers=endpoint.headers)
        (call,) = await receiver.received(1)
        check_shape("WebhookEvent", call.json)
        assert (call.json["event"], call.data["status"]) == ("async_job.failed", "failed")
        assert call.data["status_code"] == job["status_code"]
        assert call.data["error"] == job["error"]

    async def test_the_result_inside(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, include_response=True)
        job = await client.run(headers=endpoint.headers)
        (call,) = await receiver.received(1)
        check_shape("WebhookEvent", call.json)
        assert call.data["response"] == job["result"]
        async with aiohttp.ClientSession() as session, session.get(call.data["response"]["data"][0]["url"]) as image:
            assert (image.status, image.content_type) == (200, "image/png")

    async def test_base64_inside_where_it_fits(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, include_response=True, max_response_payload_kbs=64)
        small = {**SMALL, "response_format": "b64_json"}
        job = await client.run(values=small, headers=endpoint.headers)
        await client.run(values={**small, "size": "512x512"}, headers=endpoint.headers)
        first, second = await receiver.received(2)
        assert first.data["response"] == job["result"]
        assert first.data["response"]["data"][0]["b64_json"]
        check_shape("WebhookEvent", second.json)
        assert second.data["response_omitted"] is True
        assert "response" not in second.data

    async def test_links_beside_what_the_contract_names(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, include_links=True)
        values = {**SMALL, "response_format": "b64_json", "n": 2}
        await client.run(values=values, headers=endpoint.headers)
        (call,) = await receiver.received(1)
        check_ours(call.json)
        body = call.json
        images = body["data"].pop("images")
        check_shape("WebhookEvent", body)
        assert [image["index"] for image in images] == [0, 1]
        async with aiohttp.ClientSession() as session:
            for image in images:
                async with session.get(image["url"]) as answer:
                    assert (answer.status, answer.content_type) == (200, image["content_type"])
                    assert len(await answer.read()) == image["size_bytes"]

    async def test_none_without_the_header_and_none_that_it_did_not_want(
        self, client: Client, receiver: Receiver
    ) -> None:
        endpoint = await created(client, receiver.url, events=["async_job.failed"])
        await client.run()
        await client.run(headers=endpoint.headers)
        failed = await client.run(values=FAILING, headers={"x-bf-async-webhook": f"  {endpoint.name} "})
        (call,) = await receiver.received(1)
        assert call.data["job_id"] == failed["id"]
        assert len(await endpoint.history_of(1)) == 1

    async def test_ours_for_the_start(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, events=["async_job.started", "async_job.completed"])
        job = await client.run(headers=endpoint.headers)
        calls = await receiver.received(2)
        for call in calls:
            check_ours(call.json)
        assert {call.json["event"] for call in calls} == {"async_job.started", "async_job.completed"}
        (started,) = [call.data for call in calls if call.json["event"] == "async_job.started"]
        assert started == {
            "job_id": job["id"],
            "request_type": "image_generation",
            "status": "processing",
            "created_at": job["created_at"],
            "result_url": f"/v1/async/images/generations/{job['id']}",
        }

    @pytest.mark.parametrize("wants", ["async_job.cancelled", "async_job.failed"])
    async def test_a_cancel_is_told_as_far_as_it_is_wanted(
        self, client: Client, receiver: Receiver, wants: str
    ) -> None:
        endpoint = await created(client, receiver.url, events=["async_job.started", wants], include_response=True)
        job = await client.submit(values={**SMALL, "model": "builtin/slow-1"}, headers=endpoint.headers)
        await receiver.received(1)
        assert (await client.ask("DELETE", f"/v1/async/jobs/{job['id']}")).status in {200, 202}
        call = (await receiver.received(2))[1]
        check_ours(call.json)
        assert call.json["event"] == wants
        assert (call.data["status"], call.data["status_code"]) == ("failed", 499)
        assert call.data["error"]["error"]["code"] == "job_cancelled"

    async def test_each_line_of_a_batch_tells(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        lines = b"".join(json.dumps({**SMALL, "prompt": f"kite {number}"}).encode() + b"\n" for number in range(3))
        headers = {**endpoint.headers, "content-type": "application/jsonl"}
        assert (await client.ask("POST", "/v1/async/batches", data=lines, headers=headers)).status == 202
        calls = await receiver.received(3)
        assert len({call.data["job_id"] for call in calls}) == 3
        nobody = {**headers, "x-bf-async-webhook": "nobody"}
        (await client.ask("POST", "/v1/async/batches", data=lines, headers=nobody)).error(400)

    async def test_the_awaited_routes_tell_as_well(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        reply = await client.send("generations", wait=True, headers=endpoint.headers)
        (call,) = await receiver.received(1)
        assert call.data["job_id"] == reply.headers["x-safelight-job-id"]


class TestRetries:
    async def test_until_it_is_taken_under_one_id(self, client: Client, receiver: Receiver) -> None:
        answers = iter([503, 429, 204])
        receiver.answer = lambda: next(answers)
        endpoint = await created(client, receiver.url, **FAST)
        await client.run(headers=endpoint.headers)
        calls = await receiver.received(3)
        assert len({call.id for call in calls}) == 1
        assert all(signatures(endpoint.secret, call.headers, call.body) == 1 for call in calls)
        lines = await endpoint.history_of(3)
        assert [(line["attempt_no"], line["outcome"], line["status_code"]) for line in lines] == [
            (1, "retryable_failure", 503),
            (2, "retryable_failure", 429),
            (3, "delivered", 204),
        ]

    async def test_until_the_retries_are_spent(self, client: Client, receiver: Receiver) -> None:
        receiver.answer = lambda: web.Response(status=500, text="no\0 room" + "x" * 5000)
        endpoint = await created(client, receiver.url, **{**FAST, "max_retries": 1})
        await client.run(headers=endpoint.headers)
        lines = await endpoint.history_of(2)
        assert [line["outcome"] for line in lines] == ["retryable_failure", "exhausted"]
        assert lines[0]["error"].startswith("no\ufffd roomxxx")
        assert len(lines[0]["error"].encode()) <= 4096 + 2
        shown = await endpoint.shown()
        assert (shown["consecutive_failures"], shown["pending_deliveries"]) == (2, 0)

    @pytest.mark.parametrize("status", [400, 404, 301])
    async def test_never_after_a_clear_no(self, client: Client, receiver: Receiver, status: int) -> None:
        receiver.answer = lambda: web.Response(status=status, headers={"Location": "/elsewhere"})
        endpoint = await created(client, receiver.url, **FAST)
        await client.run(headers=endpoint.headers)
        (line,) = await endpoint.history_of(1)
        assert (line["outcome"], line["status_code"]) == ("permanent_failure", status)
        assert (await endpoint.shown())["pending_deliveries"] == 0
        assert len(receiver.calls) == 1

    async def test_after_no_answer(self, client: Client, receiver: Receiver) -> None:
        receiver.hold()
        endpoint = await created(client, receiver.url, **FAST, attempt_timeout_seconds=1)
        await client.run(headers=endpoint.headers)
        (line,) = await endpoint.history_of(1)
        assert line["outcome"] == "retryable_failure"
        assert "status_code" not in line
        assert line["error"] == "no answer within 1 s"


class TestPauseAndCatchUp:
    async def test_gone_then_back(self, client: Client, receiver: Receiver) -> None:
        begun = datetime.now(UTC)
        receiver.answer = lambda: 410
        endpoint = await created(client, receiver.url)
        first = await client.run(headers=endpoint.headers)
        await endpoint.history_of(1)
        shown = await endpoint.shown()
        assert shown["pause_reason"] == "the receiver answered 410 Gone"
        assert "paused_at" in shown

        held = await client.run(headers=endpoint.headers)  # still accepted, and owed
        assert (await endpoint.shown())["pending_deliveries"] == 1
        assert len(receiver.calls) == 1

        receiver.answer = lambda: 204
        resumed = await endpoint.ask("POST", "/resume")
        assert resumed.status == 200
        assert "paused_at" not in resumed.json
        calls = await receiver.received(2)
        assert calls[1].data["job_id"] == held["id"]
        await endpoint.history_of(2)

        reply = await endpoint.ask("POST", "/redeliver", json={"since": begun.isoformat()})
        assert (reply.status, reply.json) == (202, {"status": "queued", "count": 2})
        calls = await receiver.received(4)
        assert {call.data["job_id"] for call in calls[2:]} == {first["id"], held["id"]}
        assert {call.id for call in calls[2:]} == {call.id for call in calls[:2]}

    async def test_only_of_the_range(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        jobs = [await client.run(headers=endpoint.headers) for _ in range(3)]
        await endpoint.history_of(3)
        span = {"since": jobs[1]["completed_at"], "until": jobs[2]["completed_at"]}
        reply = await endpoint.ask("POST", "/redeliver", json=span)
        assert reply.json["count"] == 1
        calls = await receiver.received(4)
        assert calls[3].data["job_id"] == jobs[1]["id"]

    async def test_one_alone_by_either_id(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        await client.run(headers=endpoint.headers)
        (line,) = await endpoint.history_of(1)
        for count, some_id in enumerate((line["id"], line["webhook_id"]), 2):
            reply = await admin(client, "POST", f"/api/webhooks/deliveries/{some_id}/redeliver")
            assert (reply.status, reply.json) == (202, {"status": "queued", "webhook_id": line["webhook_id"]})
            calls = await receiver.received(count)
            assert calls[-1].id == line["webhook_id"]
            lines = await endpoint.history_of(count)
        assert [line["attempt_no"] for line in lines] == [1, 2, 3]

    async def test_not_while_it_is_on_its_way_nor_to_nobody(self, client: Client, receiver: Receiver) -> None:
        receiver.answer = lambda: 500
        endpoint = await created(client, receiver.url)
        await client.run(headers=endpoint.headers)
        (line,) = await endpoint.history_of(1)
        path = f"/api/webhooks/deliveries/{line['id']}/redeliver"
        (await admin(client, "POST", path)).error(409)
        assert (await endpoint.ask("PUT", json=body_of(receiver.url, name=endpoint.name, disabled=True))).status == 200
        (await admin(client, "POST", path)).error(400, "the webhook endpoint is disabled")
        (await endpoint.ask("POST", "/redeliver", json={"since": "2026-01-01T00:00:00Z"})).error(400)
        assert (await endpoint.ask("DELETE")).status == 200
        (await admin(client, "POST", path)).error(400, "the webhook endpoint is gone")
        (await admin(client, "POST", f"/api/webhooks/deliveries/{uuid4()}/redeliver")).error(404)

    async def test_of_an_expired_job_the_end_alone_is_told(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, include_response=True)
        headers = {**endpoint.headers, "x-bf-async-job-result-ttl": "1"}
        job = await client.run(headers=headers)
        (line,) = await endpoint.history_of(1)
        await client.until("generations", job["id"], lambda reply: reply.status == 404)
        assert (await admin(client, "POST", f"/api/webhooks/deliveries/{line['id']}/redeliver")).status == 202
        call = (await receiver.received(2))[1]
        check_shape("WebhookEvent", call.json)
        assert call.data == {"job_id": job["id"], "status": "completed", "result_expired": True}


class TestRotation:
    async def test_both_secrets_sign_for_a_while(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        rotated = await endpoint.ask("POST", "/rotate-secret")
        assert rotated.status == 200
        check_endpoint(rotated.json["endpoint"])
        until = datetime.fromisoformat(rotated.json["endpoint"]["former_secret_until"])
        assert timedelta(hours=23) < until - datetime.now(UTC) <= timedelta(hours=24)
        fresh = rotated.json["secret"]
        assert fresh != endpoint.secret
        await client.run(headers=endpoint.headers)
        (call,) = await receiver.received(1)
        assert [signatures(secret, call.headers, call.body) for secret in (fresh, endpoint.secret)] == [1, 1]
        assert len(call.headers["webhook-signature"].split(" ")) == 2

    async def test_or_the_old_one_dies_at_once(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        rotated = await endpoint.ask("POST", "/rotate-secret", json={"overlap_seconds": 0})
        await client.run(headers=endpoint.headers)
        (call,) = await receiver.received(1)
        fresh = rotated.json["secret"]
        assert [signatures(secret, call.headers, call.body) for secret in (fresh, endpoint.secret)] == [1, 0]


class TestTestCall:
    async def test_taken(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, events=["async_job.failed", "async_job.completed"])
        reply = await endpoint.ask("POST", "/test")
        assert (reply.status, reply.json) == (200, {"delivered": True, "receiver_status_code": 204})
        reply = await endpoint.ask("POST", "/test", json={"event": "async_job.completed"})
        assert reply.json["delivered"]
        for call, event in zip(receiver.calls, ("async_job.failed", "async_job.completed"), strict=True):
            check_shape("WebhookEvent", call.json)
            check_ours(call.json)
            assert (call.json["event"], call.data["job_id"][:5]) == (event, "test-")
            assert signatures(endpoint.secret, call.headers, call.body) == 1
        assert await endpoint.history() == []

    @pytest.mark.parametrize("event", ["async_job.started", "async_job.cancelled"])
    async def test_of_our_own_events(self, client: Client, receiver: Receiver, event: str) -> None:
        endpoint = await created(client, receiver.url, events=[event])
        assert (await endpoint.ask("POST", "/test")).json["delivered"]
        check_ours(receiver.calls[0].json)

    async def test_refused_by_the_receiver_or_never_reaching_it(self, client: Client, receiver: Receiver) -> None:
        receiver.answer = lambda: web.Response(status=401, text="who are you?")
        endpoint = await created(client, receiver.url)
        reply = await endpoint.ask("POST", "/test")
        assert reply.json == {"delivered": False, "receiver_status_code": 401, "error": "who are you?"}
        receiver.answer = lambda: 302
        assert (await endpoint.ask("POST", "/test")).json["error"] == "the receiver answered 302"
        nobody = await created(client, "http://127.0.0.1:9/")
        reply = await nobody.ask("POST", "/test")
        assert (reply.status, reply.json["delivered"]) == (200, False)
        assert "receiver_status_code" not in reply.json
        assert reply.json["error"]

    async def test_what_cannot_be_tested(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url, events=["async_job.failed"])
        (await endpoint.ask("POST", "/test", json={"event": "async_job.completed"})).error(400)
        (await endpoint.ask("POST", "/test", json={"event": "nonsense"})).error(400)
        await endpoint.ask("PUT", json=body_of(receiver.url, name=endpoint.name, disabled=True))
        (await endpoint.ask("POST", "/test")).error(400, "the webhook endpoint is disabled")
        assert receiver.calls == []


class TestAdministration:
    async def test_is_for_administrators(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        one = f"/api/webhooks/{endpoint.id}"
        routes = [
            ("GET", "/api/webhooks"),
            ("POST", "/api/webhooks"),
            ("GET", one),
            ("PUT", one),
            ("DELETE", one),
            ("POST", f"{one}/rotate-secret"),
            ("POST", f"{one}/resume"),
            ("POST", f"{one}/test"),
            ("GET", f"{one}/deliveries"),
            ("POST", f"{one}/redeliver"),
            ("POST", "/api/webhooks/deliveries/x/redeliver"),
        ]
        for method, path in routes:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                reply = await client.ask(method, path, headers=headers)
                assert reply.status == 401
                check_shape("BifrostError", reply.json)
                assert reply.headers["www-authenticate"] == "Bearer"
        assert (await endpoint.shown())["id"] == endpoint.id

    async def test_the_secret_is_shown_once(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        assert endpoint.secret.startswith("whsec_")
        assert endpoint.secret not in str(await endpoint.shown())

    async def test_a_name_is_taken_once(self, client: Client, receiver: Receiver) -> None:
        first, second = await created(client, receiver.url), await created(client, receiver.url)
        body = body_of(receiver.url, name=first.name)
        (await admin(client, "POST", "/api/webhooks", json=body)).error(409)
        (await second.ask("PUT", json=body)).error(409)
        assert (await admin(client, "POST", "/api/webhooks", json={**body, "virtual_key_id": "k"})).status == 201

    async def test_a_put_replaces_all_and_keeps_what_comes_back_masked(
        self, client: Client, receiver: Receiver
    ) -> None:
        headers = {"X-Kept": "one", "X-Changed": "two", "X-Dropped": "three"}
        endpoint = await created(client, receiver.url, headers=headers, include_response=True, max_retries=7)
        shown = await endpoint.shown()
        assert shown["headers"].keys() == headers.keys()
        assert "one" not in str(shown["headers"])
        assert shown["max_retries"] == 7
        masked = shown["headers"]
        changed = body_of(
            receiver.url,
            name=endpoint.name,
            headers={"X-Kept": masked["X-Kept"], "X-Changed": "new", "X-Added": {"value": "four"}},
        )
        reply = await endpoint.ask("PUT", json=changed)
        assert reply.status == 200
        assert reply.json["include_response"] is False
        assert "max_retries" not in reply.json
        assert (await endpoint.ask("POST", "/test")).json["delivered"]
        sent = receiver.calls[0].headers
        assert [sent.get(f"X-{name}") for name in ("Kept", "Changed", "Added", "Dropped")] == [
            "one",
            "new",
            "four",
            None,
        ]
        assert signatures(endpoint.secret, sent, receiver.calls[0].body) == 1
        plain = body_of(receiver.url, name=endpoint.name, headers={"X-Unknown": masked["X-Kept"]})
        (await endpoint.ask("PUT", json=plain)).error(400)
        assert (await endpoint.ask("PUT", json={**await endpoint.shown(), "name": "as-it-was-shown"})).status == 200

    async def test_lists(self, client: Client, receiver: Receiver) -> None:
        mark = str(uuid4())
        names = [f"{mark}-{letter}" for letter in "abc"]
        for name, events in zip(
            names, (["async_job.failed"], ["async_job.started"], ["async_job.failed"]), strict=True
        ):
            await created(client, receiver.url, name=name, events=events, disabled=name.endswith("c"))

        async def listed(query: str) -> tuple[list[str], dict[str, Any]]:
            reply = await admin(client, "GET", f"/api/webhooks?search={mark}{query}")
            assert reply.status == 200, reply.body
            found: dict[str, Any] = reply.json
            for endpoint in found["endpoints"]:
                assert "secret" not in endpoint
            return [endpoint["name"] for endpoint in found.pop("endpoints")], found

        assert await listed("") == (names, {"count": 3, "total_count": 3, "limit": 50, "offset": 0})
        assert await listed("&limit=1&offset=1") == (
            names[1:2],
            {"count": 1, "total_count": 3, "limit": 1, "offset": 1},
        )
        assert (await listed("&event=async_job.failed"))[0] == [names[0], names[2]]
        assert (await listed("&event=async_job.failed,async_job.started"))[0] == names
        assert (await listed("&disabled=true"))[0] == names[2:]
        for query in ("limit=0", "limit=x", "offset=-1", "event=x", "disabled=maybe", "limit=501"):
            (await admin(client, "GET", f"/api/webhooks?{query}")).error(400)

    @pytest.mark.parametrize(
        ("members", "param"),
        [
            ({"name": ""}, "name"),
            ({"url": "http://shop.example/", "allow_private_network": False}, "url"),
            ({"url": "https://127.0.0.1/", "allow_private_network": False}, "url"),
            ({"url": "https://[::ffff:10.0.0.1]/", "allow_private_network": False}, "url"),
            ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
            ({"url": "http://[fe80::1]/"}, "url"),
            ({"url": "http://0x7f.1/"}, "url"),
            ({"url": "https://me@shop.example/"}, "url"),
            ({"url": "https://shop.example/#x"}, "url"),
            ({"events": []}, "events"),
            ({"headers": {"Host": "x"}}, "headers"),
            ({"secret": SECRET}, "secret"),
            ({"events": ["async_job.unknown"]}, None),
            ({"max_retries": -1}, None),
            ({"max_retries": "4"}, None),
            ({"attempt_timeout_seconds": 3600}, None),
            ({"include_response": "yes"}, None),
            ({"name": None}, None),
        ],
    )
    async def test_refuses_what_cannot_be(self, client: Client, members: dict[str, Any], param: str | None) -> None:
        reply = await admin(client, "POST", "/api/webhooks", json=body_of("http://127.0.0.1:9/", **members))
        assert reply.error(400)["error"].get("param") == param

    async def test_is_noted_in_the_audit_log(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        await endpoint.ask("PUT", json=body_of(receiver.url, name=endpoint.name))
        for path in ("/rotate-secret", "/resume"):
            await endpoint.ask("POST", path)
        await endpoint.ask("DELETE")
        reply = await admin(client, "GET", "/api/audit-log?limit=100")
        (lines,) = [value for value in reply.json.values() if isinstance(value, list)]
        noted = [line for line in lines if line["subject_id"] == endpoint.id]
        assert [line["action"] for line in noted[::-1]] == ["created", "changed", "rotated", "resumed", "deleted"]
        assert {(line["subject"], line["detail"]["name"]) for line in noted} == {("webhook", endpoint.name)}
        assert endpoint.secret not in str(noted)

    async def test_knows_no_endpoint_that_there_is_not(self, client: Client, receiver: Receiver) -> None:
        endpoint = await created(client, receiver.url)
        assert (await endpoint.ask("DELETE")).json == {"status": "success"}
        (await endpoint.ask("GET")).error(404)
        (await endpoint.ask("DELETE")).error(404)
        (await endpoint.ask("PUT", json=body_of(receiver.url))).error(404)
        for path in ("/rotate-secret", "/resume", "/test"):
            (await endpoint.ask("POST", path)).error(404)
        (await endpoint.ask("GET", "/deliveries")).error(404)
        (await endpoint.ask("POST", "/redeliver", json={"since": "2026-01-01T00:00:00Z"})).error(404)

    @pytest.mark.parametrize(("content_type", "status"), [("application/json", 400), ("text/plain", 415), ("", 415)])
    async def test_reads_json_alone(self, client: Client, content_type: str, status: int) -> None:
        headers = {**ADMIN, "content-type": content_type}
        (await client.ask("POST", "/api/webhooks", data=b"{", headers=headers)).error(status)


class TestSubmit:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_name_that_nobody_has_refuses_it(self, client: Client, kind: str) -> None:
        reply = await client.send(kind, headers={"x-bf-async-webhook": "nobody"})
        error = reply.error(400, "failed to resolve webhook endpoint: invalid webhook endpoint reference:")
        assert "nobody" in error["error"]["message"]

    async def test_so_does_one_that_is_disabled_or_somebody_elses(self, client: Client, receiver: Receiver) -> None:
        disabled = await created(client, receiver.url, disabled=True)
        theirs = await created(client, receiver.url, virtual_key_id="another-key")
        for endpoint in (disabled, theirs):
            reply = await client.send("generations", headers=endpoint.headers)
            reply.error(400, "failed to resolve webhook endpoint: invalid webhook endpoint reference:")

    async def test_blanks_name_nobody(self, client: Client) -> None:
        assert (await client.send("generations", headers={"x-bf-async-webhook": "  "})).status == 202


async def test_a_slow_receiver_delays_no_other(client: Client, receiver: Receiver) -> None:
    async with Receiver() as slow:
        slow.hold()
        late = await created(client, slow.url, max_concurrent_deliveries=3)
        quick = await created(client, receiver.url)
        for _ in range(6):
            await client.submit(headers=late.headers)
        await slow.until(lambda it: it.at_work == 3)
        jobs = [await client.run(headers=quick.headers) for _ in range(4)]
        calls = await receiver.received(4)
        assert {call.data["job_id"] for call in calls} == {job["id"] for job in jobs}
        assert slow.calls == []
        slow.release()
        await slow.received(6)
        assert slow.most_at_work == 3


async def test_a_virtual_keys_own_endpoint_is_its_own(tmp_path: Path, receiver: Receiver) -> None:
    """Its jobs name it, before one of everybody's by the same name; those of others cannot."""
    keys = [{"name": name, "value": f"sk-bf-made-up-for-tests-{name * 8}"} for name in ("one", "two")]
    settings = settings_for(tmp_path / "data", auth={"admin_key": KEY}, virtual_keys=keys)
    with ServedGateway(settings) as gateway:
        async with Client(gateway.url) as client, Receiver() as everybodys:
            listed = (await admin(client, "GET", "/api/virtual-keys")).json
            (owner,) = [key["id"] for key in listed["virtual_keys"] if key["name"] == "one"]
            own = await created(client, receiver.url, name="orders", virtual_key_id=owner)
            assert own.created["virtual_key_id"] == owner
            (await own.ask("PUT", json=body_of(receiver.url, name="orders", virtual_key_id="another"))).error(400)
            assert (await own.ask("PUT", json=body_of(receiver.url, name="orders"))).json["virtual_key_id"] == owner

            one, two = ({"x-bf-vk": key["value"], "x-bf-async-webhook": "orders"} for key in keys)
            assert (await client.send("generations", headers=one)).status == 202
            await receiver.received(1)
            for headers in (two, {"x-bf-async-webhook": "orders"}):
                reply = await client.send("generations", headers=headers)
                reply.error(400, "failed to resolve webhook endpoint: invalid webhook endpoint reference:")

            await created(client, everybodys.url, name="orders")
            jobs = [(await client.send("generations", headers=headers)).json["id"] for headers in (one, two)]
            assert (await receiver.received(2))[1].data["job_id"] == jobs[0]
            assert (await everybodys.received(1))[0].data["job_id"] == jobs[1]


class TestSettings:
    async def test_name_endpoints_that_last(self, tmp_path: Path, receiver: Receiver) -> None:
        entry = {"name": "orders", "url": receiver.url, "allow_private_network": True, "secret": SECRET}

        def gateway(*entries: dict[str, Any]) -> ServedGateway:
            return ServedGateway(settings_for(tmp_path / "data", webhooks=entries))

        with gateway(entry) as it:
            async with Client(it.url) as client:
                await client.run(headers={"x-bf-async-webhook": "orders"})
                (call,) = await receiver.received(1)
                assert signatures(SECRET, call.headers, call.body) == 1
                [shown] = (await client.get("/api/webhooks")).json["endpoints"]
                assert shown["config_hash"]
                changed = {**body_of(receiver.url, name="orders"), "include_links": True}
                assert (await client.ask("PUT", f"/api/webhooks/{shown['id']}", json=changed)).status == 200
        with gateway(entry) as it:
            async with Client(it.url) as client:  # the entry is as it was: what an administrator said since holds
                assert (await client.get(f"/api/webhooks/{shown['id']}")).json["include_links"]
        fresh = f"{SECRET[:-4]}AAAA"
        with gateway({**entry, "secret": fresh}) as it:
            async with Client(it.url) as client:
                assert not (await client.get(f"/api/webhooks/{shown['id']}")).json["include_links"]
                await client.run(headers={"x-bf-async-webhook": "orders"})
                call = (await receiver.received(2))[1]
                assert [signatures(secret, call.headers, call.body) for secret in (fresh, SECRET)] == [1, 1]
        with gateway() as it:
            async with Client(it.url) as client:
                assert (await client.get(f"/api/webhooks/{shown['id']}")).json["disabled"]
        with gateway(entry) as it:
            async with Client(it.url) as client:
                assert not (await client.get(f"/api/webhooks/{shown['id']}")).json["disabled"]


class TestRestart:
    async def test_what_was_owed_is_delivered_after_it(self, tmp_path: Path, receiver: Receiver) -> None:
        receiver.hold()
        settings = settings_for(tmp_path / "data")
        with ServedGateway(settings) as gateway:
            async with Client(gateway.url) as client:
                reply = await client.ask("POST", "/api/webhooks", json=body_of(receiver.url))
                endpoint = Endpoint(client, reply.json)
                job = await client.run(headers=endpoint.headers)
                await receiver.until(lambda it: it.at_work == 1)
        receiver.release()
        with ServedGateway(settings):
            await receiver.until(lambda it: any(call.data["job_id"] == job["id"] for call in it.calls))
