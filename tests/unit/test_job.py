"""The table of transitions, and what a job says of itself."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from safelight.domain.image import InputImage, OutputImage
from safelight.domain.job import TRANSITIONS, Attempt, AttemptState, Ending, JobError, JobHistory, JobResult, JobStatus
from safelight.domain.money import Charged
from tests.making import FLUX, NOON, image, job, later, production, request, started

NO = JobError(status_code=429, code="busy", message="no")
DONE = JobResult(production=production(), target=FLUX, latency_ms=1)


def test_a_job_begins_pending_and_ends_completed_or_failed_and_may_then_be_retried() -> None:
    assert {
        JobStatus.PENDING: {JobStatus.PROCESSING, JobStatus.FAILED},
        JobStatus.PROCESSING: {JobStatus.COMPLETED, JobStatus.FAILED},
        JobStatus.COMPLETED: set(),
        JobStatus.FAILED: {JobStatus.PENDING},
    } == TRANSITIONS
    assert job().status is JobStatus.PENDING


@pytest.mark.parametrize("status", list(JobStatus))
def test_every_state_leads_to_a_terminal_one(status: JobStatus) -> None:
    reached = {status}
    while more := {after for before in reached for after in TRANSITIONS[before]} - reached:
        reached |= more
    assert any(each.terminal for each in reached)
    assert status.terminal == (status in {JobStatus.COMPLETED, JobStatus.FAILED})


@pytest.mark.parametrize(
    ("state", "is_open"),
    [
        (AttemptState.STARTED, True),
        (AttemptState.ACCEPTED, True),
        (AttemptState.SUCCEEDED, False),
        (AttemptState.FAILED, False),
        (AttemptState.UNKNOWN, False),
    ],
)
def test_an_attempt_is_open_until_it_has_ended(*, state: AttemptState, is_open: bool) -> None:
    assert state.open is is_open


def test_the_ttl_counts_from_completion() -> None:
    waiting = job(ttl_s=60)
    assert waiting.expires_at is None
    assert not waiting.expired(later(10**9))
    ended = replace(waiting, completed_at=NOON)
    assert ended.expires_at == later(60)
    assert not ended.expired(later(60) - timedelta(microseconds=1))
    assert ended.expired(later(60))


def test_the_status_code_is_that_of_the_synchronous_route() -> None:
    assert job().status_code is None
    assert job(result=DONE).status_code == 200
    assert job(error=NO).status_code == 429


def test_an_ending_is_completed_with_a_result_and_failed_without() -> None:
    ending = Ending(completed_at=NOON, charged=Charged.NO, cost_micros=None)
    assert replace(ending, result=DONE).status is JobStatus.COMPLETED
    assert replace(ending, error=NO).status is JobStatus.FAILED


def test_a_jobs_blobs_are_its_inputs_its_mask_and_its_pictures() -> None:
    sent, mask, drawn = image("i"), image("m"), image("o")
    edit = job(request=request(images=(InputImage(image=sent),)))
    assert edit.blobs == (sent.blob,)
    masked = replace(edit, request=replace(edit.request, mask=InputImage(image=mask)))
    result = replace(DONE, production=production(outputs=(OutputImage(image=drawn),)))
    assert replace(masked, result=result).blobs == (sent.blob, mask.blob, drawn.blob)


def test_a_history_holds_the_ledger_in_order() -> None:
    first: Attempt = started()
    assert JobHistory(job=job()).attempts == ()
    assert JobHistory(job=job(), attempts=(first,)).attempts == (first,)
    assert job().operation is request().operation
