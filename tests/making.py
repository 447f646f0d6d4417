"""Domain objects for tests: plain ones by name, and any that there can be, as hypothesis strategies."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st

from safelight.domain.errors import ErrorClass
from safelight.domain.ids import BlobKey, EndpointId, JobId, ProviderName, blob_key
from safelight.domain.image import (
    Dimensions,
    ImageRequest,
    InputImage,
    Operation,
    OutputImage,
    ResponseFormat,
    StoredImage,
    Target,
    Usage,
)
from safelight.domain.job import (
    Attempt,
    AttemptState,
    BatchLine,
    Ending,
    Idempotency,
    Job,
    JobError,
    JobResult,
    Production,
)
from safelight.domain.money import Charged
from safelight.domain.webhook import EndpointSettings, SigningSecret, WebhookEndpoint, WebhookEvent

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PAID = ProviderName("paid")
SPARE = ProviderName("spare")
FLUX = Target(provider=PAID, model="flux")
OTHER = Target(provider=SPARE, model="sd")

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def new_id() -> JobId:
    return JobId(str(uuid4()))


def image(name: str = "a", job_id: JobId | None = None) -> StoredImage:
    return StoredImage(
        blob=blob_key(NOON, job_id or new_id(), name),
        content_type="image/png",
        size_bytes=10,
        sha256="0" * 64,
        dimensions=Dimensions(width=3, height=2),
    )


def request(target: Target = FLUX, **members: Any) -> ImageRequest:
    return ImageRequest(**{"operation": Operation.GENERATION, "target": target, "prompt": "a fox", **members})


def job(**members: Any) -> Job:
    asked = members.pop("request", None) or request()
    return Job(
        **{
            "id": new_id(),
            "request_id": "r",
            "request": asked,
            "created_at": NOON,
            "ttl_s": 3600,
            "lane": asked.target.provider,
            "due_at": NOON,
            **members,
        }
    )


def production(count: int = 1, **members: Any) -> Production:
    outputs = tuple(OutputImage(image=image(f"o{at}")) for at in range(count))
    return Production(**{"outputs": outputs, "charged": Charged.YES, **members})


def started(number: int = 1, **members: Any) -> Attempt:
    return Attempt(
        **{
            "number": number,
            "route": 0,
            "target": FLUX,
            "key_name": None,
            "n": 1,
            "state": AttemptState.STARTED,
            "started_at": NOON,
            **members,
        }
    )


def failed(number: int = 1, error_class: ErrorClass = ErrorClass.UNAVAILABLE, **members: Any) -> Attempt:
    """An attempt that ended without a picture; unknown if its class may be charged."""
    state = AttemptState.UNKNOWN if error_class.may_be_charged else AttemptState.FAILED
    error = JobError(status_code=502, code=error_class.value, message="no")
    return started(number, **{"state": state, "error_class": error_class, "error": error, "retry_at": NOON, **members})


def succeeded(number: int = 1, count: int = 1, **members: Any) -> Attempt:
    return started(
        number,
        **{
            "n": count,
            "state": AttemptState.SUCCEEDED,
            "production": production(count),
            "charged": Charged.YES,
            **members,
        },
    )


# Anything that can be. Texts hold every character that JSON and SQLite can: all but lone surrogates and NUL.

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=20)
counts = st.integers(0, 2**62)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - made aware by the strategy
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
detail_counts: st.SearchStrategy[Mapping[str, int] | None] = st.none() | st.dictionaries(texts, counts, max_size=3)
targets = st.builds(Target, provider=names.map(ProviderName), model=texts)
images = st.builds(
    StoredImage,
    blob=st.builds(blob_key, st.just(NOON), st.uuids().map(str).map(JobId), names).map(BlobKey),
    content_type=st.sampled_from(["image/png", "image/jpeg", "image/webp", "image/gif"]),
    size_bytes=counts,
    sha256=names,
    dimensions=st.builds(Dimensions, width=counts, height=counts),
)
inputs = st.builds(InputImage, image=images, filename=texts)
maybe_text = st.none() | texts
maybe_count = st.none() | counts
requests = st.builds(
    ImageRequest,
    operation=st.sampled_from(Operation),
    target=targets,
    fallbacks=st.lists(targets, max_size=3).map(tuple),
    prompt=maybe_text,
    n=st.none() | st.integers(1, 10),
    size=maybe_text,
    quality=maybe_text,
    style=maybe_text,
    response_format=st.none() | st.sampled_from(ResponseFormat),
    background=maybe_text,
    moderation=maybe_text,
    output_format=maybe_text,
    output_compression=maybe_count,
    partial_images=maybe_count,
    seed=st.none() | st.integers(-(2**63), 2**63),
    num_inference_steps=maybe_count,
    negative_prompt=maybe_text,
    aspect_ratio=maybe_text,
    resolution=maybe_text,
    user=maybe_text,
    input_fidelity=maybe_text,
    edit_type=maybe_text,
    images=st.lists(inputs, max_size=2).map(tuple),
    mask=st.none() | inputs,
    extra=st.dictionaries(texts, json_values, max_size=3),
    extra_headers=st.dictionaries(texts, texts, max_size=2),
    key_name=maybe_text,
)
errors = st.builds(
    JobError,
    status_code=st.integers(400, 599),
    code=texts,
    message=texts,
    type=maybe_text,
    param=json_values,
    gateway_fault=st.booleans(),
    request_id=maybe_text,
)
usages = st.builds(
    Usage,
    input_tokens=maybe_count,
    input_tokens_details=detail_counts,
    output_tokens=maybe_count,
    output_tokens_details=detail_counts,
    total_tokens=maybe_count,
)
productions = st.builds(
    Production,
    outputs=st.lists(st.builds(OutputImage, image=images, revised_prompt=maybe_text), min_size=1, max_size=3).map(
        tuple
    ),
    model=maybe_text,
    created=maybe_count,
    usage=st.none() | usages,
    background=maybe_text,
    output_format=maybe_text,
    quality=maybe_text,
    size=maybe_text,
    cost_micros=maybe_count,
    charged=st.sampled_from(Charged),
    via=maybe_text,
)
results = st.builds(
    JobResult,
    production=productions,
    target=targets,
    latency_ms=counts,
    shortfall=st.none() | errors,
)
new_jobs = st.builds(
    Job,
    id=st.uuids().map(str).map(JobId),
    request_id=texts,
    request=requests,
    created_at=moments,
    ttl_s=st.integers(1, 10**9),
    lane=names.map(ProviderName),
    due_at=moments,
    webhook=maybe_text,
    metadata=st.dictionaries(texts, texts, max_size=3),
    idempotency=st.none() | st.builds(Idempotency, key=st.uuids().map(str), fingerprint=texts),
    batch=st.none() | st.builds(BatchLine, batch_id=st.uuids().map(str), number=counts),
    owner=maybe_text,
    team=maybe_text,
    trace_parent=maybe_text,
)
endings = st.one_of(
    st.builds(
        Ending,
        completed_at=moments,
        charged=st.sampled_from(Charged),
        cost_micros=maybe_count,
        result=results,
    ),
    st.builds(
        Ending,
        completed_at=moments,
        charged=st.sampled_from(Charged),
        cost_micros=maybe_count,
        error=errors,
    ),
)
first_attempts = st.builds(
    Attempt,
    number=st.just(1),
    route=st.integers(0, 10),
    target=targets,
    key_name=maybe_text,
    n=st.integers(1, 10),
    state=st.just(AttemptState.STARTED),
    started_at=moments,
)
attempt_ends = st.fixed_dictionaries(
    {
        "state": st.sampled_from([AttemptState.SUCCEEDED, AttemptState.FAILED, AttemptState.UNKNOWN]),
        "ended_at": moments,
        "error_class": st.none() | st.sampled_from(ErrorClass),
        "error": st.none() | errors,
        "retry_at": st.none() | moments,
        "charged": st.none() | st.sampled_from(Charged),
        "production": st.none() | productions,
    }
)


def endpoint(**members: Any) -> WebhookEndpoint:
    """A webhook endpoint; members that are settings' own go there."""
    of_settings = {name: members.pop(name) for name in EndpointSettings.__dataclass_fields__.keys() & members.keys()}
    settings = EndpointSettings(
        **{
            "name": "orders",
            "url": "https://hooks.example/images",
            "events": (WebhookEvent.COMPLETED, WebhookEvent.FAILED),
            **of_settings,
        }
    )
    return WebhookEndpoint(
        **{
            "id": EndpointId(str(uuid4())),
            "settings": settings,
            "secrets": (SigningSecret(value=WEBHOOK_SECRET),),
            "created_at": NOON,
            "updated_at": NOON,
            **members,
        }
    )
