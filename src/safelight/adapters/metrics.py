"""What the gateway does, counted for Prometheus. Labels are bounded: whatever callers can make up counts as `other`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge, Info, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from safelight.adapters.tally import Counter, Histogram
from safelight.application.observer import Deaf, Exchange, Told
from safelight.application.ports import Provider
from safelight.application.queue_state import QueueState
from safelight.domain.errors import ProviderError
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target
from safelight.domain.job import Attempt, Ending, Job
from safelight.domain.money import MICROS_PER_UNIT, Charged
from safelight.domain.webhook import Delivery, Outcome

JOB_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120, 180, 240, 300, 600)
"""Pictures take one to 300 seconds; what draws at once is told apart too."""
_QUICK_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_MOST_KEYS = 200
_OTHER = "other"
_NOBODY = ""
_LAG_EVERY_S = 0.5


class Metrics(Deaf):
    """Hears what happens in this process; what all processes share is read when it is asked for."""

    def __init__(self, providers: Mapping[ProviderName, Provider]) -> None:
        """Make every metric, at zero. `providers` bound the labels."""
        self.registry = CollectorRegistry()
        self._providers = providers
        self._keys: set[str] = set()
        self._make_job_metrics()
        self._make_upstream_metrics()
        self._make_queue_metrics()
        self._make_webhook_metrics()
        self._make_inner_metrics()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("safelight_build", "The version that runs.", registry=self.registry).info(
            {"version": version("safelight")}
        )

    def _make_job_metrics(self) -> None:
        whose = ("type", "provider", "model", "key")
        self._submitted = self._counter("jobs_submitted", "Jobs accepted, by what was asked for.", *whose)
        self._ended = self._counter("jobs_ended", "Jobs that ended, by who did the work last.", "status", *whose)
        self._waited = self._histogram("job_wait_seconds", "From submit to the first attempt.", JOB_SECONDS, "provider")
        self._ran = self._histogram(
            "job_run_seconds", "From the first attempt to the end.", JOB_SECONDS, "provider", "type", "status"
        )
        self._cost = self._counter("cost_usd", "US dollars booked.", "provider", "model", "key")
        self._in_doubt = self._counter("charges_unknown", "Jobs that ended and may have been charged.", "provider")
        self._pictures = self._counter("pictures", "Pictures that came out.", "provider", "model")

    def _make_upstream_metrics(self) -> None:
        self._calls = self._histogram(
            "upstream_call_seconds",
            "Calls of providers, with their pictures.",
            JOB_SECONDS,
            "provider",
            "model",
            "call",
        )
        self._errors = self._counter(
            "upstream_errors", "Calls of providers that failed, by class.", "provider", "model", "call", "class"
        )
        self._attempts = self._counter("attempts", "Attempts that ended.", "provider", "model", "state")
        self._retries = self._counter("retries", "Attempts that repeat one at the same target.", "provider")
        self._fallbacks = self._counter("fallbacks", "Attempts at another target than the one before.", "provider")

    def _make_queue_metrics(self) -> None:
        self._depth = self._gauge("queue_depth", "Jobs that have not ended.", "provider", "state")
        self._oldest = self._gauge("queue_oldest_seconds", "Age of the oldest job that has not started.", "provider")
        self._slots = self._gauge("provider_slots", "Jobs that may be at work there at a time.", "provider")
        self._breaker = self._gauge("breaker_open", "1 while a model is left alone.", "provider", "model")
        self._held = self._gauge("held_usd", "US dollars set aside for jobs that have not ended.")
        self._key_state = self._gauge("provider_key_usable", "1 while a key may be used.", "provider", "key")

    def _make_webhook_metrics(self) -> None:
        self._deliveries = self._counter("webhook_deliveries", "Attempts at webhooks, by outcome.", "outcome")
        self._delivered = self._histogram(
            "webhook_delivery_seconds", "From what happened to the receiver's yes.", JOB_SECONDS
        )
        self._owed = self._gauge("webhooks_pending", "Webhooks that are still to be delivered.")
        self._owed_since = self._gauge("webhooks_oldest_seconds", "Age of the oldest of them.")

    def _make_inner_metrics(self) -> None:
        self._requests = self._histogram(
            "http_request_seconds", "Requests of clients, to the last byte.", _HTTP_SECONDS, "route", "method", "status"
        )
        self._store = self._histogram("store_seconds", "Work of the database.", _QUICK_SECONDS, "work")
        self._blob = self._histogram("blob_seconds", "Work of the blob store.", _QUICK_SECONDS, "work")
        self._lag = self._histogram("event_loop_lag_seconds", "How late the event loop wakes.", _QUICK_SECONDS)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(self.registry, f"safelight_{name}", text, labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"safelight_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(self.registry, f"safelight_{name}", text, labels, buckets)

    # Labels

    def _provider(self, name: str) -> str:
        return name if name in self._providers else _OTHER

    def _model(self, target: Target) -> str:
        provider = self._providers.get(target.provider)
        spec = provider.spec(target.model) if provider else None
        return spec.name if spec else _OTHER

    def _key(self, job: Job) -> str:
        """The virtual key's id, of the first so many that there are."""
        if job.owner is None:
            return _NOBODY
        if job.owner not in self._keys:
            if len(self._keys) >= _MOST_KEYS:
                return _OTHER
            self._keys.add(job.owner)
        return job.owner

    # What is heard of jobs

    def submitted(self, job: Job) -> None:
        """See `Observer.submitted`."""
        target = job.request.target
        self._submitted.inc(job.operation, self._provider(target.provider), self._model(target), self._key(job))

    def attempt_started(self, job: Job, attempt: Attempt, *, after: Attempt | None) -> None:
        """See `Observer.attempt_started`."""
        provider = self._provider(attempt.target.provider)
        if after is None:
            self._waited.observe((attempt.started_at - job.created_at).total_seconds(), provider)
        elif after.target != attempt.target:
            self._fallbacks.inc(provider)
        elif after.error is not None:
            self._retries.inc(provider)

    def exchange(self, job: Job, attempt: Attempt, exchange: Exchange) -> Told:
        """See `Observer.exchange`. One that is cut off says nothing of the provider, and is not counted."""
        del job
        labels = (self._provider(attempt.target.provider), self._model(attempt.target), exchange)
        begun = time.perf_counter()

        def tell(error: BaseException | None) -> None:
            if error is None or isinstance(error, ProviderError):
                self._calls.observe(time.perf_counter() - begun, *labels)
            if isinstance(error, ProviderError):
                self._errors.inc(*labels, error.error_class)

        return tell

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        """See `Observer.attempt_ended`."""
        del job
        provider, model = self._provider(attempt.target.provider), self._model(attempt.target)
        self._attempts.inc(provider, model, attempt.state)
        if attempt.production is not None:
            self._pictures.inc(provider, model, by=len(attempt.production.outputs))

    def ended(self, job: Job, ending: Ending) -> None:
        """See `Observer.ended`."""
        target = ending.result.target if ending.result is not None else job.request.target
        provider, model, key = self._provider(target.provider), self._model(target), self._key(job)
        status, kind = ending.status, job.operation
        self._ended.inc(status, kind, provider, model, key)
        begun = job.started_at or job.created_at
        self._ran.observe(max(0.0, (ending.completed_at - begun).total_seconds()), provider, kind, status)
        cost = (ending.cost_micros or 0) - (
            job.cost_micros or 0
        )  # a job that is run again has its earlier cost already
        if cost > 0:
            self._cost.inc(provider, model, key, by=cost / MICROS_PER_UNIT)
        if ending.charged is Charged.UNKNOWN:
            self._in_doubt.inc(provider)

    def delivered(self, delivery: Delivery, outcome: Outcome, at: datetime) -> None:
        """See `Observer.delivered`."""
        self._deliveries.inc(outcome)
        if outcome is Outcome.DELIVERED:
            self._delivered.observe(max(0.0, (at - delivery.created_at).total_seconds()))

    # What is heard of the rest

    def served(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is a template, not a path."""
        self._requests.observe(seconds, route, method, f"{status // 100}xx")

    def stored(self, work: str, seconds: float) -> None:
        """The database did some work."""
        self._store.observe(seconds, work)

    def blob(self, work: str, seconds: float) -> None:
        """The blob store did some work."""
        self._blob.observe(seconds, work)

    async def watch_the_loop(self) -> None:
        """Measure for ever how late the event loop wakes: what it is asked to do next waits as long."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.observe(max(0.0, loop.time() - due))

    async def page(self, state: Callable[[], Awaitable[QueueState]]) -> bytes:
        """All metrics as text, with the queue as it is now for all processes."""
        self._show(await state())
        return generate_latest(self.registry)

    def _show(self, state: QueueState) -> None:
        self._held.set(state.held_micros / MICROS_PER_UNIT)
        self._owed.set(state.webhooks_pending)
        self._owed_since.set(state.oldest_webhook_s or 0.0)
        for gauge in (self._depth, self._oldest, self._slots, self._breaker, self._key_state):
            gauge.clear()
        for name, lane in state.lanes.items():  # several that are not configured share the label `other`
            provider = self._provider(name)
            self._depth.labels(provider, "pending").inc(lane.pending)
            self._depth.labels(provider, "processing").inc(lane.processing)
            self._slots.labels(provider).inc(lane.slots or 0)
        for provider in {self._provider(name) for name in state.lanes}:
            ages = [
                lane.oldest_pending_s or 0.0 for name, lane in state.lanes.items() if self._provider(name) == provider
            ]
            self._oldest.labels(provider).set(max(ages))
        for target in state.open_breakers:
            self._breaker.labels(self._provider(target.provider), self._model(target)).set(1)
        for key in state.keys:
            self._key_state.labels(self._provider(key.provider), key.name).set(key.usable)
