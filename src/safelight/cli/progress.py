"""What people see while they wait: a line that lives, in a terminal alone."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Progress:
    """State, place in the queue and time; it vanishes in the end."""

    def __init__(self) -> None:
        """Show nothing yet."""
        console = Console(stderr=True)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._line: TaskID = self._bar.add_task("starting", total=None)
        self.heard = False
        """Whether a gateway has told how the job fares."""
        self.heard_at = time.monotonic()
        """When it last did, or when the waiting began."""

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the line."""
        self._bar.stop()

    def show(self, job: dict[str, Any]) -> None:
        """Tell how a job fares."""
        self.heard = True
        self.heard_at = time.monotonic()
        self._bar.update(self._line, description=_described(job))

    def lost(self) -> None:
        """Tell that the gateway is away."""
        self._bar.update(self._line, description="the gateway does not answer; looking for it")


def _described(job: dict[str, Any]) -> str:
    meta = job.get("meta", {})
    parts = [job["status"]]
    if meta.get("queue_position"):
        parts.append(f"{meta['queue_position']} ahead of it")
    if meta.get("attempts", 0) > 1:
        parts.append(f"attempt {meta['attempts']}")
    if (progress := meta.get("progress")) is not None:
        parts.append(f"{progress:.0%}")
    return ", ".join(parts)
