"""Lists, counts, polls and submits in the embedded store, with a million stored jobs beside a thousand.

`python -m benchmarks.listing --many 1000000`
"""

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.stored import statements
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.ports import JobFilter
from safelight.domain.caller import ANYBODY
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import Operation
from safelight.domain.job import JobStatus
from tests.making import job
from tests.stores import sqlite_store

ROUNDS = 15
SUBMITS = 2_000
# One in a thousand is rare: failed, of another model and provider, an edit, labelled; evenly over all.
ERROR = b'{"status_code":500,"code":"rare","message":"no"}'
VARIED = f"""
UPDATE jobs SET status = 'failed', error_code = 'rare', error = x'{ERROR.hex()}', result = NULL, model = 'rare/model',
    lane = 'rare', request_type = 'image_edit' WHERE seq % 1000 = 7
"""
LABELLED = "INSERT INTO job_labels SELECT 'shop', 'rare', created_at, seq FROM jobs WHERE seq % 1000 = 7"


def filled(path: Path, count: int) -> None:
    asyncio.run(sqlite_store(path).close())  # the schema
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in [*statements(count, lambda value: f"x'{value.hex()}'"), VARIED, LABELLED]:
            connection.execute(statement)
        connection.commit()


def searches() -> dict[str, JobFilter]:
    now = job().created_at
    return {
        "newest": JobFilter(),
        "completed": JobFilter(status=JobStatus.COMPLETED),
        "pending": JobFilter(status=JobStatus.PENDING),
        "failed": JobFilter(status=JobStatus.FAILED),
        "error code": JobFilter(error_code="rare"),
        "model": JobFilter(model="rare/model"),
        "provider": JobFilter(provider=ProviderName("rare")),
        "type": JobFilter(operation=Operation.EDIT),
        "label": JobFilter(metadata={"shop": "rare"}),
        "old": JobFilter(created_before=now - timedelta(days=3000)),
        "no such model": JobFilter(model="none/none"),
        "key": JobFilter(idempotency_key="none"),
    }


async def timed(work: Callable[[], Awaitable[Any]], rounds: int = ROUNDS) -> float:
    """The median, in milliseconds."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await work()
        taken.append(1000 * (time.perf_counter() - begun))
    return round(statistics.median(taken), 3)


async def measured(store: SqlJobStore) -> dict[str, float]:
    figures = {
        f"list: {name}": await timed(lambda wanted=wanted: store.list_jobs(wanted))  # type: ignore[misc]  # bound now
        for name, wanted in searches().items()
    }
    figures["count: all"] = await timed(lambda: store.count_jobs(JobFilter(caller=ANYBODY)), 3)
    figures["count: failed of a model"] = await timed(
        lambda: store.count_jobs(JobFilter(model="rare/model", status=JobStatus.FAILED)), 3
    )
    ids = iter(range(1, 10**9))
    figures["poll"] = await timed(lambda: store.get(JobId(f"stored-{next(ids)}")), 900)
    begun = time.perf_counter()
    new = iter([job() for _ in range(SUBMITS)])

    async def submit() -> None:
        for each in new:
            await store.submit(each)

    await asyncio.gather(*[submit() for _ in range(64)])
    figures["submit, 64 at a time, each"] = round(1000 * (time.perf_counter() - begun) / SUBMITS, 3)
    return figures


async def of(path: Path) -> dict[str, float]:
    store = sqlite_store(path)
    try:
        return await measured(store)
    finally:
        await store.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--many", type=int, default=1_000_000)
    options.add_argument("--few", type=int, default=1_000)
    said = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = []
        for count in (said.few, said.many):
            path = Path(folder) / f"{count}.db"
            filled(path, count)
            figures.append(asyncio.run(of(path)))
    print(f"| median, ms | {said.few:,} jobs | {said.many:,} jobs |\n|---|---|---|")
    for name, few in figures[0].items():
        print(f"| {name} | {few} | {figures[1][name]} |")


if __name__ == "__main__":
    main()
