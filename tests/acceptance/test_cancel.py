"""Cancel, and SIGKILL around it: nothing starts once it was answered, and what was paid is told."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.gateway import Body, Gateway, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator
from tests.simulators.replicate import ReplicateSimulator

KEY = "key-of-the-test"
JOBS = 30


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    """Holds every call until it is released."""
    async with OpenAICompatibleSimulator() as simulator:
        simulator.faults.always(Fault(hold=True))
        yield simulator


async def end(gateway: Gateway, job_id: str) -> tuple[int, Body]:
    """Cancel a job, or delete it."""
    async with gateway.session.delete(f"{gateway.url}/v1/async/jobs/{job_id}") as response:
        return response.status, await response.json() if response.status != 204 else {}


def told(body: Mapping[str, Any]) -> tuple[str, int, str, bool, str]:
    """How a cancelled job ended."""
    meta = body["meta"]
    return body["status"], body["status_code"], body["error"]["error"]["code"], meta["cancelled"], meta["charged"]


async def test_what_waits_in_line_never_starts_once_the_cancel_was_answered(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    providers = {"box": upstream(box.base_url, concurrency=1)}
    async with running(tmp_path, providers=providers) as gateway:
        first = await gateway.submit("box/flux", "first")
        await box.wait_for_submissions(1)
        waiting = [await gateway.submit("box/flux", f"waits {number}") for number in range(JOBS)]
        answers = await asyncio.gather(*[end(gateway, job_id) for job_id in waiting[::2]])
        await gateway.kill()
        assert {(status, *told(body)) for status, body in answers} == {
            (200, "failed", 499, "job_cancelled", True, "no")
        }
        box.faults.always(None)
        box.release()
        await gateway.start()
        for job_id, (_, body) in zip(waiting[::2], answers, strict=True):
            assert await gateway.result(job_id) == body
        for job_id in (first, *waiting[1::2]):
            assert (await gateway.result(job_id))["status"] == "completed"
        prompts = [exchange.fields["prompt"] for exchange in box.exchanges if exchange.submission]
        assert sorted(set(prompts)) == sorted(["first", *[f"waits {number}" for number in range(1, JOBS, 2)]])


@pytest.mark.parametrize("killed", [False, True])
async def test_a_call_that_is_out_ends_its_cancelled_job_when_it_ends(
    *, tmp_path: Path, box: OpenAICompatibleSimulator, killed: bool
) -> None:
    providers = {"box": upstream(box.base_url, repeatable=False)}
    async with running(tmp_path, providers=providers) as gateway:
        job_id = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        status, body = await end(gateway, job_id)
        assert (status, body["status"], body["meta"]["cancelled"]) == (202, "processing", True)
        if killed:
            await gateway.restart()
        box.faults.always(None)
        box.release()
        ended = await gateway.result(job_id)
        charged = "unknown" if killed else "yes"
        assert told(ended) == ("failed", 499, "job_cancelled", True, charged)
        assert gateway.attempts(job_id) == [("box", "unknown" if killed else "succeeded", charged)]
        assert (box.submissions, gateway.files()) == (1, [])


@pytest.mark.parametrize("killed", [False, True])
async def test_accepted_work_is_stopped_at_the_provider_at_once(*, tmp_path: Path, killed: bool) -> None:
    async with ReplicateSimulator(key=KEY) as service:
        service.running_polls = 10**9
        entry = {"base_url": service.base_url, "keys": [{"name": "main", "value": KEY}]}
        async with running(tmp_path, providers={"replicate": entry}) as gateway:
            job_id = await gateway.submit("replicate/black-forest-labs/flux-schnell")
            await gateway.until("SELECT 1 FROM attempts WHERE state = 'accepted'")
            stop = Fault(hold=True, method="POST", path="/v1/predictions/*/cancel")
            service.faults.always(stop if killed else None)
            assert (await end(gateway, job_id))[0] == 202
            if killed:
                await gateway.restart()
                service.faults.always(None)
                service.release()
            body = await gateway.result(job_id, within_s=10)
        assert told(body) == ("failed", 499, "job_cancelled", True, "no")
        stops = [each for each in service.exchanges if each.path.endswith("/cancel")]
        assert len(stops) == 1 or killed
        assert stops
        assert service.submissions == 1


async def test_a_deleted_job_is_gone_for_good(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        jobs = [await gateway.submit("builtin/sketch") for _ in range(3)]
        await asyncio.gather(*[gateway.result(job_id) for job_id in jobs])
        assert (await end(gateway, jobs[0]))[0] == 204
        await gateway.restart()
        assert (await gateway.poll(jobs[0]))[0] == 404
        assert len(gateway.files()) == 2
        assert gateway.rows("SELECT 1 FROM events WHERE job_id = ?", jobs[0]) == []
        assert gateway.attempts(jobs[0]) == []


async def test_a_retry_is_the_consent_to_pay_twice(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    providers = {"box": upstream(box.base_url, repeatable=False)}
    async with running(tmp_path, providers=providers) as gateway:
        job_id = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        await gateway.kill()
        box.faults.always(None)
        box.release()
        await gateway.start()
        assert (await gateway.result(job_id))["error"]["error"]["code"] == "outcome_unknown"
        async with gateway.session.post(f"{gateway.url}/v1/async/jobs/{job_id}/retry") as response:
            assert response.status == 202
        await gateway.result(job_id)
        await gateway.restart()
        body = await gateway.result(job_id)
        assert (body["status"], body["meta"]["attempts"], box.submissions) == ("completed", 2, 2)
        assert gateway.attempts(job_id) == [("box", "unknown", "unknown"), ("box", "succeeded", "yes")]
