"""A lasting load with the sweeper on: do tables and files stop growing? `python -m benchmarks.lasting --minutes 10`

Jobs come at an even rate and live for seconds, so that after the first minute as many go as come.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import yaml

from benchmarks.measures import MODEL, memory_bytes
from benchmarks.subjects import UpstreamProcess, drive, free_port, process, upstream_process
from tests.postgres import OwnServer

TTL_S = 20
SWEEP_S = 5
SIZES = """
SELECT pg_database_size(current_database()), (SELECT count(*) FROM jobs), (SELECT count(*) FROM events),
    (SELECT count(*) FROM pgqueuer), (SELECT count(*) FROM pgqueuer_log)
"""


def database_mib(url: str | None, data: Path) -> tuple[float, str]:
    if url is None:
        size = sum(file.stat().st_size for file in data.glob("safelight.db*"))
        return size / 2**20, ""

    async def ask() -> tuple[float, str]:
        connection = await asyncpg.connect(url)
        size, jobs, events, entries, logged = (await connection.fetch(SIZES))[0]
        await connection.close()
        return size / 2**20, f", rows: {jobs} jobs, {events} events, {entries} entries, {logged} logged by PgQueuer"

    return asyncio.run(ask())


def last(store: str, options: argparse.Namespace, directory: Path, upstream: UpstreamProcess) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(OwnServer(settings=())) if store == "postgres" else None
        database = stack.enter_context(server.database(migrated=False)) if server else None
        port, data = free_port(), directory / "data"
        settings = {
            "server": {"port": port},
            "storage": {"data_dir": str(data), **({"database_url": database} if database else {})},
            "jobs": {"result_ttl": TTL_S, "sweep_interval": SWEEP_S},
            "log": {"level": "warning"},
            "providers": {"bench": {"type": "openai_compatible", "base_url": upstream.base_url, "concurrency": 256}},
        }
        directory.mkdir()
        path = directory / "safelight.yaml"
        path.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "safelight.cli", "serve", "--config", str(path)]
        url = f"http://127.0.0.1:{port}"
        child = stack.enter_context(process(command, directory / "log.txt", f"{url}/ready"))
        begun, done = time.monotonic(), 0
        while (minute := (time.monotonic() - begun) / 60) < options.minutes:
            drive(url, "--jobs", str(options.jobs), "--concurrency", "16", "--warmup", "0", "--model", MODEL)
            done += options.jobs
            size, rows = database_mib(database, data)
            files = sum(1 for file in (data / "blobs").rglob("*") if file.is_file())
            resident = memory_bytes(child.pid, "VmRSS") / 2**20
            print(
                f"{store} {minute:5.1f} min: {done} jobs done, database {size:.1f} MiB, {files} images,"
                f" {resident:.0f} MiB resident{rows}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", default="sqlite,postgres")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--jobs", type=int, default=2_000, help="jobs between two looks")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name,
        upstream_process(Path(name)) as upstream,
    ):
        for store in options.stores.split(","):
            last(store, options, Path(name) / store, upstream)


if __name__ == "__main__":
    main()
