"""Accept a request once: check what can be checked, store it durably, wake the queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safelight.application.govern import NOTHING_SAID, Govern
from safelight.application.observer import Deaf, Observer
from safelight.application.ports import Clock, JobStore, Provider, Queue
from safelight.domain.access import Grant
from safelight.domain.capability import refuse_retired
from safelight.domain.ids import EndpointId, JobId, ProviderName
from safelight.domain.image import ImageRequest
from safelight.domain.job import Job
from safelight.domain.ledger import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked request with what came around it. `job_id` is chosen before its images are stored."""

    job_id: JobId
    request_id: str
    request: ImageRequest
    ttl_s: int
    grant: Grant | None = None
    """The virtual key that came with it."""
    trace_parent: str | None = None
    webhook: EndpointId | None = None
    """Who is to hear of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """The use case behind every submit route."""

    store: JobStore
    queue: Queue
    providers: Mapping[ProviderName, Provider]
    clock: Clock
    govern: Govern | None = None
    """Without it nothing is limited."""
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

    async def accept(self, submission: Submission) -> Job:
        """Store the job and wake the queue; durable when this returns. Raises `StorageError`, `PolicyRefusal`."""
        job, terms = await self.prepare(submission)
        await self.store.submit(job, terms)
        self.queue.wake(job.id, lane=job.lane, at=job.created_at)
        self.observer.submitted(job)
        return job

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
            owner=grant.key.id if grant else None,
            team=grant.key.team if grant else None,
            priority=agreed.priority,
            stride=agreed.stride,
            estimates=agreed.estimates,
            provider_keys=agreed.provider_keys,
            trace_parent=submission.trace_parent,
            webhook=submission.webhook,
        )
        return job, agreed.terms
