"""Money as whole micro-units: exact, and small enough for any database's integer."""

from dataclasses import dataclass
from enum import StrEnum

MICROS_PER_UNIT = 1_000_000


class Charged(StrEnum):
    """Whether the provider billed."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """An amount in millionths of its currency (1 USD = 1,000,000)."""

    micros: int
    currency: str = "USD"

    def __add__(self, other: "Cost") -> "Cost":
        """Add two amounts of one currency; raises `ValueError` when they differ."""
        if other.currency != self.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Cost(micros=self.micros + other.micros, currency=self.currency)

    @property
    def units(self) -> float:
        """The amount for display, in whole units of the currency."""
        return self.micros / MICROS_PER_UNIT
