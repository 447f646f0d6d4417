"""Job bodies as the contract shapes them. Base64 is put in while the answer is sent, straight from the blob store."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from safelight.api.details import Detail, details
from safelight.api.errors import job_error_body, retry_after
from safelight.api.links import Links
from safelight.application.ports import BlobStore, Provider
from safelight.base64_json import Insert, Placeholders, render
from safelight.domain.errors import NotFound, StorageError
from safelight.domain.ids import BlobKey, ProviderName
from safelight.domain.image import Operation, OutputImage, ResponseFormat, StoredImage, Target
from safelight.domain.job import Job, JobHistory, JobResult
from safelight.domain.money import MICROS_PER_UNIT

_STREAMED_FROM_BYTES = 256 * 1024
_BASE64_ALONE = frozenset({ResponseFormat.B64_JSON})

PATHS: Mapping[Operation, str] = {
    Operation.GENERATION: "/v1/async/images/generations",
    Operation.EDIT: "/v1/async/images/edits",
    Operation.VARIATION: "/v1/async/images/variations",
}


def location(job: Job) -> str:
    """Where to poll a job."""
    return f"{PATHS[job.operation]}/{job.id}"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with `Z` and microseconds."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRenderer:
    """Makes answers out of jobs. `base_url` tells the address that the caller used."""

    blobs: BlobStore
    links: Links
    providers: Mapping[ProviderName, Provider]
    base_url: Callable[[], str]

    def link(self, image: StoredImage, *, expires_at: datetime) -> str:
        """A signed link to an image."""
        return self.links.url(image, expires_at=expires_at, base_url=self.base_url())

    async def finished(self, job: Job, *, headers: Mapping[str, str]) -> Response:
        """A job that has ended, as the async routes answer it: `$defs/AsyncJobFinished`."""
        inserts = _Inserts(self.blobs)
        return await inserts.response(self._envelope(job, inserts), 200, headers)

    def described(self, history: JobHistory, wanted: frozenset[Detail]) -> dict[str, Any]:
        """A job as polled, with the wanted details in its `meta`; its pictures are links, whatever was asked for."""
        job = history.job
        body = self.listed(job)
        body["meta"] |= details(history, wanted, links=self.links, base_url=self.base_url)
        return body

    def listed(self, job: Job) -> dict[str, Any]:
        """A job as lists and events show it: as it is polled, with links whatever was asked for."""
        return self._envelope(job, None) if job.status.terminal else _running(job)

    async def result(self, job: Job, *, headers: Mapping[str, str]) -> Response:
        """The job's end as the OpenAI routes answer it: the result, or the error with its own status."""
        inserts = _Inserts(self.blobs)
        if job.error is not None:
            status = job.error.status_code
            headers = {**retry_after(status), **headers}
            return await inserts.response(job_error_body(job.error, _origin(job)), status, headers)
        assert job.result is not None  # noqa: S101 - a job that has ended has one or the other
        return await inserts.response(self._result(job, job.result, inserts), 200, headers)

    async def inlined(self, job: Job, *, most_bytes: int) -> bytes | None:
        """The job's result or error as JSON, for another body; `None` when it is longer. Raises `StorageError`."""
        inserts = _Inserts(self.blobs)
        if job.error is not None:
            return await inserts.text(job_error_body(job.error, _origin(job)), most_bytes)
        assert job.result is not None  # noqa: S101 - a job that has ended has one or the other
        return await inserts.text(self._result(job, job.result, inserts), most_bytes)

    def image_links(self, job: Job) -> list[dict[str, Any]]:
        """The pictures of a completed job as links, with what is known of each without fetching it."""
        assert job.result is not None  # noqa: S101 - it is completed
        return [
            {
                **self._picture(job, index, output, inserts=None),
                "content_type": output.image.content_type,
                "size_bytes": output.image.size_bytes,
                "width": output.image.dimensions.width,
                "height": output.image.dimensions.height,
                "sha256": output.image.sha256,
            }
            for index, output in enumerate(job.result.production.outputs)
        ]

    def _envelope(self, job: Job, inserts: "_Inserts | None") -> dict[str, Any]:
        assert job.completed_at is not None  # noqa: S101 - it has ended
        body = _identity(job)
        body["completed_at"] = timestamp(job.completed_at)
        body["expires_at"] = timestamp(_expiry(job))
        body["status_code"] = job.status_code
        if job.result is not None:
            body["result"] = self._result(job, job.result, inserts)
        if job.error is not None:
            body["error"] = job_error_body(job.error, _origin(job))
        body["meta"] = _finished_meta(job)
        return body

    def _result(self, job: Job, result: JobResult, inserts: "_Inserts | None") -> dict[str, Any]:
        """The pictures as they were asked for; without `inserts`, as links."""
        production = result.production
        show = partial(self._picture, job, inserts=inserts if self._wants_base64(job, result.target) else None)
        body: dict[str, Any] = {
            "created": production.created or int((job.completed_at or job.created_at).timestamp()),
            "model": production.model or result.target.model,
            "data": [show(index, output) for index, output in enumerate(production.outputs)],
        }
        for name in ("background", "output_format", "quality", "size"):
            if (value := getattr(production, name)) is not None:
                body[name] = value
        if production.usage is not None:
            body["usage"] = production.usage
        body["extra_fields"] = {**_origin(job), "latency": result.latency_ms, "chunk_index": 0}
        if result.shortfall is not None:
            body["extra_fields"]["shortfall"] = job_error_body(result.shortfall, {})
        return body

    def _wants_base64(self, job: Job, used: Target) -> bool:
        """What was asked for; if nothing was, what the model's own answer holds (design, beyond the contract 4)."""
        if job.request.response_format is not None:
            return job.request.response_format is ResponseFormat.B64_JSON
        provider = self.providers.get(used.provider)
        spec = provider.spec(used.model) if provider else None
        return spec is not None and spec.answers == _BASE64_ALONE

    def _picture(self, job: Job, index: int, output: OutputImage, *, inserts: "_Inserts | None") -> dict[str, Any]:
        """One picture, as base64 where there are `inserts`, else as a link."""
        body: dict[str, Any] = {"index": index}
        if inserts is not None:
            body["b64_json"] = inserts.add(output)
        else:
            body["url"] = self.link(output.image, expires_at=_expiry(job))
        if output.revised_prompt is not None:
            body["revised_prompt"] = output.revised_prompt
        return body


class _Inserts:
    """The images of one answer that go out as base64."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._placeholders: Placeholders | None = None
        self._inserts: dict[str, Insert] = {}

    def add(self, output: OutputImage) -> str:
        """Take note of an image and give what stands for it in the JSON."""
        self._placeholders = self._placeholders or Placeholders()
        placeholder = self._placeholders.next()
        read = partial(stored_bytes, self._blobs, output.image.blob)
        self._inserts[placeholder] = Insert(size_bytes=output.image.size_bytes, read=read)
        return placeholder

    async def text(self, body: Any, most_bytes: int) -> bytes | None:
        """The whole JSON; `None`, and no image is read, when it would be longer than that."""
        template = msgspec.json.encode(body)
        rendered = render(template, self._inserts)
        if rendered.content_length > most_bytes:
            return None
        return b"".join([chunk async for chunk in rendered.chunks])

    async def response(self, body: Any, status: int, headers: Mapping[str, str]) -> Response:
        """Answer at once when it is short, else chunk by chunk under an exact length."""
        template = msgspec.json.encode(body)
        if not self._inserts:
            return Response(template, status, headers, "application/json")
        rendered = render(template, self._inserts)
        if rendered.content_length < _STREAMED_FROM_BYTES:
            whole = b"".join([chunk async for chunk in rendered.chunks])
            return Response(whole, status, headers, "application/json")
        exact = {**headers, "Content-Length": str(rendered.content_length)}
        # A store that cannot be read is told before the answer has begun: past the JSON comes the first image.
        begun = [await anext(rendered.chunks), await anext(rendered.chunks)]
        return StreamingResponse(_joined(begun, rendered.chunks), status, exact, "application/json")


async def stored_bytes(
    blobs: BlobStore, blob: BlobKey, *, start: int = 0, end: int | None = None
) -> AsyncIterator[bytes]:
    """Read an image of a job that there is. Should it be missing, that is a fault of the storage, not a 404."""
    try:
        async for chunk in blobs.read(blob, start=start, end=end):
            yield chunk
    except NotFound as error:
        raise StorageError(f"an image of a job is missing: {blob}") from error


def _expiry(job: Job) -> datetime:
    expires_at = job.expires_at
    assert expires_at is not None  # noqa: S101 - it has ended
    return expires_at


async def _joined(begun: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while begun:
        yield begun.pop(0)
    async for chunk in rest:
        yield chunk


def _origin(job: Job) -> dict[str, Any]:
    """Who was asked and who answered, in the older and the newer names (contract 9.16)."""
    asked = job.request.target
    used = job.result.target if job.result is not None else None
    origin = {
        "request_type": job.operation,
        "provider": used.provider if used else job.lane,
        "model_requested": asked.model,
        "original_model_requested": asked.model,
    }
    return {**origin, "resolved_model_used": used.model} if used else origin


def running(job: Job, *, headers: Mapping[str, str], queue_position: int | None = None) -> Response:
    """A job that has not ended, as the async routes answer it: `$defs/AsyncJobRunning`. The answer given most often."""
    body = _running(job)
    if queue_position is not None:
        body["meta"]["queue_position"] = queue_position
    return Response(msgspec.json.encode(body), 202, headers, "application/json")


def _running(job: Job) -> dict[str, Any]:
    body = _identity(job)
    body["meta"] = _meta(job)
    if job.progress is not None:
        body["meta"]["progress"] = job.progress
    return body


def _identity(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "request_id": job.request_id,
        "status": job.status,
        "created_at": timestamp(job.created_at),
    }


def _meta(job: Job) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "request_type": job.operation,
        "model": str(job.request.target),
        "provider": job.result.target.provider if job.result is not None else job.lane,
        "attempts": job.attempts,
    }
    if job.cancelled_at is not None:
        meta["cancelled"] = True
    if job.metadata:
        meta["metadata"] = job.metadata
    return meta


def _finished_meta(job: Job) -> dict[str, Any]:
    meta = _meta(job)
    meta["cost_usd"] = None if job.cost_micros is None else job.cost_micros / MICROS_PER_UNIT
    meta["charged"] = job.charged
    if job.result is not None:
        meta["progress"] = 1
        if job.result.production.via is not None:
            meta["via"] = job.result.production.via
    return meta
