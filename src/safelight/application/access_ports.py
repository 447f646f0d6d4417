"""What the use cases of access and money need of the record. Each call is one atomic commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from safelight.domain.access import Grant, Holder
from safelight.domain.budget import HolderKind, Meter, Reading

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySecret:
    """One reading of a virtual key: its keyed hash, and what of it may be shown."""

    digest: bytes
    ending: str
    created_at: datetime
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who changed what, for the audit log. `detail` never holds a secret."""

    at: datetime
    actor: str
    action: str
    subject: str
    subject_id: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHolder:
    """A key, team, customer or provider entry as it lies in the record."""

    holder: Holder
    source: str
    """`settings` or `api`."""
    created_at: datetime
    updated_at: datetime
    secrets: tuple[KeySecret, ...] = ()
    """Of a virtual key: its readings, the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Part of a list, and how long the whole is."""

    items: tuple[T, ...]
    total: int


class AccessStore(Protocol):
    """The record of who may do what. Every method raises `StorageError` when the database fails."""

    async def version(self) -> int:
        """The number of the last change: what was read under another one may be out of date."""
        ...

    async def grant(self, digest: bytes) -> tuple[Grant, KeySecret] | None:
        """The virtual key that reads so."""
        ...

    async def grant_of(self, key_id: str) -> Grant | None:
        """The virtual key of that id."""
        ...

    async def provider_meters(self) -> Mapping[str, tuple[Meter, ...]]:
        """What is counted for provider entries, by their names."""
        ...

    async def holder(self, kind: HolderKind, holder_id: str) -> StoredHolder | None:
        """Read one by its id."""
        ...

    async def holder_named(self, kind: HolderKind, name: str) -> StoredHolder | None:
        """Read one by its name."""
        ...

    async def holders(self, kind: HolderKind, *, search: str, limit: int, offset: int) -> Page[StoredHolder]:
        """Those whose names hold `search`, by name."""
        ...

    async def save(
        self,
        holder: Holder,
        change: Change,
        *,
        source: str,
        secret: KeySecret | None = None,
        retire: datetime | None = None,
    ) -> None:
        """Write it, new or changed, with the meters of its allowances; raises `Conflict` when the name is taken.

        `secret` becomes a virtual key's newest reading; from `retire` on the earlier ones are none any more.
        """
        ...

    async def remove(self, kind: HolderKind, holder_id: str, change: Change) -> None:
        """Delete it; raises `NotFound`, and `Conflict` while others stand below it."""
        ...

    async def readings(self, kind: HolderKind, holder_id: str, name: str, now: datetime) -> Sequence[Reading]:
        """What has been counted for somebody."""
        ...

    async def changes(self, *, limit: int, offset: int) -> Page[Change]:
        """The audit log, newest first."""
        ...

    async def note(self, change: Change) -> None:
        """Write a line of the audit log for a change that was made elsewhere."""
        ...
