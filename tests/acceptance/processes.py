"""Real `safelight` processes, without the settings and keys of whoever runs the tests."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safelight.wiring import usual_keys

COMMAND = (sys.executable, "-m", "safelight.cli")
ROOT = Path(__file__).parents[2]
WAIT_S = 45
_ADDRESS = re.compile(r"Safelight listens on (http://\S+)")


def environment(**more: str) -> dict[str, str]:
    keys = set(usual_keys().values())
    kept = {name: value for name, value in os.environ.items() if name not in keys and not name.startswith("SAFELIGHT_")}
    return {**kept, "COLUMNS": "80", **more}


def safelight(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@contextmanager
def started(
    *arguments: str | Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stderr: int | IO[str] = subprocess.PIPE,
    command: tuple[str, ...] = COMMAND,
) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the test; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def gateway(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator["Gateway"]:
    """Run `safelight serve` on a free port until the end of the block, or until it is stopped."""
    log, data_dir = folder / "serve.log", folder / "data"
    usual = {"SAFELIGHT_SERVER__PORT": "0", "SAFELIGHT_JOBS__SHUTDOWN_GRACE": "0.2"}
    with (
        log.open("w", encoding="utf-8") as stderr,
        started(
            *("serve", "--data-dir", str(data_dir), *arguments), cwd=folder, env={**usual, **(env or {})}, stderr=stderr
        ) as process,
    ):
        yield Gateway(process, log, data_dir)


class Gateway:
    """A running `safelight serve`."""

    def __init__(self, process: subprocess.Popen[str], log: Path, data_dir: Path) -> None:
        """Wait until it answers."""
        self.process = process
        self.data_dir = data_dir
        self._log = log
        assert process.stdout is not None
        self.said = process.stdout.readline()
        """What it has printed so far."""
        found = _ADDRESS.match(self.said)
        assert found, self.log
        self.url = found[1]

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return self.process.wait(timeout=WAIT_S)


def accepted(process: subprocess.Popen[str]) -> str:
    """Wait until a command has handed in its job; returns the job's id."""
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.match(r"Job (\S+) accepted", line)
    assert found, line
    return found[1]
