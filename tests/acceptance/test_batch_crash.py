"""A batch whose gateway is killed again and again: every line has exactly one result.

Larger by hand: BATCH_LINES=10000 python -m pytest tests/acceptance/test_batch_crash.py --timeout 600 -s
"""

import asyncio
import json
import os
import time
from pathlib import Path
from random import Random
from typing import Any

from tests.acceptance.gateway import POLL_S, Gateway, running

LINES = int(os.environ.get("BATCH_LINES", "1500"))
KILLS = 3
END_S = 60 + LINES / 20
PAGE = 500


async def submit(gateway: Gateway) -> str:
    lines = [
        {"model": "builtin/sketch", "prompt": f"fox {number}", "size": "16x16", "metadata": {"number": str(number)}}
        for number in range(1, LINES + 1)
    ]
    body = "\n".join(map(json.dumps, lines))
    headers = {"Content-Type": "application/jsonl"}
    async with gateway.session.post(f"{gateway.url}/v1/async/batches", data=body, headers=headers) as response:
        answer = await response.json()
        assert response.status == 202, answer
        assert answer["total"] == LINES
        return str(answer["id"])


async def read(gateway: Gateway, path: str) -> Any:
    async with gateway.session.get(f"{gateway.url}/v1/async/batches/{path}") as response:
        assert response.status == 200
        return await response.json()


async def done(gateway: Gateway, batch_id: str, at_least: int) -> dict[str, Any]:
    """Wait until so many lines have ended."""
    async with asyncio.timeout(END_S):
        while True:
            body: dict[str, Any] = await read(gateway, batch_id)
            assert sum(body["counts"].values()) == LINES
            assert body["counts"]["failed"] == 0
            if body["counts"]["completed"] >= at_least:
                return body
            await asyncio.sleep(POLL_S)


async def results(gateway: Gateway, batch_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = await read(gateway, f"{batch_id}/results?limit={PAGE}&cursor={cursor}")
        found += page["data"]
        cursor = page["next_cursor"]
    return found


async def test_every_line_has_exactly_one_result_however_often_the_gateway_is_killed(tmp_path: Path) -> None:
    random, start = Random(11), time.monotonic()
    async with running(tmp_path) as gateway:
        batch_id = await submit(gateway)
        for number in range(KILLS):
            await done(gateway, batch_id, at_least=random.randrange(1, LINES // KILLS) + number * LINES // KILLS)
            await gateway.restart()
        body = await done(gateway, batch_id, at_least=LINES)
        assert body["status"] == "completed"
        print(f"{LINES} lines, killed {KILLS} times: {time.monotonic() - start:.1f} s")  # noqa: T201 - a figure to be read

        found = await results(gateway, batch_id)
        assert [each["line"] for each in found] == list(range(1, LINES + 1))
        assert [each["job"]["meta"]["metadata"]["number"] for each in found] == [str(each["line"]) for each in found]
        assert {each["job"]["status"] for each in found} == {"completed"}
        assert len({each["job"]["id"] for each in found}) == LINES
        prompts = gateway.rows("SELECT batch_line, json_extract(request, '$.prompt') FROM jobs ORDER BY batch_line")
        assert prompts == [(number, f"fox {number}") for number in range(1, LINES + 1)]
        for each in random.sample(found, 20):
            assert await gateway.picture(each["job"])
        gateway.signal()
        assert await gateway.ended() == 0
