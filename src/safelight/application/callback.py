"""Apply a provider's call back: it is a reason to ask at once how the work stands, and never more than that."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from safelight.application.ports import Call, CallbackAddress, Clock, JobStore, Queue
from safelight.application.provider_entry import ProviderEntry
from safelight.domain.errors import InvalidRequest, NotFound, Superseded
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.job import Attempt, AttemptState, JobHistory

log = structlog.get_logger(__name__)

PREFIX = "/v1/callbacks/"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackAddresses:
    """Makes the addresses that providers call back at, one for each job, and knows them again.

    Not every provider's signature tells whose work it is about, so an address holds a token that nobody can guess.
    """

    key: bytes
    public_url: str

    def of(self, provider: ProviderName, job_id: JobId) -> CallbackAddress:
        """Make a job's address at a provider."""
        token = self._derived("token", provider, job_id)
        return CallbackAddress(
            url=f"{self.public_url.rstrip('/')}{PREFIX}{provider}/{job_id}?token={token}",
            secret=self._derived("secret", provider, job_id),
        )

    def valid(self, provider: str, job_id: str, token: str) -> bool:
        """Whether an address is ours; compares in constant time."""
        return hmac.compare_digest(self._derived("token", provider, job_id).encode(), token.encode())

    def _derived(self, use: str, provider: str, job_id: str) -> str:
        message = f"callbacks/{use}/{provider}/{job_id}"
        return hmac.digest(self.key, message.encode(), hashlib.sha256).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeCallback:
    """What comes twice or too late changes nothing."""

    store: JobStore
    queue: Queue
    clock: Clock
    providers: Mapping[ProviderName, ProviderEntry]
    addresses: CallbackAddresses | None
    call_of: Callable[[JobHistory, Attempt], Call]

    def expects(self, provider: ProviderName, job_id: JobId, token: str) -> None:
        """Raise `NotFound` where nobody calls back, and for an address that is not ours."""
        entry = self.providers.get(provider)
        known = self.addresses is not None and entry is not None and entry.callbacks
        if not known or self.addresses is None or not self.addresses.valid(provider, job_id, token):
            raise NotFound("there is no such callback")

    async def apply(self, provider: ProviderName, job_id: JobId, headers: Mapping[str, str], body: bytes) -> None:
        """Check a call on its raw body, and have the job taken up now. `expects` comes first.

        Raises `InvalidRequest` for a signature that is wrong or old; `ProviderError` where what is needed to check it
        cannot be had, and `StorageError`: the provider is to send it again.
        """
        history = await self.store.history(job_id)
        attempt = _asked_of(provider, history)
        if history is None or attempt is None:
            log.info("callback_too_late", provider=provider, job_id=job_id)
            return
        try:
            await self.providers[provider].provider.read_callback(headers, body, self.call_of(history, attempt))
        except InvalidRequest as error:
            log.warning("callback_refused", provider=provider, job_id=job_id, error=error.message)
            raise
        if attempt.state is AttemptState.ACCEPTED:
            await self._wake(history)

    async def _wake(self, history: JobHistory) -> None:
        job, now = history.job, self.clock.now()
        try:
            await self.store.bring_forward(job.id, lane=job.lane, due_at=now)
        except Superseded:
            return
        self.queue.wake(job.id, lane=job.lane, at=now)


def _asked_of(provider: ProviderName, history: JobHistory | None) -> Attempt | None:
    """The last attempt whose work a provider has taken."""
    attempts = history.attempts if history else ()
    found = [each for each in attempts if each.target.provider == provider and each.handle is not None]
    return found[-1] if found else None
