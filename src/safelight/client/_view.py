"""What a job and a batch tell without asking the gateway, for both transports alike; and where pictures go."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safelight.client.errors import JobFailed
from safelight.client.models import BatchCounts, BatchState, BatchStatus, ErrorBody, JobState, Meta, Picture, Status

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif"}


class JobView:
    """A job as it was last told. `state` has all of it."""

    def __init__(self, state: JobState) -> None:
        """Begin with an answer."""
        self.state = state

    @property
    def id(self) -> str:
        """Its id: the same client, or another one, finds it again with `jobs.get`."""
        return self.state.id

    @property
    def status(self) -> Status:
        """`pending`, `processing`, `completed` or `failed`."""
        return self.state.status

    @property
    def ended(self) -> bool:
        """Whether it is completed or failed."""
        return self.state.ended

    @property
    def meta(self) -> Meta:
        """Model, provider, attempts, progress, cost, labels."""
        return self.state.meta

    @property
    def error(self) -> ErrorBody | None:
        """Why it failed."""
        return self.state.error

    @property
    def images(self) -> Sequence[Picture]:
        """What it drew; empty until it is completed."""
        return self.state.result.data if self.state.result else ()

    def raise_for_failure(self) -> None:
        """Raise `JobFailed` where it has failed."""
        if self.status == "failed":
            raise JobFailed(self.state)

    def __repr__(self) -> str:
        """Tell which job, and how it fares."""
        return f"<{type(self).__name__} {self.id} {self.status}>"


class BatchView:
    """A batch as it was last told. `state` has all of it."""

    def __init__(self, state: BatchState) -> None:
        """Begin with an answer."""
        self.state = state

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.id

    @property
    def status(self) -> BatchStatus:
        """`running`, `completed` or `cancelled`."""
        return self.state.status

    @property
    def ended(self) -> bool:
        """Whether no line of it waits or runs."""
        return self.state.ended

    @property
    def total(self) -> int:
        """How many lines it has."""
        return self.state.total

    @property
    def counts(self) -> BatchCounts:
        """How many of them are in which state."""
        return self.state.counts

    def __repr__(self) -> str:
        """Tell which batch, and how far it is."""
        return f"<{type(self).__name__} {self.id} {self.status} {self.counts.completed}/{self.total}>"


def picture_content(state: JobState, picture: Picture) -> tuple[str, bytes] | None:
    """Type and bytes of a picture that came with the answer; `None` for one behind a link."""
    if picture.b64_json is None:
        return None
    kind = state.result.output_format if state.result and state.result.output_format else "png"
    return f"image/{kind}", base64.b64decode(picture.b64_json)


def picture_path(path: Path, job_id: str, index: int, count: int, content_type: str) -> Path:
    """Where a picture goes: one picture to a path with a suffix, all else into a folder of that name."""
    if count == 1 and path.suffix and not path.is_dir():
        return path
    number = f"-{index + 1}" if count > 1 else ""
    return path / f"{job_id}{number}{_SUFFIXES.get(content_type, '.img')}"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside the path, then give it its name: a half picture never has one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
