"""Job stores for tests, as the wiring makes them, on each engine. Another engine joins by its entry in `ENGINES`."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.postgres.database import PostgresDatabase
from safelight.adapters.postgres.jobs import PostgresJobStore
from safelight.adapters.sql.database import Database
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite.committer_process import CommitterProcess
from safelight.adapters.sqlite.database import SqliteDatabase
from safelight.adapters.sqlite.recent import RecentJobs
from safelight.domain.job import Job
from safelight.domain.outcome import settle
from tests.doubles import until
from tests.making import NOON, started, succeeded


class Storage(Protocol):
    """Tables on one engine. Whoever opens them sees what the others have committed, as processes do."""

    async def open(self, bell: LocalBell | None = None) -> SqlJobStore:
        """Make a job store, which rings the bell at its own commits. The caller closes it."""
        ...

    async def open_database(self) -> Database:
        """The engine alone, for stores of other things. The caller closes it."""
        ...


class SqliteStorage:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self, bell: LocalBell | None = None) -> SqlJobStore:
        return sqlite_store(self._path, bell)

    async def open_database(self) -> SqliteDatabase:
        return SqliteDatabase(self._path)


class CommitterStorage:
    """SQLite under load: what can be told beforehand is committed by a process from the beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self, bell: LocalBell | None = None) -> SqlJobStore:
        return SqlJobStore(await self.open_database(), memory=RecentJobs(), ring=(bell or LocalBell()).ring)

    async def open_database(self) -> SqliteDatabase:
        database = SqliteDatabase(self._path)
        await with_committer(database)
        return database


async def with_committer(database: SqliteDatabase) -> CommitterProcess:
    """Have the process that commits started, and wait until it can be asked."""
    committer = database.committer
    committer.want()
    await until(lambda: committer.ready)
    return committer


class PostgresStorage:
    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self, bell: LocalBell | None = None) -> SqlJobStore:
        return PostgresJobStore(await self.open_database(), ring=(bell or LocalBell()).ring)

    async def open_database(self) -> PostgresDatabase:
        return await PostgresDatabase.open(self._url, connections=8)


ENGINES: Mapping[str, Callable[[pytest.FixtureRequest], Storage]] = {
    "sqlite": lambda request: SqliteStorage(request.getfixturevalue("tmp_path") / "jobs.db"),
    "committer": lambda request: CommitterStorage(request.getfixturevalue("tmp_path") / "jobs.db"),
    "postgres": lambda request: PostgresStorage(request.getfixturevalue("database_url")),
}


def sqlite_store(path: Path, bell: LocalBell | None = None) -> SqlJobStore:
    """The embedded store, which rings the bell; closing it closes its database."""
    return SqlJobStore(SqliteDatabase(path), memory=RecentJobs(), ring=(bell or LocalBell()).ring)


async def finish(store: SqlJobStore, of: Job) -> None:
    """End a job that has begun, with a picture."""
    attempt = succeeded()
    await store.finish(of.id, settle(of, [attempt], error=None, now=NOON), tries=1, attempt=attempt)


class Taken:
    """Takes jobs up as soon as it is woken, as the queue does."""

    def __init__(self, store: SqlJobStore) -> None:
        self.store = store
        self.starts: list[asyncio.Task[None]] = []

    def wake(self, of: Job) -> None:
        self.starts.append(asyncio.ensure_future(self.store.start_attempt(of.id, started())))
