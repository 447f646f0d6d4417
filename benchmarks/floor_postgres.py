"""The floor on Postgres: as `floor.py`, with asyncpg and PgQueuer as their documentation uses them.

One transaction inserts the job and enqueues it before the 202; PgQueuer's own loop hands it out; one aiohttp call; the
decoded image in one file; one update. No validation beyond the types, no attempt ledger, no retries.
"""

import argparse
import asyncio
import contextlib
import gc
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import asyncpg
import msgspec
import pybase64
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.models import Job as Entry
from pgqueuer.queries import Queries
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.floor import ROUTE, Image, Images, Job, Submission, _write_file, serve

SCHEMA = """
CREATE TABLE IF NOT EXISTS floor_jobs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, request BYTEA NOT NULL, created_at DOUBLE PRECISION NOT NULL,
    completed_at DOUBLE PRECISION, result BYTEA
)
"""
INSERT = "INSERT INTO floor_jobs (id, status, request, created_at) VALUES ($1, 'pending', $2, $3)"
COMPLETE = "UPDATE floor_jobs SET status = 'completed', completed_at = $1, result = $2 WHERE id = $3"
SELECT = "SELECT status, created_at, completed_at, result FROM floor_jobs WHERE id = $1"
GET_REQUEST = "SELECT request FROM floor_jobs WHERE id = $1"
CONNECTIONS = 10
AT_ONCE = 256


class Floor:
    def __init__(self, database_url: str, data_dir: Path, upstream: str) -> None:
        self._database_url = database_url
        self._images = data_dir / "images"
        self._url = f"{upstream}/images/generations"
        self._decode_submission = msgspec.json.Decoder(Submission).decode
        self._decode_images = msgspec.json.Decoder(Images).decode
        self._encode = msgspec.json.Encoder().encode

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self._images.mkdir(parents=True, exist_ok=True)
        async with asyncpg.create_pool(self._database_url, min_size=CONNECTIONS, max_size=CONNECTIONS) as self._pool:
            await self._pool.execute(SCHEMA)
            queries = Queries(AsyncpgPoolDriver(self._pool))
            if not await queries.schema_is_installed():
                await queries.install()
            manager = QueueManager(queries)
            manager.entrypoint("job")(self._run)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as self._session:
                running = asyncio.create_task(
                    manager.run(batch_size=32, max_concurrent_tasks=AT_ONCE, dequeue_timeout=timedelta(seconds=1))
                )
                yield
                manager.shutdown.set()
                await running

    async def submit(self, request: Request) -> Response:
        body = await request.body()
        try:
            self._decode_submission(body)
        except msgspec.DecodeError as error:
            return self._answer({"error": {"message": str(error)}}, 400)
        job = Job(id=str(uuid.uuid4()), status="pending", created_at=time.time())
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, job.id, body, job.created_at)
            await Queries(AsyncpgDriver(connection)).enqueue("job", job.id.encode())  # type: ignore[arg-type] # a proxy of one
        return self._answer(job, 202)

    async def poll(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        row = await self._pool.fetchrow(SELECT, job_id)
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

    async def _run(self, entry: Entry) -> None:
        job_id = (entry.payload or b"").decode()
        request = await self._pool.fetchval(GET_REQUEST, job_id)
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=request, headers=headers) as response:
            response.raise_for_status()
            answer = self._decode_images(await response.read())
        path = self._images / f"{job_id}.png"
        _write_file(path, pybase64.b64decode(answer.data[0].b64_json or "", validate=True))
        result = self._encode(Images(created=answer.created, data=[Image(url=f"/images/{path.name}")]))
        await self._pool.execute(COMPLETE, time.time(), result, job_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9200)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--upstream", required=True, help="base URL, with /v1")
    options = parser.parse_args()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    floor = Floor(options.database_url, options.data_dir, options.upstream)
    routes = [
        Route(ROUTE, floor.submit, methods=["POST"]),
        Route(ROUTE + "/{job_id}", floor.poll, methods=["GET"]),
        Route("/ready", floor.ready, methods=["GET"]),
    ]
    serve(Starlette(routes=routes, lifespan=floor.lifespan), options.host, options.port)


if __name__ == "__main__":
    main()
