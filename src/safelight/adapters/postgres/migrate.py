"""Brings the schema of a Postgres database up to date: PgQueuer's tables, then ours."""

import asyncpg

from safelight.adapters.postgres.database import CONNECT_TIMEOUT_S, Connection, PostgresTransaction
from safelight.adapters.postgres.faults import translating
from safelight.adapters.postgres.pgq import Pgq
from safelight.adapters.sql.schema import migrations, newest, refuse_newer

ENGINE = "postgres"
_LOCK = 0x5AFE_1164  # any number, as long as every release has the same
_SESSION = {"application_name": "safelight migrate"}


async def migrate(url: str) -> tuple[int, int]:
    """Bring the schema up to this release; gives the numbers before and after. One process at a time, others wait.

    Raises `ConfigurationError` when the database was written by a newer release, and `StorageError`.
    """
    with translating():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=_SESSION)
        try:
            # Held by the session, since PgQueuer's upgrade takes several transactions; it ends with the connection.
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
            await connection.execute("SET lock_timeout = '30s'")  # behind a change of a table everybody else waits
            return await _migrate(connection)
        finally:
            await connection.close()


async def _migrate(connection: Connection) -> tuple[int, int]:
    version = await schema_version(connection)
    refuse_newer(version, ENGINE)
    pgqueuer = Pgq().on(PostgresTransaction(connection))
    if await pgqueuer.schema_is_installed():
        await pgqueuer.upgrade()
    else:
        await pgqueuer.install()
    await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
    for number, text in migrations(ENGINE):
        if number > version:
            async with connection.transaction():
                await connection.execute(text)
                await connection.execute("DELETE FROM schema_version")
                await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", number)
    return version, newest(ENGINE)


async def schema_version(connection: Connection) -> int:
    """The number of a database's schema; 0 where there is none yet."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        return 0
    version: int | None = await connection.fetchval("SELECT max(version) FROM schema_version")
    return version or 0


async def look(url: str) -> tuple[str, int]:
    """The server's version and the number of the schema; changes nothing. Raises `StorageError`."""
    with translating():
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=_SESSION)
        try:
            version: str = await connection.fetchval("SHOW server_version")
            return version.partition(" ")[0], await schema_version(connection)
        finally:
            await connection.close()
