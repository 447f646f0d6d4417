"""What happens to a job, told in order: each event is written by the commit in which it happens."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct

from safelight.domain.ids import JobId
from safelight.domain.image import Dimensions, StoredImage
from safelight.domain.job import Attempt, JobStatus


class EventName(StrEnum):
    """The kinds of events on the wire."""

    JOB = "job"
    """The job has moved on: its status, and the attempt that moved it."""
    PROGRESS = "progress"
    PARTIAL_IMAGE = "partial_image"


class JobEvent(Struct, frozen=True, kw_only=True):
    """One line of a job's log. `data` is small JSON: never an image byte, a prompt or a key."""

    job_id: JobId
    name: EventName
    at: datetime
    data: Mapping[str, Any]


class LoggedEvent(Struct, frozen=True, kw_only=True):
    """An event with its place in the log; later ones have a higher number."""

    seq: int
    event: JobEvent


def moved_on(
    job_id: JobId, status: JobStatus, at: datetime, *, attempt: Attempt | None = None, cancelled: bool = False
) -> JobEvent:
    """The event of a job that has moved on, because of `attempt` where there is one."""
    data: dict[str, Any] = {"status": status}
    if cancelled:
        data["cancelled"] = True
    if attempt is not None:
        data["attempt"] = attempt_facts(attempt)
    return JobEvent(job_id=job_id, name=EventName.JOB, at=at, data=data)


def progressed(job_id: JobId, share: float, at: datetime) -> JobEvent:
    """The event of a job that is so far, from 0 to 1."""
    return JobEvent(job_id=job_id, name=EventName.PROGRESS, at=at, data={"progress": share})


def developed(job_id: JobId, image: StoredImage, at: datetime, *, index: int, partial_index: int) -> JobEvent:
    """The event of a preview: the one of number `partial_index` of the picture `index`, both from 0."""
    data = {
        "index": index,
        "partial_index": partial_index,
        "blob": image.blob,
        "content_type": image.content_type,
        "size_bytes": image.size_bytes,
        "sha256": image.sha256,
        "width": image.dimensions.width,
        "height": image.dimensions.height,
    }
    return JobEvent(job_id=job_id, name=EventName.PARTIAL_IMAGE, at=at, data=data)


def preview_of(event: JobEvent) -> StoredImage:
    """The picture that a `developed` event tells of."""
    data = event.data
    return StoredImage(
        blob=data["blob"],
        content_type=data["content_type"],
        size_bytes=data["size_bytes"],
        sha256=data["sha256"],
        dimensions=Dimensions(width=data["width"], height=data["height"]),
    )


def attempt_facts(attempt: Attempt) -> Mapping[str, Any]:
    """What callers may know of an attempt, without what is not known yet."""
    facts = {
        "number": attempt.number,
        "provider": attempt.target.provider,
        "model": attempt.target.model,
        "key": attempt.key_name,
        "n": attempt.n,
        "state": attempt.state,
        "error_class": attempt.error_class,
        "code": attempt.error.code if attempt.error else None,
        "charged": attempt.charged,
        "duration_s": (attempt.ended_at - attempt.started_at).total_seconds() if attempt.ended_at else None,
    }
    return {name: value for name, value in facts.items() if value is not None}
