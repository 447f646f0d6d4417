"""Looks into the database file beside the process that owns it. SQLite's WAL allows that, and nothing is changed."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safelight.adapters.sql import jobs as sql
from safelight.adapters.sql import rows
from safelight.adapters.sql.schema import newest, refuse_newer
from safelight.adapters.sqlite.migrate import ENGINE
from safelight.domain.errors import ConfigurationError, StorageError
from safelight.domain.ids import JobId
from safelight.domain.job import Job, JobHistory, JobStatus

_BUSY_TIMEOUT_S = 10.0
_AFTER_HEX = "g"
_NEWEST = f"SELECT {rows.JOB_COLUMNS} FROM jobs WHERE ?1 IS NULL OR status = ?1 ORDER BY seq DESC LIMIT ?2"  # noqa: S608 - columns are constants
_IDS = "SELECT id FROM jobs WHERE id >= ?1 AND id < ?1 || ?2 ORDER BY id LIMIT 2"
_GET_JOB = sql.GET_JOB.replace("$", "?")
_GET_ATTEMPTS = sql.GET_ATTEMPTS.replace("$", "?")


class SqliteInspection:
    """A read-only connection."""

    def __init__(self, path: Path) -> None:
        """Open an existing file; raises `StorageError`, and `ConfigurationError` for another release's schema."""
        with _translated():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
            )
        try:
            with _translated():
                self.schema: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
            self._check_schema()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _check_schema(self) -> None:
        refuse_newer(self.schema, ENGINE)
        if self.schema < newest(ENGINE):
            raise ConfigurationError(
                f"the database has schema {self.schema}, this release wants {newest(ENGINE)}: "
                "start `safelight serve` once, it brings the database up to date"
            )

    def jobs(self, *, status: JobStatus | None, limit: int) -> Sequence[Job]:
        """List jobs, newest first."""
        with _translated():
            return [rows.job_of(row) for row in self._connection.execute(_NEWEST, (status, limit))]

    def ids(self, start: str) -> Sequence[JobId]:
        """The jobs whose id begins so: none, one, or the first two of several."""
        with _translated():
            return [JobId(row[0]) for row in self._connection.execute(_IDS, (start, _AFTER_HEX))]

    def history(self, job_id: JobId) -> JobHistory | None:
        """Read one job with its ledger."""
        with _translated():
            row = self._connection.execute(_GET_JOB, (job_id,)).fetchone()
            attempts = self._connection.execute(_GET_ATTEMPTS, (job_id,)).fetchall()
        return JobHistory(job=rows.job_of(row), attempts=rows.attempts_of(attempts)) if row else None

    def fault(self) -> str | None:
        """Check the file as a whole (`quick_check`); say the first thing that is wrong."""
        with _translated():
            said: str = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        return None if said == "ok" else said


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"the database cannot be read: {error}") from error
