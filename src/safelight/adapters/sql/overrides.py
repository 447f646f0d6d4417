"""The record of provider keys and prices that an administrator added."""

from collections.abc import Sequence

import msgspec

from safelight.adapters.sql.access import note
from safelight.adapters.sql.database import Database, Row, Transaction
from safelight.adapters.sql.rows import from_micros, to_micros
from safelight.application.access_ports import Change
from safelight.application.overrides import StoredKey, StoredPrice
from safelight.application.ports import SecretBox

KEYS = "SELECT provider, name, sealed, document, created_at, updated_at FROM provider_keys ORDER BY provider, name"
PUT_KEY = (
    "INSERT INTO provider_keys (provider, name, sealed, document, created_at, updated_at)"
    " VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (provider, name) DO UPDATE SET sealed = excluded.sealed,"
    " document = excluded.document, updated_at = excluded.updated_at"
)
DROP_KEY = "DELETE FROM provider_keys WHERE provider = $1 AND name = $2"
PRICES = "SELECT provider, model, document, updated_at FROM prices ORDER BY provider, model"
PUT_PRICE = (
    "INSERT INTO prices (provider, model, document, updated_at) VALUES ($1, $2, $3, $4)"
    " ON CONFLICT (provider, model) DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at"
)
DROP_PRICE = "DELETE FROM prices WHERE provider = $1 AND model = $2"


class _Facts(msgspec.Struct, frozen=True):
    models: tuple[str, ...]
    weight: float
    concurrency: int | None = None


_encode = msgspec.json.Encoder().encode
_facts = msgspec.json.Decoder(_Facts)
_table = msgspec.json.Decoder(dict)


class SqlOverrideStore:
    """See `OverrideStore`. Whoever makes it closes the database."""

    def __init__(self, database: Database, box: SecretBox) -> None:
        """`box` encrypts the values of keys."""
        self._database = database
        self._box = box

    async def keys(self) -> Sequence[tuple[StoredKey, str]]:
        """See `OverrideStore.keys`."""
        rows = await self._database.read(lambda transaction: transaction.fetch(KEYS))
        return [(_key(row), self._box.open(bytes(row[2]))) for row in rows]

    async def put_key(self, key: StoredKey, value: str, change: Change) -> None:
        """See `OverrideStore.put_key`."""
        document = _encode(_Facts(models=key.models, weight=key.weight, concurrency=key.concurrency))
        values = (key.provider, key.name, self._box.seal(value), document, to_micros(key.updated_at))
        await self._written(change, PUT_KEY, *values)

    async def drop_key(self, provider: str, name: str, change: Change) -> bool:
        """See `OverrideStore.drop_key`."""
        return await self._written(change, DROP_KEY, provider, name)

    async def prices(self) -> Sequence[StoredPrice]:
        """See `OverrideStore.prices`."""
        rows = await self._database.read(lambda transaction: transaction.fetch(PRICES))
        return [
            StoredPrice(provider=row[0], model=row[1], table=_table.decode(row[2]), updated_at=from_micros(row[3]))
            for row in rows
        ]

    async def put_price(self, price: StoredPrice, change: Change) -> None:
        """See `OverrideStore.put_price`."""
        values = (price.provider, price.model, _encode(price.table), to_micros(price.updated_at))
        await self._written(change, PUT_PRICE, *values)

    async def drop_price(self, provider: str, model: str, change: Change) -> bool:
        """See `OverrideStore.drop_price`."""
        return await self._written(change, DROP_PRICE, provider, model)

    async def _written(self, change: Change, statement: str, *values: object) -> bool:
        """Change a row and say so in the audit log; false where there was none."""

        async def write(transaction: Transaction) -> bool:
            if await transaction.execute(statement, *values) == 0:
                return False
            await note(transaction, change)
            return True

        return await self._database.write(write)


def _key(row: Row) -> StoredKey:
    facts = _facts.decode(row[3])
    return StoredKey(
        provider=row[0],
        name=row[1],
        models=facts.models,
        weight=facts.weight,
        concurrency=facts.concurrency,
        created_at=from_micros(row[4]),
        updated_at=from_micros(row[5]),
    )
