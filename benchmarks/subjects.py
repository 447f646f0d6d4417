"""What is measured, and how it is started: each gateway is its own process group with a fresh data directory."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
import yaml

from tests.postgres import execute

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 40

Command = Callable[[int, str, Path], list[str]]
"""From the port to listen on, the upstream's base URL and an empty directory to the command line."""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A running gateway."""

    url: str
    pid: int


class StartError(Exception):
    """A process ended, or did not answer in time, instead of starting."""


def _floor(port: int, upstream: str, directory: Path) -> list[str]:
    options = ["--port", str(port), "--upstream", upstream, "--data-dir", str(directory)]
    return [sys.executable, "-m", "benchmarks.floor", *options]


def _settings(port: int, upstream: str, directory: Path, **storage: str) -> Path:
    settings = {
        "server": {"host": "127.0.0.1", "port": port},
        "storage": {"data_dir": str(directory / "data"), **storage},
        "providers": {"bench": {"type": "openai_compatible", "base_url": upstream, "concurrency": 256}},
    }
    path = directory / "safelight.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _safelight(port: int, upstream: str, directory: Path) -> list[str]:
    path = _settings(port, upstream, directory)
    return [sys.executable, "-m", "safelight.cli", "serve", "--config", str(path)]


def _fresh_database() -> str:
    """Make a database on the server of the report; it goes with the server."""
    server = os.environ[DATABASE_URL]
    name = f"bench_{time.monotonic_ns()}"
    asyncio.run(execute(server, f"CREATE DATABASE {name}"))
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def _floor_postgres(port: int, upstream: str, directory: Path) -> list[str]:
    options = ["--port", str(port), "--upstream", upstream, "--data-dir", str(directory)]
    return [sys.executable, "-m", "benchmarks.floor_postgres", "--database-url", _fresh_database(), *options]


def _safelight_postgres(port: int, upstream: str, directory: Path) -> list[str]:
    path = _settings(port, upstream, directory, database_url=_fresh_database())
    return [sys.executable, "-m", "safelight.cli", "serve", "--config", str(path)]


def _workers(count: int) -> Command:
    def command(port: int, upstream: str, directory: Path) -> list[str]:
        path = _settings(port, upstream, directory, database_url=_fresh_database())
        return [sys.executable, "-m", "benchmarks.cluster", str(path), str(count)]

    return command


DATABASE_URL = "BENCH_DATABASE_URL"
SUBJECTS: Mapping[str, Command] = {
    "floor": _floor,
    "safelight": _safelight,
    "floor-postgres": _floor_postgres,
    "safelight-postgres": _safelight_postgres,
    "safelight-postgres-1": _workers(1),
    "safelight-postgres-2": _workers(2),
    "safelight-postgres-4": _workers(4),
}
"""The last three are one API with so many workers; the others are one process."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(url: str, *, post: bool = False) -> bytes:
    request = urllib.request.Request(url, method="POST" if post else "GET")  # noqa: S310 - a loopback address of ours
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        content: bytes = response.read()
        return content


@contextlib.contextmanager
def process(command: list[str], log: Path, ready_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process group, wait until `ready_url` answers 200, and end the group at the end."""
    with log.open("wb") as sink:
        child = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT)
    try:
        _wait_until_ready(child, log, ready_url)
        yield child
    finally:
        _end(child)


def _wait_until_ready(child: subprocess.Popen[bytes], log: Path, ready_url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            fetch(ready_url)
            return
        time.sleep(0.05)
    raise StartError(f"{ready_url} never answered 200; the process said:\n{log.read_text()[-2000:]}")


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def gateway(name: str, upstream: "UpstreamProcess", directory: Path) -> Iterator[Gateway]:
    """Start the subject called `name` on a directory that is made here and must not exist yet."""
    directory.mkdir(parents=True)
    port = free_port()
    command = SUBJECTS[name](port, upstream.base_url, directory)
    url = f"http://127.0.0.1:{port}"
    with process(command, directory / "log.txt", f"{url}/ready") as child:
        yield Gateway(url=url, pid=child.pid)


class UpstreamState(msgspec.Struct):
    calls: int
    waiting: int
    arrived_ns: int
    image_bytes: int


@dataclass(frozen=True, kw_only=True)
class UpstreamProcess:
    """The fake upstream and its control routes."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def state(self) -> UpstreamState:
        return msgspec.json.decode(fetch(f"http://127.0.0.1:{self.port}/count"), type=UpstreamState)

    def control(self, action: str) -> UpstreamState:
        """Do `hold`, `release` or `image?bytes=N`."""
        content = fetch(f"http://127.0.0.1:{self.port}/{action}", post=True)
        return msgspec.json.decode(content, type=UpstreamState)


@contextlib.contextmanager
def upstream_process(directory: Path) -> Iterator[UpstreamProcess]:
    upstream = UpstreamProcess(port=free_port())
    command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(upstream.port)]
    with process(command, directory / "upstream.txt", f"http://127.0.0.1:{upstream.port}/count"):
        yield upstream


def drive(url: str, *options: str) -> dict[str, float | None]:
    """Run the driver as its own process and return its report."""
    command = [sys.executable, "-m", "benchmarks.drive", url, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        raise StartError(f"the driver failed: {done.stdout.decode()[-500:]}{done.stderr.decode()[-2000:]}")
    return msgspec.json.decode(done.stdout, type=dict[str, float | None])
