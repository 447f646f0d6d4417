"""Finds jobs among many. Each statement walks an index that gives the newest first, and stops when the page is full."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from safelight.adapters.sql import rows
from safelight.adapters.sql.database import Row, Transaction
from safelight.application.ports import JobFilter, JobPage
from safelight.domain.caller import Caller
from safelight.domain.errors import InvalidRequest
from safelight.domain.image import Operation
from safelight.domain.job import Job, JobStatus

INSERT_LABEL = (
    "INSERT INTO job_labels (name, value, made_at, job_seq) SELECT $2, $3, created_at, seq FROM jobs WHERE id = $1"
)

_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")
_SEQ, _CREATED_AT = 0, 6
"""Their places among `JOB_COLUMNS`."""
_OF_STATUS = {
    JobStatus.PENDING: "due_at IS NOT NULL AND status = 'pending'",
    JobStatus.PROCESSING: "due_at IS NOT NULL AND status = 'processing'",
    JobStatus.COMPLETED: "due_at IS NULL AND error_code IS NULL",
    JobStatus.FAILED: "due_at IS NULL AND error_code IS NOT NULL",
}


async def label(transaction: Transaction, job: Job) -> None:
    """Write the labels of a new job."""
    for name, value in job.metadata.items():
        await transaction.change_one(INSERT_LABEL, job.id, name, value)


async def page(transaction: Transaction, wanted: JobFilter) -> JobPage:
    """Read one page. Raises `InvalidRequest` for a cursor that is none."""
    search = _Search.of(wanted)
    found = await transaction.fetch(search.page(wanted), *search.values)
    shown = found[: wanted.limit]
    cursor = _cursor(shown[-1]) if len(found) > wanted.limit else None
    return JobPage(jobs=tuple(rows.job_of(row) for row in shown), next_cursor=cursor)


async def counts(transaction: Transaction, wanted: JobFilter) -> dict[JobStatus, int]:
    """Count by status."""
    search = _Search.of(wanted)
    found = dict.fromkeys(JobStatus, 0)
    for status, count in await transaction.fetch(search.counts(), *search.values):
        found[JobStatus(status)] += count
    return found


def _cursor(row: Row) -> str:
    return base64.urlsafe_b64encode(f"{row[_CREATED_AT]}.{row[_SEQ]}".encode()).rstrip(b"=").decode()


def _place(cursor: str) -> tuple[int, int]:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("cursor must be the next_cursor of a page", param="cursor") from error
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise InvalidRequest("cursor must be the next_cursor of a page", param="cursor")
    return int(found[1]), int(found[2])


@dataclass(slots=True)
class _Search:
    """A statement as it is put together; values of callers only ever stand in `values`."""

    source: str = "jobs"
    time: str = "created_at"
    number: str = "seq"
    conditions: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)

    @classmethod
    def of(cls, wanted: JobFilter) -> "_Search":
        search = cls()
        search._labels(list(wanted.metadata.items()))
        search._visible_to(wanted.caller)
        search._fields(wanted)
        if wanted.status is not None:
            search.add(_OF_STATUS[wanted.status])
        return search

    def add(self, condition: str, *values: object) -> None:
        """Narrow it down; each `?` stands for one of the values."""
        for value in values:
            self.values.append(value)
            condition = condition.replace("?", f"${len(self.values)}", 1)
        self.conditions.append(condition)

    def _labels(self, labels: Sequence[tuple[str, str]]) -> None:
        """The first label leads to the jobs; CROSS JOIN keeps SQLite from going the other way."""
        if labels:
            self.source, self.time, self.number = "job_labels CROSS JOIN jobs", "made_at", "job_seq"
            self.add("seq = job_seq AND name = ? AND value = ?", *labels[0])
        for name, value in labels[1:]:
            also = "SELECT 1 FROM job_labels AS also WHERE also.name = ? AND also.value = ?"
            self.add(f"EXISTS ({also} AND also.made_at = created_at AND also.job_seq = seq)", name, value)

    def _visible_to(self, caller: Caller) -> None:
        if caller.admin:
            return
        if caller.owner is None:
            self.add("owner IS NULL")
        elif caller.team_wide and caller.team is not None:
            self.add("(owner = ? OR team = ?)", caller.owner, caller.team)
        else:
            self.add("owner = ?", caller.owner)

    def _fields(self, wanted: JobFilter) -> None:
        """What repeats a condition of an index lets that index be used."""
        if wanted.operation not in {None, Operation.GENERATION}:
            self.add("request_type <> 'image_generation'")
        for condition, value in (
            ("request_type = ?", wanted.operation),
            ("model = ?", wanted.model),
            ("lane = ?", wanted.provider),
            ("error_code IS NOT NULL AND error_code = ?", wanted.error_code),
            ("idempotency_key IS NOT NULL AND idempotency_key = ?", wanted.idempotency_key),
            (f"{self.time} >= ?", wanted.created_after),
            (f"{self.time} < ?", wanted.created_before),
            ("(expires_at IS NULL OR expires_at > ?)", wanted.alive_at),
        ):
            if value is not None:
                self.add(condition, rows.to_micros(value) if isinstance(value, datetime) else value)
        if wanted.cursor is not None:
            self.add(f"({self.time}, {self.number}) < (?, ?)", *_place(wanted.cursor))

    def page(self, wanted: JobFilter) -> str:
        """The statement of a page and one job more; its limit is the last of the values."""
        self.values.append(wanted.limit + 1)
        limit = f"LIMIT ${len(self.values)}"
        if wanted.provider is None or wanted.status is not None:
            return f"{self._select(rows.JOB_COLUMNS)} ORDER BY {self.time} DESC, {self.number} DESC {limit}"
        # The index by provider has the jobs that ended; of those that run there are few.
        branches = " UNION ALL ".join(
            f"SELECT * FROM ({self._select(rows.JOB_COLUMNS, also)} ORDER BY {self.time} DESC, {self.number} DESC {limit})"  # noqa: S608 - as below
            f" AS branch{number}"
            for number, also in enumerate(("due_at IS NULL", "due_at IS NOT NULL"))
        )
        return f"SELECT * FROM ({branches}) AS found ORDER BY created_at DESC, seq DESC {limit}"  # noqa: S608 - as below

    def counts(self) -> str:
        """The statement that counts by status, those that run and those that ended by an index of their own."""
        return " UNION ALL ".join(
            f"{self._select('status, count(*)', part)} GROUP BY status"
            for part in ("due_at IS NOT NULL", "expires_at IS NOT NULL")
        )

    def _select(self, columns: str, *more: str) -> str:
        conditions = " AND ".join([*self.conditions, *more]) or "1 = 1"
        return f"SELECT {columns} FROM {self.source} WHERE {conditions}"  # noqa: S608 - all of these are constants
