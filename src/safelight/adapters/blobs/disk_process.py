"""The gateway's side of the process that writes files: see `disk`."""

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

import structlog

from safelight.adapters import child
from safelight.adapters.blobs import disk
from safelight.adapters.blobs.disk import REPLY, REQUEST, Do, Fate
from safelight.adapters.blobs.object_store import unwritable
from safelight.adapters.child import Join
from safelight.adapters.gathering import Gathering
from safelight.domain.errors import StorageError

log = structlog.get_logger(__name__)

Start = Callable[[socket.socket], Join]
"""Has somebody serve this socket, see `disk.serve`, and leaves it to them."""


def start_process(connection: socket.socket) -> Join:
    """Start a process that serves it."""
    return child.start_process(disk.__name__, connection)


class NotTrusted(StorageError):
    """What was written so far may be lost: to go on with it is no use."""


class DiskProcess:
    """Started with the first request, and again after it has died."""

    def __init__(self, start: Start = start_process) -> None:
        """`start` is replaced in tests that want faults of the disk."""
        self._start = start
        self._numbers = itertools.count(1)
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._join: Join = lambda: None
        self._closed = False

    def number(self) -> int:
        """A number for a new file."""
        return next(self._numbers)

    async def do(self, do: Do, number: int, path: str, content: bytes | bytearray = b"") -> None:
        """Have it done. Raises `StorageError`; `NotTrusted` where it is of no use to try that again."""
        connection = self._connection
        if connection is None or connection.lost:
            connection = await self._connected()
        fate, code = await connection.request(do, number, os.fsencode(path), content)
        if fate is not Fate.DONE:
            error = unwritable(OSError(code, os.strerror(code)))
            raise NotTrusted(error.message) if fate is Fate.NOT_TRUSTED else error

    async def close(self) -> None:
        """Finish what was asked for, and end the process."""
        self._closed = True
        async with self._connecting:
            if self._connection is not None:
                await self._connection.close()
                await asyncio.to_thread(self._join)

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            if self._closed:
                raise StorageError("the storage is closed")
            if self._connection is None or self._connection.lost:
                await asyncio.to_thread(self._join)  # of one that has died
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                try:
                    self._join = await asyncio.to_thread(self._start, theirs)
                    self._connection = await _Connection.open(ours)
                except OSError as error:
                    ours.close()
                    raise unwritable(error) from error
            return self._connection


class _Connection(asyncio.Protocol):
    """Those of one turn of the loop go out together; the replies are in their order."""

    def __init__(self) -> None:
        self.lost = False
        self._waiting: deque[asyncio.Future[tuple[Fate, int]]] = deque()
        self._leaving: Gathering[bytes] = Gathering(self._send)
        self._replies = b""
        self._end = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, connection: socket.socket) -> "_Connection":
        _, protocol = await asyncio.get_running_loop().create_unix_connection(cls, sock=connection)
        return protocol

    async def request(self, do: Do, number: int, path: bytes, content: bytes | bytearray) -> tuple[Fate, int]:
        """Send one request; gives its reply."""
        reply: asyncio.Future[tuple[Fate, int]] = self._end.get_loop().create_future()
        self._waiting.append(reply)
        self._leaving.add(b"".join((REQUEST.pack(do, number, len(path), len(content)), path, content)))
        return await reply

    def _send(self, leaving: list[bytes]) -> None:
        self._transport.writelines(leaving)

    async def close(self) -> None:
        """Wait for the replies, then close."""
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._transport.close()
        await self._end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape, not by class

    def data_received(self, data: bytes) -> None:
        """Give each reply to who waits for it, unless they have been cancelled."""
        self._replies += data
        whole = len(self._replies) // REPLY.size * REPLY.size
        for fate, code in REPLY.iter_unpack(self._replies[:whole]):
            reply = self._waiting.popleft()
            if not reply.done():
                reply.set_result((Fate(fate), code))
        self._replies = self._replies[whole:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is still under way: nobody knows whether it was done."""
        self.lost = True
        if self._waiting:
            log.error("disk_process_lost", error=str(exc))
        for reply in self._waiting:
            if not reply.done():
                reply.set_result((Fate.NOT_WRITTEN, 0))
        self._waiting.clear()
        self._end.set_result(None)
