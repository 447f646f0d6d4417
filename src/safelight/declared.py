"""What the settings say of access and money, as the use cases take it."""

from collections.abc import Sequence

from safelight.application.administer import Declared, DeclaredKey
from safelight.config import (
    BudgetSettings,
    CustomerSettings,
    LimitSettings,
    RateSettings,
    Settings,
    TeamSettings,
    VirtualKeySettings,
)
from safelight.domain.access import Customer, ProviderLimits, ProviderRule, Team, VirtualKey
from safelight.domain.budget import Allowance, Period, Unit
from safelight.domain.errors import ConfigurationError
from safelight.domain.money import micros


def declared(settings: Settings) -> Declared:
    """Read the settings; raises `ConfigurationError` when a name stands twice."""
    for what, entries in (
        ("virtual_keys", settings.virtual_keys),
        ("teams", settings.teams),
        ("customers", settings.customers),
    ):
        _refuse_twice(what, [entry.name for entry in entries])
    return Declared(
        customers=tuple(_customer(entry) for entry in settings.customers),
        teams=tuple(_team(entry) for entry in settings.teams),
        keys=tuple(_key(entry) for entry in settings.virtual_keys),
        providers=tuple(
            ProviderLimits(id=name, name=name, allowances=_allowances(entry.budgets, entry.limits))
            for name, entry in settings.providers.items()
        ),
    )


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"{what}: each needs a name of its own; more than one is named {min(twice)!r}")


def _customer(said: CustomerSettings) -> Customer:
    return Customer(id="", name=said.name, allowances=_allowances(said.budgets, said.limits), metadata=said.metadata)


def _team(said: TeamSettings) -> Team:
    return Team(
        id="",
        name=said.name,
        customer=said.customer,
        allowances=_allowances(said.budgets, said.limits),
        metadata=said.metadata,
    )


def _key(said: VirtualKeySettings) -> DeclaredKey:
    most_usd = said.max_cost_per_image_usd
    key = VirtualKey(
        id="",
        name=said.name,
        description=said.description,
        active=said.active,
        expires_at=said.expires_at,
        team=said.team,
        customer=said.customer,
        sees_team=said.sees_team,
        providers=tuple(
            ProviderRule(provider=rule.provider, models=rule.models, keys=rule.keys) for rule in said.providers
        ),
        allowances=_allowances(said.budgets, said.limits),
        max_running=said.limits.running,
        max_waiting=said.limits.waiting,
        max_cost_per_image_micros=None if most_usd is None else micros(most_usd),
        priority=said.priority,
        weight=said.weight,
        metadata=said.metadata,
    )
    return DeclaredKey(key=key, value=said.value.get_secret_value() if said.value else None)


def _allowances(budgets: Sequence[BudgetSettings], limits: LimitSettings) -> tuple[Allowance, ...]:
    money = [
        Allowance(
            unit=Unit.USD,
            limit=micros(budget.limit_usd),
            period=Period(text=budget.period, calendar=budget.calendar),
        )
        for budget in budgets
    ]
    return (*money, *_rate(Unit.REQUESTS, limits.requests), *_rate(Unit.IMAGES, limits.images))


def _rate(unit: Unit, said: RateSettings | None) -> tuple[Allowance, ...]:
    if said is None:
        return ()
    return (Allowance(unit=unit, limit=said.max, period=Period(text=said.period, calendar=said.calendar)),)
