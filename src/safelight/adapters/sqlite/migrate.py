"""Numbered, forward-only migrations of the embedded database."""

import sqlite3
from importlib.resources import files

from safelight.domain.errors import ConfigurationError


def migrations() -> list[tuple[int, str]]:
    """The SQL files of this release, as (number, text) in order."""
    folder = files("safelight.adapters.sqlite").joinpath("migrations")
    found = [(int(file.name[:4]), file.read_text()) for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted(found)


def migrate(connection: sqlite3.Connection) -> int:
    """Bring the schema up to this release and return its number.

    Raises `ConfigurationError` when the database was written by a newer release.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = migrations()[-1][0]
    if version > newest:
        raise ConfigurationError(
            f"the database has schema {version}, this release knows up to {newest}: run a newer release of safelight"
        )
    for number, text in migrations():
        if number > version:
            connection.executescript(f"BEGIN IMMEDIATE;\n{text}\nPRAGMA user_version = {number};\nCOMMIT;")
    return newest
