"""The record of who may do what, in SQL that every engine accepts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from safelight.adapters.sql import meters
from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.adapters.sql.rows import from_micros, to_micros
from safelight.application.access_ports import Change, KeySecret, Page, StoredHolder
from safelight.domain.access import Customer, Grant, Holder, ProviderLimits, Team, VirtualKey, kind_of, parent_of
from safelight.domain.budget import HolderKind, Meter, Reading
from safelight.domain.errors import Conflict, NotFound

VERSION = "SELECT coalesce(max(seq), 0) FROM audit_log"
FIND_SECRET = "SELECT key_id, digest, ending, created_at, valid_until FROM key_secrets WHERE digest = $1"  # noqa: S105 - no secret
SECRETS_OF = (
    "SELECT key_id, digest, ending, created_at, valid_until FROM key_secrets WHERE key_id = $1 ORDER BY created_at DESC"
)
PUT_KEY_READING = (
    "INSERT INTO key_secrets (digest, key_id, ending, created_at, valid_until) VALUES ($1, $2, $3, $4, $5)"
    " ON CONFLICT (digest) DO UPDATE SET valid_until = excluded.valid_until WHERE key_secrets.key_id = excluded.key_id"
)
RETIRE_SECRETS = (
    "UPDATE key_secrets SET valid_until = $2 WHERE key_id = $1 AND (valid_until IS NULL OR valid_until > $2)"
)
DROP_SECRETS = "DELETE FROM key_secrets WHERE key_id = $1"
DROP_STALE_SECRETS = "DELETE FROM key_secrets WHERE key_id = $1 AND valid_until <= $2"
GET_HOLDER = "SELECT kind, document, source, created_at, updated_at FROM holders WHERE kind = $1 AND id = $2"
GET_HOLDER_NAMED = "SELECT kind, document, source, created_at, updated_at FROM holders WHERE kind = $1 AND name = $2"
LIST_HOLDERS = (
    "SELECT kind, document, source, created_at, updated_at FROM holders"
    " WHERE kind = $1 AND lower(name) LIKE $2 ESCAPE '!' ORDER BY name LIMIT $3 OFFSET $4"
)
COUNT_HOLDERS = "SELECT count(*) FROM holders WHERE kind = $1 AND lower(name) LIKE $2 ESCAPE '!'"
ID_OF_NAME = "SELECT id FROM holders WHERE kind = $1 AND name = $2"
SAVE_HOLDER = (
    "INSERT INTO holders (kind, id, name, parent, source, document, created_at, updated_at)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT (kind, id) DO UPDATE SET name = excluded.name,"
    " parent = excluded.parent, source = excluded.source, document = excluded.document, updated_at = excluded.updated_at"
)
DROP_HOLDER = "DELETE FROM holders WHERE kind = $1 AND id = $2"
IS_ABOVE = "SELECT name FROM holders WHERE parent = $1 ORDER BY name LIMIT 1"
NOTE = "INSERT INTO audit_log (at, actor, action, subject, subject_id, detail) VALUES ($1, $2, $3, $4, $5, $6)"
CHANGES = "SELECT at, actor, action, subject, subject_id, detail FROM audit_log ORDER BY seq DESC LIMIT $1 OFFSET $2"
COUNT_CHANGES = "SELECT count(*) FROM audit_log"

_encode = msgspec.json.Encoder().encode
_detail = msgspec.json.Decoder(dict[str, Any])
_holders: Mapping[str, msgspec.json.Decoder[Any]] = {
    HolderKind.KEY: msgspec.json.Decoder(VirtualKey),
    HolderKind.TEAM: msgspec.json.Decoder(Team),
    HolderKind.CUSTOMER: msgspec.json.Decoder(Customer),
    HolderKind.PROVIDER: msgspec.json.Decoder(ProviderLimits),
}


class SqlAccessStore:
    """See `AccessStore`. Whoever makes it closes the database."""

    def __init__(self, database: Database) -> None:
        """Use a database whose schema is up to date."""
        self._database = database

    async def version(self) -> int:
        """See `AccessStore.version`."""
        row = await self._database.look_up(lambda transaction: transaction.fetch_one(VERSION))
        assert row is not None  # noqa: S101 - a sum has one row
        number: int = row[0]
        return number

    async def grant(self, digest: bytes) -> tuple[Grant, KeySecret] | None:
        """See `AccessStore.grant`."""

        async def find(transaction: Transaction) -> tuple[Grant, KeySecret] | None:
            row = await transaction.fetch_one(FIND_SECRET, digest)
            grant = await _grant(transaction, row[0]) if row else None
            return None if row is None or grant is None else (grant, _secret(row))

        return await self._database.look_up(find)

    async def grant_of(self, key_id: str) -> Grant | None:
        """See `AccessStore.grant_of`."""
        return await self._database.look_up(lambda transaction: _grant(transaction, key_id))

    async def provider_meters(self) -> Mapping[str, tuple[Meter, ...]]:
        """See `AccessStore.provider_meters`."""
        found = defaultdict[str, list[Meter]](list)
        for meter in await self._database.read(meters.of_providers):
            found[meter.holder].append(meter)
        return {name: tuple(each) for name, each in found.items()}

    async def holder(self, kind: HolderKind, holder_id: str) -> StoredHolder | None:
        """See `AccessStore.holder`."""
        return await self._one(GET_HOLDER, kind, holder_id)

    async def holder_named(self, kind: HolderKind, name: str) -> StoredHolder | None:
        """See `AccessStore.holder_named`."""
        return await self._one(GET_HOLDER_NAMED, kind, name)

    async def _one(self, statement: str, kind: HolderKind, value: str) -> StoredHolder | None:
        async def find(transaction: Transaction) -> StoredHolder | None:
            row = await transaction.fetch_one(statement, kind.value, value)
            return await _stored(transaction, row) if row else None

        return await self._database.read(find)

    async def holders(self, kind: HolderKind, *, search: str, limit: int, offset: int) -> Page[StoredHolder]:
        """See `AccessStore.holders`."""
        pattern = f"%{_escaped(search.lower())}%"

        async def find(transaction: Transaction) -> Page[StoredHolder]:
            rows = await transaction.fetch(LIST_HOLDERS, kind.value, pattern, limit, offset)
            count = await transaction.fetch_one(COUNT_HOLDERS, kind.value, pattern)
            items = [await _stored(transaction, row) for row in rows]
            return Page(items=tuple(items), total=count[0] if count else 0)

        return await self._database.read(find)

    async def save(
        self,
        holder: Holder,
        change: Change,
        *,
        source: str,
        secret: KeySecret | None = None,
        retire: datetime | None = None,
    ) -> None:
        """See `AccessStore.save`."""
        kind, now = kind_of(holder), to_micros(change.at)
        values = (kind.value, holder.id, holder.name, parent_of(holder), source, _encode(holder), now)

        async def write(transaction: Transaction) -> None:
            named = await transaction.fetch_one(ID_OF_NAME, kind.value, holder.name)
            if named is not None and named[0] != holder.id:
                raise Conflict(f"there is a {kind.value} named {holder.name!r} already", param="name")
            await transaction.execute(SAVE_HOLDER, *values)
            await meters.keep(transaction, kind, holder.id, holder.allowances)
            await transaction.execute(DROP_STALE_SECRETS, holder.id, now)
            if retire is not None:
                await transaction.execute(RETIRE_SECRETS, holder.id, to_micros(retire))
            if secret is not None:
                await _put_secret(transaction, holder.id, secret)
            await note(transaction, change)

        await self._database.write(write)

    async def remove(self, kind: HolderKind, holder_id: str, change: Change) -> None:
        """See `AccessStore.remove`."""

        async def write(transaction: Transaction) -> None:
            below = await transaction.fetch_one(IS_ABOVE, holder_id)
            if below is not None:
                raise Conflict(f"{below[0]!r} belongs to it")
            if await transaction.execute(DROP_HOLDER, kind.value, holder_id) == 0:
                raise NotFound(f"there is no such {kind.value}")
            await meters.keep(transaction, kind, holder_id, ())
            await transaction.execute(DROP_SECRETS, holder_id)
            await note(transaction, change)

        await self._database.write(write)

    async def readings(self, kind: HolderKind, holder_id: str, name: str, now: datetime) -> Sequence[Reading]:
        """See `AccessStore.readings`."""

        async def find(transaction: Transaction) -> Sequence[Reading]:
            found = await meters.of(transaction, kind, holder_id, name)
            readings = [await meters.read(transaction, meter, now) for meter in found]
            return [reading for reading in readings if reading is not None]

        return await self._database.read(find)

    async def changes(self, *, limit: int, offset: int) -> Page[Change]:
        """See `AccessStore.changes`."""

        async def find(transaction: Transaction) -> Page[Change]:
            rows = await transaction.fetch(CHANGES, limit, offset)
            count = await transaction.fetch_one(COUNT_CHANGES)
            return Page(items=tuple(_change(row) for row in rows), total=count[0] if count else 0)

        return await self._database.read(find)

    async def note(self, change: Change) -> None:
        """See `AccessStore.note`."""
        await self._database.write(lambda transaction: note(transaction, change))


async def _grant(transaction: Transaction, key_id: str) -> Grant | None:
    key = await _holder(transaction, HolderKind.KEY, key_id)
    if key is None:
        return None
    team = await _holder(transaction, HolderKind.TEAM, key.team)
    customer = await _holder(transaction, HolderKind.CUSTOMER, team.customer if team else key.customer)
    found: list[Meter] = []
    for holder in (key, team, customer):
        if holder is not None:
            found += await meters.of(transaction, kind_of(holder), holder.id, holder.name)
    found.sort(key=lambda meter: meter.id)
    return Grant(key=key, team=team, customer=customer, meters=tuple(found))


async def _holder(transaction: Transaction, kind: HolderKind, holder_id: str | None) -> Any:
    row = await transaction.fetch_one(GET_HOLDER, kind.value, holder_id) if holder_id else None
    return None if row is None else _holders[kind].decode(row[1])


async def _stored(transaction: Transaction, row: Row) -> StoredHolder:
    kind, document, source, created_at, updated_at = row
    holder = _holders[kind].decode(document)
    secrets = await transaction.fetch(SECRETS_OF, holder.id) if kind == HolderKind.KEY else ()
    return StoredHolder(
        holder=holder,
        source=source,
        created_at=from_micros(created_at),
        updated_at=from_micros(updated_at),
        secrets=tuple(_secret(secret) for secret in secrets),
    )


async def _put_secret(transaction: Transaction, key_id: str, secret: KeySecret) -> None:
    """Write a reading; another process may have just written the same one of the same key."""
    valid_until = None if secret.valid_until is None else to_micros(secret.valid_until)
    values = (secret.digest, key_id, secret.ending, to_micros(secret.created_at), valid_until)
    if await transaction.execute(PUT_KEY_READING, *values) == 0:
        raise Conflict("another virtual key reads just like this one")


async def note(transaction: Transaction, change: Change) -> None:
    """Write a line of the audit log, in the transaction that makes the change."""
    await transaction.execute(
        NOTE,
        to_micros(change.at),
        change.actor,
        change.action,
        change.subject,
        change.subject_id,
        _encode(change.detail),
    )


def _secret(row: Row) -> KeySecret:
    _, digest, ending, created_at, valid_until = row
    return KeySecret(
        digest=bytes(digest),
        ending=ending,
        created_at=from_micros(created_at),
        valid_until=None if valid_until is None else from_micros(valid_until),
    )


def _change(row: Row) -> Change:
    at, actor, action, subject, subject_id, detail = row
    return Change(
        at=from_micros(at),
        actor=actor,
        action=action,
        subject=subject,
        subject_id=subject_id,
        detail=_detail.decode(detail),
    )


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
