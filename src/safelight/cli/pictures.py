"""Where pictures go: names, and files that are whole or not there."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safelight.cli.faults import UsageError, note
from safelight.client import AsyncJob

FORMATS: Mapping[str, str] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_SUFFIXES: Mapping[str, str] = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif"}
_SLUG_CHARS = 40
_ID_CHARS = 8
_NOT_IN_NAMES = re.compile(r"[\W_]+")


def slug(text: str) -> str:
    """Make a file name's beginning out of a text."""
    words = _NOT_IN_NAMES.sub("-", text.casefold()).strip("-")
    if len(words) > _SLUG_CHARS:
        words = words[: _SLUG_CHARS + 1].rpartition("-")[0] or words[:_SLUG_CHARS]
    return words or "picture"


def suffix(content_type: str) -> str:
    """How a file of that type ends."""
    return _SUFFIXES.get(content_type, ".img")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A folder, or with `file` one file in it; several pictures of one file get numbers."""

    folder: Path
    file: str | None = None
    force: bool = False

    @classmethod
    def of(cls, output: str | None, *, force: bool) -> "Destination":
        """Read `-o`: a picture's name is a file, anything else a folder. Raises `UsageError`."""
        if output is None:
            return cls(folder=Path(), force=force)
        path = Path(output)
        if path.is_dir() or output.endswith(os.sep) or not path.suffix:
            return cls(folder=path, force=force)
        if path.suffix.lower() not in FORMATS:
            raise UsageError(
                f"{output} is neither a folder nor a picture: end a folder's name with {os.sep}, "
                f"a file's with one of {', '.join(FORMATS)}"
            )
        return cls(folder=path.parent, file=path.name, force=force)

    @property
    def format(self) -> str | None:
        """The output format that the file's name asks for."""
        return FORMATS[Path(self.file).suffix.lower()] if self.file else None

    def prepare(self, count: int) -> None:
        """Make the folder and see that nothing is in the way, before anything is paid. Raises `UsageError`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the folder {self.folder} cannot be made: {error.strerror}") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"the folder {self.folder} cannot be written to")
        if self.file and not self.force:
            for index in range(count):
                path = self._numbered(self.folder / self.file, index, count)
                if path.exists():
                    raise UsageError(f"{path} exists already: choose another name, or overwrite it with --force")

    def path(self, title: str, job_id: str, index: int, count: int, content_type: str) -> Path:
        """Name one picture of a job."""
        if self.file:
            return self._free(self._numbered(self.folder / self.file, index, count))
        plain = self.folder / f"{slug(title)}-{job_id[:_ID_CHARS]}{suffix(content_type)}"
        return self._free(self._numbered(plain, index, count))

    @staticmethod
    def _numbered(path: Path, index: int, count: int) -> Path:
        return path if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")

    def _free(self, path: Path) -> Path:
        """Never overwrite, but never lose a picture either: a name taken meanwhile gets a number."""
        free, number = path, 1
        while free.exists() and not self.force:
            number += 1
            free = path.with_name(f"{path.stem} ({number}){path.suffix}")
        return free


@dataclass(slots=True, kw_only=True)
class Saved:
    """The pictures of one job as they are fetched; what is there already is not fetched again."""

    destination: Destination
    title: str
    paths: dict[int, Path] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Where they are, in their order."""
        return [str(path) for _, path in sorted(self.paths.items())]

    async def fetch(self, job: AsyncJob) -> None:
        """Fetch all pictures. Raises `SafelightError`, `UsageError`."""
        for index in range(len(job.images)):
            if index not in self.paths:
                self.paths[index] = await self._fetch(job, index)

    async def _fetch(self, job: AsyncJob, index: int) -> Path:
        told = ""

        def named(content_type: str) -> Path:
            nonlocal told
            told = content_type
            return self.destination.path(self.title, job.id, index, len(job.images), content_type)

        try:
            path = await job.download(index, named)
        except OSError as error:
            raise UsageError(
                f"{error.filename or self.destination.folder} cannot be written: {error.strerror}"
            ) from error
        if FORMATS.get(path.suffix.lower()) != told.removeprefix("image/"):
            note(f"note: {path} holds {told}, whatever its name says")
        return path
