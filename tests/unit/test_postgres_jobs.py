"""The statements of the job store on Postgres, beside somebody else's that hold the job's row."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from safelight.adapters.postgres.database import Connection, PostgresDatabase
from safelight.adapters.postgres.jobs import PostgresJobStore
from safelight.domain.errors import Superseded
from safelight.domain.job import AttemptState, Job, JobStatus
from safelight.domain.outcome import settle
from tests.making import NOON, job, started, succeeded

WAIT_S = 5
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresJobStore]:
    store = PostgresJobStore(await PostgresDatabase.open(database_url, connections=4))
    yield store
    await store.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def running(store: PostgresJobStore) -> Job:
    new = job()
    await store.submit(new)
    await store.start_attempt(new.id, started())
    return new


async def states(store: PostgresJobStore, new: Job) -> tuple[JobStatus, AttemptState, int]:
    """Of the job and its attempt, with the number of its events."""
    found = await store.history(new.id)
    assert found is not None
    return found.job.status, found.attempts[0].state, len(await store.events(new.id, after=0, limit=9))


async def finish(store: PostgresJobStore, new: Job) -> None:
    attempt = succeeded()
    await store.finish(new.id, settle(new, [attempt], error=None, now=NOON), tries=1, attempt=attempt)


@asynccontextmanager
async def held(connection: Connection, statement: str, new: Job) -> AsyncIterator[None]:
    """Commit a statement on the job's row at the end, when somebody waits for the row."""
    async with connection.transaction():
        await connection.execute(f"{statement} WHERE id = $1", new.id)
        yield
        async with asyncio.timeout(WAIT_S):
            while not await connection.fetchval(WAITING):  # noqa: ASYNC110 - nothing tells of a lock that is waited for
                await asyncio.sleep(0.01)


async def test_an_end_waits_for_the_row_and_is_written(store: PostgresJobStore, other: Connection) -> None:
    new = await running(store)
    async with held(other, "UPDATE jobs SET progress = 0.5", new):
        end = asyncio.create_task(finish(store, new))
    await end
    assert await states(store, new) == (JobStatus.COMPLETED, AttemptState.SUCCEEDED, 3)


async def test_an_end_that_waited_for_a_cancel_leaves_nothing_behind(
    store: PostgresJobStore, other: Connection
) -> None:
    new = await running(store)
    async with held(other, "UPDATE jobs SET cancelled_at = 1", new):
        end = asyncio.create_task(finish(store, new))
    with pytest.raises(Superseded):
        await end
    assert await states(store, new) == (JobStatus.PROCESSING, AttemptState.STARTED, 2)
