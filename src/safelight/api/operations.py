"""For the operator: what waits and runs, and which providers there are; pausing them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.errors import json_response
from safelight.api.identity import require_admin
from safelight.api.jobs import timestamp
from safelight.api.service import model_facts
from safelight.api.services import Services, services_of
from safelight.application.queue_state import KeyUse, QueueState
from safelight.domain.errors import NotFound
from safelight.domain.ids import ProviderName
from safelight.domain.image import Target
from safelight.domain.price import Price
from safelight.domain.switch import Switch

_ACTIONS = {"pause": Switch.PAUSED, "drain": Switch.DRAINING, "resume": Switch.ON}


def operation_routes() -> list[Route]:
    """`/api/queue` and `/api/providers`."""
    routes = [
        Route("/api/queue", _queue, methods=["GET"]),
        Route("/api/providers", _providers, methods=["GET"]),
        *(Route(f"/api/providers/{{name}}/{action}", _turn(to), methods=["POST"]) for action, to in _ACTIONS.items()),
    ]
    for route in routes:
        route.methods = (route.methods or set()) - {"HEAD"}
    return routes


async def _queue(request: Request) -> Response:
    await require_admin(request)
    services = services_of(request)
    state = await services.queue.state()
    lanes = [_lane(services, state, name) for name in sorted(state.lanes)]
    return json_response({"object": "queue", "at": timestamp(state.at), "data": lanes})


async def _providers(request: Request) -> Response:
    await require_admin(request)
    services = services_of(request)
    state = await services.queue.state()
    found = [_provider(services, state, name) for name in sorted(services.estimate.providers)]
    return json_response({"object": "list", "data": found})


def _turn(switch: Switch) -> Callable[[Request], Awaitable[Response]]:
    async def turn(request: Request) -> Response:
        await require_admin(request)
        services = services_of(request)
        name = ProviderName(request.path_params["name"])
        if name not in services.estimate.providers:
            raise NotFound(f"there is no provider {name[:64]!r}")
        await services.switches.turn(name, switch)
        return json_response(_lane(services, await services.queue.state(), name))

    return turn


def _lane(services: Services, state: QueueState, name: ProviderName) -> Mapping[str, Any]:
    """One provider's queue. `slots` is `null` for one that is not in the settings."""
    lane = state.lanes[name]
    return {
        "provider": name,
        "switch": services.switches.of(name).value,
        "pending": lane.pending,
        "processing": lane.processing,
        "oldest_pending_s": lane.oldest_pending_s,
        "waiting": [
            {"priority": priority.value, "count": waiting.count, "oldest_s": waiting.oldest_s}
            for priority, waiting in sorted(lane.waiting.items())
        ],
        "slots": lane.slots,
        "left_alone": [
            {"model": target.model, "until": timestamp(until)}
            for target, until in state.open_breakers.items()
            if target.provider == name
        ],
        "keys": [_key(use) for use in state.keys if use.provider == name],
    }


def _key(use: KeyUse) -> Mapping[str, Any]:
    cooling = [{"model": model, "until": timestamp(until)} for model, until in use.cooling.items()]
    return {"name": use.name, "usable": use.usable, "refused": use.refused, "cooling": cooling}


def _provider(services: Services, state: QueueState, name: ProviderName) -> Mapping[str, Any]:
    entry, today = services.estimate.providers[name], state.at.date()
    models = [
        {
            "id": str(Target(provider=name, model=spec.name)),
            "price": price_facts(entry.price(spec.name)),
            **model_facts(spec, today),
        }
        for spec in entry.provider.specs
    ]
    return {
        **_lane(services, state, name),
        "repeatable": entry.repeatable,
        "retries": entry.retry.max,
        "models": models,
    }


def price_facts(price: Price | None) -> Mapping[str, Any] | None:
    """A price list as it stands in the settings, amounts as texts."""
    return None if price is None else _said(price)


def _said(value: Any) -> dict[str, Any]:
    return {
        f.name: _plain(member) for f in fields(value) if (member := getattr(value, f.name)) not in (None, (), False)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(member) for member in value]
    if is_dataclass(value):
        return _said(value)
    return value.isoformat() if isinstance(value, date) else value
