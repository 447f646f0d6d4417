"""Processes killed at random for a while: nothing accepted is lost, nothing is bought twice, no picture is missing."""

import signal
from itertools import cycle
from pathlib import Path

import pytest

from tests.acceptance.chaos import chaos
from tests.postgres import OwnServer

pytestmark = pytest.mark.timeout(240)


async def test_processes_of_a_cluster_may_be_killed_at_any_moment(tmp_path: Path, database_url: str) -> None:
    async with chaos(tmp_path, database_url, seed=3) as run:
        await run.run(seconds=10, every_s=1)
        await run.check()
        assert run.kills.total() >= 3


async def test_so_may_the_database(tmp_path: Path) -> None:
    ends = cycle([signal.SIGKILL, signal.SIGINT])
    with OwnServer() as server, server.database() as url:

        def restart() -> None:
            server.end(next(ends))
            server.start()

        async with chaos(tmp_path, url, seed=7, restart_database=restart) as run:
            await run.run(seconds=10, every_s=1)
            await run.check()
            assert run.kills["database"]
