"""Any number of processes on one Postgres. Needs the packages of the extra `postgres`."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import structlog

from safelight.adapters.bell import LocalBell
from safelight.adapters.postgres.clock import DatabaseClock
from safelight.adapters.postgres.database import PostgresDatabase
from safelight.adapters.postgres.jobs import PostgresJobStore
from safelight.adapters.postgres.listen import DELIVERIES, EVENTS, Listener
from safelight.adapters.postgres.migrate import migrate
from safelight.adapters.postgres.pgq import CHANNEL
from safelight.adapters.postgres.queue import PostgresQueue
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sql.timed import Timed, TimedDatabase
from safelight.application.keep_going import keep_going
from safelight.application.ports import EVERY_JOB, OUTBOX
from safelight.config import Settings
from safelight.domain.errors import ConfigurationError
from safelight.storage.base import Lanes, Storage
from safelight.storage.images import open_blobs

log = structlog.get_logger(__name__)


async def open_shared(settings: Settings, lanes: Lanes, *, timed: Timed) -> Storage:
    """Migrate, connect and listen. Raises `ConfigurationError`, `StorageError`."""
    if settings.storage.database_url is None:
        raise ConfigurationError("storage.database_url is not set")
    url = settings.storage.database_url.get_secret_value()
    await migrate(url)
    async with AsyncExitStack() as stack:
        database = await PostgresDatabase.open(url, connections=settings.storage.connections)
        stack.push_async_callback(database.close)
        blobs = open_blobs(settings.storage)
        stack.push_async_callback(blobs.close)
        bell, clock = LocalBell(), DatabaseClock()
        queue = PostgresQueue(
            database,
            concurrency=settings.jobs.concurrency,
            lanes=lanes,
            lease=timedelta(seconds=settings.jobs.lease),
            now=clock.now,
        )
        measured = TimedDatabase(database, timed)
        jobs = PostgresJobStore(measured, ring=bell.ring, enqueue=queue.enqueue)
        stack.push_async_callback(_stopped, await _listening(url, bell, queue, clock))
        keys = settings.auth.encryption_keys or (await _stored_key(jobs),)
        close = stack.pop_all().aclose
    return Storage(
        database=measured,
        jobs=jobs,
        queue=queue,
        blobs=blobs,
        bell=bell,
        clock=clock,
        encryption_keys=keys,
        close=close,
    )


async def _stored_key(jobs: SqlJobStore) -> str:
    """All processes need the same, so it lies beside what it encrypts: better than nothing, no more."""
    log.warning("encryption_key_in_database", remedy="set SAFELIGHT_ENCRYPTION_KEY, the same for all processes")
    return (await jobs.fact("encryption_key", secrets.token_urlsafe(32).encode())).decode()


async def _listening(url: str, bell: LocalBell, queue: PostgresQueue, clock: DatabaseClock) -> "asyncio.Task[None]":
    """Hear what other processes do, from when this returns."""
    begun = asyncio.Event()

    def missed() -> None:
        bell.ring_all()
        queue.look()

    def told_time(now: datetime, took_s: float) -> None:
        clock.set(now, took_s)
        begun.set()

    heard: dict[str, Callable[[str], None]] = {
        EVENTS: lambda job_id: bell.ring(job_id, EVERY_JOB),
        DELIVERIES: lambda _: bell.ring(OUTBOX),
        CHANNEL: lambda _: queue.look(),
    }
    listener = Listener(url, heard, missed=missed, told_time=told_time)
    task = asyncio.create_task(keep_going("listener", listener.run))
    waiting = asyncio.create_task(begun.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return task


async def _stopped(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
