"""Several `safelight serve` processes on one Postgres, to be killed, stopped and started again."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.gateway import POLL_S, Gateway
from tests.postgres import fetch

LEASE_S = 5.0
END_S = 90.0


class Cluster:
    """One API and some workers, or what `roles` says. They share a folder of images, as one machine's processes may."""

    def __init__(self, folder: Path, url: str, *, roles: Mapping[str, str], **settings: Mapping[str, Any]) -> None:
        self.url = url
        storage = {"database_url": url, "data_dir": str(folder / "data"), **settings.pop("storage", {})}
        jobs = {"lease": LEASE_S, **settings.pop("jobs", {})}
        self.nodes = {
            name: Gateway(folder / name, storage=storage, jobs=jobs, server={"role": role}, **settings)
            for name, role in roles.items()
        }

    @property
    def api(self) -> Gateway:
        return self.nodes["api"]

    def node(self, name: str) -> Gateway:
        return self.nodes[name]

    async def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return await fetch(self.url, statement, *values)

    async def until(self, statement: str, *values: object, within_s: float = END_S) -> list[tuple[Any, ...]]:
        """Wait until the database has a row for this."""
        async with asyncio.timeout(within_s):
            while not (rows := await self.rows(statement, *values)):  # noqa: ASYNC110 - other processes have no event of ours
                await asyncio.sleep(POLL_S)
        return rows

    async def settled(self, *, within_s: float = END_S) -> None:
        """Wait until every job has ended and no entry, and so no lease, is left."""
        await self.until(
            "SELECT 1 WHERE NOT EXISTS (SELECT FROM jobs WHERE due_at IS NOT NULL) AND NOT EXISTS (SELECT FROM pgqueuer)",
            within_s=within_s,
        )

    async def attempts(self, job_id: str) -> list[tuple[str, str, str | None]]:
        """The job's ledger: provider, state and charge of each attempt."""
        found = await self.rows(
            "SELECT provider, state, charged FROM attempts WHERE job_id = $1 ORDER BY number", job_id
        )
        return [(provider, state, charged) for provider, state, charged in found]


API_AND_TWO_WORKERS = {"api": "api", "one": "worker", "two": "worker"}


@asynccontextmanager
async def cluster(
    folder: Path, url: str, *, roles: Mapping[str, str] = API_AND_TWO_WORKERS, **settings: Mapping[str, Any]
) -> AsyncIterator[Cluster]:
    """A cluster whose processes have all been started."""
    async with AsyncExitStack() as stack:
        made = Cluster(folder, url, roles=roles, **settings)
        for node in made.nodes.values():
            await stack.enter_async_context(node)
        await asyncio.gather(*[node.start() for node in made.nodes.values()])
        yield made
