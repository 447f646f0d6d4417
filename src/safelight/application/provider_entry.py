"""A provider as the settings describe it, with its keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from safelight.application.key_pool import KeyEntry
from safelight.application.ports import Provider, ProviderKey
from safelight.domain.breaker import BreakerPolicy
from safelight.domain.price import Price
from safelight.domain.schedule import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """A provider as the settings describe it."""

    provider: Provider
    keys: tuple[KeyEntry, ...]
    repeatable: bool
    retry: RetryPolicy
    concurrency: int
    deduplicated: bool = False
    """It is repeatable only with the same token at the same key."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    """The operator's prices, by model: they win over those that ship with the provider."""
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    callbacks: bool = False
    """It is to call back when work is over."""
    former: Mapping[str | None, ProviderKey] = field(default_factory=dict)
    """Keys that have left the settings while the process ran: accepted work is still asked for with them."""

    def entry(self, name: str | None) -> KeyEntry | None:
        """What the settings say of a key."""
        return next((entry for entry in self.keys if entry.key.name == name), None)

    def key(self, name: str | None) -> ProviderKey:
        """The key of that name; without a value if it is gone."""
        found = self.entry(name)
        return found.key if found else self.former.get(name) or ProviderKey(name=name, value=None)

    def with_keys(self, keys: tuple[KeyEntry, ...]) -> "ProviderEntry":
        """Put other keys in the place of those that it has."""
        known = {**self.former, **{entry.key.name: entry.key for entry in self.keys}}
        names = {entry.key.name for entry in keys}
        return replace(self, keys=keys, former={name: key for name, key in known.items() if name not in names})

    def price(self, model: str) -> Price | None:
        """What a model costs, as far as anybody has said."""
        spec = self.provider.spec(model)
        names = (model, spec.name) if spec else (model,)
        own = next((self.prices[name] for name in names if name in self.prices), None)
        return own or (spec.price if spec else None)
