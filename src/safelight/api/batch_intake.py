"""The lines of a batch, each checked as it arrives: one that is bad refuses them all, with its number and field."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

from starlette.requests import Request

from safelight.api import fields, headers
from safelight.api.body import BodyTooLarge, UnsupportedContentType, body_chunks
from safelight.api.intake import Intake, JsonImages, json_object
from safelight.api.multipart import FileInfo, MultipartLimits, read_form
from safelight.api.services import Services
from safelight.application.sweep import drop_images
from safelight.domain.access import Grant
from safelight.domain.batch import BatchEntry
from safelight.domain.errors import InvalidRequest, PolicyRefusal, RequestError
from safelight.domain.fingerprint import fingerprint
from safelight.domain.ids import BatchId, BlobKey, JobId
from safelight.domain.image import Operation
from safelight.domain.job import Idempotency
from safelight.domain.ledger import NO_TERMS, Terms, together

MOST_LINES = 100_000
_LONGEST_LINE_BYTES = 4 * 1024 * 1024
_LINES_AT_ONCE = 20
"""Checked before others get their turn."""
_JSON_LINES = frozenset(
    {"application/jsonl", "application/x-jsonlines", "application/x-ndjson", "application/json-lines"}
)
_OURS = ("metadata", "idempotency_key")
"""Members of a line that are not the request's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A batch whose lines are stored."""

    lines: BlobKey
    total: int
    fingerprint: str
    """The same for the same lines."""
    terms: Terms
    """What all of them together must find free."""


class BatchIntake:
    """One batch on its way in."""

    def __init__(self, request: Request, services: Services, grant: Grant | None) -> None:
        """Whatever it stores belongs to `batch_id`; `drop` removes it where the batch is not accepted."""
        self.batch_id = BatchId(str(uuid4()))
        self._request = request
        self._services = services
        self._grant = grant
        self._terms = NO_TERMS
        self._writer = services.batches.lines.writer(self.batch_id)
        self._stored: BlobKey | None = None
        self._intake = Intake(
            request=request,
            services=services,
            operation=Operation.GENERATION,
            job_id=JobId(self.batch_id),
            passes_extra=headers.is_true(request.headers, "x-bf-passthrough-extra-params"),
        )

    async def drop(self) -> None:
        """Remove the lines, and the images that they have brought."""
        if self._stored is None:
            await self._writer.abort()
        lines = [] if self._stored is None else [self._stored]
        await drop_images(self._services.blobs, [*self._intake.images, *lines])

    async def read(self) -> Received:
        """Read, check and store all of it. Raises `RequestError`, `PolicyRefusal`, `BodyError`, `StorageError`."""
        lines = _Lines(self)
        kind = self._request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in _JSON_LINES:
            async for chunk in self._chunks():
                await lines.write(chunk)
            await lines.close()
        elif kind == "multipart/form-data":
            await self._from_form(lines)
        else:
            raise UnsupportedContentType(
                "a batch is JSON lines: Content-Type must be application/jsonl, or multipart/form-data with a `file`"
            )
        if lines.count == 0:
            raise InvalidRequest("the batch has no line")
        self._stored = await self._writer.close()
        return Received(lines=self._stored, total=lines.count, fingerprint=lines.fingerprint, terms=self._terms)

    def _chunks(self) -> AsyncIterator[bytes]:
        limits = self._services.limits
        return body_chunks(self._request, limit_bytes=limits.max_body_bytes, idle_timeout_s=limits.body_idle_timeout_s)

    async def _from_form(self, lines: "_Lines") -> None:
        async def open_file(info: FileInfo) -> _Lines:
            if info.name != "file":
                raise InvalidRequest(f"no file is expected in field {info.name[:100]!r}", param=info.name[:100])
            return lines

        limits = MultipartLimits(max_file_bytes=self._services.limits.max_body_bytes, max_files=1)
        content_type = self._request.headers.get("content-type")
        form = await read_form(self._chunks(), content_type, limits=limits, open_file=open_file)
        if not form.files:
            raise InvalidRequest("the form has no file", param="file")

    async def add(self, line: bytes) -> None:
        """Check a line and store it. Raises `RequestError`, `PolicyRefusal`, `StorageError`."""
        values = dict(json_object(line))
        ours = {name: values.pop(name, None) for name in _OURS}
        request = await self._intake.generation(values, JsonImages(self._intake.open_sink))
        self._services.submit.check(request)
        if self._services.submit.govern is not None:
            agreed = await self._services.submit.govern.agree(self._grant, request)
            self._terms = together([self._terms, agreed.terms])
        key = fields.idempotency_key("idempotency_key", ours["idempotency_key"])
        await self._writer.add(
            BatchEntry(
                request=request,
                metadata=fields.labels(ours["metadata"]),
                idempotency=Idempotency(key=key, fingerprint=fingerprint(request)) if key else None,
            )
        )


class _Lines:
    """Cuts a stream into lines."""

    def __init__(self, intake: BatchIntake) -> None:
        self._intake = intake
        self._rest = b""
        self._empty = 0
        self._hash = hashlib.sha256()
        self.count = 0

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    async def write(self, chunk: bytes) -> None:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        for line in whole:
            await self._line(line)
        if len(self._rest) > _LONGEST_LINE_BYTES:
            raise BodyTooLarge(f"line {self.count + 1} is longer than {_LONGEST_LINE_BYTES} bytes")

    async def close(self) -> None:
        await self._line(self._rest)

    async def abort(self) -> None:
        """Nothing is open here: whoever reads the batch drops what is stored."""

    async def _line(self, line: bytes) -> None:
        line = line.strip()
        if not line:
            return
        self.count += 1
        if self.count > MOST_LINES:
            raise BodyTooLarge(f"a batch has at most {MOST_LINES} lines")
        self._hash.update(line + b"\n")
        try:
            await self._intake.add(line)
        except PolicyRefusal as error:
            message = f"line {self.count}: {error.message}"
            raise type(error)(
                message, retry_after_s=error.retry_after_s, quota=error.quota, reason=error.reason
            ) from error
        except RequestError as error:
            param = f"lines[{self.count}]" + (f".{error.param}" if error.param else "")
            raise type(error)(f"line {self.count}: {error.message}", param=param) from error
        if self.count % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
