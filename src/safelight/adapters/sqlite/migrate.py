"""Brings the embedded database's schema up to date."""

import re
import sqlite3

from safelight.adapters.sql.schema import migrations, newest, refuse_newer

ENGINE = "sqlite"

_FOR_SQLITE = re.compile(r"/\*sqlite (.*?)\*/")


def migrate(connection: sqlite3.Connection) -> int:
    """Bring the schema up to this release and return its number.

    Raises `ConfigurationError` when the database was written by a newer release.
    """
    version = schema_version(connection)
    refuse_newer(version, ENGINE)
    for number, text in migrations(ENGINE):
        if number > version:
            connection.executescript(f"BEGIN IMMEDIATE;\n{_dialect(text)}\nPRAGMA user_version = {number};\nCOMMIT;")
    return newest(ENGINE)


def schema_version(connection: sqlite3.Connection) -> int:
    """The number of a file's schema; 0 where there is none yet."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _dialect(text: str) -> str:
    """The common SQL as SQLite spells it; it takes the types' names as they are."""
    text = text.replace("BIGSERIAL PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT")
    return _FOR_SQLITE.sub(r"\1", text)
