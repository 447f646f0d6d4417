"""Several processes on one Postgres: any of them may die at any moment, or be away too long."""

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.acceptance.cluster import LEASE_S, Cluster, cluster
from tests.acceptance.gateway import upstream
from tests.postgres import OwnServer
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator
from tests.simulators.replicate import ReplicateSimulator


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


pytestmark = pytest.mark.timeout(120)
PAID = {"repeatable": False}


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


async def test_a_job_that_a_worker_ends_wakes_the_waiter_at_the_api(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    box.faults.push(Fault(hold=True))
    async with cluster(tmp_path, database_url, providers={"box": upstream(box.base_url)}) as made:
        waiting = asyncio.create_task(made.api.post("/v1/images/generations", model="box/flux", prompt="a fox"))
        await box.wait_for_submissions(1)
        box.release()
        status, body, _ = await waiting
        assert status == 200
        async with made.api.session.get(body["data"][0]["url"]) as response:
            assert response.status == 200
        for node in made.nodes.values():
            assert await node.ready()
        async with made.node("one").session.get(f"{made.node('one').url}/v1/models") as response:
            assert response.status == 404  # a worker has no API


async def test_a_worker_hears_of_a_cancel_at_the_api_at_once(tmp_path: Path, database_url: str) -> None:
    """The work lies with its provider, and is asked for again and again; who waits and who follows are told, too."""
    async with ReplicateSimulator(key="k") as service:
        service.running_polls = 10**9
        entry = {"base_url": service.base_url, "keys": [{"name": "main", "value": "k"}]}
        async with cluster(tmp_path, database_url, providers={"replicate": entry}) as made:
            job_id = await made.api.submit("replicate/black-forest-labs/flux-schnell")
            await made.until("SELECT 1 FROM attempts WHERE state = 'accepted'")
            path = f"{made.api.url}/v1/async/jobs/{job_id}"
            async with made.api.session.get(f"{path}/events") as events:
                async with made.api.session.delete(path) as response:
                    assert response.status == 202
                async with asyncio.timeout(10), made.api.session.get(f"{path}?wait=60") as response:
                    body = await response.json()
                last = (await events.read()).split(b"\n\n")[-2]
        assert (body["status_code"], body["meta"]["cancelled"]) == (499, True)
        assert b'"code":"job_cancelled"' in last
        assert [each.path.endswith("/cancel") for each in service.exchanges].count(True) == 1


async def test_the_limit_of_a_provider_holds_over_all_workers(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    box.faults.always(Fault(hold=True))
    settings = {"box": upstream(box.base_url, concurrency=3)}
    async with cluster(tmp_path, database_url, providers=settings) as made:
        jobs = [await made.api.submit("box/flux") for _ in range(9)]
        for round_ in range(3):
            await box.wait_for_submissions(3 * (round_ + 1))
            picked = await made.rows("SELECT count(*) FROM pgqueuer WHERE status = 'picked'")
            assert (picked, box.submissions) == ([(3,)], 3 * (round_ + 1))
            box.release()
        for job_id in jobs:
            assert (await made.api.result(job_id))["status"] == "completed"
        await made.settled()


async def test_a_retry_that_was_put_off_holds_no_worker(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    box.faults.push(Fault(kind="status", status=429, headers={"Retry-After": "2"}))
    roles = {"api": "api", "one": "worker"}
    settings = {name: upstream(box.base_url, concurrency=1) for name in ("box", "other")}
    async with cluster(tmp_path, database_url, roles=roles, providers=settings, jobs={"concurrency": 1}) as made:
        put_off = await made.api.submit("box/flux")
        await made.until("SELECT 1 FROM attempts WHERE state = 'failed'")
        assert (await made.api.result(await made.api.submit("other/flux")))["status"] == "completed"
        assert (await made.api.poll(put_off))[1]["status"] == "processing"
        assert (await made.api.result(put_off))["status"] == "completed"


# SIGKILL in each state


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "paid"])
async def test_a_worker_killed_during_a_call_is_followed_by_another(
    *, tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator, repeatable: bool
) -> None:
    box.faults.push(Fault(hold=True))
    roles = {"api": "api", "one": "worker"}
    settings = {"box": upstream(box.base_url, repeatable=repeatable)}
    async with cluster(tmp_path, database_url, roles=roles, providers=settings) as made:
        job_id = await made.api.submit("box/flux")
        await box.wait_for_submissions(1)
        await made.node("one").restart()
        body = await made.api.result(job_id)
        if repeatable:
            assert (body["status"], box.submissions) == ("completed", 2)
        else:
            assert (body["error"]["error"]["code"], box.submissions) == ("outcome_unknown", 1)
        assert (await made.attempts(job_id))[0][1:] == ("unknown", "no" if repeatable else "unknown")
        await made.settled()


async def test_accepted_work_of_a_killed_worker_is_asked_for_by_another(tmp_path: Path, database_url: str) -> None:
    async with cluster(tmp_path, database_url) as made:
        job_id = await made.api.submit("builtin/handle-2")
        await made.until("SELECT 1 FROM attempts WHERE job_id = $1 AND state = 'accepted'", job_id)
        await asyncio.gather(made.node("one").kill(), made.node("two").kill())
        await made.node("two").start()
        body = await made.api.result(job_id)
        assert (body["status"], body["meta"]["attempts"]) == ("completed", 1)
        assert await made.api.picture(body)
        await made.settled()


async def test_jobs_wait_for_workers_and_an_api_that_comes_back(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    async with cluster(tmp_path, database_url, roles={"api": "api"}, providers={"box": upstream(box.base_url)}) as made:
        jobs = [await made.api.submit("box/flux") for _ in range(5)]
        assert (await made.api.poll(jobs[3]))[1]["meta"]["queue_position"] == 3
        await made.api.restart()
        assert (await made.api.poll(jobs[3]))[1]["meta"]["queue_position"] == 3
        worker = Cluster(
            tmp_path, database_url, roles={"late": "worker"}, providers={"box": upstream(box.base_url)}
        ).node("late")
        async with worker:
            await worker.start()
            for job_id in jobs:
                assert (await made.api.result(job_id))["status"] == "completed"
        assert box.submissions == 5


async def test_an_api_killed_between_commit_and_answer_has_accepted_the_job(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    accepted: set[str] = set()

    async def client(made: Cluster) -> None:
        while True:
            try:
                accepted.add(await made.api.submit("box/flux"))
            except aiohttp.ClientError:
                return

    async with cluster(tmp_path, database_url, providers={"box": upstream(box.base_url, **PAID)}) as made:
        for _ in range(20):  # until the kill has come at that very moment
            clients = [asyncio.create_task(client(made)) for _ in range(8)]
            await _at_the_next_commit(database_url, made.api.process.kill)
            await asyncio.gather(*clients)
            await made.api.process.wait()
            jobs = {row[0] for row in await made.rows("SELECT id FROM jobs")}
            assert accepted <= jobs
            if accepted < jobs:
                break
            await made.api.start()
        assert accepted < jobs
        await made.settled()
        assert await made.rows("SELECT DISTINCT status FROM jobs") == [("completed",)]
        assert box.submissions == len(jobs)


async def _at_the_next_commit(url: str, do: Callable[[], None]) -> None:
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        if not heard.is_set():
            do()
            heard.set()

    listening = await asyncpg.connect(url)
    try:
        await listening.add_listener("safelight_events", hear)
        await heard.wait()
    finally:
        await listening.close()


async def test_a_worker_that_was_away_too_long_does_not_write_over_its_successor(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    box.faults.push(Fault(hold=True))
    settings = {"box": upstream(box.base_url, **PAID)}
    roles = {"api": "api", "one": "worker"}
    async with cluster(tmp_path, database_url, roles=roles, providers=settings) as made:
        job_id = await made.api.submit("box/flux")
        await box.wait_for_submissions(1)
        made.node("one").signal(signal.SIGSTOP)
        successor = Cluster(tmp_path, database_url, roles={"two": "worker"}, providers=settings).node("two")
        async with successor:
            await successor.start()
            body = await made.api.result(job_id, within_s=4 * LEASE_S)
            assert body["error"]["error"]["code"] == "outcome_unknown"
            box.release()
            made.node("one").signal(signal.SIGCONT)
            assert (await made.api.result(await made.api.submit("box/flux")))["status"] == "completed"
            await _until_logged(made, "one", "job_superseded")
        assert (await made.api.poll(job_id))[1] == body
        assert await made.attempts(job_id) == [("box", "unknown", "unknown")]
        assert box.submissions == 2


async def _until_logged(made: Cluster, name: str, event: str) -> None:
    async with asyncio.timeout(20):
        while event not in made.node(name).log.read_text():  # noqa: ASYNC110 - a log has no event of ours
            await asyncio.sleep(0.05)


async def test_a_worker_that_is_told_to_stop_ends_what_it_has_and_loses_nothing(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    box.faults.always(Fault(delay_s=0.3))
    settings = {"box": upstream(box.base_url, concurrency=4, **PAID)}
    async with cluster(tmp_path, database_url, providers=settings) as made:
        jobs = [await made.api.submit("box/flux") for _ in range(20)]
        await box.wait_for_submissions(2)
        for name in ("one", "two"):  # one after the other, as a new release is rolled out
            made.node(name).signal()
            assert await made.node(name).ended() == 0
            await made.node(name).start()
        for job_id in jobs:
            body = await made.api.result(job_id)
            assert body["status"] == "completed"
            assert hashlib.sha256(await made.api.picture(body)).hexdigest()
        assert box.submissions == 20


# Clocks


@pytest.mark.parametrize("skew_s", [-60, 60])
async def test_a_worker_whose_clock_is_wrong_does_as_the_others(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator, skew_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both wait a second for a retry; the picture's link holds as long as the job."""
    box.faults.push(Fault(kind="status", status=429, headers={"Retry-After": "1"}))
    settings = {"box": upstream(box.base_url)}
    async with cluster(tmp_path, database_url, roles={"api": "api"}, providers=settings) as made:
        wrong = Cluster(tmp_path, database_url, roles={"wrong": "worker"}, providers=settings).node("wrong")
        monkeypatch.setattr(wrong, "command", (sys.executable, "-m", "tests.acceptance.skewed", str(skew_s)))
        async with wrong:
            await wrong.start()
            job_id = await made.api.submit("box/flux")
            body = await made.api.result(job_id, within_s=15)
            assert body["status"] == "completed"
            assert await made.api.picture(body)
            [(created, started, completed)] = await made.rows("SELECT created_at, started_at, completed_at FROM jobs")
            assert 0 <= started - created < 10_000_000
            assert 1_000_000 <= completed - started < 15_000_000


# The database


async def test_a_database_that_does_not_answer_refuses_submits_and_is_well_again(
    tmp_path: Path, database_url: str, box: OpenAICompatibleSimulator
) -> None:
    settings = {"box": upstream(box.base_url)}
    async with cluster(tmp_path, database_url, providers=settings, storage={"connections": 2}) as made:
        blocker = await asyncpg.connect(database_url)
        try:
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE jobs")
                many = [made.api.post("/v1/async/images/generations", model="box/flux", prompt="x") for _ in range(20)]
                for status, body, headers in await asyncio.gather(*many):
                    assert (status, body["error"]["code"]) == (503, "storage_unavailable")
                    assert int(headers["Retry-After"]) >= 1
                async with made.api.session.get(f"{made.api.url}/health") as response:
                    assert response.status == 200
                assert not await made.api.ready()
        finally:
            await blocker.close()
        assert (await made.api.result(await made.api.submit("box/flux")))["status"] == "completed"
        assert box.submissions == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
async def test_a_restart_of_the_database_costs_no_call_and_no_job(
    tmp_path: Path, own_server: OwnServer, box: OpenAICompatibleSimulator, end: signal.Signals
) -> None:
    box.faults.always(Fault(hold=True))
    settings = {"box": upstream(box.base_url, concurrency=6, **PAID)}
    with own_server.database() as url:
        async with cluster(tmp_path, url, providers=settings) as made:
            jobs = [await made.api.submit("box/flux") for _ in range(12)]
            await box.wait_for_submissions(6)
            own_server.end(end)
            box.release()  # answers come while nobody can write them down
            box.faults.always(None)
            assert not await made.api.ready()
            own_server.start()
            for job_id in jobs:
                assert (await made.api.result(job_id))["status"] == "completed"
            assert box.submissions == 12
            await made.settled()
