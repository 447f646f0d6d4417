"""Opens what the settings say jobs and images are kept in: this machine's folder, or a Postgres that many share."""

from dataclasses import dataclass
from datetime import UTC, datetime

from safelight.adapters.blobs.cloud import CloudBlobStore
from safelight.adapters.sql.schema import newest
from safelight.adapters.sql.timed import Timed
from safelight.config import Role, Settings
from safelight.domain.errors import ConfigurationError
from safelight.storage.base import Lanes, Storage, WorkQueue
from safelight.storage.embedded import migrate_embedded, open_embedded
from safelight.storage.images import open_blobs

__all__ = [
    "Lanes",
    "SharedDatabase",
    "Storage",
    "WorkQueue",
    "look_at_bucket",
    "look_at_database",
    "migrate_storage",
    "open_storage",
    "require_postgres",
]

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


async def open_storage(settings: Settings, lanes: Lanes, *, address: str | None = None, timed: Timed) -> Storage:
    """Open it, with its schema up to date; on a failure nothing stays open.

    `address` tells others where this process answers; `timed` hears how long the database took. Raises `ConfigurationError`, `StorageError`, `DataDirInUse`.
    """
    if settings.storage.database_url is not None:
        require_postgres()
        from safelight.storage.shared import open_shared  # noqa: PLC0415 - needs packages of an extra

        return await open_shared(settings, lanes, timed=timed)
    if settings.server.role is not Role.ALL:
        raise ConfigurationError(
            f"server.role is {settings.server.role.value}, but without storage.database_url one process does everything: "
            "set it to a Postgres that all processes share, or leave the role out"
        )
    return open_embedded(settings, lanes, address=address, timed=timed)


async def migrate_storage(settings: Settings) -> tuple[int, int]:
    """Bring the schema up to date, and do no more; gives the numbers before and after.

    Raises `ConfigurationError`, `StorageError`, `DataDirInUse`.
    """
    if settings.storage.database_url is None:
        return migrate_embedded(settings)
    require_postgres()
    from safelight.adapters.postgres.migrate import migrate  # noqa: PLC0415 - needs packages of an extra

    return await migrate(settings.storage.database_url.get_secret_value())


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDatabase:
    """What a look at a Postgres brings. `schema` is 0 where there is none yet, `newest` that of this release."""

    server: str
    schema: int
    newest: int


async def look_at_database(settings: Settings) -> SharedDatabase | None:
    """Look at the Postgres of the settings, `None` where they name none. Changes nothing.

    Raises `ConfigurationError`, `StorageError`.
    """
    if settings.storage.database_url is None:
        return None
    require_postgres()
    from safelight.adapters.postgres.migrate import ENGINE, look  # noqa: PLC0415 - needs packages of an extra

    server, schema = await look(settings.storage.database_url.get_secret_value())
    return SharedDatabase(server=server, schema=schema, newest=newest(ENGINE))


async def look_at_bucket(settings: Settings) -> bool:
    """Look into the bucket of the settings, false where they name none. Raises `ConfigurationError`, `StorageError`."""
    blobs = open_blobs(settings.storage) if settings.storage.blob_url else None
    if not isinstance(blobs, CloudBlobStore):
        return False
    async for _ in blobs.written_before(LONG_AGO):
        break
    return True


def require_postgres() -> None:
    """Raise `ConfigurationError` where the packages for Postgres are missing."""
    try:
        import asyncpg  # noqa: F401, PLC0415 - of an extra
        import pgqueuer  # noqa: F401, PLC0415 - as above
    except ImportError as error:
        raise ConfigurationError(
            f"storage.database_url needs the package {error.name}: pip install 'safelight[postgres]'"
        ) from error
