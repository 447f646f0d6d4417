"""Who may do what: virtual keys, and the teams and customers above them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import assert_never

from safelight.domain.budget import Allowance, HolderKind, Meter
from safelight.domain.caller import Caller
from safelight.domain.errors import AccessBlocked, ModelBlocked, ProviderBlocked
from safelight.domain.image import ImageRequest, Target
from safelight.domain.job import Priority

EVERYTHING = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRule:
    """What a key may use of a provider. `*` is all, also within a name; nothing listed is nothing allowed."""

    provider: str = EVERYTHING
    models: tuple[str, ...] = (EVERYTHING,)
    keys: tuple[str, ...] = (EVERYTHING,)

    def covers(self, provider: str) -> bool:
        """Whether it speaks of this provider."""
        return fnmatchcase(provider, self.provider)

    def allows(self, target: Target) -> bool:
        """Whether it allows this model."""
        return self.covers(target.provider) and any(fnmatchcase(target.model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """Whom teams and keys work for."""

    id: str
    name: str
    allowances: tuple[Allowance, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Keys that belong together."""

    id: str
    name: str
    customer: str | None = None
    """The customer's id."""
    allowances: tuple[Allowance, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualKey:
    """What its bearer may do. The secret itself is kept nowhere."""

    id: str
    name: str
    description: str = ""
    active: bool = True
    expires_at: datetime | None = None
    team: str | None = None
    """The team's id."""
    customer: str | None = None
    """The customer's id, where there is no team in between."""
    sees_team: bool = False
    """Whether it sees all jobs of its team."""
    providers: tuple[ProviderRule, ...] = (ProviderRule(),)
    allowances: tuple[Allowance, ...] = ()
    max_running: int | None = None
    """Jobs at work at a time; more of them wait."""
    max_waiting: int | None = None
    """Jobs that wait at a time; more of them are refused."""
    max_cost_per_image_micros: int | None = None
    """What a picture is taken to cost at most where no price is known; without it such models are refused under a budget."""
    priority: Priority = Priority.INTERACTIVE
    weight: int = 1
    """How many jobs it may start for each one of a key of weight 1, when both have jobs waiting."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def refuse_unusable(self, now: datetime) -> None:
        """Raise `AccessBlocked` for a key that is switched off or past its time."""
        if not self.active:
            raise AccessBlocked("this virtual key is not active")
        if self.expires_at is not None and now >= self.expires_at:
            raise AccessBlocked("this virtual key has expired")

    def refuse_unlisted(self, request: ImageRequest) -> None:
        """Raise `ProviderBlocked` or `ModelBlocked` when the allow list lacks a target, a fallback or the named key."""
        for target in request.targets:
            if not any(rule.covers(target.provider) for rule in self.providers):
                raise ProviderBlocked(f"this virtual key does not allow the provider {target.provider!r}")
            if not any(rule.allows(target) for rule in self.providers):
                raise ModelBlocked(f"this virtual key does not allow the model {str(target)!r}")
            keys = self.provider_keys(target)
            if not keys or (request.key_name is not None and not allows_key(keys, request.key_name)):
                raise ProviderBlocked(f"this virtual key does not allow that key of the provider {target.provider!r}")

    def provider_keys(self, target: Target) -> tuple[str, ...]:
        """The names of the provider's keys that it may use for a model; `*` stands for any characters."""
        return tuple(name for rule in self.providers if rule.allows(target) for name in rule.keys)

    def provider_key_limits(self, request: ImageRequest) -> Mapping[str, tuple[str, ...]]:
        """The same for each target of a request where it is not all of them."""
        allowed = {str(target): self.provider_keys(target) for target in request.targets}
        return {target: names for target, names in allowed.items() if EVERYTHING not in names}


def allows_key(patterns: tuple[str, ...], name: str | None) -> bool:
    """Whether a provider's key is among those allowed. A provider without keys has one without a name."""
    return any(fnmatchcase(name or "", pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A virtual key with all that limits it, as it was read from the record."""

    key: VirtualKey
    team: Team | None = None
    customer: Customer | None = None
    meters: tuple[Meter, ...] = ()

    @property
    def caller(self) -> Caller:
        """Whom the key stands for."""
        return Caller(
            owner=self.key.id,
            team=self.key.team,
            team_wide=self.key.sees_team,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """What all may use of a provider entry together. Its id is its name in the settings."""

    id: str
    name: str
    allowances: tuple[Allowance, ...] = ()


Holder = VirtualKey | Team | Customer | ProviderLimits


def kind_of(holder: Holder) -> HolderKind:
    """Which kind of holder it is."""
    match holder:
        case VirtualKey():
            return HolderKind.KEY
        case Team():
            return HolderKind.TEAM
        case Customer():
            return HolderKind.CUSTOMER
        case ProviderLimits():
            return HolderKind.PROVIDER
        case never:
            assert_never(never)


def parent_of(holder: Holder) -> str | None:
    """The id of the team or customer above it."""
    match holder:
        case VirtualKey():
            return holder.team or holder.customer
        case Team():
            return holder.customer
        case Customer() | ProviderLimits():
            return None
        case never:
            assert_never(never)
