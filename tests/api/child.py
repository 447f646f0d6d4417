"""A gateway in a process of its own, measured from outside. `python -m tests.api.child SETTINGS`."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from safelight.config import load
from safelight.server import listen, serve

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Child:
    url: str
    pid: int

    @property
    def resident_bytes(self) -> int:
        return self._status("VmRSS")

    @property
    def peak_bytes(self) -> int:
        """The most that was resident since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        self._proc("clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = self._proc("status").read_text().splitlines()
        return next(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{name}:"))

    def _proc(self, name: str) -> Path:
        return Path("/proc") / str(self.pid) / name


@asynccontextmanager
async def child(settings: Path) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.api.child", str(settings), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        assert url.startswith("http://")
        yield Child(url=url, pid=process.pid)
    finally:
        process.terminate()
        await process.wait()


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # nobody reads it
    settings = load(Path(sys.argv[1]), {}, usual_keys={})
    uvloop.run(serve(settings, listen(settings), started=lambda address, _: print(address, flush=True)))  # noqa: T201 - that is how it tells


if __name__ == "__main__":
    main()
