"""How many retries a minute has."""

from safelight.domain.retry_budget import RetryBudget
from tests.making import NOON, later


def test_a_few_are_always_allowed() -> None:
    budget = RetryBudget(share=0.2, least=2)
    for _ in range(2):
        assert budget.allows(NOON)
        budget.count(NOON, retry=True)
    assert not budget.allows(NOON)


def test_beyond_these_a_share_of_all_calls() -> None:
    budget = RetryBudget(share=0.2, least=1)
    for at in range(16):
        budget.count(later(at), retry=False)
    for _ in range(4):
        assert budget.allows(later(16))
        budget.count(later(16), retry=True)
    assert not budget.allows(later(16))


def test_a_minute_later_all_is_forgotten() -> None:
    budget = RetryBudget(least=1)
    budget.count(NOON, retry=True)
    assert not budget.allows(later(59))
    assert budget.allows(later(60))
    budget.count(later(60), retry=True)
    assert not budget.allows(later(60))
