"""Random bytes of the system's, fetched many at a time: each call of it hands the interpreter to another thread.

For ids and names that nobody may guess. Keys and other secrets that last come straight from `secrets`.
"""

import os

from safelight.domain.ids import uuid_of

_PIECE_BYTES = 16
_FETCHED_BYTES = 4096

_unused: list[bytes] = []
os.register_at_fork(after_in_child=_unused.clear)  # or parent and child would give the same


def random_bytes(count: int) -> bytes:
    """Give `count` bytes, sixteen at most, that are given to nobody else."""
    try:
        piece = _unused.pop()  # in one step, whichever threads ask
    except IndexError:
        fetched = os.urandom(_FETCHED_BYTES)
        piece, *others = (fetched[at : at + _PIECE_BYTES] for at in range(0, _FETCHED_BYTES, _PIECE_BYTES))
        _unused.extend(others)
    return piece[:count]


def random_uuid() -> str:
    """Give a UUID, version 4."""
    return uuid_of(random_bytes(16))
