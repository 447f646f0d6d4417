"""A disk that fails or a database that is locked: refused clearly, nothing lost, well again by itself."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.gateway import Gateway, running, upstream
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

PATH = "/v1/async/images/generations"


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


async def assert_refused(gateway: Gateway) -> None:
    status, body, headers = await gateway.post(PATH, model="box/flux", prompt="a fox")
    assert (status, body["error"]["code"]) == (503, "storage_unavailable")
    assert int(headers["Retry-After"]) >= 1
    assert body["is_bifrost_error"] is True


async def test_a_locked_database_refuses_submits_and_keeps_what_was_paid_for(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    box.faults.push(Fault(hold=True))
    async with running(tmp_path, providers={"box": upstream(box.base_url, repeatable=False)}) as gateway:
        runs = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        with closing(sqlite3.connect(gateway.database, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            refusals = [asyncio.create_task(assert_refused(gateway)) for _ in range(20)]
            box.release()
            assert (await gateway.poll(runs))[1]["status"] == "processing"
            async with asyncio.timeout(20):
                await asyncio.gather(*refusals)
            async with gateway.session.get(f"{gateway.url}/health") as response:
                assert response.status == 200
            other.execute("ROLLBACK")
        body = await gateway.result(runs)
        assert body["status"] == "completed"
        assert await gateway.picture(body)
        assert (await gateway.result(await gateway.submit("box/flux")))["status"] == "completed"
        assert gateway.rows("SELECT count(*) FROM jobs") == [(2,)]
        assert box.submissions == 2


async def test_a_full_disk_refuses_submits_and_is_well_again_when_there_is_room(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    async with running(tmp_path, providers={"box": upstream(box.base_url)}) as gateway:
        before = await gateway.result(await gateway.submit("box/flux"))
        gateway.limit_file_size(0)
        await assert_refused(gateway)
        async with gateway.session.get(f"{gateway.url}/ready") as response:
            assert response.status == 503
        assert await gateway.picture(before)
        gateway.limit_file_size(-1)
        after = await gateway.result(await gateway.submit("box/flux"))
        assert after["status"] == "completed"
        assert gateway.rows("SELECT count(*) FROM jobs") == [(2,)]
        gateway.signal()
        assert await gateway.ended() == 0


async def test_a_disk_that_fills_while_a_paid_call_is_out_does_not_lose_its_picture(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    box.faults.push(Fault(hold=True))
    async with running(tmp_path, providers={"box": upstream(box.base_url, repeatable=False)}) as gateway:
        job_id = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        gateway.limit_file_size(0)
        box.release()
        for _ in range(5):  # meanwhile the answer has come, and cannot be written down
            await assert_refused(gateway)
        gateway.limit_file_size(-1)
        body = await gateway.result(job_id)
        assert body["status"] == "completed"
        assert await gateway.picture(body)
        assert gateway.attempts(job_id) == [("box", "succeeded", "yes")]
        assert box.submissions == 1


async def test_a_second_server_on_the_same_folder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    async with running(tmp_path / "first") as first, Gateway(tmp_path / "second") as second:
        second.data_dir = first.data_dir
        second.configure()
        process = await second.spawn()
        assert await second.ended() == 2
        said = second.log.read_text()
        assert f"in use by process {first.process.pid} at {first.url}" in said
        assert process.stdout is not None
        assert await process.stdout.read() == b""
        assert (await first.result(await first.submit("builtin/sketch")))["status"] == "completed"


async def test_a_folder_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    async with Gateway(tmp_path) as gateway:
        await gateway.spawn()
        assert await gateway.ended() == 2
        assert "cannot be used" in gateway.log.read_text()


async def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    async with Gateway(tmp_path) as gateway:
        gateway.data_dir.mkdir()
        gateway.database.write_bytes(b"no database" * 1000)
        await gateway.spawn()
        assert await gateway.ended() == 2
        assert "cannot be opened" in gateway.log.read_text()
