"""A real gateway on a loopback port, in a thread with a loop of its own, so that tests talk to it as clients do."""

import asyncio
import contextlib
import socket
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from safelight.config import Settings, load
from safelight.server import _Server, address_of, listen
from safelight.wiring import Gateway, open_gateway
from tests.simulators._base import Simulator

T = TypeVar("T")
SimulatorT = TypeVar("SimulatorT", bound=Simulator)

NO_RETRIES = {"max": 0, "initial": 0}
START_S = 20


def settings_for(data_dir: Path, **sections: Any) -> Settings:
    """Settings of a test gateway: a free port, no retries of `builtin`, whatever else the test wants."""
    server = {"port": 0, **sections.pop("server", {})}
    providers = {"builtin": {"retries": NO_RETRIES}, **sections.pop("providers", {})}
    return load(
        None, {"server": server, "storage": {"data_dir": data_dir}, "providers": providers, **sections}, usual_keys={}
    )


class ServedGateway:
    """Starts with `with`, and is reached at `url`; `call` runs a coroutine beside it, in its own loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._started: Future[str] = Future()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="gateway")
        self._server: _Server
        self.gateway: Gateway
        self.url = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def blobs(self) -> list[Path]:
        """The files of the blob store, as they lie on disk."""
        folder = self.settings.storage.data_dir / "blobs"
        return [path for path in folder.rglob("*") if path.is_file() and path.name != "check"]

    def job_count(self) -> int:
        """How many jobs the database holds."""
        with contextlib.closing(sqlite3.connect(self.settings.storage.data_dir / "safelight.db")) as connection:
            count: int = connection.execute("SELECT count(*) FROM jobs").fetchone()[0]
            return count

    def job_named(self, request_id: str) -> str:
        """The id of the one job whose submit had this `x-request-id`."""
        with contextlib.closing(sqlite3.connect(self.settings.storage.data_dir / "safelight.db")) as connection:
            [(job_id,)] = connection.execute("SELECT id FROM jobs WHERE request_id = ?", (request_id,)).fetchall()
            return str(job_id)

    def wait_for_jobs(self, count: int) -> None:
        """Wait until so many jobs are stored."""
        deadline = time.monotonic() + START_S
        while self.job_count() < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait_until_empty(self) -> None:
        """Wait until no job and no image is kept any more."""
        deadline = time.monotonic() + START_S
        while self.blobs or self.job_count():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait_until_idle(self) -> None:
        """Wait until no request is being worked on."""
        deadline = time.monotonic() + START_S
        while self._server.server_state.tasks or self._server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_S)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            with contextlib.closing(listen(self.settings)) as listener:
                await self._serve(listener)
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self, listener: socket.socket) -> None:
        address = address_of(listener)
        self.gateway = await open_gateway(self.settings, address=address)
        try:
            await self.gateway.start()
            self._server = server = _Server(self.gateway, started=lambda: self._started.set_result(address))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await self._stop.wait()
            server.should_exit = True
            await serving
        finally:
            await self.gateway.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._started.result(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class SimulatorThread(Generic[SimulatorT]):
    """Runs a provider's simulator in a thread of its own."""

    def __init__(self, simulator: SimulatorT) -> None:
        self.simulator = simulator
        self._started: Future[None] = Future()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="simulator")

    def release(self) -> None:
        """Let the requests that are held go on."""
        self._loop.call_soon_threadsafe(self.simulator.release)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have a coroutine of the simulator done in its own loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def wait_for_submissions(self, count: int) -> None:
        """Wait until so many submissions have been read."""
        work = self.simulator.wait_for_submissions(count)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self.simulator:
            self._started.set_result(None)
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
