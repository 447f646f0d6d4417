"""What an administrator adds to the settings while the gateway runs: keys of providers, and prices."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from safelight.application.access_ports import Change
from safelight.application.ports import Clock
from safelight.domain.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A provider's key, without its value."""

    provider: str
    name: str
    models: tuple[str, ...]
    weight: float
    concurrency: int | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrice:
    """A price list, as it would stand in the settings."""

    provider: str
    model: str
    table: Mapping[str, Any]
    updated_at: datetime


class OverrideStore(Protocol):
    """The record of them. Values of keys are encrypted. Every method raises `StorageError` when the database fails."""

    async def keys(self) -> Sequence[tuple[StoredKey, str]]:
        """All keys, with their values."""
        ...

    async def put_key(self, key: StoredKey, value: str, change: Change) -> None:
        """Write a key, new or changed."""
        ...

    async def drop_key(self, provider: str, name: str, change: Change) -> bool:
        """Remove a key; whether there was one."""
        ...

    async def prices(self) -> Sequence[StoredPrice]:
        """All prices."""
        ...

    async def put_price(self, price: StoredPrice, change: Change) -> None:
        """Write a price, new or changed."""
        ...

    async def drop_price(self, provider: str, model: str, change: Change) -> bool:
        """Remove a price; whether there was one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """The use cases. What they change holds at once in this process, and within seconds in all others."""

    store: OverrideStore
    clock: Clock
    apply: Callable[[], Awaitable[None]]
    """Has the engine take what the record says."""

    async def put_key(self, key: StoredKey, value: str, *, actor: str) -> None:
        """Add a key to a provider, or put another value in its place."""
        await self.store.put_key(key, value, self._change(actor, "saved", "provider_key", f"{key.provider}/{key.name}"))
        await self.apply()

    async def drop_key(self, provider: str, name: str, *, actor: str) -> None:
        """Take a key away; work that it has begun is still asked for with it. Raises `NotFound`."""
        change = self._change(actor, "deleted", "provider_key", f"{provider}/{name}")
        if not await self.store.drop_key(provider, name, change):
            raise NotFound("there is no such key; those of the settings are changed there")
        await self.apply()

    async def put_price(self, provider: str, model: str, table: Mapping[str, Any], *, actor: str) -> None:
        """Set what a model costs; it wins over the settings and the catalogue."""
        price = StoredPrice(provider=provider, model=model, table=table, updated_at=self.clock.now())
        await self.store.put_price(price, self._change(actor, "saved", "price", f"{provider}/{model}", dict(table)))
        await self.apply()

    async def drop_price(self, provider: str, model: str, *, actor: str) -> None:
        """Let the settings and the catalogue say again what a model costs. Raises `NotFound`."""
        if not await self.store.drop_price(
            provider, model, self._change(actor, "deleted", "price", f"{provider}/{model}")
        ):
            raise NotFound("there is no such price; those of the settings are changed there")
        await self.apply()

    def _change(
        self, actor: str, action: str, subject: str, subject_id: str, detail: Mapping[str, Any] | None = None
    ) -> Change:
        return Change(
            at=self.clock.now(),
            actor=actor,
            action=action,
            subject=subject,
            subject_id=subject_id,
            detail=detail or {},
        )
