"""What must end, ends: results at their TTL, jobs at their deadline."""

import asyncio
from pathlib import Path

from tests.acceptance.gateway import POLL_S, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

SHORT = {"x-bf-async-job-result-ttl": "1"}


async def test_an_expired_job_is_gone_from_disk(tmp_path: Path) -> None:
    async with running(tmp_path, jobs={"sweep_interval": 0.2}) as gateway:
        kept = await gateway.result(await gateway.submit("builtin/sketch"))
        for _ in range(3):
            await gateway.post("/v1/async/images/generations", headers=SHORT, model="builtin/sketch", prompt="a fox")
        await gateway.until("SELECT 1 WHERE (SELECT count(*) FROM jobs) = 1")
        assert len(gateway.files()) == 1
        assert gateway.rows("SELECT job_id FROM attempts") == [(kept["id"],)]
        assert await gateway.picture(kept)


async def test_a_job_that_has_expired_is_not_found_before_the_sweeper_came(tmp_path: Path) -> None:
    async with running(tmp_path, jobs={"sweep_interval": 3600}) as gateway:
        _, body, _ = await gateway.post(
            "/v1/async/images/generations", headers=SHORT, model="builtin/sketch", prompt="a fox"
        )
        ended = await gateway.result(body["id"])
        link = ended["result"]["data"][0]["url"]
        async with asyncio.timeout(10):
            while (await gateway.poll(body["id"]))[0] != 404:  # noqa: ASYNC110 - another process has no event of ours
                await asyncio.sleep(POLL_S)
        async with gateway.session.get(link) as response:
            assert response.status == 404
        assert gateway.rows("SELECT count(*) FROM jobs") == [(1,)]
        assert len(gateway.files()) == 1


async def test_a_job_that_waits_for_ever_ends_at_its_deadline(tmp_path: Path) -> None:
    async with OpenAICompatibleSimulator() as box:
        box.faults.always(Fault(hold=True))
        settings = {"box": upstream(box.base_url, concurrency=1, repeatable=False)}
        async with running(tmp_path, providers=settings, jobs={"deadline": 2, "sweep_interval": 0.2}) as gateway:
            runs = await gateway.submit("box/flux")
            await box.wait_for_submissions(1)
            waits = await gateway.submit("box/flux")
            handle = await gateway.submit("builtin/handle-600")
            waiting = asyncio.create_task(gateway.post("/v1/images/generations", model="box/flux", prompt="a fox"))
            charges = {runs: "unknown", waits: "no", handle: "unknown"}
            for job_id, charged in charges.items():
                body = await gateway.result(job_id)
                assert (body["status"], body["status_code"]) == ("failed", 504)
                assert body["error"]["error"]["code"] == "deadline_exceeded"
                assert body["meta"]["charged"] == charged
            status, body, _ = await waiting
            assert (status, body["error"]["code"]) == (504, "deadline_exceeded")
            box.release()
            again = await gateway.result(runs)
            assert again["status"] == "failed"
            assert box.submissions == 1
