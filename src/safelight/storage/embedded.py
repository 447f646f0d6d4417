"""One process on one machine: a folder with an SQLite file and the images."""

from contextlib import ExitStack, closing

from safelight.adapters.bell import LocalBell
from safelight.adapters.clock import SystemClock
from safelight.adapters.data_dir import acquire
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sql.timed import Timed, TimedDatabase
from safelight.adapters.sqlite.connection import open_connection
from safelight.adapters.sqlite.database import SqliteDatabase
from safelight.adapters.sqlite.migrate import migrate, schema_version
from safelight.adapters.sqlite.queue import SqliteQueue
from safelight.adapters.sqlite.recent import RecentJobs
from safelight.config import Settings
from safelight.storage.base import Lanes, Storage
from safelight.storage.images import open_blobs

_UNKNOWN_LANE_SLOTS = 16


def open_embedded(settings: Settings, lanes: Lanes, *, address: str | None, timed: Timed) -> Storage:
    """Lock the folder, open what is in it. Raises `ConfigurationError`, `StorageError`, `DataDirInUse`."""
    with ExitStack() as stack:
        data_dir = acquire(settings.storage.data_dir, address=address)
        stack.callback(data_dir.release)
        keys = settings.auth.encryption_keys or (data_dir.encryption_key(),)
        database = TimedDatabase(SqliteDatabase(data_dir.database, keep=[data_dir.lock.fileno()]), timed)
        blobs = open_blobs(settings.storage)
        bell, clock = LocalBell(), SystemClock()
        jobs = SqlJobStore(database, memory=RecentJobs(), ring=bell.ring)
        queue = SqliteQueue(
            jobs,
            concurrency=settings.jobs.concurrency,
            lane_slots=lambda lane: lanes.get(lane, _UNKNOWN_LANE_SLOTS),
            now=clock.now,
        )
        release = stack.pop_all()

    async def close() -> None:
        with release:
            await database.close()
            await blobs.close()

    return Storage(
        database=database,
        jobs=jobs,
        queue=queue,
        blobs=blobs,
        bell=bell,
        clock=clock,
        encryption_keys=keys,
        close=close,
    )


def migrate_embedded(settings: Settings) -> tuple[int, int]:
    """Bring the file's schema up to date; gives the numbers before and after. Raises as `open_embedded` does."""
    data_dir = acquire(settings.storage.data_dir)
    with closing(data_dir.lock), closing(open_connection(data_dir.database, writes=True)) as connection:
        return schema_version(connection), migrate(connection)
