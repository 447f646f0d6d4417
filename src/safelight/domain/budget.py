"""How much of something may be used in a time: money, requests or images, by whoever is limited.

What was used is counted in slots of time. A calendar period has one slot, itself. A rolling one has sixty, and the
oldest counts until all of it is past: so it never lets more through than the limit, and frees at most a slot late.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

_PERIOD = re.compile(r"([1-9][0-9]{0,3}[mh]|[1-9][0-9]{0,2}d|[1-9][0-9]?[wM]|[1-9]Y)")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 30 * 86_400, "Y": 365 * 86_400}
_ROLLING_SLOTS = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)


class Unit(StrEnum):
    """What is counted. Money is whole micro-dollars."""

    USD = "usd"
    REQUESTS = "requests"
    IMAGES = "images"


class HolderKind(StrEnum):
    """Who can be limited."""

    KEY = "key"
    TEAM = "team"
    CUSTOMER = "customer"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A length of time such as `1h`, `1d`, `1w`, `1M`, `1Y`; a calendar one begins at midnight UTC, on Mondays, on the first."""

    text: str
    calendar: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no period."""
        if not _PERIOD.fullmatch(self.text):
            raise ValueError(f"a period is a number and one of m, h, d, w, M, Y, such as 1h or 1M; not {self.text!r}")

    @property
    def seconds(self) -> int:
        """Its length; a month counts 30 days and a year 365 where it rolls."""
        number, unit = self.text[:-1], self.text[-1]
        return int(number) * _SECONDS[unit]

    def slot(self, now: datetime) -> int:
        """The slot that is being used now, by its first second since 1970."""
        if self.calendar:
            return _since_epoch(self._begin(now))
        step = max(1, self.seconds // _ROLLING_SLOTS)
        return _since_epoch(now) // step * step

    def first_slot(self, now: datetime) -> int:
        """The oldest slot that still counts."""
        return self.slot(now) if self.calendar else self.slot(now - timedelta(seconds=self.seconds))

    def frees_at(self, slot: int, now: datetime) -> datetime:
        """When what was used in a slot counts no more."""
        if self.calendar:
            return self._end(now)
        step = max(1, self.seconds // _ROLLING_SLOTS)
        return _EPOCH + timedelta(seconds=slot + step + self.seconds)

    def _begin(self, now: datetime) -> datetime:
        number, unit = int(self.text[:-1]), self.text[-1]
        if unit in "MY":
            return _month(_months_of(now, number, unit))
        start = _FIRST_MONDAY if unit == "w" else _EPOCH
        length = timedelta(seconds=self.seconds)
        return start + (now - start) // length * length

    def _end(self, now: datetime) -> datetime:
        number, unit = int(self.text[:-1]), self.text[-1]
        if unit in "MY":
            return _month(_months_of(now, number, unit) + number * (12 if unit == "Y" else 1))
        return self._begin(now) + timedelta(seconds=self.seconds)


def _months_of(now: datetime, number: int, unit: str) -> int:
    """The month, counted from the year 0, in which the period began."""
    length = number * (12 if unit == "Y" else 1)
    return (now.year * 12 + now.month - 1) // length * length


def _month(months: int) -> datetime:
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


def _since_epoch(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """At most `limit` of a unit in a period."""

    unit: Unit
    limit: int
    period: Period


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """An allowance of somebody, with what it has counted in the record under `id`."""

    id: int
    kind: HolderKind
    holder: str
    """The name of the key, team, customer or provider."""
    unit: Unit
    period: Period


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a job takes from a meter when it is submitted. Money is held until the true cost is known."""

    meter: Meter
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A meter as a job found it, before it took anything."""

    meter: Meter
    limit: int
    held: int
    spent: Sequence[tuple[int, int]]
    """Slots that count, in order, with what was used in each."""

    @property
    def left(self) -> int:
        """How much may still be used; never below nothing."""
        return max(0, self.limit - self.held - self.used)

    @property
    def used(self) -> int:
        """What was used in the slots that count."""
        return sum(amount for _, amount in self.spent)

    def allows(self, amount: int) -> bool:
        """Whether so much more may be used now. A limit of nothing allows what costs nothing."""
        return amount <= self.limit - self.held - self.used

    def resets_at(self, now: datetime, amount: int = 0) -> datetime:
        """When `amount` will be free, if nothing else is used; at the latest when all that was used counts no more."""
        missing = amount - (self.limit - self.held - self.used)
        for slot, used in self.spent:
            missing -= used
            if missing <= 0:
                return self.meter.period.frees_at(slot, now)
        last = self.spent[-1][0] if self.spent else self.meter.period.slot(now)
        return self.meter.period.frees_at(last, now)
