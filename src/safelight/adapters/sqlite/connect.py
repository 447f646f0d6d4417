"""How every connection to the database file is set up."""

import sqlite3
from pathlib import Path

BUSY_TIMEOUT_S = 2.0
_STATEMENTS_KEPT = 512


def connect(path: Path, *, writes: bool, busy_timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Open the database: WAL, every commit synced to disk before it returns. Raises `sqlite3.Error`."""
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS_KEPT,
    )
    try:
        _prepare(connection, writes=writes)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, *, writes: bool) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Checkpoints sync the whole file: at 32 MB of log instead of 4 they are seldom, and pages written often, once.
    connection.execute("PRAGMA wal_autocheckpoint = 8192")
    if not writes:
        connection.execute("PRAGMA query_only = ON")
