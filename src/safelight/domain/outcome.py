"""Sum up a ledger: what came out and what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from safelight.domain.ids import BlobKey
from safelight.domain.image import Usage
from safelight.domain.job import Attempt, Ending, Job, JobError, JobResult, Production
from safelight.domain.money import Charged
from safelight.domain.plan import CANCELLED

_BY_WEIGHT = (Charged.NO, Charged.UNKNOWN, Charged.YES)


def settle(job: Job, attempts: Sequence[Attempt], *, error: JobError | None, now: datetime) -> Ending:
    """Make the end of a job. Pictures that came are never thrown away: `error` is then why there are no more.

    Unless it was cancelled: what came is dropped then, and what it cost still booked.
    """
    cancelled = job.cancelled_at is not None
    done = [] if cancelled else [a for a in attempts[job.earlier_attempts :] if a.production is not None]
    return Ending(
        completed_at=now,
        charged=heaviest_charge(attempts),
        cost_micros=total_cost(attempts),
        result=_result(job, done, error, now) if done else None,
        error=CANCELLED if cancelled else None if done else error,
        cancelled_at=job.cancelled_at,
    )


def made(attempts: Sequence[Attempt]) -> tuple[BlobKey, ...]:
    """The pictures that attempts brought."""
    outputs = (output for attempt in attempts if attempt.production for output in attempt.production.outputs)
    return tuple(output.image.blob for output in outputs)


def without_pictures(attempt: Attempt) -> Attempt:
    """Keep of an attempt what it cost, and let its pictures go."""
    if attempt.production is None:
        return attempt
    return replace(attempt, production=replace(attempt.production, outputs=()))


def _result(job: Job, done: Sequence[Attempt], shortfall: JobError | None, now: datetime) -> JobResult:
    return JobResult(
        production=combine([attempt.production for attempt in done if attempt.production]),
        target=done[-1].target,
        latency_ms=max(timedelta(), now - (job.started_at or done[0].started_at)) // timedelta(milliseconds=1),
        shortfall=shortfall,
    )


def heaviest_charge(attempts: Sequence[Attempt]) -> Charged:
    """`yes` if any attempt was billed, else `unknown` if any may have been, else `no`."""
    charges = [attempt.charged for attempt in attempts if attempt.charged is not None]
    return max(charges, key=_BY_WEIGHT.index, default=Charged.NO)


def total_cost(attempts: Sequence[Attempt]) -> int | None:
    """Micro-dollars of all that was produced, or refused and billed; `None` when any of it has no known price."""
    costs = [attempt.production.cost_micros for attempt in attempts if attempt.production is not None]
    costs += [attempt.error.cost_micros for attempt in attempts if attempt.error and attempt.charged is Charged.YES]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None


def combine(productions: Sequence[Production]) -> Production:
    """Join the productions of several calls in their order. The last one's echoed fields stand for all."""
    last = productions[-1]
    if len(productions) == 1:
        return last
    return replace(
        last,
        outputs=tuple(output for production in productions for output in production.outputs),
        usage=_add_usage([production.usage for production in productions if production.usage is not None]),
    )


def _add_usage(usages: Sequence[Usage]) -> Usage | None:
    if not usages:
        return None
    return Usage(
        input_tokens=_add([usage.input_tokens for usage in usages]),
        input_tokens_details=_add_details([usage.input_tokens_details for usage in usages]),
        output_tokens=_add([usage.output_tokens for usage in usages]),
        output_tokens_details=_add_details([usage.output_tokens_details for usage in usages]),
        total_tokens=_add([usage.total_tokens for usage in usages]),
    )


def _add(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _add_details(details: Sequence[Mapping[str, int] | None]) -> Mapping[str, int] | None:
    total: Counter[str] = Counter()
    for detail in details:
        total.update(detail or {})
    return dict(total) or None
