"""The schema of a Postgres database: made once, brought up to date, and never touched when it is newer."""

import asyncio

import pytest

from safelight.adapters.postgres.migrate import migrate
from safelight.adapters.sql.schema import migrations, newest
from safelight.domain.errors import ConfigurationError, StorageError
from tests.postgres import PostgresServer, execute, fetch
from tests.stores import PostgresStorage

NEWEST = newest("postgres")


async def test_a_fresh_database_gets_our_tables_and_pgqueuers(postgres_server: PostgresServer) -> None:
    with postgres_server.database(migrated=False) as url:
        assert await migrate(url) == (0, NEWEST)
        tables = {row[0] for row in await fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
        assert {"jobs", "attempts", "events", "installation", "schema_version", "pgqueuer"} <= tables


async def test_processes_that_start_together_migrate_once(postgres_server: PostgresServer) -> None:
    with postgres_server.database(migrated=False) as url:
        outcomes = await asyncio.gather(*[migrate(url) for _ in range(4)])
        assert sorted(outcomes) == [(0, NEWEST), *[(NEWEST, NEWEST)] * 3]
        assert await fetch(url, "SELECT version FROM schema_version") == [(NEWEST,)]


async def test_an_older_database_is_brought_up_to_date_with_its_jobs(postgres_server: PostgresServer) -> None:
    with postgres_server.database(migrated=False) as url:
        await execute(
            url,
            migrations("postgres")[0][1],
            "CREATE TABLE schema_version (version BIGINT NOT NULL)",
            "INSERT INTO schema_version VALUES (1)",
            "INSERT INTO jobs (id, request_id, request_type, status, lane, model, request, created_at, ttl_s, due_at)"
            " VALUES ('j', 'r', 'image_generation', 'pending', 'paid', 'flux', convert_to("
            '\'{"operation":"image_generation","target":{"provider":"paid","model":"flux"}}\', \'utf8\'), 1, 60, 1)',
        )
        assert await migrate(url) == (1, NEWEST)
        store = await PostgresStorage(url).open()
        assert [job_id for _, job_id, *_ in await store.due(limit=9, after=(0, 0))] == ["j"]
        await store.close()


async def test_a_database_of_a_newer_release_is_refused_and_left_alone(database_url: str) -> None:
    await execute(database_url, "UPDATE schema_version SET version = version + 1", "DROP TABLE pgqueuer CASCADE")
    with pytest.raises(ConfigurationError, match=f"has schema {NEWEST + 1}.*up to {NEWEST}: run a newer release"):
        await migrate(database_url)
    assert await fetch(database_url, "SELECT to_regclass('pgqueuer')") == [(None,)]


async def test_a_server_that_is_not_there_is_a_fault_of_the_storage() -> None:
    with pytest.raises(StorageError):
        await migrate("postgresql://nobody@127.0.0.1:1/nothing")
