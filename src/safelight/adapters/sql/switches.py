"""The switches of providers."""

from collections.abc import Mapping
from datetime import datetime

from safelight.adapters.sql.database import Database, Transaction
from safelight.adapters.sql.rows import to_micros
from safelight.domain.ids import ProviderName
from safelight.domain.switch import Switch

_ALL = "SELECT provider, switch FROM provider_switches"
_TURN = (
    "INSERT INTO provider_switches (provider, switch, changed_at) VALUES ($1, $2, $3)"
    " ON CONFLICT (provider) DO UPDATE SET switch = excluded.switch, changed_at = excluded.changed_at"
)
_TURN_ON = "DELETE FROM provider_switches WHERE provider = $1"


class SqlSwitches:
    """See `SwitchStore`. Whoever makes it closes the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def switches(self) -> Mapping[ProviderName, Switch]:
        """See `SwitchStore.switches`."""
        found = await self._database.look_up(lambda transaction: transaction.fetch(_ALL))
        return {ProviderName(provider): Switch(switch) for provider, switch in found}

    async def set_switch(self, provider: ProviderName, switch: Switch, at: datetime) -> None:
        """See `SwitchStore.set_switch`."""

        async def write(transaction: Transaction) -> None:
            if switch is Switch.ON:
                await transaction.execute(_TURN_ON, provider)
            else:
                await transaction.execute(_TURN, provider, switch.value, to_micros(at))

        await self._database.write(write)
