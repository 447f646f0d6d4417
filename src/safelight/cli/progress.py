"""What people see while they wait: a line that lives, in a terminal alone."""

import asyncio
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import Progress as Bar
from rich.progress import ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from safelight.client import JobState


class Waiting:
    """A line of some columns; it vanishes in the end."""

    def __init__(self, *columns: ProgressColumn, told: str, total: int | None = None) -> None:
        """`told` is its first description; of `total` parts, where they can be counted."""
        self._console = Console(stderr=True)
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._line = self._bar.add_task(told, total=total)
        self._heard_at = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the line."""
        self._bar.stop()

    @property
    def silent_s(self) -> float:
        """How long nothing was heard, or since the waiting began."""
        return time.monotonic() - self._heard_at

    def heard(self, told: str, completed: int | None = None) -> None:
        """Tell what was heard."""
        self._heard_at = time.monotonic()
        self._bar.update(self._line, description=told, completed=completed)


class Progress(Waiting):
    """State, place in the queue and time of one job."""

    def __init__(self) -> None:
        """Show nothing yet."""
        super().__init__(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), told="starting")

    def show(self, job: JobState) -> None:
        """Tell how a job fares."""
        self.heard(_described(job))

    def above(self, what: RenderableType) -> None:
        """Print something that stays, above the line."""
        self._console.print(what)

    def lost(self) -> None:
        """Tell that the gateway is away."""
        self._bar.update(self._line, description="the gateway does not answer; looking for it")

    async def asked(self, question: str) -> bool:
        """Ask for a yes, while all else goes on."""
        self._bar.stop()
        self._console.print(f"\n{question} [y/N] ", end="", markup=False, highlight=False, soft_wrap=True)
        answer = (await _line_typed()).strip().lower()
        self._bar.start()
        return answer in {"y", "yes"}


async def _line_typed() -> str:
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()

    def take() -> None:
        loop.remove_reader(sys.stdin)
        typed.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin, take)
    try:
        return await typed
    finally:
        loop.remove_reader(sys.stdin)


def _described(job: JobState) -> str:
    meta = job.meta
    parts: list[str] = [job.status]
    if meta.queue_position:
        parts.append(f"{meta.queue_position} ahead of it")
    if meta.attempts > 1:
        parts.append(f"attempt {meta.attempts}")
    if meta.progress is not None:
        parts.append(f"{meta.progress:.0%}")
    return ", ".join(parts)
