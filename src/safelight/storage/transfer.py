"""Takes a stopped embedded installation to Postgres and, if asked, to a bucket. Nothing is taken away from the old place.

Images go first, rows after, in one transaction: a transfer that was cut off is done again, and until then there is nothing
to serve. What has arrived is read back: images by their hashes, rows by their number and the sum of theirs.
"""

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from safelight.adapters.blobs.cloud import CloudBlobStore
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.adapters.clock import SystemClock
from safelight.adapters.data_dir import DataDir, acquire
from safelight.adapters.postgres.database import Connection
from safelight.adapters.postgres.faults import translating
from safelight.adapters.postgres.migrate import migrate
from safelight.adapters.sqlite.connection import open_connection
from safelight.adapters.sqlite.migrate import migrate as migrate_sqlite
from safelight.application.ports import BlobStore
from safelight.config import Settings, StorageSettings
from safelight.domain.errors import ConfigurationError, StorageError
from safelight.domain.ids import BlobKey
from safelight.storage.images import open_blobs

_IMAGES_AT_ONCE = 8
_ROWS_AT_ONCE = 5000
_HASH_BYTES = 8
_WHOLE_FUTURE = timedelta(days=1)
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
_FILLED = "the database at --to has {} in it already: a transfer goes into an empty one"

Blobs = LocalBlobStore | CloudBlobStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What has arrived, counted where it arrived. `images` is `None` where they stay where they are."""

    rows: Mapping[str, int]
    images: int | None
    image_bytes: int


async def transfer(settings: Settings, *, to: str, blobs: str | None) -> Transferred:
    """Copy everything of the data folder, which must not be in use; `to` must have no jobs yet.

    Raises `ConfigurationError`, `StorageError`, `DataDirInUse`.
    """
    data_dir = acquire(settings.storage.data_dir)
    with ExitStack() as stack, translating():
        stack.callback(data_dir.release)
        source = stack.enter_context(closing(open_connection(data_dir.database, writes=True)))
        migrate_sqlite(source)
        await migrate(to)
        connection = await asyncpg.connect(to)
        try:
            await _refuse_filled(connection)
            images, image_bytes = await _move_images(settings.storage, blobs)
            async with connection.transaction():
                rows = await _copy_tables(source, connection)
                await _hand_on_the_key(connection, settings, data_dir)
            return Transferred(rows=rows, images=images, image_bytes=image_bytes)
        finally:
            await connection.close()


async def _refuse_filled(connection: Connection) -> None:
    if count := await connection.fetchval("SELECT count(*) FROM jobs"):
        raise ConfigurationError(_FILLED.format(f"{count} jobs"))


async def _hand_on_the_key(connection: Connection, settings: Settings, data_dir: DataDir) -> None:
    """What is encrypted was so by the folder's own key, unless the settings named one: then they go on doing so."""
    if not settings.auth.encryption_keys:
        await connection.execute(
            "INSERT INTO installation (name, value) VALUES ('encryption_key', $1)", data_dir.encryption_key().encode()
        )


# Rows


async def _copy_tables(source: sqlite3.Connection, target: Connection) -> Mapping[str, int]:
    names = _in_order(source)
    for name in names:
        await target.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER")  # nobody listens yet
        await target.execute(f"DELETE FROM {name}")  # noqa: S608 - names of our own tables; facts made by a first start
    counts = {name: await _copy_table(source, target, name) for name in names}
    for name in names:
        await target.execute(f"ALTER TABLE {name} ENABLE TRIGGER USER")
    return counts


def _in_order(source: sqlite3.Connection) -> Sequence[str]:
    """The tables, those that others refer to first."""
    waiting = {
        row[0]: {each[2] for each in source.execute(f"PRAGMA foreign_key_list({row[0]})")}
        for row in source.execute(_TABLES).fetchall()
    }
    ordered: list[str] = []
    while waiting:
        free = sorted(name for name, others in waiting.items() if not others & waiting.keys() - {name})
        ordered += free
        for name in free:
            del waiting[name]
    return ordered


async def _copy_table(source: sqlite3.Connection, target: Connection, name: str) -> int:
    columns = [row[1] for row in source.execute(f"PRAGMA table_info({name})")]
    listed = ", ".join(columns)
    sent, arrived = _Sum(), _Sum()
    for page in _pages(source.execute(f"SELECT {listed} FROM {name}")):  # noqa: S608 - names of our own tables
        sent.add(page)
        await target.copy_records_to_table(name, records=page, columns=columns)
    async for row in target.cursor(f"SELECT {listed} FROM {name}"):  # noqa: S608 - as above
        arrived.add([tuple(row)])
    if sent != arrived:
        raise StorageError(f"of table {name} {sent.count} rows were sent, and {arrived.count} arrived, or others")
    for column in columns:
        sequence = await target.fetchval("SELECT pg_get_serial_sequence($1, $2)", name, column)
        if sequence is not None and sent.count:
            await target.execute(f"SELECT setval('{sequence}', (SELECT max({column}) FROM {name}))")  # noqa: S608 - as above
    return arrived.count


def _pages(found: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
    while page := found.fetchmany(_ROWS_AT_ONCE):
        yield page


@dataclass(slots=True)
class _Sum:
    """Tells two sets of rows apart, in whatever order they come."""

    count: int = 0
    hashes: int = 0

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        for row in rows:
            self.count += 1
            self.hashes += int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=_HASH_BYTES).digest())


# Images


async def _move_images(storage: StorageSettings, url: str | None) -> tuple[int | None, int]:
    if url is None:
        return None, 0
    source, target = open_blobs(storage), open_blobs(storage.model_copy(update={"blob_url": url}))
    try:
        count = size = 0
        async for keys in source.written_before(SystemClock().now() + _WHOLE_FUTURE):
            for start in range(0, len(keys), _IMAGES_AT_ONCE):
                sizes = await asyncio.gather(
                    *[_move_image(source, target, key) for key in keys[start : start + _IMAGES_AT_ONCE]]
                )
                count, size = count + len(sizes), size + sum(sizes)
        return count, size
    finally:
        await source.close()
        await target.close()


async def _move_image(source: BlobStore, target: BlobStore, key: BlobKey) -> int:
    """Copy one and read it back; gives its size in bytes."""
    size, sent = 0, hashlib.sha256()
    writer = target.writer(key, patient=True)
    async for chunk in source.read(key):
        await writer.write(chunk)
        sent.update(chunk)
        size += len(chunk)
    await writer.close()
    if await _hash(target.read(key)) != sent.hexdigest():
        raise StorageError(f"image {key} arrived as another one")
    return size


async def _hash(chunks: AsyncIterator[bytes]) -> str:
    found = hashlib.sha256()
    async for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()
