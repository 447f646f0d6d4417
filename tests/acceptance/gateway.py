"""A gateway as a process of its own, to be killed and started again."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Self

import aiohttp

START_S = 60
END_S = 40
POLL_S = 0.02
TERMINAL = {"completed", "failed"}

Body = Mapping[str, Any]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Gateway:
    """`settings` are sections of the settings file. The port stays the same over all starts."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.command: tuple[str, ...] = (sys.executable, "-m", "safelight.cli")
        folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "gateway.log"
        self._settings = folder / "safelight.yaml"
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Write the settings file, for the next start."""
        own: Mapping[str, Mapping[str, Any]] = {
            "server": {"port": self.port},
            "storage": {"data_dir": str(self.data_dir)},
        }
        content = {**settings, **{name: {**section, **settings.get(name, {})} for name, section in own.items()}}
        self._settings.write_text(json.dumps(content))

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()
        if self._session is not None:
            await self._session.close()

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def start(self) -> None:
        """Start it and wait until it says that it answers."""
        process = await self.spawn()
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            first = await process.stdout.readline()
        assert self.url.encode() in first, self.log.read_text()
        assert await self.ready()

    async def ready(self) -> bool:
        async with self.session.get(f"{self.url}/ready") as response:
            return response.status == 200

    async def until_ready(self) -> None:
        """Wait for one that was spawned."""
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    if await self.ready():
                        return
                await asyncio.sleep(POLL_S)

    async def spawn(self) -> asyncio.subprocess.Process:
        """Start it and look no further."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                "serve",
                "--config",
                str(self._settings),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1"},
            )
        return self._process

    async def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        await self.process.wait()

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self, *, within_s: float = START_S) -> int:
        """Wait for its end; gives its exit code."""
        async with asyncio.timeout(within_s):
            return await self.process.wait()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def children(self, module: str = "") -> list[int]:
        """The processes that it has started, or those that run a module of ours."""
        files = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = " ".join(file.read_text() for file in files).split()
        return [int(pid) for pid in pids if module in Path(f"/proc/{pid}/cmdline").read_text()]

    def limit_file_size(self, size_bytes: int) -> None:
        """From now on no file of it may grow past this: a full disk. -1 lifts it."""
        for pid in (self.process.pid, *self.children()):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    # As a client

    async def submit(self, model: str, prompt: str = "a fox", **members: Any) -> str:
        """Submit a generation that must be accepted; gives its id."""
        status, body, _ = await self.post("/v1/async/images/generations", model=model, prompt=prompt, **members)
        assert status == 202, body
        return str(body["id"])

    async def post(
        self, path: str, *, headers: Mapping[str, str] | None = None, **body: Any
    ) -> tuple[int, Body, Mapping[str, str]]:
        async with self.session.post(f"{self.url}{path}", json={"size": "64x64", **body}, headers=headers) as response:
            return response.status, await response.json(), response.headers

    async def poll(self, job_id: str) -> tuple[int, Body]:
        async with self.session.get(f"{self.url}/v1/async/images/generations/{job_id}") as response:
            return response.status, await response.json()

    async def result(self, job_id: str, *, within_s: float = END_S) -> Body:
        """Poll until the job has ended."""
        async with asyncio.timeout(within_s):
            while True:
                status, body = await self.poll(job_id)
                assert status in {200, 202}, body
                if body["status"] in TERMINAL:
                    return body
                await asyncio.sleep(POLL_S)

    async def picture(self, body: Body, index: int = 0) -> bytes:
        """Fetch a picture of a completed job by its link."""
        async with self.session.get(body["result"]["data"][index]["url"]) as response:
            assert response.status == 200
            return await response.read()

    # Behind its back

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask its database, which it may be using."""
        with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(statement, parameters).fetchall()

    @property
    def database(self) -> Path:
        return self.data_dir / "safelight.db"

    def attempts(self, job_id: str) -> list[tuple[str, str, str | None]]:
        """The job's ledger: provider, state and charge of each attempt."""
        return self.rows("SELECT provider, state, charged FROM attempts WHERE job_id = ? ORDER BY number", job_id)

    def files(self) -> list[Path]:
        """All images that lie on disk."""
        blobs = self.data_dir / "blobs"
        return [path for path in blobs.rglob("*") if path.is_file() and path.parent != blobs]

    async def until(self, statement: str, *parameters: object, within_s: float = END_S) -> None:
        """Wait until the database has a row for this."""
        async with asyncio.timeout(within_s):
            while not self.rows(statement, *parameters):  # noqa: ASYNC110 - another process has no event of ours
                await asyncio.sleep(POLL_S)


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway that has been started."""
    async with Gateway(folder, **settings) as gateway:
        await gateway.start()
        yield gateway


def upstream(base_url: str, **members: Any) -> Mapping[str, Any]:
    """The settings entry of a provider at a simulator's address."""
    return {"type": "openai_compatible", "base_url": base_url, "retries": {"initial": 0.05}, **members}
