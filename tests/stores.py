"""Job stores for tests, as the wiring makes them."""

from pathlib import Path

from safelight.adapters.bell import LocalBell
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite.database import SqliteDatabase
from safelight.adapters.sqlite.recent import RecentJobs


def sqlite_store(path: Path, bell: LocalBell | None = None) -> SqlJobStore:
    """The embedded store, which rings the bell; closing it closes its database."""
    return SqlJobStore(SqliteDatabase(path), memory=RecentJobs(), ring=(bell or LocalBell()).ring)
