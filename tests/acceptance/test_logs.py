"""What a gateway writes down: one line an event, with the ids that tell whose it is, and no secret."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.gateway import Gateway, running

PROMPT = "a fox that nobody must read of"
KEY = "sk-a-provider-key-that-must-not-show"


async def lines(gateway: Gateway) -> list[Mapping[str, Any]]:
    """All that it wrote. It ends first: a request's line comes after its answer."""
    gateway.signal()
    await gateway.ended()
    return [json.loads(line) for line in gateway.log.read_text().splitlines()]


async def one_job(gateway: Gateway) -> str:
    status, body, _ = await gateway.post(
        "/v1/async/images/generations",
        model="builtin/sketch",
        prompt=PROMPT,
        headers={"x-request-id": "order-7", "authorization": f"Bearer {KEY}"},
    )
    assert status == 202
    await gateway.result(body["id"])
    return str(body["id"])


@pytest.mark.parametrize("prompts", [False, True])
async def test_each_line_of_a_job_names_it_and_its_request(tmp_path: Path, prompts: bool) -> None:  # noqa: FBT001 - a table's column
    async with running(tmp_path, log={"format": "json", "prompts": prompts}) as gateway:
        job_id = await one_job(gateway)

        told = {line["event"]: line for line in await lines(gateway) if line.get("job_id") == job_id}
        assert told.keys() >= {"job_submitted", "job_ended", "request"}
        assert told["job_submitted"]["request_id"] == told["request"]["request_id"] == "order-7"
        assert told["job_ended"]["request_id"] == "order-7"
        assert (PROMPT in gateway.log.read_text()) is prompts
        assert KEY not in gateway.log.read_text()


async def test_the_access_log_has_durations_and_no_query(tmp_path: Path) -> None:
    async with running(tmp_path, log={"format": "json", "access": "all"}) as gateway:
        body = await gateway.result(await gateway.submit("builtin/sketch"))
        await gateway.picture(body)

        requests = [line for line in await lines(gateway) if line["event"] == "request"]
        assert {line["method"] for line in requests} == {"GET", "POST"}
        assert all(line["duration_ms"] >= 0 and line["status"] and line["request_id"] for line in requests)
        assert any(line["path"].startswith("/v1/files/") for line in requests)
        assert "signature" not in gateway.log.read_text()


async def test_quick_reads_get_no_line_unless_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, log={"format": "json"}) as gateway:
        await gateway.result(await gateway.submit("builtin/sketch"))
        async with gateway.session.get(f"{gateway.url}/nowhere?key=secret") as response:
            assert response.status == 404

        requests = [(line["method"], line["status"]) for line in await lines(gateway) if line["event"] == "request"]
        assert requests == [("POST", 202), ("GET", 404)]
