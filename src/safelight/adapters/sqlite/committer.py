"""Commits what jobs write, in a process of its own: `python -m safelight.adapters.sqlite.committer FILE`, on a socket at 0.

A thread of the gateway would have to ask for the interpreter some ten times a commit, and the event loop waits for each
commit as long. Here both work at the same time.

It says `READY` once. Then each message is `LENGTH` and a `Message`, and is answered with one byte, in order: all of it is
durable, or nothing of it is written. What has come by the time of a commit shares it, and is answered before the next.
"""

import sqlite3
import struct
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from safelight.adapters.child import answer, own_connection
from safelight.adapters.sql.database import Transaction
from safelight.adapters.sqlite.connect import connect
from safelight.adapters.sqlite.together import Apart, JobWork, do_all

LENGTH = struct.Struct("=I")
READY, COMMITTED, REFUSED = b"R", b"C", b"N"
LAST_COMMIT = "last_commit"
"""The fact of the installation that tells which message was committed last."""

_NOTE_COMMIT = (
    "INSERT INTO installation (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


class Message(msgspec.Struct, array_like=True):
    """Scripts that are carried out together."""

    mark: bytes
    """What the installation remembers of it, if it is committed."""
    statements: Sequence[str]
    """Those that are new; the numbers of all go on from message to message."""
    scripts: Sequence[tuple[str, Sequence[tuple[int, Sequence[Any]]]]]
    """Of each, the job's id, and its steps: the statement's number and its values."""


class Committer:
    """Carries out what messages say."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Begin without a statement."""
        self._connection = connection
        self._statements: list[str] = []
        self._decode = msgspec.msgpack.Decoder(Message).decode

    def handle(self, texts: Sequence[bytes | memoryview]) -> bytes:
        """Commit messages together; gives their answers. Whoever sent what is refused tries it himself, and learns why."""
        messages = [self._decode(text) for text in texts]
        for message in messages:
            self._statements += message.statements
        return (COMMITTED if self._committed(messages) else REFUSED) * len(messages)

    def _committed(self, messages: Sequence[Message]) -> bool:
        works = [self._work(*script) for message in messages for script in message.scripts]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            do_all(self._connection, works)
            self._connection.execute(_NOTE_COMMIT, (LAST_COMMIT, messages[-1].mark))
            self._connection.execute("COMMIT")
        except Exception:  # noqa: BLE001 - see `handle`
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return False
        return True

    def _work(self, job_id: str, steps: Sequence[tuple[int, Sequence[Any]]]) -> JobWork:
        async def work(transaction: Transaction) -> None:
            for number, values in steps:
                if not await transaction.change_one(self._statements[number], *values):
                    raise Apart

        return JobWork(job_id, work)


def _handle_all(committer: Committer, waiting: memoryview) -> tuple[bytes, int]:
    """Commit the messages that have come whole; gives the answers, and the place where they end."""
    texts: list[memoryview] = []
    at = 0
    while len(waiting) - at >= LENGTH.size:
        begin = at + LENGTH.size
        end = begin + LENGTH.unpack_from(waiting, at)[0]
        if end > len(waiting):
            break
        texts.append(waiting[begin:end])
        at = end
    answers = committer.handle(texts) if texts else b""
    for text in texts:
        text.release()
    return answers, at


def main() -> None:
    """Serve the gateway that started this."""
    gateway = own_connection()
    with closing(connect(Path(sys.argv[1]), writes=True)) as connection:
        answer(gateway, partial(_handle_all, Committer(connection)), greeting=READY)


if __name__ == "__main__":
    main()
