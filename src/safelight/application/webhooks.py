"""Administer webhook endpoints: make, change, test, and deliver again."""

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import uuid4

import msgspec
import structlog

from safelight.application.ports import Clock, WebhookSender, WebhookStore
from safelight.domain.errors import Conflict, InvalidRequest, NotFound
from safelight.domain.ids import DeliveryId, EndpointId
from safelight.domain.webhook import (
    SECRET_OVERLAP,
    SECRET_PREFIX,
    EndpointSettings,
    Reply,
    SigningSecret,
    WebhookEndpoint,
    WebhookEvent,
    check_secret,
)

log = structlog.get_logger(__name__)

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredEndpoint:
    """An entry under `webhooks:` in the settings. Without a secret of its own, one is made."""

    settings: EndpointSettings
    secret: str | None = field(repr=False)

    @property
    def hash(self) -> str:
        """Tells whether the entry has changed."""
        return hashlib.sha256(msgspec.json.encode((self.settings, self.secret))).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """Every method raises `StorageError`, and `NotFound` for an endpoint that there is not."""

    store: WebhookStore
    sender: WebhookSender
    clock: Clock
    sample: Callable[[WebhookEvent, str], bytes]
    """Makes the body of a test call about a job of this id."""

    async def resolve(self, name: str, *, owner: str | None) -> EndpointId:
        """Find the endpoint that a submit names. Raises `InvalidRequest` (contract R8.2)."""
        endpoint = await self.store.named(name, owner=owner)
        if endpoint is None or endpoint.settings.disabled:
            what = f"no webhook endpoint is named {name[:100]!r}" if endpoint is None else f"{name!r} is disabled"
            raise InvalidRequest(
                f"failed to resolve webhook endpoint: invalid webhook endpoint reference: {what}",
                param="x-bf-async-webhook",
            )
        return endpoint.id

    async def get(self, endpoint_id: EndpointId) -> WebhookEndpoint:
        """Read one endpoint."""
        endpoint = await self.store.get(endpoint_id)
        if endpoint is None:
            raise NotFound("webhook endpoint not found")
        return endpoint

    async def create(
        self, settings: EndpointSettings, *, secret: str | None = None, config_hash: str = ""
    ) -> WebhookEndpoint:
        """Make an endpoint. Raises `InvalidRequest`, and `Conflict` when its name is taken."""
        self.sender.check(settings)
        now = self.clock.now()
        endpoint = WebhookEndpoint(
            id=EndpointId(str(uuid4())),
            settings=settings,
            secrets=(SigningSecret(value=secret or _fresh_secret()),),
            created_at=now,
            updated_at=now,
            config_hash=config_hash,
        )
        await self.store.add(endpoint)
        return endpoint

    async def replace(self, endpoint: WebhookEndpoint, settings: EndpointSettings) -> WebhookEndpoint:
        """Put other settings in the place of an endpoint's. Raises `InvalidRequest`, `Conflict`."""
        self.sender.check(settings)
        await self.store.replace(endpoint.id, settings, config_hash=endpoint.config_hash, at=self.clock.now())
        return await self.get(endpoint.id)

    async def remove(self, endpoint_id: EndpointId) -> None:
        """Remove an endpoint; what it has not been told yet it never will be."""
        await self.store.remove((await self.get(endpoint_id)).id)

    async def rotate(self, endpoint_id: EndpointId, *, overlap: timedelta = SECRET_OVERLAP) -> WebhookEndpoint:
        """Make a new secret; until `overlap` has passed, the former one signs as well."""
        return await self._take_over(await self.get(endpoint_id), _fresh_secret(), overlap)

    async def resume(self, endpoint_id: EndpointId) -> WebhookEndpoint:
        """End a pause: what has come up meanwhile is delivered now."""
        await self.store.resume((await self.get(endpoint_id)).id)
        return await self.get(endpoint_id)

    async def test(self, endpoint_id: EndpointId, event: WebhookEvent | None) -> Reply:
        """Call the receiver now, once, about a job that there is not. Raises `InvalidRequest`."""
        endpoint = await self.get(endpoint_id)
        event = event or endpoint.settings.events[0]
        if endpoint.settings.disabled:
            raise InvalidRequest("the webhook endpoint is disabled")
        if not endpoint.settings.wants(event):
            raise InvalidRequest(f"the webhook endpoint is not subscribed to {event}", param="event")
        body = self.sample(event, f"test-{uuid4()}")
        return await self.sender.send(endpoint, str(uuid4()), event, body)

    async def redeliver(self, some_id: str) -> DeliveryId:
        """Queue a delivery again, with all its retries; `some_id` is its own or that of one of its attempts.

        Raises `InvalidRequest` when its endpoint is gone or disabled, `Conflict` while it is on its way.
        """
        found = await self.store.delivery(some_id)
        if found is None:
            raise NotFound("webhook delivery not found")
        delivery, _ = found
        self._refuse_disabled(await self.store.get(delivery.endpoint_id))
        if not await self.store.queue_again(delivery.id, at=self.clock.now()):
            raise Conflict("the webhook delivery is on its way already")
        return delivery.id

    async def redeliver_range(self, endpoint_id: EndpointId, *, since: datetime, until: datetime | None) -> int:
        """Queue again what happened from `since` to before `until`, but for what is on its way; tells how many."""
        endpoint = await self.get(endpoint_id)
        self._refuse_disabled(endpoint)
        now = self.clock.now()
        return await self.store.queue_range(endpoint.id, since=since, until=until or now, at=now)

    async def reconcile(self, entries: Sequence[ConfiguredEndpoint]) -> None:
        """Bring the endpoints of the settings into the store, by name.

        An entry that has not changed leaves what an administrator made of its endpoint; one that is gone disables it.
        Raises `InvalidRequest`.
        """
        for entry in entries:
            await self._configure(entry)
        names = {entry.settings.name for entry in entries}
        for endpoint in await self.store.configured():
            if endpoint.settings.name not in names:
                await self._retire(endpoint)

    async def _configure(self, entry: ConfiguredEndpoint) -> None:
        if entry.secret is not None:
            check_secret(entry.secret)
        endpoint = await self.store.named(entry.settings.name, owner=None)
        if endpoint is None:
            with contextlib.suppress(Conflict):  # another process, starting beside this one, has just made it
                await self.create(entry.settings, secret=entry.secret, config_hash=entry.hash)
        elif endpoint.config_hash != entry.hash:
            await self._reconfigure(endpoint, entry)

    async def _reconfigure(self, endpoint: WebhookEndpoint, entry: ConfiguredEndpoint) -> None:
        self.sender.check(entry.settings)
        if entry.secret is not None and entry.secret != endpoint.secrets[0].value:
            await self._take_over(endpoint, entry.secret, SECRET_OVERLAP)
        await self.store.replace(endpoint.id, entry.settings, config_hash=entry.hash, at=self.clock.now())

    async def _retire(self, endpoint: WebhookEndpoint) -> None:
        """Disable an endpoint that the settings have ceased to name; should they name it again, their word holds."""
        if endpoint.config_hash == _RETIRED:
            return
        log.warning("webhook_endpoint_disabled", endpoint=endpoint.settings.name, reason="not in the settings any more")
        disabled = replace(endpoint.settings, disabled=True)
        await self.store.replace(endpoint.id, disabled, config_hash=_RETIRED, at=self.clock.now())

    async def _take_over(self, endpoint: WebhookEndpoint, fresh: str, overlap: timedelta) -> WebhookEndpoint:
        now = self.clock.now()
        await self.store.put_secrets(endpoint.id, endpoint.rotated(fresh, now, overlap), at=now)
        return await self.get(endpoint.id)

    @staticmethod
    def _refuse_disabled(endpoint: WebhookEndpoint | None) -> None:
        if endpoint is None or endpoint.settings.disabled:
            raise InvalidRequest(f"the webhook endpoint is {'gone' if endpoint is None else 'disabled'}")


_RETIRED = "retired"


def _fresh_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
