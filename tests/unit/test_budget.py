"""Periods, slots and what is left."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.domain.budget import HolderKind, Meter, Period, Reading, Unit

NOW = datetime(2026, 11, 25, 15, 47, 31, 5, tzinfo=UTC)  # a Wednesday
texts = st.sampled_from(["1m", "5m", "1h", "6h", "1d", "1w", "1M", "3M", "1Y"])
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive


def since(moment: datetime) -> int:
    return int(moment.timestamp())


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [
        ("1m", datetime(2026, 11, 25, 15, 47, tzinfo=UTC), datetime(2026, 11, 25, 15, 48, tzinfo=UTC)),
        ("1h", datetime(2026, 11, 25, 15, tzinfo=UTC), datetime(2026, 11, 25, 16, tzinfo=UTC)),
        ("1d", datetime(2026, 11, 25, tzinfo=UTC), datetime(2026, 11, 26, tzinfo=UTC)),
        ("1w", datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)),
        ("1M", datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
        ("3M", datetime(2026, 10, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("1Y", datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_calendar_period_is_one_slot(text: str, begins: datetime, ends: datetime) -> None:
    period = Period(text=text, calendar=True)
    assert period.slot(NOW) == period.first_slot(NOW) == since(begins)
    assert period.frees_at(period.slot(NOW), NOW) == ends
    assert period.slot(ends) == since(ends)


@given(texts, moments)
def test_calendar_periods_follow_each_other_without_a_gap(text: str, now: datetime) -> None:
    period = Period(text=text, calendar=True)
    end = period.frees_at(period.slot(now), now)
    assert period.slot(now) <= since(now) < since(end)
    assert period.slot(end) == since(end)
    assert period.slot(end - timedelta(microseconds=1)) == period.slot(now)


@given(texts, moments, st.floats(0, 1, exclude_max=True))
def test_whatever_was_used_within_a_rolling_period_counts(text: str, now: datetime, share: float) -> None:
    period = Period(text=text)
    used_at = now - timedelta(seconds=period.seconds * share)
    assert period.slot(used_at) >= period.first_slot(now)


@given(texts, moments)
def test_it_counts_at_most_a_slot_longer_and_then_no_more(text: str, now: datetime) -> None:
    period = Period(text=text)
    slot = period.slot(now)
    free = period.frees_at(slot, now)
    assert period.first_slot(free) > slot
    assert period.first_slot(free - timedelta(seconds=1)) <= slot
    assert free - now <= timedelta(seconds=period.seconds * 61 / 60 + 1)


@pytest.mark.parametrize("text", ["", "h", "0h", "1x", "1.5h", "-1h", "1H", "99999d", "1h ", "10Y", "100M"])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a period is"):
        Period(text=text)


def reading(*spent: tuple[int, int], limit: int = 100, held: int = 0, text: str = "1h") -> Reading:
    meter = Meter(id=1, kind=HolderKind.KEY, holder="a", unit=Unit.USD, period=Period(text=text))
    return Reading(meter=meter, limit=limit, held=held, spent=spent)


def test_what_is_held_is_as_good_as_spent() -> None:
    found = reading((0, 30), (60, 20), held=25)
    assert (found.used, found.left) == (50, 25)
    assert found.allows(25)
    assert not found.allows(26)


def test_a_limit_of_nothing_allows_what_costs_nothing() -> None:
    assert reading(limit=0).allows(0)
    assert not reading(limit=0).allows(1)


def test_a_limit_that_was_lowered_leaves_nothing() -> None:
    found = reading((0, 80), limit=50)
    assert found.left == 0
    assert not found.allows(0)


def test_it_says_when_enough_will_be_free() -> None:
    slot = Period(text="1h").slot(NOW)
    found = reading((slot - 600, 30), (slot - 300, 30), (slot, 40))
    first = datetime.fromtimestamp(slot - 600, UTC) + timedelta(hours=1, minutes=1)
    assert found.resets_at(NOW, 10) == first
    assert found.resets_at(NOW, 31) == first + timedelta(seconds=300)
    assert found.resets_at(NOW, 1000) == first + timedelta(seconds=600)
