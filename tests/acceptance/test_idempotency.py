"""SIGKILL between the commit of a submit and its answer: the same submit, made again, finds its job."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.gateway import Gateway, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

ROUNDS = 3
CLIENTS = 50


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


async def submit(gateway: Gateway, key: str) -> str:
    """Submit until there is an answer, whatever becomes of the gateway meanwhile."""
    while True:
        try:
            status, body, _ = await gateway.post(
                "/v1/async/images/generations", headers={"Idempotency-Key": key}, model="box/flux", prompt=key
            )
        except aiohttp.ClientError:
            await asyncio.sleep(0.02)
        else:
            assert status == 202, body
            return str(body["id"])


async def test_crashes_in_between_make_no_second_job_and_no_second_call(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    box.faults.always(Fault(delay_s=0.02))
    providers = {"box": upstream(box.base_url, repeatable=False)}
    async with running(tmp_path, providers=providers) as gateway:
        for number in range(ROUNDS):
            keys = [f"{number}-{client}" for client in range(CLIENTS)]
            clients = asyncio.gather(*[submit(gateway, key) for key in keys for _ in range(2)])
            await gateway.until("SELECT 1 FROM jobs WHERE idempotency_key = ?", f"{number}-0")
            await gateway.restart()
            ids = await clients
            assert len(set(ids)) == CLIENTS
            assert ids[::2] == ids[1::2]
        await asyncio.gather(*[gateway.result(job_id) for job_id in ids])
        assert gateway.rows("SELECT count(*) FROM jobs") == [(ROUNDS * CLIENTS,)]
        prompts = [exchange.fields["prompt"] for exchange in box.exchanges if exchange.submission]
        assert len(prompts) == len(set(prompts))
