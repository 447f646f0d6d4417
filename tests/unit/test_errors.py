"""The error tree."""

import pytest

from safelight.domain import errors
from safelight.domain.errors import (
    ConfigurationError,
    ErrorClass,
    InvalidRequest,
    ProviderAbandoned,
    ProviderBusy,
    ProviderError,
    SafelightError,
    StorageError,
    Superseded,
)

PROVIDER_ERRORS: list[type[ProviderError]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ProviderError) and kind is not ProviderError
]


def test_each_class_of_provider_error_has_one_exception() -> None:
    assert sorted(kind.error_class for kind in PROVIDER_ERRORS) == sorted(ErrorClass)


@pytest.mark.parametrize(
    ("error_class", "may_be_charged", "poll_again"),
    [
        (ErrorClass.REJECTED, False, False),
        (ErrorClass.MODEL_GONE, False, False),
        (ErrorClass.AUTH, False, True),
        (ErrorClass.BUSY, False, True),
        (ErrorClass.UNAVAILABLE, False, True),
        (ErrorClass.UNCERTAIN, True, True),
        (ErrorClass.ABANDONED, True, False),
        (ErrorClass.PROTOCOL, True, False),
    ],
)
def test_a_class_says_what_may_have_been_paid(
    *, error_class: ErrorClass, may_be_charged: bool, poll_again: bool
) -> None:
    assert (error_class.may_be_charged, error_class.poll_again) == (may_be_charged, poll_again)


def test_codes_are_stable_and_their_own() -> None:
    kinds: list[type[SafelightError]] = [*PROVIDER_ERRORS, StorageError, Superseded, InvalidRequest]
    kinds.remove(ProviderAbandoned)  # callers are told the same as of any unknown outcome
    codes = {kind.code for kind in kinds}
    assert len(codes) == len(kinds)


def test_a_provider_error_keeps_what_the_provider_said() -> None:
    error = ProviderBusy("wait", status=429, provider_code="slow", retry_after_s=2.0, request_id="r", param="n")
    assert (error.message, str(error)) == ("wait", "wait")
    assert (error.status, error.provider_code, error.retry_after_s) == (429, "slow", 2.0)
    assert (error.request_id, error.param, error.provider_type) == ("r", "n", None)


def test_a_request_error_names_its_field() -> None:
    assert InvalidRequest("no", param="n").param == "n"


def test_no_job_loop_can_swallow_a_fault_of_the_settings() -> None:
    assert not issubclass(ConfigurationError, SafelightError)
