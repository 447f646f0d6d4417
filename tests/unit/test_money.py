"""Amounts of money."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safelight.domain.money import Cost

micros = st.integers(-(2**62), 2**62)


@given(micros, micros)
def test_adding_is_exact(first: int, second: int) -> None:
    assert Cost(micros=first) + Cost(micros=second) == Cost(micros=first + second)


def test_currencies_do_not_mix() -> None:
    with pytest.raises(ValueError, match="cannot add EUR to USD"):
        Cost(micros=1) + Cost(micros=1, currency="EUR")


def test_units_are_for_display() -> None:
    assert Cost(micros=1_500_000).units == 1.5
