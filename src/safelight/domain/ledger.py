"""The double-entry ledger: what a job holds, what it cost, and how the money moves between the accounts of a budget."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from safelight.domain.budget import Draw, Meter, Unit
from safelight.domain.money import Charged


class Account(StrEnum):
    """Each budget has three. What leaves one enters another, so together they always hold nothing."""

    FREE = "free"
    HELD = "held"
    SPENT = "spent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Micro-dollars on their way from one account to another."""

    debit: Account
    credit: Account
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a job must find free when it is submitted, and takes in the same commit."""

    draws: tuple[Draw, ...] = ()
    """In the order of the meters' numbers: whoever locks several does so in this order."""
    max_waiting: int | None = None
    """How many jobs of the same owner may wait."""


NO_TERMS = Terms()
"""Nothing must be free."""


def together(terms: Iterable[Terms | None]) -> Terms:
    """What several requests need of each budget, as one. What is counted over time, they can wait for."""
    amounts: dict[int, int] = {}
    meters: dict[int, Meter] = {}
    for draw in (draw for each in terms if each is not None for draw in each.draws):
        if draw.meter.unit is Unit.USD:
            meters[draw.meter.id] = draw.meter
            amounts[draw.meter.id] = amounts.get(draw.meter.id, 0) + draw.amount
    return Terms(draws=tuple(Draw(meter=meters[number], amount=amount) for number, amount in sorted(amounts.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What one call cost, as far as is known."""

    provider: str
    target: str
    n: int
    charged: Charged | None
    cost_micros: int | None


def hold(amount: int) -> Sequence[Transfer]:
    """Set the estimate aside."""
    return _moved((Account.FREE, Account.HELD, amount))


def settle(held: int, cost: int) -> Sequence[Transfer]:
    """Book the true cost once, and release what is left of the hold; what it fell short of comes from what is free."""
    return _moved(
        (Account.HELD, Account.SPENT, min(held, cost)),
        (Account.HELD, Account.FREE, held - cost),
        (Account.FREE, Account.SPENT, cost - held),
    )


def booked(spends: Iterable[Spend], estimates: Mapping[str, int]) -> tuple[int, bool]:
    """What calls cost together, and whether any of it is an estimate: where nobody knows, the estimate is as good as true."""
    total, estimated = 0, False
    for spend in spends:
        if spend.charged in {None, Charged.NO}:
            continue
        if spend.cost_micros is None:
            estimated = True
        total += estimates.get(spend.target, 0) * spend.n if spend.cost_micros is None else spend.cost_micros
    return total, estimated


def _moved(*moves: tuple[Account, Account, int]) -> Sequence[Transfer]:
    return [Transfer(debit=debit, credit=credit, amount=amount) for debit, credit, amount in moves if amount > 0]
