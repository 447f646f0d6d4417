"""Money as whole micro-units: exact, and small enough for any database's integer."""

from enum import StrEnum

MICROS_PER_UNIT = 1_000_000


class Charged(StrEnum):
    """Whether the provider billed."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
