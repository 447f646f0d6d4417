"""The load driver: submits jobs, polls each to its end, and reports rates and times as one JSON object.

C coroutines, each with one keep-alive connection: submit, poll until the job ended, next. The client is written on
httptools because the driver shares the machine's two cores with what it measures.
"""

import argparse
import asyncio
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self, cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

ROUTE = "/v1/async/images/generations"
FIRST_DELAY_S = 0.004
LARGEST_DELAY_S = 0.1


class JobView(msgspec.Struct):
    """The members of a job's body that the driver looks at."""

    id: str
    status: str


class HttpConnection(asyncio.Protocol):
    """One HTTP/1.1 keep-alive connection with at most one request under way; httptools calls the `on_…` methods."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape, not by class

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), b"".join(self._body)))
        self._body.clear()

    def request(self, message: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send one whole HTTP message; the future gives the answer's status and body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return self._answer

    def close(self) -> None:
        self._transport.close()


def get_message(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post_message(path: str, body: bytes = b"") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def submit_message(model: str, number: int) -> bytes:
    job = {"model": model, "prompt": f"a red fox, number {number}", "size": "1024x1024", "response_format": "url"}
    return post_message(ROUTE, msgspec.json.encode(job))


@dataclass(kw_only=True)
class Tally:
    """What the coroutines measured; times are seconds."""

    submit_s: list[float] = field(default_factory=list)
    completion_s: list[float] = field(default_factory=list)
    polls: int = 0
    faults: list[str] = field(default_factory=list)


class Driver:
    """Submits `jobs` jobs with `concurrency` of them under way; with `follow` each is polled to its end."""

    def __init__(self, base_url: str, *, model: str, jobs: int, concurrency: int, follow: bool = True) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._model = model
        self._jobs = jobs
        self._concurrency = concurrency
        self._follow = follow
        self._decode = msgspec.json.Decoder(JobView).decode
        self.tally = Tally()

    async def run(self) -> float:
        """Return the seconds from the first submit to the last job's end."""
        connections = [await HttpConnection.open(self._host, self._port) for _ in range(self._concurrency)]
        numbers = iter(range(self._jobs))
        started = time.perf_counter()
        await asyncio.gather(*(self._work(connection, numbers) for connection in connections))
        elapsed_s = time.perf_counter() - started
        for connection in connections:
            connection.close()
        return elapsed_s

    async def _work(self, connection: HttpConnection, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self.one_job(connection, number)

    async def one_job(self, connection: HttpConnection, number: int) -> None:
        started = time.perf_counter()
        status, body = await connection.request(submit_message(self._model, number))
        self.tally.submit_s.append(time.perf_counter() - started)
        if status != 202:
            self.tally.faults.append(f"submit answered {status}: {body[:200]!r}")
        elif self._follow:
            await self._poll_to_end(connection, self._decode(body).id)
            self.tally.completion_s.append(time.perf_counter() - started)

    async def _poll_to_end(self, connection: HttpConnection, job_id: str) -> None:
        message = get_message(f"{ROUTE}/{job_id}")
        for delay_s in poll_delays():
            self.tally.polls += 1
            status, body = await connection.request(message)
            if status != 202:
                break
            await asyncio.sleep(delay_s)
        if status != 200 or self._decode(body).status != "completed":
            self.tally.faults.append(f"job {job_id} answered {status}: {body[:200]!r}")


def poll_delays() -> Iterator[float]:
    """Small delays that grow by half, so that a poll costs the server little and the end is seen soon."""
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s
        delay_s = min(delay_s * 1.5, LARGEST_DELAY_S)


def quantile_ms(values_s: list[float], quantile: float) -> float | None:
    """The smallest value that `quantile` of all are not above (nearest rank)."""
    if not values_s:
        return None
    rank = max(math.ceil(quantile * len(values_s)), 1)
    return round(sorted(values_s)[rank - 1] * 1000, 3)


def report(tally: Tally, jobs: int, elapsed_s: float) -> dict[str, object]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "jobs": jobs,
        "seconds": round(elapsed_s, 3),
        "jobs_per_s": round(jobs / elapsed_s, 1),
        "submit_p50_ms": quantile_ms(tally.submit_s, 0.5),
        "submit_p99_ms": quantile_ms(tally.submit_s, 0.99),
        "completion_p50_ms": quantile_ms(tally.completion_s, 0.5),
        "completion_p99_ms": quantile_ms(tally.completion_s, 0.99),
        "polls_per_job": round(tally.polls / jobs, 2),
        "driver_cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "faults": len(tally.faults),
    }


async def drive(options: argparse.Namespace) -> int:
    chosen = {"model": options.model, "concurrency": options.concurrency}
    if options.warmup:
        await Driver(options.url, jobs=options.warmup, **chosen).run()
    driver = Driver(options.url, jobs=options.jobs, follow=not options.submit_only, **chosen)
    elapsed_s = await driver.run()
    print(msgspec.json.encode(report(driver.tally, options.jobs, elapsed_s)).decode())
    for fault in driver.tally.faults[:5]:
        print(fault, file=sys.stderr)
    return 1 if driver.tally.faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="the gateway, for example http://127.0.0.1:8080")
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=500, help="jobs to run first, not counted")
    parser.add_argument("--model", default="bench/any")
    parser.add_argument("--submit-only", action="store_true", help="do not poll")
    return uvloop.run(drive(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
