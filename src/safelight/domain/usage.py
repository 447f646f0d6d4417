"""What was used, summed up by day, key, team, provider and model."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Dimension(StrEnum):
    """What a report is broken down by."""

    DAY = "day"
    KEY = "key"
    TEAM = "team"
    PROVIDER = "provider"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Days in UTC, both included, and what to break the sums down by."""

    first: date
    last: date
    by: tuple[Dimension, ...] = (Dimension.DAY,)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """A line of a report. What it is not broken down by is `None`; so is the key of jobs that had none."""

    day: date | None = None
    key: str | None = None
    team: str | None = None
    provider: str | None = None
    model: str | None = None
    jobs: int = 0
    """Jobs by the call that was their last."""
    calls: int = 0
    images: int = 0
    cost_micros: int = 0
    unpriced: int = 0
    """Calls that were or may have been charged, of which nobody knows how much."""
    failed: int = 0
    """Of the jobs, those that failed."""
    work_micros: int = 0
    """Microseconds that calls took, from the first byte to the last picture."""
