"""Accept a request once: check what can be checked, store it durably, wake the queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from msgspec import Struct

from safelight.application.backlog import Backlog
from safelight.application.govern import NOTHING_SAID, Govern
from safelight.application.observer import Deaf, Observer
from safelight.application.ports import Clock, JobStore, Provider, Queue
from safelight.domain.access import Grant
from safelight.domain.capability import refuse_retired
from safelight.domain.errors import IdempotencyConflict
from safelight.domain.fairness import turn_of
from safelight.domain.fingerprint import fingerprint
from safelight.domain.ids import EndpointId, JobId, ProviderName
from safelight.domain.image import ImageRequest
from safelight.domain.job import Idempotency, Job
from safelight.domain.ledger import Terms


class Submission(Struct, frozen=True, kw_only=True):
    """A checked request with what came around it. `job_id` is chosen before its images are stored."""

    metadata: Mapping[str, str] = {}
    idempotency_key: str | None = None

    job_id: JobId
    request_id: str
    request: ImageRequest
    ttl_s: int
    grant: Grant | None = None
    """The virtual key that came with it."""
    trace_parent: str | None = None
    webhook: EndpointId | None = None
    """Who is to hear of the job."""


class Receipt(Struct, frozen=True, kw_only=True):
    """The job that a submission made, or that an earlier one under the same key had made."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """The use case behind every submit route."""

    store: JobStore
    queue: Queue
    providers: Mapping[ProviderName, Provider]
    clock: Clock
    govern: Govern | None = None
    """Without it nothing is limited."""
    backlog: Backlog | None = None
    """Without it any number of jobs may wait."""
    observer: Observer = field(default_factory=Deaf)

    def check(self, request: ImageRequest) -> None:
        """Raise `UnsupportedFeature` when the asked model is known and is retired or cannot express the request.

        A provider that is not configured is no fault here (contract R2.7): the job is accepted and its fallbacks are
        tried, or it fails.
        """
        provider = self.providers.get(request.target.provider)
        if provider and (spec := provider.spec(request.target.model)):
            refuse_retired(spec, request, provider.specs, self.clock.now().date())
            spec.check(request)

    async def accept(self, submission: Submission) -> Receipt:
        """Store the job and wake the queue; durable when this returns.

        Raises `StorageError`, `PolicyRefusal`, `IdempotencyConflict`. What was refused leaves its key free.
        """
        idempotency = _idempotency(submission)
        owner = submission.grant.key.id if submission.grant else None
        if idempotency and (
            earlier := await self.store.submitted(owner, idempotency.key, now=self.clock.now())
        ):  # before anything is asked for that it has taken already
            return _replay(earlier, idempotency)
        if self.backlog is not None:
            await self.backlog.let_in()
        job, terms = await self.prepare(submission)
        wake = partial(self.queue.wake, job.id, lane=job.lane, at=job.created_at, turn=turn_of(job))
        earlier = await self.store.submit(job, terms, wake=wake)
        if earlier is not None and idempotency is not None:
            return _replay(earlier, idempotency)
        self.observer.submitted(job)
        return Receipt(job=job)

    async def prepare(self, submission: Submission) -> tuple[Job, Terms | None]:
        """Make the job, with what it must find free when it is stored. Raises `PolicyRefusal`, `StorageError`."""
        now, grant, request = self.clock.now(), submission.grant, submission.request
        agreed = await self.govern.agree(grant, request) if self.govern else NOTHING_SAID
        job = Job(
            id=submission.job_id,
            request_id=submission.request_id,
            request=request,
            created_at=now,
            due_at=now,
            ttl_s=submission.ttl_s,
            lane=request.target.provider,
            metadata=submission.metadata,
            idempotency=_idempotency(submission),
            owner=grant.key.id if grant else None,
            team=grant.key.team if grant else None,
            priority=agreed.priority,
            stride=agreed.stride,
            max_running=grant.key.max_running if grant else None,
            estimates=agreed.estimates,
            provider_keys=agreed.provider_keys,
            trace_parent=submission.trace_parent,
            webhook=submission.webhook,
        )
        return job, agreed.terms


def _idempotency(submission: Submission) -> Idempotency | None:
    key = submission.idempotency_key
    return None if key is None else Idempotency(key=key, fingerprint=fingerprint(submission.request))


def _replay(earlier: Job, idempotency: Idempotency) -> Receipt:
    if earlier.idempotency is None or earlier.idempotency.fingerprint != idempotency.fingerprint:
        raise IdempotencyConflict(
            "this Idempotency-Key was used for another request; a new request needs a new key", param="Idempotency-Key"
        )
    return Receipt(job=earlier, replayed=True)
