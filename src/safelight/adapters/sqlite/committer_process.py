"""The gateway's side of the process that commits: see `committer`."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog

from safelight.adapters import child
from safelight.adapters.child import Join
from safelight.adapters.gathering import Gathering
from safelight.adapters.sqlite import committer
from safelight.adapters.sqlite.committer import COMMITTED, LENGTH, READY, Message
from safelight.adapters.sqlite.script import Script
from safelight.domain.errors import StorageError

log = structlog.get_logger(__name__)

_PAUSE_S = 60.0
"""After one could not be started or has died."""
_STORAGE_PAUSE_S = 1.0

_Ask = tuple[Script[Any], Callable[[], None], asyncio.Future[bool]]


class CommitterProcess:
    """Started when it is worth it, and again some time after it has died. Without it, `commit` must not be called."""

    def __init__(self, path: Path, *, last_commit: Callable[[], bytes | None], keep: Sequence[int] = ()) -> None:
        """`last_commit` reads `LAST_COMMIT`, in another thread. `keep` are descriptors that it holds as long as it lives."""
        self._path = path
        self._last_commit = last_commit
        self._keep = keep
        self._connection: _Connection | None = None
        self._starting: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether it can be asked."""
        return self._connection is not None and self._connection.ready

    def want(self) -> None:
        """Have it started, unless it is, or could not be a moment ago."""
        if self._closed or self._starting is not None or asyncio.get_running_loop().time() < self._not_before:
            return
        self._starting = asyncio.create_task(self._serve())

    async def commit(self, script: Script[Any], then: Callable[[], None]) -> bool:
        """Have a script carried out; whether it is durable, else nothing of it was written. `then` is called once it is."""
        assert self._connection is not None  # noqa: S101 - as promised
        return await self._connection.commit(script, then)

    async def close(self) -> None:
        """Finish what was asked for, and end the process."""
        self._closed = True
        if self._connection is not None:
            self._connection.end()
        if self._starting is not None:
            await self._starting

    async def _serve(self) -> None:
        """Start the process, and see it to its end."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            join = await asyncio.to_thread(
                child.start_process, committer.__name__, theirs, str(self._path), keep=self._keep
            )
            await self._until_lost(ours, join)
        except OSError as error:
            ours.close()
            log.warning("committer_not_started", error=str(error))
        finally:
            self._not_before = asyncio.get_running_loop().time() + _PAUSE_S
            self._starting = None

    async def _until_lost(self, ours: socket.socket, join: Join) -> None:
        _, connection = await asyncio.get_running_loop().create_unix_connection(_Connection, sock=ours)
        self._connection = connection
        if self._closed:
            connection.end()
        try:
            await connection.lost
        finally:
            self._connection = None
        await asyncio.to_thread(join)
        if connection.under_way or not self._closed:
            log.error("committer_lost", under_way=connection.under_way)
        connection.resolve(await self._last() if connection.under_way else None)

    async def _last(self) -> bytes | None:
        """Ask the database, until it tells or nobody wants to know."""
        while True:
            try:
                return await asyncio.to_thread(self._last_commit)
            except StorageError as error:
                log.error("last_commit_not_readable", error=error.message)  # noqa: TRY400 - no trace needed
                if self._closed:
                    return None
                await asyncio.sleep(_STORAGE_PAUSE_S)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.ready = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked: Gathering[_Ask] = Gathering(self._send)
        self._sent: deque[tuple[bytes, list[_Ask]]] = deque()
        """The marks of messages that are not yet answered, and what they say."""
        self._numbers: dict[str, int] = {}
        self._name = os.urandom(8)
        self._count = 0
        self._encode = msgspec.msgpack.Encoder().encode

    @property
    def under_way(self) -> int:
        """How many messages have no answer."""
        return len(self._sent)

    async def commit(self, script: Script[Any], then: Callable[[], None]) -> bool:
        """See `CommitterProcess.commit`."""
        done: asyncio.Future[bool] = self.lost.get_loop().create_future()
        self._asked.add((script, then, done))
        return await done

    def end(self) -> None:
        """Let the process finish what it was asked for, and end."""
        self._asked.flush()
        self._transport.write_eof()

    def _send(self, asks: list[_Ask]) -> None:
        mark = self._name + (self._count + 1).to_bytes(8)
        text = None if self.lost.done() else self._text(mark, asks)
        if text is None:
            _answer(asks, committed=False)
            return
        self._count += 1
        self._sent.append((mark, asks))
        self._transport.writelines((LENGTH.pack(len(text)), text))

    def _text(self, mark: bytes, asks: list[_Ask]) -> bytes | None:
        """A message; `None` where a value cannot be told: then the thread finds out whether SQLite knows it."""
        new: list[str] = []
        scripts = [
            (script.job_id, [(self._number(step, new), values) for step, values in script.steps]) for script, *_ in asks
        ]
        try:
            return self._encode(Message(mark, new, scripts))
        except (TypeError, ValueError, OverflowError):
            log.exception("message_not_encoded")
            for statement in new:
                del self._numbers[statement]
            return None

    def _number(self, statement: str, new: list[str]) -> int:
        number = self._numbers.get(statement)
        if number is None:
            number = self._numbers[statement] = len(self._numbers)
            new.append(statement)
        return number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape, not by class

    def data_received(self, data: bytes) -> None:
        """Hear that it is there, and what became of each message."""
        if not self.ready:
            self.ready = data.startswith(READY)
            data = data[1:]
        for answer in data:
            _answer(self._sent.popleft()[1], committed=answer == COMMITTED[0])

    def connection_lost(self, exc: Exception | None) -> None:
        """Take no more; what is under way is found out about by `resolve`."""
        del exc
        self.ready = False
        self.lost.set_result(None)

    def resolve(self, last_commit: bytes | None) -> None:
        """Answer what is under way: what came up to the last commit shared it, and nothing else was written."""
        marks = [mark for mark, _ in self._sent]
        committed = marks.index(last_commit) + 1 if last_commit in marks else 0
        for place, (_, asks) in enumerate(self._sent):
            _answer(asks, committed=place < committed)
        self._sent.clear()


def _answer(asks: list[_Ask], *, committed: bool) -> None:
    for _, then, done in asks:
        if committed:
            then()
        if not done.done():
            done.set_result(committed)
