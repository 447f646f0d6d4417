"""The floor: the least a durable gateway must do for an image job, and nothing more.

Starlette; one group-committed insert (SQLite, WAL, `synchronous=FULL`) before the 202; one aiohttp call; the decoded
image in one file; one group-committed update. No validation beyond the types, no attempt ledger, no retries, no
errors told apart. It resumes what it accepted, and speaks the gateway's paths so that one driver drives both.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import itertools
import os
import queue
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pybase64
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, request BLOB NOT NULL, created_at REAL NOT NULL,
    completed_at REAL, result BLOB
) WITHOUT ROWID;
"""
# The writer repeats the part in braces for each row of a group: one statement is one release of the GIL.
INSERT = "INSERT INTO jobs (id, status, request, created_at) VALUES {(?, 'pending', ?, ?)}"
COMPLETE = (
    "UPDATE jobs SET status = 'completed', completed_at = column1, result = column2 "
    "FROM (VALUES {(?, ?, ?)}) WHERE id = column3"
)
SELECT = "SELECT status, created_at, completed_at, result FROM jobs WHERE id = ?"
UNFINISHED = "SELECT id, request FROM jobs WHERE status = 'pending'"
ROUTE = "/v1/async/images/generations"

Write = tuple[str, tuple[Any, ...], "asyncio.Future[None]"]
"""Statement, parameters, and what to wake once it is committed."""


class Submission(msgspec.Struct):
    model: str
    prompt: str
    n: int = 1
    size: str | None = None
    response_format: str | None = None


class Image(msgspec.Struct, omit_defaults=True):
    b64_json: str | None = None
    url: str | None = None


class Images(msgspec.Struct):
    created: int
    data: list[Image]


class Job(msgspec.Struct, omit_defaults=True):
    id: str
    status: str
    created_at: float
    completed_at: float | None = None
    status_code: int | None = None
    result: msgspec.Raw | None = None


class Writer(threading.Thread):
    """The one writer: commits whatever waits, together, and then wakes those who wait for it."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._loop = loop
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()

    def write(self, sql: str, parameters: tuple[Any, ...]) -> "asyncio.Future[None]":
        done = self._loop.create_future()
        self._queue.put((sql, parameters, done))
        return done

    def close(self) -> None:
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, cached_statements=512)
        connection.execute("PRAGMA synchronous=FULL")
        while (first := self._queue.get()) is not None:
            batch = [first, *self._waiting()]
            error = _commit(connection, batch)
            self._loop.call_soon_threadsafe(_wake, [done for _, _, done in batch], error)
        connection.close()

    def _waiting(self) -> Iterable[Write]:
        with contextlib.suppress(queue.Empty):
            while (write := self._queue.get_nowait()) is not None:
                yield write
            self._queue.put(None)


def _commit(connection: sqlite3.Connection, batch: list[Write]) -> sqlite3.Error | None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for sql, rows in _by_statement(batch).items():
            connection.execute(_for_rows(sql, len(rows)), list(itertools.chain.from_iterable(rows)))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.rollback()
        return error
    return None


def _by_statement(batch: list[Write]) -> dict[str, list[tuple[Any, ...]]]:
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for sql, parameters, _ in batch:
        rows.setdefault(sql, []).append(parameters)
    return rows


@functools.cache
def _for_rows(sql: str, count: int) -> str:
    before, row, after = re.split("[{}]", sql)
    return before + ", ".join([row] * count) + after


def _wake(futures: list["asyncio.Future[None]"], error: sqlite3.Error | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)


def _write_file(path: Path, content: bytes) -> None:
    """Write a new file in three system calls; `open` needs six, and each may hand the GIL to the writer."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while content := content[os.write(descriptor, content) :]:
            pass
    finally:
        os.close(descriptor)


class Floor:
    def __init__(self, data_dir: Path, upstream: str) -> None:
        self._path = data_dir / "floor.db"
        self._images = data_dir / "images"
        self._url = f"{upstream}/images/generations"
        self._decode_submission = msgspec.json.Decoder(Submission).decode
        self._decode_images = msgspec.json.Decoder(Images).decode
        self._encode = msgspec.json.Encoder().encode
        self._running: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._images.mkdir(parents=True, exist_ok=True)
        self._reader = sqlite3.connect(self._path, isolation_level=None)
        self._reader.executescript(SCHEMA)
        self._writer = Writer(self._path, asyncio.get_running_loop())
        self._writer.start()
        connector = aiohttp.TCPConnector(limit=256)
        async with aiohttp.ClientSession(connector=connector) as self._session:
            for job_id, request in self._reader.execute(UNFINISHED).fetchall():
                self._start(job_id, request)
            yield
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        self._writer.close()
        self._reader.close()

    async def submit(self, request: Request) -> Response:
        body = await request.body()
        try:
            self._decode_submission(body)
        except msgspec.DecodeError as error:
            return self._answer({"error": {"message": str(error)}}, 400)
        job = Job(id=str(uuid.uuid4()), status="pending", created_at=time.time())
        await self._writer.write(INSERT, (job.id, body, job.created_at))
        self._start(job.id, body)
        return self._answer(job, 202)

    async def poll(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        row = self._reader.execute(SELECT, (job_id,)).fetchone()
        if row is None:
            return self._answer({"error": {"message": "job not found"}}, 404)
        status, created_at, completed_at, result = row
        job = Job(id=job_id, status=status, created_at=created_at)
        if result is None:
            return self._answer(job, 202)
        job.completed_at, job.status_code, job.result = completed_at, 200, msgspec.Raw(result)
        return self._answer(job, 200)

    async def ready(self, _request: Request) -> Response:
        return self._answer({"status": "ready"}, 200)

    def _answer(self, body: object, status: int) -> Response:
        return Response(self._encode(body), status, media_type="application/json")

    def _start(self, job_id: str, request: bytes) -> None:
        task = asyncio.create_task(self._run(job_id, request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, job_id: str, request: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=request, headers=headers) as response:
            response.raise_for_status()
            answer = self._decode_images(await response.read())
        path = self._images / f"{job_id}.png"
        _write_file(path, pybase64.b64decode(answer.data[0].b64_json or "", validate=True))
        result = self._encode(Images(created=answer.created, data=[Image(url=f"/images/{path.name}")]))
        await self._writer.write(COMPLETE, (time.time(), result, job_id))


def application(data_dir: Path, upstream: str) -> Starlette:
    floor = Floor(data_dir, upstream)
    routes = [
        Route(ROUTE, floor.submit, methods=["POST"]),
        Route(ROUTE + "/{job_id}", floor.poll, methods=["GET"]),
        Route("/ready", floor.ready, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=floor.lifespan)


def serve(app: Starlette, host: str, port: int) -> None:
    uvicorn.run(app, host=host, port=port, loop="uvloop", http="httptools", log_level="warning", access_log=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9200)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--upstream", required=True, help="base URL, with /v1")
    options = parser.parse_args()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # collections took 5 % of the time
    serve(application(options.data_dir, options.upstream), options.host, options.port)


if __name__ == "__main__":
    main()
