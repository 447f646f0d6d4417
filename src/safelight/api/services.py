"""What the endpoints are handed by the wiring."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import Request

from safelight.api.access import Access
from safelight.api.admin import AdminDoor
from safelight.api.links import Links
from safelight.application.administer import Administer
from safelight.application.batch import Batches
from safelight.application.callback import TakeCallback
from safelight.application.callers import Callers
from safelight.application.cancel import Cancel
from safelight.application.estimate import Estimate
from safelight.application.follow import Follow
from safelight.application.overrides import Override
from safelight.application.pace import Pace
from safelight.application.ports import BlobStore, PictureFetcher, Provider, Workspace
from safelight.application.queue_state import ReadQueue
from safelight.application.read import Read
from safelight.application.retry import Retry
from safelight.application.submit import Submit
from safelight.application.switches import Switches
from safelight.application.webhooks import Webhooks
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.usage import UsageFilter, UsageRow


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Sizes in bytes, times in seconds."""

    max_body_bytes: int
    max_image_bytes: int
    body_idle_timeout_s: float = 60.0
    result_ttl_s: int
    max_result_ttl_s: int
    batch_ttl_s: int
    webhook_history: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """What `/metrics` answers, and to whom."""

    page: Callable[[], Awaitable[bytes]]
    """Raises `StorageError`."""
    protected: bool
    """Whether the admin key is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases and what they share."""

    submit: Submit
    read: Read
    follow: Follow
    batches: Batches
    estimate: Estimate
    queue: ReadQueue
    switches: Switches
    cancel: Cancel
    retry: Retry
    pace: Pace
    blobs: BlobStore
    workspace: Callable[[JobId], Workspace]
    providers: Mapping[ProviderName, Provider]
    links: Links
    limits: ApiLimits
    admin: AdminDoor
    fetcher: PictureFetcher
    """Fetches input images behind links."""
    callers: Callers
    administer: Administer
    override: Override
    check_price: Callable[[Mapping[str, Any]], object]
    """Raises `ConfigurationError` for what is no price list."""
    usage: Callable[[UsageFilter], Awaitable[Sequence[UsageRow]]]
    metrics: MetricsPage
    access: Access
    callback: TakeCallback
    webhooks: Webhooks
    ready: Callable[[], Awaitable[None]]
    """Raises `StorageError` when no job can be taken."""


def services_of(request: Request) -> Services:
    """The services that the application was made with."""
    services: Services = request.scope["app"].services
    return services
