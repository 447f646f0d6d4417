"""What the gateway answers, typed. Members that a newer gateway adds are ignored."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

Status = Literal["pending", "processing", "completed", "failed"]
BatchStatus = Literal["running", "completed", "cancelled"]
Charged = Literal["yes", "no", "unknown"]

ENDED = frozenset({"completed", "failed"})


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong, and with which field."""

    message: str = "no reason was given"
    type: str | None = None
    code: str | None = None
    param: Any = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as the contract shapes it: of a refused request, or of a job that failed."""

    error: ErrorDetail = ErrorDetail()
    status_code: int | None = None
    is_bifrost_error: bool = False
    """True for the gateway's own fault or decision."""
    type: str | None = None
    extra_fields: Mapping[str, Any] = {}

    def __str__(self) -> str:
        """The sentence, with its code."""
        code = self.error.code or self.type
        return f"{self.error.message} ({code})" if code else self.error.message


class Picture(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture of a result: a signed link that lives as long as the job, or base64 where that was asked for."""

    index: int = 0
    url: str | None = None
    b64_json: str | None = None
    revised_prompt: str | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a completed job brought."""

    data: tuple[Picture, ...] = ()
    created: int | None = None
    """Unix seconds."""
    model: str | None = None
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    size: str | None = None
    usage: Mapping[str, Any] | None = None
    extra_fields: Mapping[str, Any] = {}


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the gateway tells beyond the contract."""

    request_type: str = "image_generation"
    model: str | None = None
    provider: str | None = None
    attempts: int = 0
    queue_position: int | None = None
    progress: float | None = None
    """0 to 1."""
    cost_usd: float | None = None
    charged: Charged | None = None
    cancelled: bool = False
    via: str | None = None
    metadata: Mapping[str, str] = {}


class JobState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as one answer told it."""

    id: str
    status: Status
    created_at: datetime
    request_id: str | None = None
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    status_code: int | None = None
    result: Result | None = None
    error: ErrorBody | None = None
    meta: Meta = Meta()

    @property
    def ended(self) -> bool:
        """Whether it is completed or failed."""
        return self.status in ENDED


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of a job's log. `name` is `job`, `attempt`, `progress` or `partial_image`."""

    id: str
    """Where a later stream goes on from."""
    name: str
    data: Mapping[str, Any]

    @property
    def status(self) -> Status | None:
        """The job's state, where the event tells it."""
        return self.data.get("status")

    @property
    def job_id(self) -> str | None:
        """Which job it is about."""
        return self.data.get("id") or self.data.get("job_id")


class BatchCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many lines of a batch are in which state."""

    pending: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0


class BatchState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch as one answer told it."""

    id: str
    status: BatchStatus
    total: int
    counts: BatchCounts
    created_at: datetime
    completed_at: datetime | None = None
    expires_at: datetime | None = None
    metadata: Mapping[str, str] = {}

    @property
    def ended(self) -> bool:
        """Whether no line of it waits or runs."""
        return self.status != "running" and not (self.counts.processing or self.counts.pending)


class BatchLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one line of a batch: a job that has ended, or the reason why there is none."""

    line: int
    """From 1."""
    job: JobState | None = None
    error: ErrorBody | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that the gateway is set up for."""

    id: str
    """`PROVIDER/MODEL`, as requests name it."""
    owned_by: str = ""
    safelight: Mapping[str, Any] = {}
    """What it can do: operations, fields, sizes, formats, limits."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    data: tuple[Model, ...]


class JobPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One page of a listing of jobs."""

    data: tuple[JobState, ...]
    next_cursor: str | None = None


class BatchPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One page of a listing of batches."""

    data: tuple[BatchState, ...]
    next_cursor: str | None = None


class ResultPage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Lines of a batch in their order, up to the first that has not ended."""

    data: tuple[BatchLine, ...]
    next_cursor: str | None = None
