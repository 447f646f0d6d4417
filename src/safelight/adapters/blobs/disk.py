"""Writes files for the gateway, in a process of its own: `python -m safelight.adapters.blobs.disk`, on a socket at 0.

A file costs four system calls and more. In a thread of the gateway each of them hands the interpreter over to the event
loop and waits to have it back, which took longer than the disk did. Here nobody is in the way, and a batch of files is
one message to the gateway.

A request is `REQUEST` with a path and some bytes behind it; each gets one `REPLY`, in order. The process ends with the
connection, so it outlives no gateway. It needs nothing but the standard library, so that it starts quickly.
"""

import enum
import os
import socket
import struct
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safelight.adapters.child import answer, own_connection

REQUEST = struct.Struct("=BQII")
"""What to do, the file's number, the length of its path, the length of the bytes."""
REPLY = struct.Struct("=BI")
"""A `Fate` and the number of the system's error."""

_FOLDER_TRIES = 3
_SYNCS_AT_ONCE = 8
_PATIENCE_S = 0.005
"""For syncing one file after the other."""


class Do(enum.IntFlag):
    """What is asked for. `APPEND` may come with `CREATE` before it and `FINISH` after it."""

    CREATE = 1
    APPEND = 2
    FINISH = 4
    """Force the file and its place in its folder to disk, and forget it."""
    DROP = 8
    """Remove the file, whatever has become of it."""


class Fate(enum.IntEnum):
    """What became of a request."""

    DONE = 0
    NOT_WRITTEN = 1
    """The file is as it was before; it may be tried again."""
    NOT_TRUSTED = 2
    """The file may not be what was written."""


Request = tuple[Do, int, Path, memoryview]
Outcome = tuple[Fate, int]


@dataclass(slots=True)
class _File:
    path: Path
    descriptor: int
    size: int = 0


class Disk:
    """Writes what has come, then syncs all files that are complete."""

    def __init__(self) -> None:
        """Start without a file."""
        self._files: dict[int, _File] = {}
        self._new_folders: set[Path] = set()
        self._syncers = ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="blob-sync")

    def handle(self, requests: list[Request]) -> list[Outcome]:
        """Do a batch; the outcomes are in its order."""
        complete: list[_File] = []
        outcomes = [self._one(*request, complete) for request in requests]
        fault = self._sync(complete)
        if fault is not None:
            finished = [bool(do & Do.FINISH) for do, *_ in requests]
            outcomes = [
                fault if last and outcome[0] is Fate.DONE else outcome
                for last, outcome in zip(finished, outcomes, strict=True)
            ]
        return outcomes

    def close(self) -> None:
        """Let go of files that were never finished; a sweeper removes them."""
        for file in self._files.values():
            os.close(file.descriptor)
        self._syncers.shutdown()

    def _one(self, do: Do, number: int, path: Path, content: memoryview, complete: list[_File]) -> Outcome:
        try:
            if do & Do.DROP:
                self._drop(number, path)
                return Fate.DONE, 0
            if do & Do.CREATE and number not in self._files:
                self._files[number] = _File(path, self._create(path))
            file = self._files.get(number)
            if file is None:
                return Fate.NOT_TRUSTED, 0
            fault = _append(file, content)
        except OSError as error:
            return Fate.NOT_WRITTEN, error.errno or 0
        if fault is not None:
            return fault
        if do & Do.FINISH:
            complete.append(self._files.pop(number))
        return Fate.DONE, 0

    def _create(self, path: Path) -> int:
        for _ in range(_FOLDER_TRIES):
            try:
                return _open(path)
            except FileNotFoundError:  # the first of its hour, or the sweeper has just removed an empty folder
                path.parent.mkdir(parents=True, exist_ok=True)
                self._new_folders.add(path.parent)
        return _open(path)

    def _drop(self, number: int, path: Path) -> None:
        if (file := self._files.pop(number, None)) is not None:
            os.close(file.descriptor)
        path.unlink(missing_ok=True)

    def _sync(self, complete: list[_File]) -> Outcome | None:
        """Sync files, then their places in their folders. A fault concerns the whole batch: none may be trusted."""
        try:
            self._sync_all([file.descriptor for file in complete])
            folders = {file.path.parent for file in complete}
            for folder in folders | {new.parent for new in folders & self._new_folders}:
                _sync_folder(folder)
            self._new_folders -= folders
        except OSError as error:
            return Fate.NOT_TRUSTED, error.errno or 0
        finally:
            for file in complete:
                os.close(file.descriptor)
        return None

    def _sync_all(self, descriptors: list[int]) -> None:
        """Sync files one after the other, and from where that takes long, side by side: the disk does them together.

        A thread costs more than a quick disk takes. It is told of all files first, and writes them while one is waited for.
        """
        if len(descriptors) > 1:
            for descriptor in descriptors:
                _begin_to_write(descriptor)
        patience_ends = time.monotonic() + _PATIENCE_S
        for place, descriptor in enumerate(descriptors):
            if time.monotonic() > patience_ends:
                deque(self._syncers.map(os.fsync, descriptors[place:]), maxlen=0)
                return
            os.fsync(descriptor)


def _begin_to_write(descriptor: int) -> None:
    """Have the system begin with what it would otherwise write when asked to sync."""
    if sys.platform == "linux":  # others have no such call
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)


def _append(file: _File, content: memoryview) -> Outcome | None:
    """Append all or nothing; gives what went wrong."""
    written = 0
    try:
        while written < len(content):
            written += os.write(file.descriptor, content[written:])
    except OSError as error:
        return _cut_back(file), error.errno or 0
    file.size += len(content)
    return None


def _cut_back(file: _File) -> Fate:
    """Take back what was written in part."""
    try:
        os.ftruncate(file.descriptor, file.size)
    except OSError:
        return Fate.NOT_TRUSTED
    return Fate.NOT_WRITTEN


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def serve(connection: socket.socket) -> None:
    """Do what is asked for until the other side is gone; what has come whole by then is done all the same."""
    disk = Disk()
    try:
        answer(connection, partial(_handle_all, disk))
    finally:
        disk.close()
        connection.close()


def _handle_all(disk: Disk, waiting: memoryview) -> tuple[bytes, int]:
    """Do the requests that have come whole; gives the replies, and the place where they end."""
    requests, end = _whole(waiting)
    outcomes = disk.handle(requests)
    for *_, content in requests:
        content.release()
    return b"".join(REPLY.pack(*outcome) for outcome in outcomes), end


def _whole(view: memoryview) -> tuple[list[Request], int]:
    requests: list[Request] = []
    at = 0
    while len(view) - at >= REQUEST.size:
        do, number, path_bytes, content_bytes = REQUEST.unpack_from(view, at)
        path_at = at + REQUEST.size
        content_at = path_at + path_bytes
        end = content_at + content_bytes
        if end > len(view):
            break
        path = Path(os.fsdecode(bytes(view[path_at:content_at])))
        requests.append((Do(do), number, path, view[content_at:end]))
        at = end
    return requests, at


def main() -> None:
    """Serve the gateway that started this."""
    serve(own_connection())


if __name__ == "__main__":
    main()
