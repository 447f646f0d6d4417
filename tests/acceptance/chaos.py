"""Kills the processes of a cluster at random while a crowd submits, then checks what is promised.

make chaos ARGS="--seconds 120"
"""

import argparse
import asyncio
import hashlib
import logging
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from tests.acceptance.cluster import Cluster, cluster
from tests.acceptance.gateway import upstream
from tests.postgres import OwnServer
from tests.simulators._base import Fault
from tests.simulators.fal import FalSimulator
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

ROLES = {"api": "api", "api2": "api", "one": "worker", "two": "worker"}
CLIENTS = 8
PAUSE_S = 0.1
"""Of a client between two submits: what they submit has to end while workers are killed every other second."""
SETTLE_S = 120.0
KEY = "key-of-the-test"
MODELS = {"free": "free/flux", "paid": "paid/flux", "handles": "handles/fal-ai/flux/schnell"}
"""A call that may be repeated, one that may not, and work that the provider takes and is asked for."""

_PROMPTS = "SELECT convert_from(request, 'utf8')::jsonb ->> 'prompt' FROM jobs"

Simulator = OpenAICompatibleSimulator | FalSimulator


@dataclass(kw_only=True)
class Chaos:
    """One run. `accepted` are the jobs that got their 202, with their prompts."""

    made: Cluster
    simulators: Mapping[str, Simulator]
    random: Random
    restart_database: Callable[[], None] | None = None
    accepted: dict[str, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    refusals: int = 0
    bodies: list[Mapping[str, Any]] = field(default_factory=list)

    async def run(self, *, seconds: float, every_s: float) -> None:
        """Submit and kill for so long, then let all jobs end, and read them."""
        until = time.monotonic() + seconds
        await asyncio.gather(self._kill_until(until, every_s), *[self._client(until, at) for at in range(CLIENTS)])
        await self.made.settled(within_s=SETTLE_S)
        for job_id in self.accepted:
            status, body = await self.made.api.poll(job_id)
            assert status == 200, body
            self.bodies.append(body)

    async def _client(self, until: float, number: int) -> None:
        """Submit until it is accepted, wherever, whatever becomes of the processes meanwhile."""
        count = 0
        while time.monotonic() < until:
            count += 1
            kind = self.random.choice(list(MODELS))
            prompt = f"{kind} {number} {count}"
            node = self.made.node(self.random.choice(["api", "api2"]))
            try:
                status, body, _ = await node.post("/v1/async/images/generations", model=MODELS[kind], prompt=prompt)
            except aiohttp.ClientError:  # killed; whether this one was accepted, nobody knows
                await asyncio.sleep(0.05)
                continue
            if status == 202:
                self.accepted[body["id"]] = prompt
                await asyncio.sleep(PAUSE_S)
            else:
                assert status == 503, body
                self.refusals += 1
                await asyncio.sleep(0.05)

    async def _kill_until(self, until: float, every_s: float) -> None:
        victims = [*ROLES, *(["database"] if self.restart_database else [])]
        self.random.shuffle(victims)
        for victim in cycle(victims):
            await asyncio.sleep(every_s * self.random.uniform(0.5, 1.5))
            if time.monotonic() > until:
                break
            self.kills[victim] += 1
            if victim == "database":
                assert self.restart_database is not None
                await asyncio.to_thread(self.restart_database)
            else:
                await self._restart(victim)
        for name in ROLES:
            if self.made.node(name).process.returncode is not None:
                await self._restart(name)
            await self.made.node(name).until_ready()

    async def _restart(self, name: str) -> None:
        node = self.made.node(name)
        if node.process.returncode is None:  # one that starts without a database ends by itself, to be started again
            await node.kill()
        await node.spawn()

    # What is promised

    async def check(self) -> None:
        """Raise `AssertionError` where it is broken."""
        assert self.accepted
        await self._check_ledger()
        await self._check_images()
        for body in self.bodies:
            if body["status"] == "failed":
                assert body["error"]["error"]["code"] == "outcome_unknown", body
                assert body["meta"]["charged"] == "unknown"
                assert not self.accepted[body["id"]].startswith("free"), body

    async def _check_ledger(self) -> None:
        """Each call that an upstream saw is an attempt; what costs was never bought twice."""
        calls = Counter(
            exchange.fields["prompt"]
            for simulator in self.simulators.values()
            for exchange in simulator.exchanges
            if exchange.submission and exchange.body_read
        )
        jobs = Counter([row[0] for row in await self.made.rows(_PROMPTS)])
        attempts = Counter([row[0] for row in await self.made.rows(f"{_PROMPTS} JOIN attempts ON job_id = jobs.id")])
        assert not calls - attempts
        assert not {text: times for text, times in (calls - jobs).items() if not text.startswith("free")}
        assert set(self.accepted.values()) <= set(jobs)

    async def _check_images(self) -> None:
        drawn: defaultdict[str, set[str]] = defaultdict(set)
        for simulator in self.simulators.values():
            for exchange in simulator.exchanges:
                drawn[""].update(exchange.outputs_sha256)
        for body in self.bodies:
            if body["status"] == "completed":
                content = await self.made.api.picture(body)
                assert hashlib.sha256(content).hexdigest() in drawn[""]

    def figures(self) -> str:
        ended = Counter(body["status"] for body in self.bodies)
        calls = sum(simulator.submissions for simulator in self.simulators.values())
        return (
            f"{len(self.accepted)} jobs accepted, {self.refusals} submits refused with 503, "
            f"{self.kills.total()} kills ({', '.join(f'{name} {count}' for name, count in sorted(self.kills.items()))}), "
            f"{ended['completed']} completed, {ended['failed']} failed as outcome_unknown, {calls} calls upstream; "
            "nothing lost, nothing bought twice, no picture missing, no lease left"
        )


@asynccontextmanager
async def chaos(
    folder: Path, url: str, *, seed: int, restart_database: Callable[[], None] | None = None, **settings: Any
) -> AsyncIterator[Chaos]:
    """A cluster with its upstreams, ready to be killed."""
    async with AsyncExitStack() as stack:
        free = await stack.enter_async_context(OpenAICompatibleSimulator())
        paid = await stack.enter_async_context(OpenAICompatibleSimulator())
        handles = await stack.enter_async_context(FalSimulator(key=KEY))
        for simulator in (free, paid):
            simulator.faults.always(Fault(delay_s=0.1))
        providers = {
            "free": upstream(free.base_url, concurrency=8),
            "paid": upstream(paid.base_url, concurrency=8, repeatable=False),
            "handles": {
                "type": "fal",
                "base_url": handles.base_url,
                "keys": [{"value": KEY}],
                "concurrency": 8,
                "repeatable": False,
            },
        }
        made = await stack.enter_async_context(cluster(folder, url, roles=ROLES, providers=providers, **settings))
        yield Chaos(
            made=made,
            simulators={"free": free, "paid": paid, "handles": handles},
            random=Random(seed),
            restart_database=restart_database,
        )


async def _main(folder: Path, *, seconds: float, every_s: float, seed: int) -> None:
    with OwnServer() as server, server.database() as url:
        signals = Random(seed)

        def restart() -> None:
            server.end(signals.choice([signal.SIGINT, signal.SIGKILL]))
            server.start()

        async with chaos(folder, url, seed=seed, restart_database=restart) as run:
            await run.run(seconds=seconds, every_s=every_s)
            await run.check()
            print(run.figures())  # noqa: T201 - what it is run for


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    logs = Path(tempfile.mkdtemp(prefix="safelight-chaos-"))
    print(f"seed {options.seed}, logs in {logs}")  # noqa: T201 - as above
    logging.disable()  # clients that are killed are no news here
    asyncio.run(_main(logs, seconds=options.seconds, every_s=options.every, seed=options.seed))
