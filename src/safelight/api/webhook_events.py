"""What webhook receivers are sent: `$defs/WebhookEvent` of the contract."""

from dataclasses import dataclass
from typing import Any

import msgspec

from safelight.api.jobs import PATHS, JobRenderer, location, timestamp
from safelight.application.ports import Clock
from safelight.domain.errors import StorageError
from safelight.domain.image import Operation
from safelight.domain.job import Job, JobStatus
from safelight.domain.webhook import Delivery, WebhookEndpoint, WebhookEvent

_KB = 1024
_SAMPLE_ID = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRenderer:
    """Makes a delivery's body anew at each attempt, from the job as it then is (contract R8.7)."""

    jobs: JobRenderer
    clock: Clock

    async def body(self, endpoint: WebhookEndpoint, delivery: Delivery, job: Job | None) -> bytes:
        """The signed body. Of a job that is gone it holds the id and how it ended (contract R8.6)."""
        if job is None or job.expired(self.clock.now()):
            status = delivery.event.job_status.value
            return self._event(delivery.event, {"job_id": delivery.job_id, "status": status, "result_expired": True})
        data = _data(delivery, job)
        if job.status.terminal and job.completed_at == delivery.created_at:  # else it was only begun, or runs again
            data |= _ending(job)
            if endpoint.settings.include_links and job.result is not None:
                data["images"] = self.jobs.image_links(job)
            if endpoint.settings.include_response:
                data |= await self._inlined(endpoint, data, job)
        return self._event(delivery.event, data)

    def sample(self, event: WebhookEvent, job_id: str) -> bytes:
        """The body of a test call: such a job there is not."""
        now = timestamp(self.clock.now())
        status = event.job_status
        data: dict[str, Any] = {
            "job_id": job_id,
            "request_type": Operation.GENERATION.value,
            "status": status.value,
            "created_at": now,
            "result_url": f"{PATHS[Operation.GENERATION]}/{_SAMPLE_ID}",
        }
        if status.terminal:
            code = {JobStatus.COMPLETED: 200, JobStatus.FAILED: 500}[status]
            data |= {"status_code": code, "completed_at": now, "result_expires_at": now}
        return self._event(event, data)

    def _event(self, event: WebhookEvent, data: dict[str, Any]) -> bytes:
        return msgspec.json.encode({"event": event.value, "created_at": timestamp(self.clock.now()), "data": data})

    async def _inlined(self, endpoint: WebhookEndpoint, data: dict[str, Any], job: Job) -> dict[str, Any]:
        """The result or the error where the payload stays small enough with it, else a note that there is one."""
        name = "response" if job.error is None else "error"
        limit_bytes = endpoint.settings.limits.settled().max_response_payload_kbs * _KB
        around = len(self._event(WebhookEvent.COMPLETED, {**data, name: None}))
        try:
            inlined = await self.jobs.inlined(job, most_bytes=limit_bytes - around)
        except StorageError:  # an image that cannot be read now: where it is to be had, the receiver is told
            inlined = None
        return {f"{name}_omitted": True} if inlined is None else {name: msgspec.Raw(inlined)}


def _data(delivery: Delivery, job: Job) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "request_type": job.operation.value,
        "status": delivery.event.job_status.value,
        "created_at": timestamp(job.created_at),
        "result_url": location(job),
    }


def _ending(job: Job) -> dict[str, Any]:
    assert job.completed_at is not None  # noqa: S101 - it has ended
    assert job.expires_at is not None  # noqa: S101 - as above
    return {
        "status_code": job.status_code,
        "completed_at": timestamp(job.completed_at),
        "result_expires_at": timestamp(job.expires_at),
    }
