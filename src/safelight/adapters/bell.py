"""Wakes those who wait for a job, within one process."""

import asyncio
from collections import defaultdict

from safelight.domain.ids import JobId


class LocalBell:
    """One event for each job that somebody waits for."""

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._waiting: defaultdict[JobId, set[asyncio.Future[None]]] = defaultdict(set)
        self._silent = False

    def ring(self, job_id: JobId) -> None:
        """See `Bell.ring`."""
        for future in self._waiting.pop(job_id, ()):
            if not future.done():
                future.set_result(None)

    def listen(self, job_id: JobId) -> "asyncio.Future[None]":
        """Begin to wait: rings from now on are heard."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._silent:
            future.set_result(None)
            return future
        self._waiting[job_id].add(future)
        future.add_done_callback(lambda done: self._forget(job_id, done))
        return future

    def silence(self) -> None:
        """Send everybody home, now and from now on: no job will end in this process any more."""
        self._silent = True
        for job_id in list(self._waiting):
            self.ring(job_id)

    def _forget(self, job_id: JobId, future: "asyncio.Future[None]") -> None:
        if waiting := self._waiting.get(job_id):
            waiting.discard(future)
            if not waiting:
                del self._waiting[job_id]
