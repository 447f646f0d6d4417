"""From the end of a job to its webhook: how long a receiver on the same machine waits for it."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from aiohttp import web

from benchmarks.drive import ROUTE, quantile_ms
from benchmarks.subjects import Gateway, UpstreamProcess, drive, gateway

MODEL = "bench/any"
IDLE_JOBS = 200
BUSY_JOBS = 2_000
CROWD = 64
NAME = "bench"


class _Data(msgspec.Struct, frozen=True):
    job_id: str
    completed_at: datetime


class _Event(msgspec.Struct, frozen=True):
    data: _Data


def webhooks(name: str, upstream: UpstreamProcess, directory: Path) -> dict[str, float | None]:
    """One job at a time on an idle gateway, then a crowd of them; each waits for its webhook."""
    with gateway(name, upstream, directory) as running:
        drive(running.url, "--jobs", "200", "--concurrency", "4", "--warmup", "0", "--model", MODEL)
        return uvloop.run(_measured(running))


async def _measured(running: Gateway) -> dict[str, float | None]:
    receiver = _Receiver()
    async with aiohttp.ClientSession(running.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        await receiver.start()
        try:
            await _register(session, receiver.url)
            idle = await _delays(session, receiver, jobs=IDLE_JOBS, crowd=1)
            busy = await _delays(session, receiver, jobs=BUSY_JOBS, crowd=CROWD)
        finally:
            await receiver.stop()
    return {
        f"completion_to_webhook_{how}_{label}_ms": quantile_ms(delays, quantile)
        for how, delays in (("idle", idle), ("busy", busy))
        for label, quantile in (("p50", 0.5), ("p99", 0.99))
    }


async def _register(session: aiohttp.ClientSession, url: str) -> None:
    endpoint = {
        "name": NAME,
        "url": url,
        "events": ["async_job.completed"],
        "allow_private_network": True,
        "max_concurrent_deliveries": 100,
    }
    async with session.post("/api/webhooks", json=endpoint) as answer:
        answer.raise_for_status()


async def _delays(session: aiohttp.ClientSession, receiver: "_Receiver", *, jobs: int, crowd: int) -> list[float]:
    numbers = iter(range(jobs))

    async def one_after_another() -> list[float]:
        return [await _one(session, receiver, number) for number in numbers]

    found = await asyncio.gather(*[one_after_another() for _ in range(crowd)])
    return [delay for delays in found for delay in delays]


async def _one(session: aiohttp.ClientSession, receiver: "_Receiver", number: int) -> float:
    """Seconds from the job's `completed_at`, taken before its commit, to the call."""
    body = {"model": MODEL, "prompt": f"a kite, number {number}"}
    async with session.post(ROUTE, json=body, headers={"x-bf-async-webhook": NAME}) as answer:
        answer.raise_for_status()
        job_id = (await answer.json())["id"]
    return await receiver.delay_of(job_id)


class _Receiver:
    """Takes every call at once; remembers how late each was."""

    def __init__(self) -> None:
        self._delays: dict[str, asyncio.Future[float]] = {}
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        self.url = ""

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def delay_of(self, job_id: str) -> "asyncio.Future[float]":
        return self._delays.setdefault(job_id, asyncio.get_running_loop().create_future())

    async def _take(self, request: web.Request) -> web.Response:
        now = time.time()
        data = msgspec.json.decode(await request.read(), type=_Event).data
        delay = self.delay_of(data.job_id)
        if not delay.done():
            delay.set_result(now - data.completed_at.timestamp())
        return web.Response(status=204)
