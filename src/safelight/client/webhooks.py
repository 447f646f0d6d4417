"""Tells a gateway's webhook deliveries from anybody else's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from safelight.client.errors import WebhookUnverified


class WebhookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery tells."""

    type: str = msgspec.field(name="event")
    """Such as `async_job.completed`."""
    timestamp: datetime = msgspec.field(name="created_at")
    """When this delivery was made."""
    data: Mapping[str, Any]


def verify_webhook(body: bytes | str, headers: Mapping[str, str], secret: str | list[str]) -> WebhookEvent:
    """Check the signature over the raw body and read the event. Several secrets are for a rotation.

    Raises `WebhookUnverified` for a bad signature or one older than five minutes: answer such a delivery with 4xx.
    """
    fault: Exception | None = None
    for each in [secret] if isinstance(secret, str) else secret:
        try:
            Webhook(each).verify(body, dict(headers), json_parse=False)
            return msgspec.json.decode(body, type=WebhookEvent)
        except msgspec.DecodeError as error:
            raise WebhookUnverified("the delivery is signed, but is no event of a gateway") from error
        except (WebhookVerificationError, ValueError) as error:  # ValueError: a signature that is no base64
            fault = error
    raise WebhookUnverified(f"the delivery is not signed with this secret: {fault}") from fault
