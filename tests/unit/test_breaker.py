"""When a model is left alone."""

from safelight.domain.breaker import Breaker, BreakerPolicy
from tests.making import NOON, later

POLICY = BreakerPolicy(failures=2, open_for_s=30)


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    once = Breaker().failed(POLICY, NOON)
    assert once == Breaker(failures=1)
    assert once.failed(POLICY, NOON) == Breaker(failures=2, open_until=later(30))


def test_a_probe_holds_back_the_others_and_its_failure_opens_it_anew() -> None:
    probed = Breaker(failures=2, open_until=later(30)).probed(POLICY, later(31))
    assert probed == Breaker(failures=2, open_until=later(61))
    assert probed.failed(POLICY, later(40)) == Breaker(failures=3, open_until=later(70))


def test_without_a_number_it_never_opens() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker = breaker.failed(BreakerPolicy(failures=0), NOON)
    assert breaker.open_until is None
