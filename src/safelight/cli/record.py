"""A job of the database in the shape of the wire, with what the wire does not tell: its ledger and its pictures."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from safelight.domain.image import OutputImage
from safelight.domain.job import Attempt, Job, JobError, JobHistory
from safelight.domain.money import MICROS_PER_UNIT


def job_body(job: Job) -> dict[str, Any]:
    """One job. The prompt stays where it is."""
    return {
        "id": job.id,
        "request_id": job.request_id,
        "status": job.status.value,
        **_said(
            created_at=_timestamp(job.created_at),
            started_at=_timestamp(job.started_at),
            completed_at=_timestamp(job.completed_at),
            expires_at=_timestamp(job.expires_at),
            status_code=job.status_code,
            error=_error_body(job.error),
        ),
        "meta": _meta(job),
        "images": [_image_body(output) for output in job.result.production.outputs] if job.result else [],
    }


def history_body(history: JobHistory) -> dict[str, Any]:
    """One job with its ledger."""
    return {**job_body(history.job), "ledger": [_attempt_body(attempt) for attempt in history.attempts]}


def _meta(job: Job) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "request_type": job.operation.value,
        "model": str(job.request.target),
        "provider": job.result.target.provider if job.result else job.lane,
        "attempts": job.attempts,
    }
    if job.status.terminal:
        meta["cost_usd"] = None if job.cost_micros is None else job.cost_micros / MICROS_PER_UNIT
        meta["charged"] = job.charged.value
    return meta


def _attempt_body(attempt: Attempt) -> dict[str, Any]:
    duration = attempt.ended_at - attempt.started_at if attempt.ended_at else None
    return {
        "number": attempt.number,
        "provider": attempt.target.provider,
        "model": attempt.target.model,
        "key": attempt.key_name,
        "n": attempt.n,
        "state": attempt.state.value,
        **_said(
            started_at=_timestamp(attempt.started_at),
            ended_at=_timestamp(attempt.ended_at),
            duration_s=duration.total_seconds() if duration else None,
            retry_at=_timestamp(attempt.retry_at),
            error_class=attempt.error_class.value if attempt.error_class else None,
            charged=attempt.charged.value if attempt.charged else None,
            error=_error_body(attempt.error),
        ),
    }


def _error_body(error: JobError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    said = _said(message=error.message, type=error.type, code=error.code, param=error.param)
    return {"is_bifrost_error": error.gateway_fault, "status_code": error.status_code, "error": said}


def _image_body(output: OutputImage) -> dict[str, Any]:
    image = output.image
    return {
        "content_type": image.content_type,
        "width": image.dimensions.width,
        "height": image.dimensions.height,
        "size_bytes": image.size_bytes,
        "sha256": image.sha256,
    }


def _timestamp(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None


def _said(**members: Any) -> Mapping[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
