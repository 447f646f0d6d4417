"""Administration of access and money: virtual keys, teams, customers, limits of providers, provider keys, prices, usage."""

import csv
import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from safelight.api.errors import json_response
from safelight.api.fields import split_target
from safelight.api.identity import require_admin
from safelight.api.jobs import timestamp
from safelight.api.json_body import json_body
from safelight.api.services import services_of
from safelight.application.access_ports import Change, StoredHolder
from safelight.application.administer import Administer
from safelight.application.overrides import StoredKey
from safelight.domain.access import Customer, Holder, ProviderLimits, ProviderRule, Team, VirtualKey, kind_of
from safelight.domain.budget import Allowance, HolderKind, Period, Reading, Unit
from safelight.domain.errors import ConfigurationError, InvalidRequest, NotFound
from safelight.domain.job import Priority
from safelight.domain.money import MICROS_PER_UNIT, micros
from safelight.domain.usage import Dimension, UsageFilter, UsageRow

H = TypeVar("H", VirtualKey, Team, Customer)
Endpoint = Callable[[Request], Awaitable[Response]]

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(max_length=1000)]
PeriodText = Annotated[str, Meta(pattern=r"^([1-9][0-9]{0,3}[mh]|[1-9][0-9]{0,2}d|[1-9][0-9]?[wM]|[1-9]Y)$")]
Usd = Annotated[float, Meta(ge=0, le=1_000_000_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Labels = Annotated[dict[str, str], Meta(max_length=50)]

_PAGE, _MOST_A_PAGE, _MOST_OFFSET = 50, 500, 10**9
_USUAL = timedelta(days=29)
_CSV_MEMBERS = ("jobs", "failed", "calls", "images", "seconds", "cost_usd", "unpriced")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class BudgetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may be spent in a period."""

    limit_usd: Usd
    period: PeriodText
    calendar: bool = False


class RateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many of something there may be in a period."""

    max: Count
    period: PeriodText
    calendar: bool = False


class LimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may be asked for."""

    requests: RateBody | None = None
    images: RateBody | None = None


class KeyLimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much one virtual key may ask for."""

    requests: RateBody | None = None
    images: RateBody | None = None
    running: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    waiting: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class RuleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a virtual key may use of a provider."""

    provider: Name = "*"
    models: tuple[Name, ...] = ("*",)
    keys: tuple[Name, ...] = ("*",)


class TermsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of a provider entry."""

    budgets: tuple[BudgetBody, ...] = ()
    limits: LimitsBody = LimitsBody()


class CustomerBody(TermsBody, frozen=True, kw_only=True):
    """A customer as it is created or replaced."""

    name: Name
    metadata: Labels = {}

    def draft(self, holder_id: str) -> Customer:
        """Read it."""
        return Customer(
            id=holder_id,
            name=self.name,
            allowances=allowances(self.budgets, self.limits),
            metadata=self.metadata,
        )


class TeamBody(TermsBody, frozen=True, kw_only=True):
    """A team as it is created or replaced."""

    name: Name
    customer: Name | None = None
    metadata: Labels = {}

    def draft(self, holder_id: str) -> Team:
        """Read it; its customer is still a name."""
        return Team(
            id=holder_id,
            name=self.name,
            customer=self.customer,
            allowances=allowances(self.budgets, self.limits),
            metadata=self.metadata,
        )


class KeyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A virtual key as it is created or replaced."""

    name: Name
    description: Text = ""
    active: bool = True
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    team: Name | None = None
    customer: Name | None = None
    sees_team: bool = False
    providers: tuple[RuleBody, ...] = (RuleBody(),)
    budgets: tuple[BudgetBody, ...] = ()
    limits: KeyLimitsBody = KeyLimitsBody()
    max_cost_per_image_usd: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    priority: Priority = Priority.INTERACTIVE
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    metadata: Labels = {}

    def draft(self, holder_id: str) -> VirtualKey:
        """Read it; its team and its customer are still names."""
        most = self.max_cost_per_image_usd
        return VirtualKey(
            id=holder_id,
            name=self.name,
            description=self.description,
            active=self.active,
            expires_at=self.expires_at.astimezone(UTC) if self.expires_at else None,
            team=self.team,
            customer=self.customer,
            sees_team=self.sees_team,
            providers=tuple(
                ProviderRule(provider=rule.provider, models=rule.models, keys=rule.keys) for rule in self.providers
            ),
            allowances=allowances(self.budgets, self.limits),
            max_running=self.limits.running,
            max_waiting=self.limits.waiting,
            max_cost_per_image_micros=micros(Decimal(str(most))) if most is not None else None,
            priority=self.priority,
            weight=self.weight,
            metadata=self.metadata,
        )


class RotationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the former reading holds beside the new one."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = 3600


class ProviderKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A provider's key; its value never comes back."""

    value: Annotated[str, Meta(min_length=1, max_length=10_000, pattern=r"^[!-~]+$")]
    models: tuple[Name, ...] = ("*",)
    weight: Annotated[float, Meta(ge=0, le=1_000_000)] = 1.0
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class PriceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model costs; the table is as in the settings."""

    model: str
    price: dict[str, Any]


def governance_routes() -> list[Route]:
    """All of them."""
    endpoints: list[tuple[str, str, Endpoint]] = [
        *_holders("/api/virtual-keys", HolderKind.KEY, KeyBody),
        ("/api/virtual-keys/{id}/rotate", "POST", _rotate),
        ("/api/virtual-keys/{id}/revoke", "POST", _revoke),
        *_holders("/api/teams", HolderKind.TEAM, TeamBody),
        *_holders("/api/customers", HolderKind.CUSTOMER, CustomerBody),
        ("/api/providers/{name}/limits", "GET", _limits),
        ("/api/providers/{name}/limits", "PUT", _set_limits),
        ("/api/providers/{name}/keys", "GET", _provider_keys),
        ("/api/providers/{name}/keys/{key}", "PUT", _put_provider_key),
        ("/api/providers/{name}/keys/{key}", "DELETE", _drop_provider_key),
        ("/api/prices", "GET", _prices),
        ("/api/prices", "PUT", _put_price),
        ("/api/prices", "DELETE", _drop_price),
        ("/api/usage", "GET", _usage),
        ("/api/audit-log", "GET", _audit_log),
    ]
    routes: dict[str, dict[str, Endpoint]] = {}
    for path, method, endpoint in endpoints:
        routes.setdefault(path, {})[method] = endpoint
    made = [Route(path, _by_method(methods), methods=list(methods)) for path, methods in routes.items()]
    for route in made:
        route.methods = (route.methods or set()) - {"HEAD"}
    return made


def _by_method(methods: Mapping[str, Endpoint]) -> Endpoint:
    """A path has one `Route`, so that a wrong method is told of all that it has."""

    async def guarded(request: Request) -> Response:
        await require_admin(request)
        return await methods[request.method](request)

    return guarded


def _holders(
    path: str, kind: HolderKind, body: type[KeyBody] | type[TeamBody] | type[CustomerBody]
) -> list[tuple[str, str, Endpoint]]:
    """List, create, read, replace and delete one kind."""

    async def page(request: Request) -> Response:
        limit, offset = _window(request)
        search = request.query_params.get("search", "")
        found = await _administer(request).store.holders(kind, search=search, limit=limit, offset=offset)
        shown = [await _shown(request, each) for each in found.items]
        return json_response(_page(f"{_member(kind)}s", shown, found.total, limit, offset))

    async def create(request: Request) -> Response:
        draft = (await json_body(request, body)).draft("")
        if isinstance(draft, VirtualKey):
            stored, value = await _administer(request).create_key(draft, actor=_actor(request))
            return json_response({"virtual_key": await _shown(request, stored), "key": value}, 201)
        stored = await _administer(request).create(draft, actor=_actor(request))
        return json_response(await _shown(request, stored), 201)

    async def read(request: Request) -> Response:
        return json_response(await _shown(request, await _stored(request, kind)))

    async def change(request: Request) -> Response:
        draft = (await json_body(request, body)).draft(request.path_params["id"])
        return json_response(await _shown(request, await _administer(request).change(draft, actor=_actor(request))))

    async def remove(request: Request) -> Response:
        await _administer(request).delete(kind, request.path_params["id"], actor=_actor(request))
        return Response(status_code=204)

    one = f"{path}/{{id}}"
    return [
        (path, "GET", page),
        (path, "POST", create),
        (one, "GET", read),
        (one, "PUT", change),
        (one, "DELETE", remove),
    ]


async def _rotate(request: Request) -> Response:
    overlap_s = (await json_body(request, RotationBody, empty=RotationBody())).overlap_seconds
    key_id = request.path_params["id"]
    stored, value = await _administer(request).rotate(key_id, overlap_s=overlap_s, actor=_actor(request))
    return json_response({"virtual_key": await _shown(request, stored), "key": value})


async def _revoke(request: Request) -> Response:
    stored = await _administer(request).revoke(request.path_params["id"], actor=_actor(request))
    return json_response(await _shown(request, stored))


async def _limits(request: Request) -> Response:
    return json_response(await _limits_body(request, _provider(request)))


async def _set_limits(request: Request) -> Response:
    name, body = _provider(request), await json_body(request, TermsBody)
    limits = ProviderLimits(id=name, name=name, allowances=allowances(body.budgets, body.limits))
    await _administer(request).create(limits, actor=_actor(request))
    return json_response(await _limits_body(request, name))


async def _limits_body(request: Request, name: str) -> Mapping[str, Any]:
    stored = await _administer(request).store.holder(HolderKind.PROVIDER, name)
    limits = stored.holder if stored else ProviderLimits(id=name, name=name)
    return {"provider": name, **_terms(limits), **await _counted(request, limits)}


async def _provider_keys(request: Request) -> Response:
    name, services = _provider(request), services_of(request)
    stored = {key.name: key for key, _ in await services.override.store.keys() if key.provider == name}
    entry = next(entry for known, entry in services.estimate.providers.items() if known == name)
    keys = [
        {
            "name": key.key.name,
            "models": list(key.models),
            "weight": key.weight,
            "concurrency": key.concurrency,
            "source": "api" if key.key.name in stored else "settings",
        }
        for key in entry.keys
        if key.key.name is not None
    ]
    return json_response({"object": "list", "data": keys})


async def _put_provider_key(request: Request) -> Response:
    name, key_name = _provider(request), request.path_params["key"]
    body = await json_body(request, ProviderKeyBody)
    if len(key_name) > 64 or not key_name.isprintable():
        raise InvalidRequest("a key's name is at most 64 characters long", param="key")
    services = services_of(request)
    now = services.override.clock.now()
    key = StoredKey(
        provider=name,
        name=key_name,
        models=body.models,
        weight=body.weight,
        concurrency=body.concurrency,
        created_at=now,
        updated_at=now,
    )
    await services.override.put_key(key, body.value, actor=_actor(request))
    return Response(status_code=204)


async def _drop_provider_key(request: Request) -> Response:
    key_name = request.path_params["key"]
    await services_of(request).override.drop_key(_provider(request), key_name, actor=_actor(request))
    return Response(status_code=204)


async def _prices(request: Request) -> Response:
    prices = [
        {"model": f"{each.provider}/{each.model}", "price": each.table, "updated_at": timestamp(each.updated_at)}
        for each in await services_of(request).override.store.prices()
    ]
    return json_response({"object": "list", "data": prices})


async def _put_price(request: Request) -> Response:
    services, body = services_of(request), await json_body(request, PriceBody)
    provider, model = _target(request, body.model)
    try:
        services.check_price(body.price)
    except ConfigurationError as error:
        raise InvalidRequest(str(error), param="price") from error
    await services.override.put_price(provider, model, body.price, actor=_actor(request))
    return Response(status_code=204)


async def _drop_price(request: Request) -> Response:
    provider, model = _target(request, request.query_params.get("model", ""))
    await services_of(request).override.drop_price(provider, model, actor=_actor(request))
    return Response(status_code=204)


def _target(request: Request, text: str) -> tuple[str, str]:
    target = split_target(text)
    if target is None:
        raise InvalidRequest("model should be in provider/model format", param="model")
    return _known_provider(request, target.provider), target.model


async def _usage(request: Request) -> Response:
    query, today = request.query_params, services_of(request).override.clock.now().date()
    last = _day("until", query.get("until")) or today
    first = _day("since", query.get("since")) or max(last, date.min + _USUAL) - _USUAL
    by = _dimensions(query.get("by", "day"))
    rows = await services_of(request).usage(UsageFilter(first=first, last=last, by=by))
    if query.get("format", "json") == "csv":
        return Response(_csv(rows, by), 200, {"Content-Disposition": 'attachment; filename="usage.csv"'}, "text/csv")
    if query.get("format", "json") != "json":
        raise InvalidRequest("format must be json or csv", param="format")
    body = [_usage_body(row, by) for row in rows]
    return json_response({"object": "list", "since": first.isoformat(), "until": last.isoformat(), "data": body})


async def _audit_log(request: Request) -> Response:
    limit, offset = _window(request)
    found = await _administer(request).store.changes(limit=limit, offset=offset)
    return json_response(_page("changes", [_change_body(each) for each in found.items], found.total, limit, offset))


def _administer(request: Request) -> Administer:
    return services_of(request).administer


def _actor(request: Request) -> str:
    """Who the audit log names: whoever has the admin key, and from where."""
    return f"admin@{request.client.host}" if request.client else "admin"


def _provider(request: Request) -> str:
    return _known_provider(request, request.path_params["name"])


def _known_provider(request: Request, name: str) -> str:
    if name not in services_of(request).estimate.providers:
        raise NotFound(f"there is no provider {name[:64]!r}")
    return name


async def _stored(request: Request, kind: HolderKind) -> StoredHolder:
    found = await _administer(request).store.holder(kind, request.path_params["id"])
    if found is None:
        raise NotFound(f"there is no such {kind.value}")
    return found


def allowances(budgets: Sequence[BudgetBody], limits: LimitsBody | KeyLimitsBody) -> tuple[Allowance, ...]:
    """Read budgets and limits; of several for one period the last counts."""
    money = [
        Allowance(unit=Unit.USD, limit=micros(Decimal(str(each.limit_usd))), period=_period(each.period, each.calendar))
        for each in budgets
    ]
    rates = [
        Allowance(unit=unit, limit=rate.max, period=_period(rate.period, rate.calendar))
        for unit, rate in ((Unit.REQUESTS, limits.requests), (Unit.IMAGES, limits.images))
        if rate is not None
    ]
    return (*{each.period: each for each in money}.values(), *rates)


def _period(text: str, calendar: bool) -> Period:  # noqa: FBT001 - both are members of a body
    return Period(text=text, calendar=calendar)


async def _shown(request: Request, stored: StoredHolder) -> Mapping[str, Any]:
    """A holder as answers show it, with what has been counted for it."""
    holder = stored.holder
    body: dict[str, Any] = {"id": holder.id, "name": holder.name, **_terms(holder)}
    store = _administer(request).store
    match holder:
        case VirtualKey():
            body |= await _key_members(request, holder)
            body["readings"] = [
                {
                    "ending": each.ending,
                    "created_at": timestamp(each.created_at),
                    "valid_until": timestamp(each.valid_until) if each.valid_until else None,
                }
                for each in stored.secrets
            ]
        case Team():
            above = await store.holder(HolderKind.CUSTOMER, holder.customer) if holder.customer else None
            body |= {"customer": above.holder.name if above else None, "metadata": dict(holder.metadata)}
        case Customer():
            body["metadata"] = dict(holder.metadata)
        case _:
            pass
    times = {"created_at": timestamp(stored.created_at), "updated_at": timestamp(stored.updated_at)}
    return {**body, **await _counted(request, holder), "source": stored.source, **times}


async def _key_members(request: Request, key: VirtualKey) -> Mapping[str, Any]:
    store = _administer(request).store
    team = await store.holder(HolderKind.TEAM, key.team) if key.team else None
    customer = await store.holder(HolderKind.CUSTOMER, key.customer) if key.customer else None
    most = key.max_cost_per_image_micros
    return {
        "description": key.description,
        "active": key.active,
        "expires_at": timestamp(key.expires_at) if key.expires_at else None,
        "team": team.holder.name if team else None,
        "customer": customer.holder.name if customer else None,
        "sees_team": key.sees_team,
        "providers": [
            {"provider": rule.provider, "models": list(rule.models), "keys": list(rule.keys)} for rule in key.providers
        ],
        "max_cost_per_image_usd": None if most is None else most / MICROS_PER_UNIT,
        "priority": key.priority.value,
        "weight": key.weight,
        "metadata": dict(key.metadata),
    }


def _terms(holder: Holder) -> Mapping[str, Any]:
    """Budgets and limits, as a body would say them."""
    said = {"budgets": [], "limits": {}}  # type: dict[str, Any]
    for each in holder.allowances:
        period = {"period": each.period.text, "calendar": each.period.calendar}
        if each.unit is Unit.USD:
            said["budgets"].append({"limit_usd": each.limit / MICROS_PER_UNIT, **period})
        else:
            said["limits"][each.unit.value] = {"max": each.limit, **period}
    if isinstance(holder, VirtualKey):
        said["limits"] |= {"running": holder.max_running, "waiting": holder.max_waiting}
    return said


async def _counted(request: Request, holder: Holder) -> Mapping[str, Any]:
    administer = _administer(request)
    now = administer.clock.now()
    readings = await administer.store.readings(kind_of(holder), holder.id, holder.name, now)
    return {"counted": [_reading(each, now) for each in readings]}


def _reading(reading: Reading, now: datetime) -> Mapping[str, Any]:
    scale = MICROS_PER_UNIT if reading.meter.unit is Unit.USD else 1
    amounts = {"limit": reading.limit, "held": reading.held, "used": reading.used, "left": reading.left}
    return {
        "unit": reading.meter.unit.value,
        "period": reading.meter.period.text,
        "calendar": reading.meter.period.calendar,
        **{name: amount / scale if scale > 1 else amount for name, amount in amounts.items()},
        "resets_at": timestamp(reading.resets_at(now, reading.limit)) if reading.spent else None,
    }


def _change_body(change: Change) -> Mapping[str, Any]:
    return {
        "at": timestamp(change.at),
        "actor": change.actor,
        "action": change.action,
        "subject": change.subject,
        "subject_id": change.subject_id,
        "detail": change.detail,
    }


def _usage_body(row: UsageRow, by: Sequence[Dimension]) -> Mapping[str, Any]:
    told = {each.value: getattr(row, each.value) for each in by}
    if row.day is not None:
        told["day"] = row.day.isoformat()
    sums = {"jobs": row.jobs, "failed": row.failed, "calls": row.calls, "images": row.images}
    seconds, cost_usd = row.work_micros / 1_000_000, row.cost_micros / MICROS_PER_UNIT
    return {**told, **sums, "seconds": seconds, "cost_usd": cost_usd, "unpriced": row.unpriced}


def _csv(rows: Sequence[UsageRow], by: Sequence[Dimension]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(each.value for each in by), *_CSV_MEMBERS], lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in _usage_body(row, by).items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Spreadsheets take a text that begins so for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _member(kind: HolderKind) -> str:
    return "virtual_key" if kind is HolderKind.KEY else kind.value


def _page(member: str, items: Sequence[Any], total: int, limit: int, offset: int) -> Mapping[str, Any]:
    return {member: items, "count": len(items), "total_count": total, "limit": limit, "offset": offset}


def _window(request: Request) -> tuple[int, int]:
    query = request.query_params
    return (
        _number("limit", query.get("limit"), default=_PAGE, least=1, most=_MOST_A_PAGE),
        _number("offset", query.get("offset"), default=0, least=0, most=_MOST_OFFSET),
    )


def _number(name: str, text: str | None, *, default: int, least: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= most):
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}", param=name)
    return int(text)


def _day(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text) if len(text) == 10 else _no_day(name)
    except ValueError:
        return _no_day(name)


def _no_day(name: str) -> date:
    raise InvalidRequest(f"{name} must be a day such as 2026-11-25", param=name)


def _dimensions(text: str) -> tuple[Dimension, ...]:
    names = [name for name in text.split(",") if name]
    if len(set(names)) < len(names) or not set(names) <= {each.value for each in Dimension}:
        raise InvalidRequest(f"by must be some of {', '.join(Dimension)}, each once", param="by")
    return tuple(Dimension(name) for name in names)
