"""Make and change virtual keys, teams, customers and the limits of provider entries. Each change is in the audit log."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

from safelight.application.access_ports import AccessStore, Change, KeySecret, StoredHolder
from safelight.application.callers import Callers
from safelight.application.ports import Clock
from safelight.domain.access import Customer, Holder, ProviderLimits, Team, VirtualKey, kind_of
from safelight.domain.budget import HolderKind
from safelight.domain.errors import NotFound

H = TypeVar("H", bound=Holder)

SETTINGS = "settings"
"""Who the audit log names for what the settings file says."""

_NAMESPACE = UUID("6f0b3a52-9a64-4f1c-8d7e-5a1f3c2b9e10")
_SHOWN_CHARS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredKey:
    """A virtual key of the settings file. Its `team` and `customer` are names; without `value` one is made."""

    key: VirtualKey
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the settings file says of access."""

    customers: tuple[Customer, ...] = ()
    teams: tuple[Team, ...] = ()
    keys: tuple[DeclaredKey, ...] = ()
    providers: tuple[ProviderLimits, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Administer:
    """The use cases behind the administration of access. What comes in names teams and customers by their names."""

    store: AccessStore
    callers: Callers
    clock: Clock

    async def create(self, draft: H, *, actor: str) -> StoredHolder:
        """Write something new; raises `Conflict` when the name is taken."""
        holder = await self._placed(replace(draft, id=draft.id or str(uuid4())))
        await self._save(holder, actor=actor, action="created")
        return await self._stored(kind_of(holder), holder.id)

    async def create_key(self, draft: VirtualKey, *, actor: str, value: str | None = None) -> tuple[StoredHolder, str]:
        """Write a new virtual key; its reading is told here and never again."""
        key = await self._placed(replace(draft, id=str(uuid4())))
        value = value or new_key()
        await self._save(key, actor=actor, action="created", value=value)
        return await self._stored(HolderKind.KEY, key.id), value

    async def change(self, draft: H, *, actor: str) -> StoredHolder:
        """Put other terms in the place of those that `draft.id` has; raises `NotFound`, `Conflict`."""
        kind = kind_of(draft)
        await self._stored(kind, draft.id)
        await self._save(await self._placed(draft), actor=actor, action="changed")
        return await self._stored(kind, draft.id)

    async def rotate(self, key_id: str, *, overlap_s: float, actor: str) -> tuple[StoredHolder, str]:
        """Give a virtual key a new reading; the earlier ones hold for `overlap_s` more seconds."""
        stored, value = await self._stored(HolderKind.KEY, key_id), new_key()
        retire = timedelta(seconds=overlap_s)
        await self._save(stored.holder, actor=actor, action="rotated", value=value, retire=retire, source=stored.source)
        return await self._stored(HolderKind.KEY, key_id), value

    async def revoke(self, key_id: str, *, actor: str) -> StoredHolder:
        """Switch a virtual key off; its jobs go on."""
        stored = await self._stored(HolderKind.KEY, key_id)
        assert isinstance(stored.holder, VirtualKey)  # noqa: S101 - it was asked for by its kind
        await self._save(replace(stored.holder, active=False), actor=actor, action="revoked", source=stored.source)
        return await self._stored(HolderKind.KEY, key_id)

    async def delete(self, kind: HolderKind, holder_id: str, *, actor: str) -> None:
        """Remove it; raises `NotFound`, and `Conflict` while others stand below it."""
        stored = await self._stored(kind, holder_id)
        await self.store.remove(kind, holder_id, self._change(stored.holder, actor=actor, action="deleted"))
        self.callers.forget()

    async def reconcile(self, declared: Declared) -> Mapping[str, str]:
        """Make the record say what the settings file says; gives the readings of keys that were made, by name.

        Entries are known by their names. A key that has left the file is switched off.
        """
        for customer in declared.customers:
            await self._declare(customer)
        for team in declared.teams:
            await self._declare(team)
        for provider in declared.providers:
            await self._declare(provider)
        made = {}
        for entry in declared.keys:
            if (value := await self._declare_key(entry)) is not None:
                made[entry.key.name] = value
        await self._switch_off_all_but({entry.key.name for entry in declared.keys})
        return made

    async def _declare(self, draft: H) -> None:
        kind = kind_of(draft)
        stored = await self.store.holder_named(kind, draft.name)
        holder = await self._placed(replace(draft, id=stored.holder.id if stored else _declared_id(draft)))
        if stored is None or (stored.holder, stored.source) != (holder, SETTINGS):
            await self._save(holder, actor=SETTINGS, action="changed" if stored else "created", source=SETTINGS)

    async def _declare_key(self, entry: DeclaredKey) -> str | None:
        """Gives the reading if one had to be made."""
        stored = await self.store.holder_named(HolderKind.KEY, entry.key.name)
        key = await self._placed(replace(entry.key, id=stored.holder.id if stored else _declared_id(entry.key)))
        known = {secret.digest for secret in stored.secrets if secret.valid_until is None} if stored else set()
        value = entry.value or (None if known else new_key())
        fresh = value if value is not None and self.callers.digest(value) not in known else None
        if stored is None or fresh is not None or (stored.holder, stored.source) != (key, SETTINGS):
            action = "changed" if stored else "created"
            await self._save(
                key, actor=SETTINGS, action=action, value=fresh, retire=timedelta() if fresh else None, source=SETTINGS
            )
        return fresh if entry.value is None else None

    async def _switch_off_all_but(self, names: set[str]) -> None:
        for stored in await self._all(HolderKind.KEY):
            key = stored.holder
            if stored.source == SETTINGS and isinstance(key, VirtualKey) and key.active and key.name not in names:
                await self._save(replace(key, active=False), actor=SETTINGS, action="revoked", source=SETTINGS)

    async def _all(self, kind: HolderKind) -> Sequence[StoredHolder]:
        found: list[StoredHolder] = []
        while True:
            page = await self.store.holders(kind, search="", limit=500, offset=len(found))
            found += page.items
            if not page.items or len(found) >= page.total:
                return found

    async def _placed(self, draft: H) -> H:
        """Put ids in the place of the names of the team and the customer."""
        if isinstance(draft, VirtualKey):
            team = await self._id_of(HolderKind.TEAM, draft.team)
            return replace(draft, team=team, customer=await self._id_of(HolderKind.CUSTOMER, draft.customer))
        if isinstance(draft, Team):
            return replace(draft, customer=await self._id_of(HolderKind.CUSTOMER, draft.customer))
        return draft

    async def _id_of(self, kind: HolderKind, name: str | None) -> str | None:
        if name is None:
            return None
        found = await self.store.holder_named(kind, name)
        if found is None:
            raise NotFound(f"there is no {kind.value} named {name!r}", param=kind.value)
        return found.holder.id

    async def _stored(self, kind: HolderKind, holder_id: str) -> StoredHolder:
        found = await self.store.holder(kind, holder_id)
        if found is None:
            raise NotFound(f"there is no such {kind.value}")
        return found

    async def _save(
        self,
        holder: Holder,
        *,
        actor: str,
        action: str,
        value: str | None = None,
        retire: timedelta | None = None,
        source: str = "api",
    ) -> None:
        now = self.clock.now()
        secret = (
            KeySecret(digest=self.callers.digest(value), ending=value[-_SHOWN_CHARS:], created_at=now)
            if value
            else None
        )
        await self.store.save(
            holder,
            self._change(holder, actor=actor, action=action),
            source=source,
            secret=secret,
            retire=None if retire is None else now + retire,
        )
        self.callers.forget()

    def _change(self, holder: Holder, *, actor: str, action: str, **detail: Any) -> Change:
        return Change(
            at=self.clock.now(),
            actor=actor,
            action=action,
            subject=kind_of(holder).value,
            subject_id=holder.id,
            detail={"name": holder.name, **detail},
        )


def new_key() -> str:
    """A virtual key that nobody can guess."""
    return f"sk-bf-{secrets.token_urlsafe(32)}"


def _declared_id(holder: Holder) -> str:
    """The same in every process that reads the same settings, so that they write the same row."""
    return (
        holder.name
        if isinstance(holder, ProviderLimits)
        else str(uuid5(_NAMESPACE, f"{kind_of(holder)}:{holder.name}"))
    )
