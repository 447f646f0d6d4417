"""Sections 2 to 4 of the contract: submit, the job record, poll, time to live. Checklist 1 to 7 and 12 to 14."""

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import aiohttp
import pytest

from tests.api.client import KINDS, REQUEST_TYPES, SMALL, Client, form, parts_of
from tests.api.serving import ServedGateway
from tests.simulators._base import Fault
from tests.simulators.openai import OpenAISimulator

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
GONE = "job not found or expired"
OPENAI = {"model": "openai/gpt-image-2", "prompt": "a red kite"}


def moment(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def lifetime(job: Mapping[str, Any]) -> timedelta:
    return moment(job["expires_at"]) - moment(job["completed_at"])


@pytest.mark.parametrize("kind", KINDS)
async def test_submit_answers_the_job_alone(client: Client, kind: str) -> None:
    jobs = [await client.submit(kind) for _ in range(3)]

    assert len({job["id"] for job in jobs}) == 3
    for job in jobs:
        assert UUID4.fullmatch(job["id"])
        assert job.keys() == {"id", "request_id", "status", "created_at", "meta"}
        moment(job["created_at"])
        assert job["meta"]["request_type"] == REQUEST_TYPES[kind]
        assert job["meta"]["model"] == "builtin/sketch"


@pytest.mark.parametrize("kind", KINDS)
async def test_job_is_polled_to_its_end(client: Client, kind: str) -> None:
    job = await client.submit(kind)
    seen = await client.until(kind, job["id"], lambda reply: reply.status != 202)

    order = ("pending", "processing", "completed")
    statuses = [order.index(reply.json["status"]) for reply in seen]
    assert statuses == sorted(statuses)
    assert {reply.json["created_at"] for reply in seen} == {job["created_at"]}
    assert {reply.json["request_id"] for reply in seen} == {job["request_id"]}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in seen[:-1])
    end = seen[-1].json
    assert end["status"] == "completed"
    assert end["status_code"] == 200
    assert moment(end["completed_at"]) >= moment(end["created_at"])
    result = end["result"]
    assert [picture["index"] for picture in result["data"]] == [0]
    about = result["extra_fields"]
    assert about["request_type"] == REQUEST_TYPES[kind]
    assert about["provider"] == "builtin"
    assert about["original_model_requested"] == about["resolved_model_used"] == "sketch"
    assert about["latency"] >= 0
    assert about["chunk_index"] == 0
    assert end["meta"]["charged"] == "no"


@pytest.mark.parametrize("kind", KINDS)
async def test_every_number_of_pictures_comes(client: Client, kind: str) -> None:
    values: Any = {**SMALL, "n": 3} if kind == "generations" else parts_of(kind, n="3")
    job = await client.run(kind, values)

    assert [picture["index"] for picture in job["result"]["data"]] == [0, 1, 2]
    assert len({picture["url"] for picture in job["result"]["data"]}) == 3


async def test_reading_changes_nothing(client: Client) -> None:
    job = await client.run()
    path = f"/v1/async/images/generations/{job['id']}"

    first, second = await client.get(path), await client.get(path, headers={"x-bf-async-job-result-ttl": "1"})

    assert first.body == second.body


async def test_jobs_of_pictures_in_base64_read_alike_each_time(client: Client) -> None:
    job = await client.run(values={**SMALL, "size": "600x600", "response_format": "b64_json"})
    path = f"/v1/async/images/generations/{job['id']}"

    first, second = await client.get(path), await client.get(path)

    assert first.body == second.body
    assert int(first.headers["content-length"]) == len(first.body)


# ------------------------------------------------------------------------------------------------------ time to live


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        (None, 3600),
        ("5", 5),
        ("600", 600),
        ("0", 3600),
        ("-1", 3600),
        ("abc", 3600),
        ("1h", 3600),
        ("10.5", 3600),
        ("", 3600),
        ("+5", 3600),
        ("1e3", 3600),
        ("٣", 3600),
        ("007", 7),
        ("604800", 604_800),
        ("604801", 604_800),
        ("9" * 30, 604_800),
        ("9" * 5000, 604_800),
    ],
)
async def test_ttl_counts_from_the_end(client: Client, header: str | None, expected_s: int) -> None:
    headers = {} if header is None else {"x-bf-async-job-result-ttl": header}

    job = await client.run(headers=headers)

    assert lifetime(job) == timedelta(seconds=expected_s)


async def test_ttl_holds_for_failures(client: Client) -> None:
    job = await client.run(values={**SMALL, "model": "builtin/fail-auth"}, headers={"x-bf-async-job-result-ttl": "7"})

    assert job["status"] == "failed"
    assert lifetime(job) == timedelta(seconds=7)


async def test_expired_job_is_gone_with_its_pictures(client: Client, served: ServedGateway) -> None:
    """The sweeper of this gateway is asleep: the check is made when reading."""
    job = await client.run(headers={"x-bf-async-job-result-ttl": "1"})
    link = job["result"]["data"][0]["url"]

    seen = await client.until("generations", job["id"], lambda reply: reply.status == 404)

    seen[-1].error(404, GONE)
    assert datetime.now(tz=moment(job["expires_at"]).tzinfo) >= moment(job["expires_at"])
    assert {reply.json.get("expires_at") for reply in seen[:-1]} <= {job["expires_at"]}
    (await client.get(link)).error(404)
    assert served.settings.jobs.sweep_interval == 600


# -------------------------------------------------------------------------------------------------------------- poll


@pytest.mark.parametrize("job_id", ["0c4f3f0e-6f0a-4b7e-9a51-0d6c3a1f2b44", "nope", "0", "%00", "%ff", "ä", "x" * 4000])
@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_job(client: Client, kind: str, job_id: str) -> None:
    (await client.get(f"/v1/async/images/{kind}/{job_id}")).error(404, GONE)


async def test_id_is_compared_exactly(client: Client) -> None:
    job = await client.submit()

    for wrong in (job["id"].upper(), f" {job['id']}", job["id"].replace("-", ""), f"{{{job['id']}}}"):
        (await client.get(f"/v1/async/images/generations/{wrong}")).error(404, GONE)


@pytest.mark.parametrize(("made", "polled"), list(permutations(KINDS, 2)))
async def test_job_is_not_shown_on_another_route(client: Client, made: str, polled: str) -> None:
    job = await client.submit(made)

    (await client.get(f"/v1/async/images/{polled}/{job['id']}")).error(404, "operation type mismatch")


async def test_expiry_comes_before_the_operation(client: Client) -> None:
    """R4.1: an expired job is unknown on every route."""
    job = await client.run(headers={"x-bf-async-job-result-ttl": "1"})
    await client.until("generations", job["id"], lambda reply: reply.status == 404)

    (await client.get(f"/v1/async/images/edits/{job['id']}")).error(404, GONE)


# ---------------------------------------------------------------------------------------------------------- failures

REFUSALS: Mapping[str, tuple[int, str]] = {
    "fail-rejected": (400, "invalid_value"),
    "fail-moderation": (400, "moderation_blocked"),
    "fail-model": (404, "model_not_found"),
    "fail-auth": (401, "invalid_api_key"),
    "fail-busy": (429, "rate_limit_exceeded"),
    "fail-unavailable": (503, "server_error"),
    "fail-uncertain": (504, "outcome_unknown"),
    "fail-protocol": (502, "provider_answer_unreadable"),
    "fail-crash": (500, "provider_answer_unreadable"),
    "no-such-model": (404, "model_not_found"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", REFUSALS)
async def test_failed_job_is_a_successful_poll(client: Client, kind: str, model: str) -> None:
    name = f"builtin/{model}"
    values: Any = {**SMALL, "model": name} if kind == "generations" else parts_of(kind, model=name)
    job = await client.run(kind, values)

    status, code = REFUSALS[model]
    assert (job["status"], job["status_code"]) == ("failed", status)
    error = job["error"]
    assert error["status_code"] == status
    assert error["error"]["code"] == code
    assert error["is_bifrost_error"] is (model == "fail-crash")
    assert error["extra_fields"]["provider"] == "builtin"
    assert error["extra_fields"]["request_type"] == REQUEST_TYPES[kind]
    assert error["extra_fields"]["model_requested"] == error["extra_fields"]["original_model_requested"] == model
    assert job["meta"]["charged"] == "no"


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(kind="status", status=400), 400),
        (Fault(kind="status", status=401), 401),
        (Fault(kind="status", status=403), 403),
        (Fault(kind="status", status=429), 429),
        (Fault(kind="status", status=500), 500),
        (Fault(kind="html", status=502), 502),
        (Fault(kind="reset_before_read"), 502),
        (Fault(kind="reset_after_read"), 502),
        (Fault(kind="truncated"), 502),
        (Fault(kind="wrong_json"), 502),
        (Fault(kind="empty"), 502),
    ],
)
async def test_providers_failure_reaches_the_caller(
    client: Client, upstream: OpenAISimulator, fault: Fault, status: int
) -> None:
    upstream.faults.push(fault)

    job = await client.run(values=OPENAI)

    assert job["status"] == "failed"
    assert job["status_code"] == job["error"]["status_code"] == status
    assert job["error"]["extra_fields"]["provider"] == "openai"
    assert upstream.submissions == 1


async def test_providers_words_reach_the_caller(client: Client) -> None:
    job = await client.run(values={**OPENAI, "prompt": "a kite [blocked]"})

    assert job["status_code"] == 400
    assert job["error"]["error"]["code"] == "moderation_blocked"
    assert job["error"]["error"]["type"] == "image_generation_user_error"
    assert job["error"]["error"]["message"] == "Your request was rejected."


@pytest.mark.parametrize("model", ["nowhere/model", "nowhere/some/long/name", "fal-ai/flux"])
async def test_unknown_provider_makes_a_failed_job(client: Client, model: str) -> None:
    """R2.7."""
    job = await client.run(values={"model": model, "prompt": "a kite"})

    assert job["status"] == "failed"
    assert job["status_code"] == 400
    assert job["error"]["error"]["code"] == "provider_not_configured"


# --------------------------------------------------------------------------------------------------------- fallbacks


async def test_fallback_completes_the_same_job(client: Client) -> None:
    values = {**SMALL, "model": "builtin/fail-model", "fallbacks": ["openai/gpt-image-2"], "size": "1024x1024"}

    job = await client.run(values=values)

    assert job["status"] == "completed"
    about = job["result"]["extra_fields"]
    assert about["provider"] == "openai"
    assert about["original_model_requested"] == "fail-model"
    assert about["resolved_model_used"] == "gpt-image-2"
    assert job["meta"]["model"] == "builtin/fail-model"
    assert job["meta"]["provider"] == "openai"
    assert job["meta"]["attempts"] == 2


@pytest.mark.parametrize("broken", ["sketch", "/sketch", "builtin/", "", "/", " ", "no such thing/x"])
async def test_malformed_fallback_is_dropped(client: Client, broken: str) -> None:
    values = {**SMALL, "model": "nowhere/x", "fallbacks": [broken, "builtin/sketch"]}

    job = await client.run(values=values)

    assert job["status"] == "completed"
    assert job["meta"]["attempts"] == 1


async def test_fallback_may_be_an_object(client: Client) -> None:
    fallbacks = [{"provider": "builtin", "model": "sketch"}]

    job = await client.run(values={**SMALL, "model": "nowhere/x", "fallbacks": fallbacks})

    assert job["status"] == "completed"


async def test_fallbacks_of_a_form_are_repeated_parts(client: Client) -> None:
    parts = [*parts_of("edits", model="nowhere/x"), ("fallbacks", "malformed"), ("fallbacks", "builtin/sketch")]

    job = await client.run("edits", parts)

    assert job["status"] == "completed"
    assert job["meta"]["provider"] == "builtin"


async def test_failed_fallback_ends_the_job_with_the_last_word(client: Client) -> None:
    job = await client.run(values={**SMALL, "model": "builtin/fail-model", "fallbacks": ["builtin/fail-moderation"]})

    assert job["status"] == "failed"
    assert job["error"]["error"]["code"] == "moderation_blocked"


# ------------------------------------------------------------------------------------------------------ many and gone


async def test_many_jobs_at_once(client: Client) -> None:
    """R2.8: all are accepted, all end."""
    values = {**SMALL, "model": "builtin/fail-moderation"}
    jobs = await asyncio.gather(*(client.submit(values=values) for _ in range(500)))

    ends = await asyncio.gather(*(client.end("generations", job["id"]) for job in jobs))

    assert len({job["id"] for job in jobs}) == 500
    assert {end["status"] for end in ends} == {"failed"}


async def test_hundred_pictures_at_once(client: Client) -> None:
    jobs = await asyncio.gather(*(client.submit() for _ in range(100)))

    ends = await asyncio.gather(*(client.end("generations", job["id"]) for job in jobs))

    assert {end["status"] for end in ends} == {"completed"}


@pytest.mark.parametrize("kind", KINDS)
async def test_client_may_leave_after_the_submit(client: Client, served: ServedGateway, kind: str) -> None:
    async with aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(force_close=True)) as leaving:
        body: Any = {"json": SMALL} if kind == "generations" else {"data": form(parts_of(kind))}
        async with leaving.post(f"/v1/async/images/{kind}", **body) as response:
            job = await response.json()

    assert (await client.end(kind, job["id"]))["status"] == "completed"


# ----------------------------------------------------------------------------------------------------------- headers


async def test_callers_request_id_comes_back(client: Client) -> None:
    reply = await client.send("generations", SMALL, headers={"X-Request-ID": "mine-1"})

    assert reply.headers["x-request-id"] == "mine-1"
    assert reply.json["request_id"] == "mine-1"
    assert (await client.end("generations", reply.json["id"]))["request_id"] == "mine-1"


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 257, "ä", "x" * 20_000])
async def test_request_id_that_cannot_be_kept_is_replaced(client: Client, given: str) -> None:
    reply = await client.send("generations", SMALL, headers={"x-request-id": given})

    assert UUID4.fullmatch(reply.json["request_id"])
    assert reply.headers["x-request-id"] == reply.json["request_id"]


@pytest.mark.parametrize(("name", "kept"), [(" orders ", "'orders'"), ("x" * 500, f"'{'x' * 100}'")])
@pytest.mark.parametrize("kind", KINDS)
async def test_unknown_webhook_is_refused(
    own_client: Client, own: ServedGateway, kind: str, name: str, kept: str
) -> None:
    """S7. None can be registered in this release, so every name is unknown."""
    reply = await own_client.send(kind, headers={"x-bf-async-webhook": name})

    expected = "failed to resolve webhook endpoint: invalid webhook endpoint reference:"
    assert kept in reply.error(400, expected)["error"]["message"]
    assert own.blobs == []


async def test_empty_webhook_is_none(client: Client) -> None:
    await client.submit(headers={"x-bf-async-webhook": "  "})


async def test_same_body_twice_makes_two_jobs(client: Client) -> None:
    """R2.3, as long as no Idempotency-Key is sent."""
    assert (await client.submit())["id"] != (await client.submit())["id"]


async def test_extra_headers_and_parameters_reach_the_provider_when_asked(
    client: Client, upstream: OpenAISimulator
) -> None:
    headers = {"x-bf-eh-x-tenant": "seven", "x-bf-eh-cookie": "no", "x-bf-eh-Authorization": "no"}

    await client.run(values={**OPENAI, "safety_identifier": "me"}, headers=headers)
    await client.run(values={**OPENAI, "safety_identifier": "me"}, headers={"X-BF-Passthrough-Extra-Params": "true"})

    without, with_extra = upstream.exchanges
    assert without.headers["x-tenant"] == "seven"
    assert "cookie" not in without.headers
    assert without.headers["authorization"] == "Bearer sk-upstream"
    assert "safety_identifier" not in without.fields
    assert with_extra.fields["safety_identifier"] == "me"
    assert "x-tenant" not in with_extra.headers


async def test_named_key_that_is_not_there_fails_the_job(client: Client) -> None:
    job = await client.run(values=OPENAI, headers={"x-bf-api-key": "other"})

    assert job["status_code"] == 400
    assert job["error"]["error"]["code"] == "provider_key_missing"
