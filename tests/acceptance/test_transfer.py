"""From one machine to many: a stopped installation goes to Postgres and a bucket with its jobs and images."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.gateway import Gateway, running, upstream
from tests.acceptance.processes import safelight
from tests.postgres import PostgresServer, execute, fetch
from tests.s3 import S3
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


async def used(folder: Path, providers: dict[str, Any], box: OpenAICompatibleSimulator) -> tuple[dict[str, Any], str]:
    """A data folder with a completed, a failed and a waiting job: the completed one's body, and the waiting one's id."""
    async with running(folder, providers=providers) as gateway:
        done = await gateway.result(await gateway.submit("box/flux", response_format="url"))
        await gateway.result(await gateway.submit("builtin/fail-moderation"))
        box.faults.push(Fault(hold=True))
        waits = await gateway.submit("box/flux", response_format="url")
        await box.wait_for_submissions(2)
        await gateway.kill()
        box.release()
    return dict(done), waits


def transfer(folder: Path, url: str, s3: S3) -> Any:
    settings = folder / "transfer.yaml"
    settings.write_text(json.dumps({"storage": {"data_dir": str(folder / "data"), "blob_options": s3.options}}))
    return safelight("transfer", "--config", settings, "--to", url, "--blobs", s3.url, cwd=folder)


async def test_a_stopped_installation_goes_on_at_its_new_place(
    tmp_path: Path, postgres_server: PostgresServer, s3: S3, box: OpenAICompatibleSimulator
) -> None:
    providers = {"box": dict(upstream(box.base_url))}
    done, waits = await used(tmp_path, providers, box)
    with postgres_server.database(migrated=False) as url:
        moved = await asyncio.to_thread(transfer, tmp_path, url, s3)
        assert moved.returncode == 0, moved.stderr
        assert "jobs" in moved.stdout
        assert "read back and is the same" in moved.stdout
        storage = {"blob_url": s3.url, "blob_options": s3.options}
        roles = {"api": "api", "one": "worker"}
        made = Cluster(tmp_path / "new", url, roles=roles, providers=providers, storage=storage)
        async with made.api, made.node("one"):
            await asyncio.gather(made.api.start(), made.node("one").start())
            status, body = await made.api.poll(done["id"])
            assert status == 200
            assert body["result"]["created"] == done["result"]["created"]
            assert await made.api.picture(body)
            old_link = done["result"]["data"][0]["url"].partition("/v1/files")
            async with made.api.session.get(made.api.url + "".join(old_link[1:])) as response:
                assert response.status == 200  # links that were given out hold
            assert (await made.api.result(waits))["status"] == "completed"
            await made.api.result(await made.api.submit("box/flux"))
        assert await fetch(url, "SELECT count(*) FROM jobs") == [(4,)]


async def test_it_is_refused_where_there_are_jobs_or_a_gateway_runs(
    tmp_path: Path, database_url: str, s3: S3, box: OpenAICompatibleSimulator
) -> None:
    async with running(tmp_path) as gateway:
        refused = await asyncio.to_thread(transfer, tmp_path, database_url, s3)
        assert refused.returncode == 2
        assert f"in use by process {gateway.process.pid}" in refused.stderr
    await used(tmp_path, {"box": dict(upstream(box.base_url))}, box)
    assert (await asyncio.to_thread(transfer, tmp_path, database_url, s3)).returncode == 0
    again = await asyncio.to_thread(transfer, tmp_path, database_url, s3)
    assert again.returncode == 2
    assert "has 3 jobs in it already" in again.stderr


async def test_what_was_cut_off_is_done_again(
    tmp_path: Path, database_url: str, s3: S3, box: OpenAICompatibleSimulator
) -> None:
    await used(tmp_path, {"box": dict(upstream(box.base_url))}, box)
    await execute(database_url, "ALTER TABLE attempts ADD CHECK (number < 0)")
    broken = await asyncio.to_thread(transfer, tmp_path, database_url, s3)
    assert broken.returncode != 0
    assert await fetch(database_url, "SELECT count(*) FROM jobs") == [(0,)]
    await execute(database_url, "ALTER TABLE attempts DROP CONSTRAINT attempts_number_check")
    assert (await asyncio.to_thread(transfer, tmp_path, database_url, s3)).returncode == 0
    assert await fetch(database_url, "SELECT count(*) FROM jobs") == [(3,)]
    folder = Gateway(tmp_path)
    assert len(folder.files()) >= 1  # the old place is as it was
