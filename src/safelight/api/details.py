"""What `expand` adds to a job's `meta`: what was asked for, the ledger, and the facts of its pictures."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any

from starlette.datastructures import QueryParams

from safelight.api.links import Links
from safelight.domain.errors import InvalidRequest
from safelight.domain.event import attempt_facts
from safelight.domain.image import ImageRequest, InputImage, StoredImage
from safelight.domain.job import Attempt, Job, JobHistory

_LINK_LIFE = timedelta(days=1)
"""How long links to the inputs of a job live that has not ended."""
_APART = frozenset(
    {
        "operation",
        "target",
        "fallbacks",
        "images",
        "mask",
        "extra",
        "extra_headers",
        "key_name",
        "response_format",
        "edit_type",
    }
)
"""Members of a request that are shown in another shape, or (headers for the provider) to nobody."""
_PLAIN = tuple(name for name in ImageRequest.__struct_fields__ if name not in _APART)


class Detail(StrEnum):
    """The words that `expand` takes."""

    REQUEST = "request"
    LEDGER = "ledger"
    PICTURES = "pictures"


def wanted_details(query: QueryParams) -> frozenset[Detail]:
    """Read `expand`, words between commas. Raises `InvalidRequest`."""
    words = {word.strip() for word in query.get("expand", "").split(",")} - {""}
    if unknown := words - set(Detail):
        raise InvalidRequest(f"expand takes {', '.join(Detail)}; not {min(unknown)[:100]!r}", param="expand")
    return frozenset(Detail(word) for word in words)


def details(
    history: JobHistory, wanted: frozenset[Detail], *, links: Links, base_url: Callable[[], str]
) -> Mapping[str, Any]:
    """The wanted members of `meta`."""
    job = history.job
    found: dict[str, Any] = {}
    if Detail.REQUEST in wanted:
        found["request"] = request_body(job, links=links, base_url=base_url)
    if Detail.PICTURES in wanted:
        found["pictures"] = picture_facts(job)
    if Detail.LEDGER in wanted:
        found["ledger"] = [attempt_body(attempt) for attempt in history.attempts]
    return found


def request_body(job: Job, *, links: Links, base_url: Callable[[], str]) -> Mapping[str, Any]:
    """What was asked for, spelled as it can be sent again; input images as links."""
    request = job.request
    expires_at = job.expires_at or job.created_at + _LINK_LIFE

    def shown(sent: InputImage) -> Mapping[str, Any]:
        url = links.url(sent.image, expires_at=expires_at, base_url=base_url())
        return {"url": url, **image_facts(sent.image)}

    body: dict[str, Any] = {"operation": request.operation.value, "model": str(request.target)}
    body |= {name: value for name in _PLAIN if (value := getattr(request, name)) is not None}
    if request.fallbacks:
        body["fallbacks"] = [str(target) for target in request.fallbacks]
    if request.response_format is not None:
        body["response_format"] = request.response_format.value
    if request.edit_type is not None:
        body["type"] = request.edit_type
    if request.extra:
        body["extra"] = request.extra
    if request.images:
        body["images"] = [shown(image) for image in request.images]
    if request.mask is not None:
        body["mask"] = shown(request.mask)
    return body


def picture_facts(job: Job) -> list[Mapping[str, Any]]:
    """The pictures that came out, as they lie in the blob store."""
    outputs = job.result.production.outputs if job.result is not None else ()
    return [image_facts(output.image) for output in outputs]


def image_facts(image: StoredImage) -> Mapping[str, Any]:
    """Size, type and hash, read from the image's own bytes."""
    return {
        "width": image.dimensions.width,
        "height": image.dimensions.height,
        "content_type": image.content_type,
        "size_bytes": image.size_bytes,
        "sha256": image.sha256,
    }


def attempt_body(attempt: Attempt) -> Mapping[str, Any]:
    """One line of the ledger."""
    body = {**attempt_facts(attempt), "started_at": attempt.started_at.isoformat().replace("+00:00", "Z")}
    if attempt.error is not None:
        body["error"] = attempt.error.message
    return body
