"""From the end of a job to whoever waits for it, by a held poll or an event stream, while a thousand others wait too."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path

import aiohttp
import msgspec
import uvloop

from benchmarks.drive import ROUTE, quantile_ms
from benchmarks.subjects import Gateway, UpstreamProcess, gateway

MODEL = "bench/any"
NEVER = "builtin/slow-600"
WAITERS = 1_000
JOBS = 200
JOB = "/v1/async/jobs"


class _Ended(msgspec.Struct, frozen=True):
    completed_at: datetime | None = None

    @property
    def late_s(self) -> float:
        """Seconds since its `completed_at`, taken before its commit."""
        if self.completed_at is None:
            raise RuntimeError("the job has not ended")
        return time.time() - self.completed_at.timestamp()


def waiting(name: str, upstream: UpstreamProcess, directory: Path) -> dict[str, float | None]:
    """One job after another, each with one who waits; then one job for which a thousand wait."""
    with gateway(name, upstream, directory) as running:
        return uvloop.run(_measured(running, upstream))


async def _measured(running: Gateway, upstream: UpstreamProcess) -> dict[str, float | None]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(running.url, connector=connector, timeout=timeout) as session:
        endless = await _submit(session, NEVER)
        others = [
            asyncio.create_task((_poll_for_ever if number % 2 else _follow_for_ever)(session, endless))
            for number in range(WAITERS)
        ]
        await asyncio.sleep(3)
        polled = [await _one(session, upstream, _polled) for _ in range(JOBS)]
        streamed = [await _one(session, upstream, _streamed) for _ in range(JOBS)]
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        crowd = await _crowd(session, upstream)
    return {
        f"completion_to_{how}_{label}_ms": quantile_ms(delays, quantile)
        for how, delays in (("poll", polled), ("event", streamed), ("crowd_of_1000", crowd))
        for label, quantile in (("p50", 0.5), ("p99", 0.99))
    }


async def _submit(session: aiohttp.ClientSession, model: str) -> str:
    async with session.post(ROUTE, json={"model": model, "prompt": "a kite", "size": "64x64"}) as answer:
        answer.raise_for_status()
        return str((await answer.json())["id"])


async def _one(
    session: aiohttp.ClientSession,
    upstream: UpstreamProcess,
    wait: Callable[[aiohttp.ClientSession, str], Awaitable[float]],
) -> float:
    upstream.control("hold")
    job_id = await _submit(session, MODEL)
    delay = asyncio.ensure_future(wait(session, job_id))
    while not upstream.state().waiting:  # noqa: ASYNC110 - another process has no event of ours
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.01)  # the poll is there by now
    upstream.control("release")
    return await delay


async def _crowd(session: aiohttp.ClientSession, upstream: UpstreamProcess) -> list[float]:
    upstream.control("hold")
    job_id = await _submit(session, MODEL)
    waiters = [asyncio.create_task(_polled(session, job_id)) for _ in range(WAITERS)]
    await asyncio.sleep(3)
    upstream.control("release")
    return list(await asyncio.gather(*waiters))


async def _polled(session: aiohttp.ClientSession, job_id: str) -> float:
    async with session.get(f"{JOB}/{job_id}?wait=60") as answer:
        return msgspec.json.decode(await answer.read(), type=_Ended).late_s


async def _streamed(session: aiohttp.ClientSession, job_id: str) -> float:
    async for data in _events(session, job_id):
        ended = msgspec.json.decode(data, type=_Ended)
        if ended.completed_at is not None:
            return ended.late_s
    raise RuntimeError("the stream ended without an end of the job")


async def _poll_for_ever(session: aiohttp.ClientSession, job_id: str) -> None:
    while True:
        async with session.get(f"{JOB}/{job_id}?wait=60") as answer:
            await answer.read()


async def _follow_for_ever(session: aiohttp.ClientSession, job_id: str) -> None:
    async for _ in _events(session, job_id):
        pass


async def _events(session: aiohttp.ClientSession, job_id: str) -> AsyncIterator[bytes]:
    async with session.get(f"{JOB}/{job_id}/events") as answer:
        with contextlib.suppress(asyncio.IncompleteReadError):
            async for line in answer.content:
                if line.startswith(b"data: "):
                    yield line.removeprefix(b"data: ")
