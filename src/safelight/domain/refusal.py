"""What a caller is told whose allowance is used up."""

from datetime import datetime

from safelight.domain.budget import Reading, Unit
from safelight.domain.errors import BudgetExceeded, PolicyRefusal, Quota, RateLimited, RequestLimited
from safelight.domain.job import JobError
from safelight.domain.money import MICROS_PER_UNIT

_LEAST_S = 1.0


def refusal(reading: Reading, amount: int, now: datetime) -> PolicyRefusal:
    """Say what is left, and when it resets."""
    meter = reading.meter
    resets_at = reading.resets_at(now, amount)
    wait_s = max(_LEAST_S, (resets_at - now).total_seconds())
    whose = f"the {meter.kind.value} {meter.holder!r}"
    when = f"it resets at {resets_at.isoformat(timespec='seconds').replace('+00:00', 'Z')}"
    if meter.unit is Unit.USD:
        return BudgetExceeded(
            f"budget exceeded: {whose} has {_usd(reading.left)} left of {_usd(reading.limit)} per {meter.period.text},"
            f" and this may cost {_usd(amount)}; {when}",
            retry_after_s=wait_s,
        )
    kind = RequestLimited if meter.unit is Unit.REQUESTS else RateLimited
    return kind(
        f"{meter.unit.value} limit reached: {whose} may have {reading.limit} per {meter.period.text},"
        f" {reading.left} left; {when}",
        retry_after_s=wait_s,
        quota=Quota(
            name=f"{meter.kind.value}-{meter.unit.value}",
            most=reading.limit,
            left=reading.left,
            window_s=meter.period.seconds,
        ),
    )


def as_job_error(error: PolicyRefusal) -> JobError:
    """The end of a job that could not be refused at its submit, such as a line of a batch."""
    return JobError(status_code=error.status, code=error.reason or error.code, message=error.message, type=error.code)


def _usd(micros: int) -> str:
    text = f"{micros / MICROS_PER_UNIT:.6f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"${whole}.{part:0<2}"
