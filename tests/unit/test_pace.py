"""When it is worth asking again, and when an end is so near that the question waits for it."""

from datetime import timedelta

from safelight.application.pace import Pace
from safelight.domain.job import Job, JobResult, JobStatus
from tests.doubles import FakeClock
from tests.making import FLUX, NOON, PAID, job, production


def completed(latency_ms: int) -> Job:
    return job(
        status=JobStatus.COMPLETED,
        due_at=None,
        completed_at=NOON,
        result=JobResult(production=production(), target=FLUX, latency_ms=latency_ms),
    )


def pace(*latencies_ms: int, clock: FakeClock | None = None) -> Pace:
    new = Pace(slots={PAID: 2}, clock=clock or FakeClock())
    for latency_ms in latencies_ms:
        new.learn(completed(latency_ms))
    return new


def test_of_a_model_that_nobody_has_used_nothing_is_known() -> None:
    assert (pace().ask_again_s(job(), 5), pace().moment_s(job())) == (1, 0.0)


def test_jobs_that_wait_are_worth_asking_for_after_those_before_them() -> None:
    assert pace(10_000).ask_again_s(job(), 0) == 10
    assert pace(10_000).ask_again_s(job(), 4) == 30
    assert pace(10_000).ask_again_s(job(), 1_000) == 60


def test_a_job_that_is_late_is_asked_for_more_and_more_seldom() -> None:
    clock = FakeClock(NOON + timedelta(seconds=100))
    late = job(status=JobStatus.PROCESSING, started_at=NOON)
    assert pace(10_000, clock=clock).ask_again_s(late, None) == 20


def test_the_latest_jobs_move_the_estimate() -> None:
    assert pace(10_000, 20_000).ask_again_s(job(), 0) == 12


def test_a_question_is_held_only_where_the_end_is_near() -> None:
    assert pace(50).moment_s(job()) == 0.2
    assert pace(10_000).moment_s(job()) == 0.0
    nearly = job(status=JobStatus.PROCESSING, started_at=NOON)
    assert pace(10_000, clock=FakeClock(NOON + timedelta(seconds=9.95))).moment_s(nearly) == 0.2
    overdue = FakeClock(NOON + timedelta(seconds=20))
    assert pace(10_000, clock=overdue).moment_s(nearly) == 0.0
