"""What a gateway keeps its jobs and images in."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from safelight.adapters.bell import LocalBell
from safelight.adapters.blobs.cloud import CloudBlobStore
from safelight.adapters.blobs.local import LocalBlobStore
from safelight.adapters.sql.database import Database
from safelight.adapters.sql.jobs import SqlJobStore
from safelight.application.ports import Clock, Queue
from safelight.domain.ids import ProviderName

Lanes = Mapping[ProviderName, int]
"""How many jobs of each provider may run at a time."""


class WorkQueue(Queue, Protocol):
    """The queue as the gateway runs it."""

    @property
    def running(self) -> set[ProviderName]:
        """The lanes in which this process takes a step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """All that keeps something. `close` lets go of it."""

    database: Database
    jobs: SqlJobStore
    queue: WorkQueue
    blobs: LocalBlobStore | CloudBlobStore
    bell: LocalBell
    clock: Clock
    encryption_keys: tuple[str, ...]
    """For stored secrets; the first encrypts, all decrypt."""
    close: Callable[[], Awaitable[None]]
