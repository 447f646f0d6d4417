"""Encrypts stored secrets anew, so that a former key can be taken out of the settings."""

from safelight.adapters.secret_box import AesGcmBox
from safelight.adapters.sql.database import Database, Transaction

_PLACES = (
    (
        "SELECT sealed, provider, name FROM provider_keys",
        "UPDATE provider_keys SET sealed = $2 WHERE provider = $3 AND name = $4 AND sealed = $1",
    ),
    (
        "SELECT headers, id FROM webhook_endpoints",
        "UPDATE webhook_endpoints SET headers = $2 WHERE id = $3 AND headers = $1",
    ),
    (
        "SELECT secrets, id FROM webhook_endpoints",
        "UPDATE webhook_endpoints SET secrets = $2 WHERE id = $3 AND secrets = $1",
    ),
)
_FACT = (
    "SELECT value, name FROM installation WHERE name = $1",
    "UPDATE installation SET value = $2 WHERE name = $3 AND value = $1",
)


async def reseal(database: Database, box: AesGcmBox, *, facts: tuple[str, ...]) -> int:
    """Put what is encrypted with a former key under the newest; how much it was. Whoever else does so is no harm."""

    async def write(transaction: Transaction) -> int:
        done = 0
        places = [(*place, ()) for place in _PLACES] + [(*_FACT, (fact,)) for fact in facts]
        for select, update, values in places:
            for sealed, *key in await transaction.fetch(select, *values):
                if not box.is_newest(bytes(sealed)):
                    await transaction.execute(update, sealed, box.seal(box.open(bytes(sealed))), *key)
                    done += 1
        return done

    return await database.write(write)
