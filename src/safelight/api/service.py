"""What runs here and how it fares: models, liveness, readiness."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.errors import json_response
from safelight.api.services import services_of
from safelight.domain.capability import ModelSpec, PixelRule

_RULE_MEMBERS = ("multiple_of", "min_side", "max_side", "min_pixels", "max_pixels", "max_ratio")


def service_routes() -> list[Route]:
    """`/v1/models`, and what `probe_routes` has."""
    return [_get("/v1/models", _models), *probe_routes()]


def probe_routes() -> list[Route]:
    """`/health` and `/ready`: all that a process without an API answers."""
    return [_get("/health", _health), _get("/ready", _ready)]


def _get(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    route = Route(path, endpoint, methods=["GET"])
    route.methods = {"GET"}
    return route


async def _health(_: Request) -> Response:
    return json_response({"status": "ok"})


async def _ready(request: Request) -> Response:
    await services_of(request).ready()
    return json_response({"status": "ready"})


async def _models(request: Request) -> Response:
    services = services_of(request)
    today = services.submit.clock.now().date()
    models = [
        {
            "id": f"{name}/{spec.name}",
            "object": "model",
            "created": 0,
            "owned_by": name,
            "safelight": model_facts(spec, today),
        }
        for name, provider in services.providers.items()
        for spec in provider.specs
    ]
    return json_response({"object": "list", "data": models})


def model_facts(spec: ModelSpec, today: date) -> Mapping[str, Any]:
    """What a model can do, without what is not known."""
    facts: dict[str, Any] = {
        "aliases": sorted(spec.aliases),
        "operations": sorted(spec.operations),
        "fields": sorted(spec.fields),
        "sizes": sorted(spec.sizes),
        "pixel_rule": _rule_facts(spec.pixel_rule),
        "aspect_ratios": sorted(spec.aspect_ratios),
        "qualities": sorted(spec.qualities),
        "formats": sorted(spec.formats),
        "response_formats": sorted(spec.answers),
        "max_n": spec.max_n,
        "max_images": spec.max_images,
        "max_prompt_chars": spec.max_prompt_chars,
        "life": spec.life_on(today).value,
        "shutdown_date": spec.shutdown_date.isoformat() if spec.shutdown_date else None,
    }
    return {name: value for name, value in facts.items() if value not in (None, [], {})}


def _rule_facts(rule: PixelRule | None) -> Mapping[str, Any]:
    if rule is None:
        return {}
    plain = PixelRule()
    return {name: value for name in _RULE_MEMBERS if (value := getattr(rule, name)) != getattr(plain, name)}
