"""The folder of an embedded installation, used by one process at a time."""

import fcntl
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from safelight.domain.errors import ConfigurationError

_ORPHAN_PATIENCE_S = 10.0
_LOOK_EVERY_S = 0.01


class Holder(msgspec.Struct, frozen=True):
    """The process that uses the folder. `address` is where it answers HTTP, `None` when it does not."""

    pid: int
    address: str | None = None


class DataDirInUse(Exception):
    """Another process uses the folder."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        """Tell who it is, as far as it said."""
        who = f"process {holder.pid}" if holder else "another process"
        at = f" at {holder.address}" if holder and holder.address else ""
        super().__init__(f"the data folder {path} is in use by {who}{at}")
        self.holder = holder


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDir:
    """An acquired folder; the lock lasts until `release` or the end of the process."""

    path: Path
    lock: IO[bytes]

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return database_of(self.path)

    @property
    def blobs(self) -> Path:
        """The folder of images."""
        return self.path / "blobs"

    def encryption_key(self) -> str:
        """The key that secrets are encrypted with where the settings name none: made once, readable by us alone.

        It keeps copies of the database safe, not the folder as a whole. Raises `ConfigurationError`.
        """
        path = self.path / "encryption.key"
        try:
            if not path.exists():
                _write_once(path, secrets.token_urlsafe(32))
            return path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be used: {error.strerror}") from error

    def release(self) -> None:
        """Let others use the folder."""
        self.lock.close()


def _write_once(path: Path, text: str) -> None:
    """Write a whole file or none: half a key would lock us out of what it encrypts."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def database_of(path: Path) -> Path:
    """Where the SQLite file of a data folder is, whoever uses it."""
    return path / "safelight.db"


def acquire(path: Path, *, address: str | None = None) -> DataDir:
    """Make the folder if need be and lock it. Raises `DataDirInUse`, `ConfigurationError`."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.fdopen(os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    except OSError as error:
        raise ConfigurationError(f"the data folder {path} cannot be used: {error.strerror}") from error
    try:
        _lock(lock, path)
    except OSError as error:
        lock.close()
        raise DataDirInUse(path, holder(path)) from error
    lock.truncate(0)
    lock.write(msgspec.json.encode(Holder(pid=os.getpid(), address=address)))
    lock.flush()
    return DataDir(path=path, lock=lock)


def _lock(lock: IO[bytes], path: Path) -> None:
    """Take the lock. Raises `OSError`.

    Who commits for a process holds it, too (see `sqlite.committer`): of one that was killed, it is waited for.
    """
    patience_ends = time.monotonic() + _ORPHAN_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if _runs(holder(path)) or time.monotonic() > patience_ends:
                raise
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _runs(holder: Holder | None) -> bool:
    """Whether a process is there, as far as can be told."""
    if holder is None:
        return True
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def check_free(path: Path) -> None:
    """Raise `DataDirInUse` when a process uses the folder; changes nothing. Where there is no lock, nobody does."""
    try:
        lock = (path / "lock").open("rb")
    except OSError:
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataDirInUse(path, holder(path)) from error


def holder(path: Path) -> Holder | None:
    """Who wrote last into the lock; says nothing of whether it still runs."""
    try:
        return msgspec.json.decode((path / "lock").read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
