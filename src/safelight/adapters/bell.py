"""Wakes those who wait for something to be committed, within one process."""

import asyncio
from collections import defaultdict


class LocalBell:
    """The listeners of each topic that has any."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self.silent = False

    def ring(self, *topics: str) -> None:
        """See `Bell.ring`."""
        for topic in topics:
            for future in self._waiting.pop(topic, ()):
                if not future.done():
                    future.set_result(None)

    def listen(self, topic: str) -> "asyncio.Future[None]":
        """Begin to wait: rings from now on are heard."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.silent:
            future.set_result(None)
            return future
        self._waiting[topic].add(future)
        future.add_done_callback(lambda done: self._forget(topic, done))
        return future

    def ring_all(self) -> None:
        """Wake everybody: something may have been committed that this process has not heard of."""
        self.ring(*list(self._waiting))

    def silence(self) -> None:
        """Send everybody home, now and from now on: no job will end in this process any more."""
        self.silent = True
        self.ring_all()

    def _forget(self, topic: str, future: "asyncio.Future[None]") -> None:
        if waiting := self._waiting.get(topic):
            waiting.discard(future)
            if not waiting:
                del self._waiting[topic]
