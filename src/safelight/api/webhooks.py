"""Administration of webhook endpoints (contract 8.5), and what is ours beyond it: resume, and redelivery of a range."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api import headers
from safelight.api.errors import json_response
from safelight.api.identity import require_admin
from safelight.api.jobs import timestamp
from safelight.api.json_body import json_body
from safelight.api.services import services_of
from safelight.application.access_ports import Change
from safelight.application.ports import DeliveryAttempt, EndpointFilter
from safelight.application.webhooks import Webhooks
from safelight.domain.access import Grant
from safelight.domain.errors import InvalidRequest
from safelight.domain.ids import EndpointId
from safelight.domain.webhook import (
    MOST,
    SECRET_OVERLAP,
    DeliveryLimits,
    EndpointSettings,
    WebhookEndpoint,
    WebhookEvent,
)

MASK = "********"
"""Stands for a header's value in answers; sent back in a `PUT`, it keeps the value."""

_PAGE = 50
_MOST_A_PAGE = 500
_MOST_OFFSET = 10**9
_FLAGS = ("include_response", "include_links", "allow_private_network", "disabled")
_LIMITS = tuple(limit.name for limit in fields(DeliveryLimits))

Endpoint = Callable[[Request], Awaitable[Response]]
Moment = Annotated[datetime, Meta(tz=True)]


class HeaderValue(msgspec.Struct, frozen=True):
    """How a header's value is shown, and may be given."""

    value: str


class EndpointBody(msgspec.Struct, frozen=True, kw_only=True):
    """What creates or replaces an endpoint. Members of answers that say nothing new are passed over."""

    name: str
    url: str
    events: list[WebhookEvent]
    headers: dict[str, str | HeaderValue] = {}
    include_response: bool = False
    include_links: bool = False
    allow_private_network: bool = False
    disabled: bool = False
    max_retries: Annotated[int, Meta(ge=0, le=MOST.max_retries)] = 0
    retry_backoff_initial_seconds: Annotated[int, Meta(ge=0, le=MOST.retry_backoff_initial_seconds)] = 0
    retry_backoff_max_seconds: Annotated[int, Meta(ge=0, le=MOST.retry_backoff_max_seconds)] = 0
    attempt_timeout_seconds: Annotated[int, Meta(ge=0, le=MOST.attempt_timeout_seconds)] = 0
    max_concurrent_deliveries: Annotated[int, Meta(ge=0, le=MOST.max_concurrent_deliveries)] = 0
    max_response_payload_kbs: Annotated[int, Meta(ge=0, le=MOST.max_response_payload_kbs)] = 0
    virtual_key_id: Annotated[str, Meta(pattern="^[!-~]{1,100}$")] | UnsetType = UNSET
    secret: Any = UNSET

    def settings(self, stored: EndpointSettings | None = None) -> EndpointSettings:
        """Read it, beside the settings that it is to replace. Raises `InvalidRequest`."""
        if self.secret is not UNSET:
            raise InvalidRequest("a secret is made by the gateway, or named in its settings file", param="secret")
        owner = self.virtual_key_id if isinstance(self.virtual_key_id, str) else None
        if stored is not None and owner not in (None, stored.owner):
            raise InvalidRequest("an endpoint stays with its virtual key", param="virtual_key_id")
        return EndpointSettings(
            name=self.name.strip(),
            url=self.url,
            events=tuple(self.events),
            owner=stored.owner if stored is not None else owner,
            headers={name: _value(name, said, stored) for name, said in self.headers.items()},
            **{name: getattr(self, name) for name in _FLAGS},
            limits=DeliveryLimits(**{name: getattr(self, name) for name in _LIMITS}),
        )


class TestBody(msgspec.Struct, frozen=True):
    """What a test call is to be about."""

    event: WebhookEvent | UnsetType = UNSET


class RotationBody(msgspec.Struct, frozen=True):
    """How long the former secret signs beside the new one."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = int(SECRET_OVERLAP.total_seconds())


class RangeBody(msgspec.Struct, frozen=True):
    """When what is to be told again happened; by default up to now."""

    since: Moment
    until: Moment | UnsetType = UNSET


async def named_webhook(request: Request, grant: Grant | None) -> EndpointId | None:
    """The endpoint that is to hear of what is submitted, if one is named. Raises `InvalidRequest` (contract S7)."""
    name = headers.webhook(request.headers)
    if name is None:
        return None
    return await _webhooks(request).resolve(name, owner=grant.key.id if grant else None)


def webhook_routes() -> list[Route]:
    """All under `/api/webhooks`."""
    base, one = "/api/webhooks", "/api/webhooks/{endpoint_id}"
    endpoints: list[tuple[str, str, Endpoint]] = [
        (base, "GET", _list),
        (base, "POST", _create),
        ("/api/webhooks/deliveries/{delivery_id}/redeliver", "POST", _redeliver),
        (one, "GET", _get),
        (one, "PUT", _replace),
        (one, "DELETE", _remove),
        (f"{one}/rotate-secret", "POST", _rotate),
        (f"{one}/resume", "POST", _resume),
        (f"{one}/test", "POST", _test),
        (f"{one}/deliveries", "GET", _deliveries),
        (f"{one}/redeliver", "POST", _redeliver_range),
    ]
    routes = [Route(path, _guarded(endpoint), methods=[method]) for path, method, endpoint in endpoints]
    for route in routes:
        route.methods = (route.methods or set()) - {"HEAD"}
    return routes


def _guarded(endpoint: Endpoint) -> Endpoint:
    async def guarded(request: Request) -> Response:
        await require_admin(request)
        return await endpoint(request)

    return guarded


async def _list(request: Request) -> Response:
    query = request.query_params
    wanted = EndpointFilter(
        search=query.get("search", ""),
        events=_events(query.get("event", "")),
        disabled=_flag("disabled", query.get("disabled", "")),
        owner=query.get("virtual_key_id") or None,
        limit=_number("limit", query.get("limit", ""), default=_PAGE, least=1, most=_MOST_A_PAGE),
        offset=_number("offset", query.get("offset", ""), default=0, least=0, most=_MOST_OFFSET),
    )
    found, total = await _webhooks(request).store.endpoints(wanted)
    body = {
        "endpoints": [_body(endpoint) for endpoint in found],
        "count": len(found),
        "total_count": total,
        "limit": wanted.limit,
        "offset": wanted.offset,
    }
    return json_response(body)


async def _create(request: Request) -> Response:
    said = await json_body(request, EndpointBody)
    return _with_secret(await _noted(request, "created", await _webhooks(request).create(said.settings())), 201)


async def _get(request: Request) -> Response:
    return json_response(_body(await _webhooks(request).get(_id(request))))


async def _replace(request: Request) -> Response:
    said = await json_body(request, EndpointBody)
    endpoint = await _webhooks(request).get(_id(request))
    replaced = await _webhooks(request).replace(endpoint, said.settings(endpoint.settings))
    return json_response(_body(await _noted(request, "changed", replaced)))


async def _remove(request: Request) -> Response:
    endpoint = await _webhooks(request).get(_id(request))
    await _webhooks(request).remove(endpoint.id)
    await _noted(request, "deleted", endpoint)
    return json_response({"status": "success"})


async def _rotate(request: Request) -> Response:
    said = await json_body(request, RotationBody, empty=RotationBody())
    overlap = timedelta(seconds=said.overlap_seconds)
    rotated = await _webhooks(request).rotate(_id(request), overlap=overlap)
    return _with_secret(await _noted(request, "rotated", rotated), 200)


async def _resume(request: Request) -> Response:
    return json_response(_body(await _noted(request, "resumed", await _webhooks(request).resume(_id(request)))))


async def _test(request: Request) -> Response:
    said = await json_body(request, TestBody, empty=TestBody())
    reply = await _webhooks(request).test(_id(request), None if said.event is UNSET else said.event)
    body: dict[str, Any] = {"delivered": reply.delivered}
    if reply.status_code is not None:
        body["receiver_status_code"] = reply.status_code
    if not reply.delivered:
        body["error"] = reply.error or f"the receiver answered {reply.status_code}"
    return json_response(body)


async def _deliveries(request: Request) -> Response:
    query = request.query_params
    limit = _number("limit", query.get("limit", ""), default=_PAGE, least=1, most=_MOST_A_PAGE)
    offset = _number("offset", query.get("offset", ""), default=0, least=0, most=_MOST_OFFSET)
    webhooks = _webhooks(request)
    endpoint = await webhooks.get(_id(request))
    found, total = await webhooks.store.attempts(endpoint.id, limit=limit, offset=offset)
    kept = services_of(request).limits.webhook_history
    body = {
        "deliveries": [_attempt_body(attempt, kept) for attempt in found],
        "pagination": {"limit": limit, "offset": offset, "total_count": total},
    }
    return json_response(body)


async def _redeliver(request: Request) -> Response:
    webhook_id = await _webhooks(request).redeliver(request.path_params["delivery_id"])
    return json_response({"status": "queued", "webhook_id": webhook_id}, 202)


async def _redeliver_range(request: Request) -> Response:
    said = await json_body(request, RangeBody)
    until = None if said.until is UNSET else said.until
    count = await _webhooks(request).redeliver_range(_id(request), since=said.since, until=until)
    return json_response({"status": "queued", "count": count}, 202)


async def _noted(request: Request, action: str, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """Write a change into the audit log, and hand the endpoint on."""
    change = Change(
        at=services_of(request).webhooks.clock.now(),
        actor=f"admin@{request.client.host}" if request.client else "admin",
        action=action,
        subject="webhook",
        subject_id=endpoint.id,
        detail={"name": endpoint.settings.name},
    )
    await services_of(request).administer.store.note(change)
    return endpoint


def _webhooks(request: Request) -> Webhooks:
    return services_of(request).webhooks


def _id(request: Request) -> EndpointId:
    return EndpointId(request.path_params["endpoint_id"])


def _value(name: str, said: str | HeaderValue, stored: EndpointSettings | None) -> str:
    value = said.value if isinstance(said, HeaderValue) else said
    if value != MASK:
        return value
    kept = {known.lower(): value for known, value in stored.headers.items()} if stored else {}
    if name.lower() not in kept:
        raise InvalidRequest(f"header {name[:100]!r} has no stored value to keep", param="headers")
    return kept[name.lower()]


def _events(text: str) -> tuple[WebhookEvent, ...]:
    try:
        return tuple(WebhookEvent(word.strip()) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise InvalidRequest(f"event must name some of {', '.join(WebhookEvent)}", param="event") from error


def _flag(name: str, text: str) -> bool | None:
    if text not in {"", "true", "false"}:
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return text == "true" if text else None


def _number(name: str, text: str, *, default: int, least: int, most: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise InvalidRequest(f"{name} must be a whole number, {least} to {most}", param=name)
    return int(text)


def _with_secret(endpoint: WebhookEndpoint, status: int) -> Response:
    return json_response({"endpoint": _body(endpoint), "secret": endpoint.secrets[0].value}, status)


def _body(endpoint: WebhookEndpoint) -> Mapping[str, Any]:
    """`$defs/WebhookEndpoint`, with our members: what is not set is left out."""
    settings = endpoint.settings
    overlaps = [secret.until for secret in endpoint.secrets if secret.until is not None]
    moments = {
        "last_success_at": endpoint.last_success_at,
        "last_failure_at": endpoint.last_failure_at,
        "paused_at": endpoint.paused_at,
        "former_secret_until": max(overlaps, default=None),
    }
    limits = {name: value for name in _LIMITS if (value := getattr(settings.limits, name))}
    return {
        "id": endpoint.id,
        "name": settings.name,
        "url": settings.url,
        "events": [event.value for event in settings.events],
        **({"headers": {name: {"value": MASK} for name in settings.headers}} if settings.headers else {}),
        **{name: getattr(settings, name) for name in _FLAGS},
        **limits,
        **({"virtual_key_id": settings.owner} if settings.owner else {}),
        "consecutive_failures": endpoint.consecutive_failures,
        "pending_deliveries": endpoint.pending,
        **{name: timestamp(moment) for name, moment in moments.items() if moment is not None},
        **({"pause_reason": endpoint.pause_reason} if endpoint.pause_reason else {}),
        "config_hash": endpoint.config_hash,
        "created_at": timestamp(endpoint.created_at),
        "updated_at": timestamp(endpoint.updated_at),
    }


def _attempt_body(attempt: DeliveryAttempt, kept: timedelta) -> Mapping[str, Any]:
    """`$defs/WebhookDelivery`."""
    known = {"status_code": attempt.status_code, "error": attempt.error}
    return {
        "id": attempt.id,
        "webhook_id": attempt.delivery_id,
        "endpoint_id": attempt.endpoint_id,
        "async_job_id": attempt.job_id,
        "request_id": attempt.request_id,
        "event": attempt.event.value,
        "attempt_no": attempt.number,
        "outcome": attempt.outcome.value,
        **{name: value for name, value in known.items() if value is not None},
        "created_at": timestamp(attempt.at),
        "expires_at": timestamp(attempt.at + kept),
    }
