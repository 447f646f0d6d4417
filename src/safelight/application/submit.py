"""Accept a request once: check what can be checked, store it durably, wake the queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from safelight.application.observer import Deaf, Observer
from safelight.application.ports import Clock, JobStore, Provider, Queue
from safelight.domain.access import Grant
from safelight.domain.capability import refuse_retired
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import ImageRequest
from safelight.domain.job import Job


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """The use case behind every submit route."""

    store: JobStore
    queue: Queue
    providers: Mapping[ProviderName, Provider]
    clock: Clock
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
        now, grant = self.clock.now(), submission.grant
        if grant is not None:
            grant.key.refuse_unlisted(submission.request)
        job = Job(
            id=submission.job_id,
            request_id=submission.request_id,
            request=submission.request,
            created_at=now,
            due_at=now,
            ttl_s=submission.ttl_s,
            lane=submission.request.target.provider,
            owner=grant.key.id if grant else None,
            team=grant.key.team if grant else None,
            provider_keys=grant.key.provider_key_limits(submission.request) if grant else {},
            trace_parent=submission.trace_parent,
        )
        await self.store.submit(job)
        self.queue.wake(job.id, lane=job.lane, at=now)
        self.observer.submitted(job)
        return job
