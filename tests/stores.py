"""Job stores for tests, as the wiring makes them."""

from pathlib import Path

from safelight.adapters.sql.jobs import SqlJobStore
from safelight.adapters.sqlite.database import SqliteDatabase
from safelight.adapters.sqlite.recent import RecentJobs


def sqlite_store(path: Path) -> SqlJobStore:
    """The embedded store; closing it closes its database."""
    return SqlJobStore(SqliteDatabase(path), memory=RecentJobs())
