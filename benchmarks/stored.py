"""Does a full store slow the gateway down? Rates with few and with many stored jobs, in turn, on each engine.

`python -m benchmarks.stored --many 1000000`
"""

import argparse
import asyncio
import contextlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import yaml

from benchmarks.measures import MODEL
from benchmarks.run import spread
from benchmarks.subjects import ROOT, UpstreamProcess, drive, free_port, process, upstream_process
from tests.postgres import OwnServer

SERIES = "WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {count})"
JOBS = """
INSERT INTO jobs (id, request_id, request_type, status, lane, model, request, created_at, ttl_s, started_at, completed_at,
    expires_at, attempts, result, charged, cost_micros)
{series}
SELECT '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + n AS TEXT), 2), 'r-' || n, 'image_generation', 'completed', 'bench', 'bench/any', {request}, {now} - n, 604800,
    {now} - n, {now} - n, {now} + 604800000000, 1, {result}, 'yes', 40 FROM series
"""
ATTEMPTS = """
INSERT INTO attempts (job_id, number, route, provider, model, n, state, started_at, ended_at, charged)
{series}
SELECT '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + n AS TEXT), 2), 1, 0, 'bench', 'any', 1, 'succeeded', {now} - n, {now} - n, 'yes' FROM series
"""
EVENTS = """
INSERT INTO events (job_id, name, at, data)
{series}
SELECT '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + n AS TEXT), 2), 'job', {now} - n, {event} FROM series
"""
REQUEST = (
    b'{"operation":"image_generation","target":{"provider":"bench","model":"any"},"prompt":"a fox","size":"1024x1024"}'
)
RESULT = b'{"production":{"outputs":[]},"target":{"provider":"bench","model":"any"},"latency_ms":1200,"shortfall":null}'


def statements(count: int, literal: Callable[[bytes], str]) -> list[str]:
    """Finished jobs, each with its attempt and an event."""
    values = {
        "series": SERIES.format(count=count),
        "now": time.time_ns() // 1000,
        "request": literal(REQUEST),
        "result": literal(RESULT),
        "event": literal(b'{"status":"completed"}'),
    }
    return [each.format(**values) for each in (JOBS, ATTEMPTS, EVENTS)]


def fill_sqlite(directory: Path, count: int) -> None:
    with closing(sqlite3.connect(directory / "data" / "safelight.db")) as connection:
        for statement in statements(count, lambda content: f"x'{content.hex()}'"):
            connection.execute(statement)
        connection.commit()
        connection.execute("ANALYZE")


def fill_postgres(url: str, count: int) -> None:
    async def fill() -> None:
        connection = await asyncpg.connect(url)
        for table in ("jobs", "attempts", "events"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in statements(count, lambda content: f"'\\x{content.hex()}'::bytea"):
            await connection.execute(statement)
        for table in ("jobs", "attempts", "events"):
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        await connection.execute("VACUUM ANALYZE")
        await connection.close()

    asyncio.run(fill())


class Stored:
    """A gateway whose store holds `count` jobs already."""

    def __init__(self, directory: Path, upstream: UpstreamProcess, count: int, url: str | None) -> None:
        directory.mkdir()
        self._directory = directory
        self._port = free_port()
        storage = {"data_dir": str(directory / "data"), **({"database_url": url} if url else {})}
        settings = {
            "server": {"host": "127.0.0.1", "port": self._port},
            "storage": storage,
            "providers": {"bench": {"type": "openai_compatible", "base_url": upstream.base_url, "concurrency": 256}},
        }
        self._settings = directory / "safelight.yaml"
        self._settings.write_text(yaml.safe_dump(settings))
        subprocess.run([*self._command("migrate")], cwd=ROOT, check=True, capture_output=True)
        fill_postgres(url, count) if url else fill_sqlite(directory, count)

    def _command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "safelight.cli", name, "--config", str(self._settings)]

    def rate(self, jobs: int) -> float:
        url = f"http://127.0.0.1:{self._port}"
        with process(self._command("serve"), self._directory / "log.txt", f"{url}/ready"):
            load = ["--concurrency", "64", "--model", MODEL]
            found = drive(url, *load, "--jobs", str(jobs), "--warmup", "300")
            return found["jobs_per_s"] or 0.0


def measure(store: str, options: argparse.Namespace, directory: Path, upstream: UpstreamProcess) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(OwnServer(settings=())) if store == "postgres" else None
        urls = [stack.enter_context(server.database(migrated=False)) if server else None for _ in range(2)]
        few = Stored(directory / f"{store}-few", upstream, options.few, urls[0])
        many = Stored(directory / f"{store}-many", upstream, options.many, urls[1])
        rates: list[tuple[float, float]] = []
        for number in range(options.rounds):
            order = (few, many) if number % 2 == 0 else (many, few)
            found = {each: each.rate(options.jobs) for each in order}
            rates.append((found[few], found[many]))
            print(f"{store}: {found[few]} jobs/s with {options.few} stored, {found[many]} with {options.many}")
        ratio = statistics.median(many_rate / few_rate for few_rate, many_rate in rates)
        print(f"{store}: {ratio:.2f} of the rate, median of {options.rounds} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", default="sqlite,postgres")
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        spread(Path(name))
        with upstream_process(Path(name)) as upstream:
            for store in options.stores.split(","):
                measure(store, options, Path(name), upstream)


if __name__ == "__main__":
    main()
