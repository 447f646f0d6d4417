"""Whether new work goes to a provider. What a provider has begun is seen through in any case."""

from enum import StrEnum


class Switch(StrEnum):
    """The operator's word."""

    ON = "on"
    PAUSED = "paused"
    """Its jobs wait."""
    DRAINING = "draining"
    """Its jobs take their fallbacks; those without any wait."""
