"""What a ledger adds up to."""

from collections.abc import Mapping

import pytest

from safelight.domain.errors import ErrorClass
from safelight.domain.image import Usage
from safelight.domain.job import Attempt, JobError, JobStatus
from safelight.domain.money import Charged
from safelight.domain.outcome import combine, heaviest_charge, settle, total_cost
from tests.making import NOON, OTHER, failed, job, later, production, started, succeeded

NO = JobError(status_code=504, code="deadline_exceeded", message="late")


@pytest.mark.parametrize(
    ("charges", "expected"),
    [
        ([], Charged.NO),
        ([None], Charged.NO),
        ([Charged.NO, None], Charged.NO),
        ([Charged.UNKNOWN, Charged.NO], Charged.UNKNOWN),
        ([Charged.NO, Charged.YES, Charged.UNKNOWN], Charged.YES),
    ],
)
def test_the_heaviest_charge_stands_for_all(charges: list[Charged | None], expected: Charged) -> None:
    assert heaviest_charge([started(charged=charge) for charge in charges]) is expected


def priced(number: int, cost_micros: int | None) -> Attempt:
    return succeeded(number, production=production(cost_micros=cost_micros))


@pytest.mark.parametrize(("costs", "expected"), [([], None), ([None], None), ([0], 0), ([3, 4], 7), ([3, None], None)])
def test_the_cost_is_known_when_all_its_parts_are(costs: list[int | None], expected: int | None) -> None:
    attempts = [priced(number, cost) for number, cost in enumerate(costs, 1)]
    assert total_cost([*attempts, failed(9)]) == expected


def test_one_production_stays_as_it_is() -> None:
    only = production(2, model="m", usage=Usage(input_tokens=1))
    assert combine([only]) is only


def test_productions_are_joined_in_order_and_the_last_ones_words_stand() -> None:
    first, second = production(2, size="1x1", model="a"), production(1, size="2x2")
    joined = combine([first, second])
    assert joined.outputs == first.outputs + second.outputs
    assert (joined.size, joined.model, joined.usage) == ("2x2", None, None)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ([None, None], None),
        ([{"text": 1}, None], {"text": 1}),
        ([{"text": 1}, {"text": 2, "image": 3}], {"text": 3, "image": 3}),
    ],
)
def test_usage_is_added_up(details: list[Mapping[str, int] | None], expected: Mapping[str, int] | None) -> None:
    usages = [Usage(input_tokens=2, input_tokens_details=detail, total_tokens=None) for detail in details]
    joined = combine([*[production(usage=usage) for usage in usages], production()])
    assert joined.usage == Usage(input_tokens=4, input_tokens_details=expected)


def test_a_job_without_a_picture_fails() -> None:
    ending = settle(job(), [failed(1, ErrorClass.UNCERTAIN, charged=Charged.UNKNOWN)], error=NO, now=NOON)
    assert (ending.status, ending.error, ending.result) == (JobStatus.FAILED, NO, None)
    assert ending.charged is Charged.UNKNOWN
    assert ending.cost_micros is None


def test_a_job_with_a_picture_completes_even_if_it_could_not_go_on() -> None:
    ending = settle(job(started_at=NOON), [succeeded(1), failed(2)], error=NO, now=later(1.5))
    assert (ending.status, ending.error) == (JobStatus.COMPLETED, None)
    assert ending.result is not None
    assert (ending.result.shortfall, ending.result.latency_ms) == (NO, 1500)


def test_the_result_names_the_target_that_gave_the_last_picture() -> None:
    ending = settle(job(), [succeeded(1), succeeded(2, route=1, target=OTHER)], error=None, now=later(1))
    assert ending.result is not None
    assert ending.result.target == OTHER
    assert ending.result.shortfall is None


def test_a_clock_that_was_set_back_makes_no_negative_latency() -> None:
    ending = settle(job(started_at=NOON), [succeeded(1)], error=None, now=later(-60))
    assert ending.result is not None
    assert ending.result.latency_ms == 0
