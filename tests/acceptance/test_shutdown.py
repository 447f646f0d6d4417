"""SIGTERM: nothing new begins, what runs may end, the rest is left for the next start, and everybody is answered."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.gateway import POLL_S, Gateway, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    """Holds every call until it is released."""
    async with OpenAICompatibleSimulator() as simulator:
        simulator.faults.always(Fault(hold=True))
        yield simulator


async def until_it_drains(gateway: Gateway) -> None:
    """SIGTERM, and wait until it is heard."""
    gateway.signal()
    while True:
        async with gateway.session.get(f"{gateway.url}/ready") as response:
            if response.status == 503:
                return
        await asyncio.sleep(POLL_S)


async def test_what_runs_may_end_and_what_waits_is_taken_up_at_the_next_start(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    providers = {"box": upstream(box.base_url, concurrency=1, repeatable=False)}
    async with running(tmp_path, providers=providers) as gateway:
        runs = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        waits = await gateway.submit("box/flux")
        await until_it_drains(gateway)
        late = await gateway.submit("box/flux")
        for job_id, status in ((runs, "processing"), (waits, "pending"), (late, "pending")):
            assert (await gateway.poll(job_id))[1]["status"] == status
        box.release()
        assert await gateway.ended() == 0
        assert box.submissions == 1
        assert gateway.attempts(runs) == [("box", "succeeded", "yes")]
        assert gateway.attempts(waits) == gateway.attempts(late) == []
        box.faults.always(None)
        await gateway.start()
        for job_id in (runs, waits, late):
            body = await gateway.result(job_id)
            assert body["status"] == "completed"
            assert await gateway.picture(body)
        assert box.submissions == 3


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "paid"])
async def test_what_does_not_end_in_time_is_left_and_who_waits_for_it_is_told_where(
    *, tmp_path: Path, box: OpenAICompatibleSimulator, repeatable: bool
) -> None:
    providers = {"box": upstream(box.base_url, repeatable=repeatable)}
    async with running(tmp_path, providers=providers, jobs={"shutdown_grace": 0.5}) as gateway:
        waiting = asyncio.create_task(gateway.post("/v1/images/generations", model="box/flux", prompt="a fox"))
        await box.wait_for_submissions(1)
        gateway.signal()
        status, body, headers = await waiting
        assert (status, body["error"]["code"]) == (503, "shutting_down")
        assert await gateway.ended() == 0
        box.faults.always(None)
        await gateway.start()
        job_id = headers["Location"].rpartition("/")[2]
        body = await gateway.result(job_id)
        assert body["status"] == ("completed" if repeatable else "failed")
        assert box.submissions == (2 if repeatable else 1)
        assert gateway.attempts(job_id)[0] == ("box", "unknown", "no" if repeatable else "unknown")


async def test_accepted_work_is_polled_after_an_orderly_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        job_id = await gateway.submit("builtin/handle-2")
        await gateway.until("SELECT 1 FROM attempts WHERE state = 'accepted'")
        gateway.signal()
        assert await gateway.ended(within_s=10) == 0
        await gateway.start()
        body = await gateway.result(job_id)
        assert (body["status"], body["meta"]["attempts"]) == ("completed", 1)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_hurries(tmp_path: Path, box: OpenAICompatibleSimulator, second: signal.Signals) -> None:
    providers = {"box": upstream(box.base_url)}
    async with running(tmp_path, providers=providers, jobs={"shutdown_grace": 300}) as gateway:
        job_id = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        await until_it_drains(gateway)
        gateway.signal(second)
        assert await gateway.ended(within_s=10) == 0
        box.faults.always(None)
        await gateway.start()
        assert (await gateway.result(job_id))["status"] == "completed"


async def test_a_gateway_without_work_stops_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        gateway.signal(signal.SIGINT)
        assert await gateway.ended(within_s=10) == 0


async def test_streams_end_in_order_and_go_on_after_the_restart(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    providers = {"box": upstream(box.base_url)}
    async with running(tmp_path, providers=providers, jobs={"shutdown_grace": 0.2}) as gateway:
        job_id = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        path = f"{gateway.url}/v1/async/jobs/{job_id}/events"
        async with gateway.session.get(path) as of_job, gateway.session.get(f"{gateway.url}/v1/async/events") as of_all:
            gateway.signal()
            begun, _ = await of_job.read(), await of_all.read()
        assert await gateway.ended() == 0
        blocks = begun.split(b"\n\n")[:-1]
        last = blocks[-1].split(b"\n")[0].removeprefix(b"id: ").decode()
        box.faults.always(None)
        await gateway.start()
        async with gateway.session.get(path, headers={"Last-Event-ID": last}) as response:
            blocks += (await response.read()).split(b"\n\n")[:-1]
        async with gateway.session.get(path) as response:
            assert (await response.read()).split(b"\n\n")[:-1] == blocks
        assert b'"status":"completed"' in blocks[-1]
