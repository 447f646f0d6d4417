"""SIGKILL between hold and settle: no money stays held, none is booked twice, and the ledger adds up."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.acceptance.gateway import Gateway, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

KILLS = int(os.environ.get("SAFELIGHT_TEST_KILLS", "4"))
JOBS_EACH = 4
PRICE = 20_000
KEY = "sk-bf-of-the-first-team"


@pytest.mark.timeout(60 + 15 * KILLS)
async def test_whatever_is_held_is_settled_once_however_often_the_gateway_is_killed(tmp_path: Path) -> None:
    random = Random(KILLS)
    async with OpenAICompatibleSimulator() as box:
        box.faults.always(Fault(delay_s=0.05))
        async with running(
            tmp_path,
            providers={"box": upstream(box.base_url, repeatable=False, concurrency=2)},
            prices={"box/flux": {"per_image_usd": "0.02"}},
            virtual_keys=[{"name": "a", "value": KEY, "budgets": [{"limit_usd": 1000, "period": "1Y"}]}],
        ) as gateway:
            jobs: list[str] = []
            for _ in range(KILLS):
                jobs += await asyncio.gather(*[submit(gateway) for _ in range(JOBS_EACH)])
                await asyncio.sleep(random.random() / 5)  # the moment of the kill is what is tried here
                await gateway.restart()
            for job_id in jobs:
                await gateway.until("SELECT 1 FROM jobs WHERE id = ? AND due_at IS NULL", job_id)
            await check(gateway, jobs)


async def submit(gateway: Gateway) -> str:
    path, headers = "/v1/async/images/generations", {"x-bf-vk": KEY}
    status, body, _ = await gateway.post(path, headers=headers, model="box/flux", prompt="a fox")
    assert status == 202, body
    assert gateway.rows("SELECT amount FROM holds WHERE job_id = ?", body["id"]) in ([(PRICE,)], [])
    return str(body["id"])


async def check(gateway: Gateway, jobs: list[str]) -> None:
    assert gateway.rows("SELECT * FROM holds") == []
    assert gateway.rows("SELECT held FROM meters") == [(0,)]
    calls = Counter(
        job_id for (job_id,) in gateway.rows("SELECT job_id FROM attempts WHERE charged IN ('yes', 'unknown')")
    )
    spent, held = Counter[str](), Counter[str]()
    for job_id, debit, credit, amount in gateway.rows("SELECT job_id, debit, credit, amount FROM ledger"):
        held[job_id] += amount * ((credit == "held") - (debit == "held"))
        spent[job_id] += amount * (credit == "spent")
    assert held.keys() == set(jobs)
    assert set(held.values()) == {0}
    assert spent == Counter({job_id: PRICE * calls[job_id] for job_id in jobs})
    assert gateway.rows("SELECT sum(used) FROM meter_slots") == [(spent.total(),)]
