"""Calls webhook receivers: signed as Standard Webhooks says, through the address guard, within limits."""

import asyncio
import ssl
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook
from yarl import URL

from safelight.adapters.address_guard import AddressRefused, GuardedResolver, check_url
from safelight.application.ports import Clock
from safelight.domain.errors import InvalidRequest
from safelight.domain.webhook import EndpointSettings, Reply, WebhookEndpoint, WebhookEvent
from safelight.log_context import current_trace

USER_AGENT = "Bifrost-Webhooks/1.0"
"""The contract's, so that receivers made for it take ours."""

_MOST_KEPT_BYTES = 4 * 1024
_MOST_DIGITS = 9


class HttpWebhookSender:
    """The `WebhookSender`. A redirect is never followed, and of an answer only the beginning of a refusal is read.

    Each call has a connection of its own: one that the receiver has just let go would be a failure for nothing.
    """

    def __init__(
        self, *, clock: Clock, resolver: AbstractResolver | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Open the sessions; needs a running loop. `resolver` and `tls` take the place of the system's."""
        self._clock = clock
        tls = tls or ssl.create_default_context()
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._public = _session(GuardedResolver(resolver), tls)
        self._private = _session(GuardedResolver(resolver, private=True), tls)

    @staticmethod
    def check(settings: EndpointSettings) -> None:
        """See `WebhookSender.check`."""
        try:
            check_url(URL(settings.url), private=settings.allow_private_network)
        except (AddressRefused, ValueError) as error:
            hint = "" if settings.allow_private_network else " (see allow_private_network)"
            raise InvalidRequest(f"url cannot be called: {error}{hint}", param="url") from error

    async def send(self, endpoint: WebhookEndpoint, message_id: str, event: WebhookEvent, body: bytes) -> Reply:
        """See `WebhookSender.send`."""
        settings = endpoint.settings
        timeout_s = settings.limits.settled().attempt_timeout_seconds
        now = self._clock.now()
        headers = {
            **settings.headers,
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": _signatures(endpoint, message_id, now, body),
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "X-Bifrost-Event": event.value,
        }
        if (trace := current_trace.get()) is not None:
            headers["traceparent"] = trace
        try:
            self.check(settings)
            async with asyncio.timeout(timeout_s):
                return await self._post(settings, headers, body)
        except TimeoutError:
            return Reply(error=f"no answer within {timeout_s} s")
        except InvalidRequest as error:
            return Reply(error=error.message)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(error=_reason(error))

    async def _post(self, settings: EndpointSettings, headers: dict[str, str], body: bytes) -> Reply:
        session = self._private if settings.allow_private_network else self._public
        async with session.post(settings.url, data=body, headers=headers, allow_redirects=False) as answer:
            if 200 <= answer.status <= 299:
                return Reply(status_code=answer.status)
            return Reply(
                status_code=answer.status,
                error=await _beginning(answer),
                retry_after_s=_retry_after_s(answer.headers.get("Retry-After", ""), self._clock.now()),
            )

    async def close(self) -> None:
        """Close all connections."""
        await self._public.close()
        await self._private.close()


def _session(resolver: GuardedResolver, tls: ssl.SSLContext) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, resolver=resolver, use_dns_cache=False, force_close=True, ssl=tls)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("Accept-Encoding",),
        auto_decompress=False,
        read_bufsize=_MOST_KEPT_BYTES,
    )


def _signatures(endpoint: WebhookEndpoint, message_id: str, now: datetime, body: bytes) -> str:
    return " ".join(Webhook(secret).sign(message_id, now, body.decode()) for secret in endpoint.signing(now))


async def _beginning(answer: aiohttp.ClientResponse) -> str | None:
    """As much of a refusal as is kept; `None` when it says nothing."""
    said = b""
    with suppress(aiohttp.ClientError, OSError):
        while len(said) < _MOST_KEPT_BYTES and (chunk := await answer.content.read(_MOST_KEPT_BYTES - len(said))):
            said += chunk
    return said.decode(errors="replace").replace("\0", "\ufffd").strip() or None


def _retry_after_s(said: str, now: datetime) -> float | None:
    """Seconds from now, of the header's two forms (RFC 9110, 10.2.3)."""
    said = said.strip()
    if said.isascii() and said.isdigit():
        return float(said[:_MOST_DIGITS])
    try:
        return (parsedate_to_datetime(said) - now).total_seconds()
    except (ValueError, TypeError):
        return None


def _reason(error: Exception) -> str:
    """What went wrong, without the address, which may hold a key."""
    refused = next((cause for cause in (error, error.__cause__) if isinstance(cause, AddressRefused)), None)
    if refused is not None:
        return f"url cannot be called: {refused}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the receiver's certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the receiver's name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {error.os_error.strerror or type(error.os_error).__name__}"
    return f"no answer: {type(error).__name__}"
