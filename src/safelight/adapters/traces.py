"""One trace for each job: the request that brought it, its time in the queue, each call of a provider, its end.

Needs the extra `otel`. A job's spans may come from several processes: what joins them is the W3C trace context that is
stored with it. Names and attributes follow OpenTelemetry's conventions for HTTP and for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/, read 2026-11); prompts are never among them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from safelight.application.observer import Deaf, Exchange, Told
from safelight.domain.errors import ProviderError
from safelight.domain.job import Attempt, Ending, Job, Production
from safelight.domain.money import MICROS_PER_UNIT
from safelight.domain.webhook import Delivery
from safelight.log_context import current_trace

_HEADER = "traceparent"
_OPERATION = "generate_content"
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "openai": "openai",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
"""The conventions' names of providers; the others go by their own."""

_w3c = TraceContextTextMapPropagator()


def open_tracing(*, endpoint: str, share: float, service: str) -> TracerProvider:
    """Send spans by OTLP over HTTP, in the background: a `share` of new traces, and all that a caller began."""
    resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: version("safelight")})
    provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(share), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class Traces(Deaf):
    """Hears of jobs as an `Observer`, and of requests as `RequestSpans`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("safelight", version("safelight"))

    def close(self) -> None:
        """Send what is left. Blocks for some seconds where nobody listens."""
        self._provider.shutdown()

    # Requests

    def begin(self, scope: Scope) -> Span | None:
        """Open the span of a request that changes something, or that belongs to a caller's trace."""
        parent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
        if parent is None and scope["method"] in {"GET", "HEAD"}:
            return None
        span = self._tracer.start_span(scope["method"], _context(parent), SpanKind.SERVER)
        current_trace.set(_parent_of(span))
        return span

    @staticmethod
    def end(span: Span, *, method: str, template: str, status: int) -> None:
        """Close it. `template` is the path with names in the place of values."""
        span.update_name(f"{method} {template}")
        span.set_attributes(
            {"http.request.method": method, "http.route": template, "http.response.status_code": status}
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    # Jobs

    def attempt_started(self, job: Job, attempt: Attempt, *, after: Attempt | None) -> None:
        """See `Observer.attempt_started`."""
        if after is None:
            self._past("queue", job, job.created_at, attempt.started_at, {"safelight.lane": job.lane})

    def exchange(self, job: Job, attempt: Attempt, exchange: Exchange) -> Told:
        """See `Observer.exchange`. The provider gets the trace context with the call."""
        span = self._tracer.start_span(
            f"{_OPERATION} {attempt.target.model}",
            _context(job.trace_parent),
            SpanKind.CLIENT,
            attributes={**_subject(job), **_call(attempt, exchange)},
        )
        before = current_trace.set(_parent_of(span))

        def tell(error: BaseException | None) -> None:
            current_trace.reset(before)
            if isinstance(error, ProviderError):
                span.set_attribute("error.type", error.error_class.value)
                span.set_status(StatusCode.ERROR, error.code)
            span.end()

        return tell

    def ended(self, job: Job, ending: Ending) -> None:
        """See `Observer.ended`."""
        facts: dict[str, Any] = {"safelight.status": ending.status.value, "safelight.charged": ending.charged.value}
        if ending.cost_micros is not None:
            facts["safelight.cost_usd"] = ending.cost_micros / MICROS_PER_UNIT
        if ending.result is not None:
            facts |= _made(ending.result.production)
        if ending.error is not None:
            facts["error.type"] = ending.error.code
        self._past("job", job, job.created_at, ending.completed_at, facts, failed=ending.error is not None)

    @contextmanager
    def sending(self, delivery: Delivery, job: Job | None) -> Iterator[None]:
        """See `Observer.sending`. The receiver gets the trace context with the webhook."""
        parent = _context(job.trace_parent if job else None)
        facts = {"safelight.job_id": delivery.job_id, "safelight.event": delivery.event.value}
        with self._tracer.start_as_current_span("webhook", parent, SpanKind.PRODUCER, attributes=facts) as span:
            before = current_trace.set(_parent_of(span))
            try:
                yield
            finally:
                current_trace.reset(before)

    def _past(
        self, name: str, job: Job, start: datetime, end: datetime, facts: Mapping[str, Any], *, failed: bool = False
    ) -> None:
        """Write a span of something that is over."""
        span = self._tracer.start_span(
            name, _context(job.trace_parent), attributes={**_subject(job), **facts}, start_time=_nanoseconds(start)
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(max(_nanoseconds(end), _nanoseconds(start)))


def _context(parent: str | None) -> Context:
    return _w3c.extract({_HEADER: parent} if parent else {}, Context())


def _parent_of(span: Span) -> str:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, set_span_in_context(span, Context()))
    return carrier[_HEADER]


def _subject(job: Job) -> Mapping[str, str]:
    return {"safelight.job_id": job.id, "safelight.request_id": job.request_id, "safelight.type": job.operation.value}


def _call(attempt: Attempt, exchange: Exchange) -> Mapping[str, Any]:
    return {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.output.type": "image",
        "gen_ai.provider.name": _PROVIDERS.get(attempt.target.provider, attempt.target.provider),
        "gen_ai.request.model": attempt.target.model,
        "gen_ai.request.choice.count": attempt.n,
        "safelight.attempt": attempt.number,
        "safelight.call": exchange.value,
    }


def _made(production: Production) -> Mapping[str, Any]:
    facts: dict[str, Any] = {"safelight.pictures": len(production.outputs)}
    if production.model is not None:
        facts["gen_ai.response.model"] = production.model
    if production.usage is not None:
        tokens = {"input": production.usage.input_tokens, "output": production.usage.output_tokens}
        facts |= {f"gen_ai.usage.{name}_tokens": count for name, count in tokens.items() if count is not None}
    return facts


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
