"""Money as whole micro-units: exact, and small enough for any database's integer."""

from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

MICROS_PER_UNIT = 1_000_000


def micros(usd: Decimal) -> int:
    """US dollars as whole micro-dollars, rounded half up."""
    return int((usd * MICROS_PER_UNIT).to_integral_value(ROUND_HALF_UP))


class Charged(StrEnum):
    """Whether the provider billed."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
