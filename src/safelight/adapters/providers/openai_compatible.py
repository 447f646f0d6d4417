"""Any server that speaks OpenAI's image API, or nearly: hosted ones, and those that the operator runs.

What is known of some of them stands in `_profiles.py`: each is a type of its own (`type: together`), and a `profile` of
this one. Without a profile every field goes through as the caller gave it.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from safelight.adapters.providers._answer import Answer
from safelight.adapters.providers._base import BaseProvider, Entry, ProviderModule, ProviderSettings, never
from safelight.adapters.providers._body import Body, HeldPart, json_body
from safelight.adapters.providers._catalogue import by_name, load_catalogue
from safelight.adapters.providers._http import Dialect
from safelight.adapters.providers._inline import InlinePictures
from safelight.adapters.providers._masks import white_changes
from safelight.adapters.providers._openai_shape import edit_form, finished, prompt_of, via_of
from safelight.adapters.providers._profiles import ANY, PROFILES, Profile, Route
from safelight.application.ports import Call, Finished
from safelight.domain.errors import ConfigurationError, UnsupportedFeature
from safelight.domain.image import ImageRequest, Operation, StoredImage, Usage


class ProfileOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`response_format`: what to ask the server for. Their defaults differ, so it is always sent unless `none`."""

    response_format: Literal["b64_json", "url", "none"] = "b64_json"


class Options(ProfileOptions, frozen=True, forbid_unknown_fields=True):
    """`profile`: which known server it is."""

    profile: str | None = None


class _Reported(msgspec.Struct):
    usage: Any = None


class OpenAICompatible(BaseProvider):
    """One such server. It answers at once; there is no handle and no idempotency key."""

    def __init__(self, entry: Entry[Any], profile: Profile) -> None:
        """Prepare the addresses; raises `ConfigurationError`."""
        specs = load_catalogue(profile.name) if profile.catalogue else ()
        super().__init__(entry.settings, specs, rules=(profile.refusal,) if profile.strict else ())
        self.max_n = profile.max_n
        self._specs = tuple(spec if spec.max_n else replace(spec, max_n=self.max_n) for spec in self._specs)
        self._by_name = by_name(self._specs)
        self._profile = profile
        self._http = entry.http(Dialect(errors=profile.errors))
        self._urls = {route.path: self._http.url(route.path) for route in profile.routes}
        self._response_format = _response_format(entry, profile)

    async def submit(self, call: Call) -> Finished:
        """Generate, edit, or vary; a variation is an edit with a neutral prompt where the server has no other."""
        if refusal := self._profile.refusal(call.request):
            raise refusal
        if call.request.partial_images:
            raise UnsupportedFeature(f"{self._profile.label} is not asked for previews", param="partial_images")
        route = self._profile.route(call.request)
        if route is None:
            raise UnsupportedFeature(f"{self._profile.label} has no such call", param="model")
        limit = self._limit(call, route)
        if limit is not None and call.n > limit:
            raise UnsupportedFeature(f"{self._profile.label} draws at most {limit} a call here", param="n")
        answer = await self._http.buy(call, self._urls[route.path], await self._body(call, route))
        return await self._finished(answer, call, route)

    def _limit(self, call: Call, route: Route) -> int | None:
        """The most pictures of the call. Where it takes a count, the operator's word on the model wins."""
        spec = self.spec(call.model)
        return route.max_n if spec is None or not route.n else spec.max_n

    async def _body(self, call: Call, route: Route) -> Body:
        fields = self._fields(call, route)
        if route.form:
            return edit_form(
                call,
                self._last_words(call, fields),
                one=route.one or route.many,
                many=route.many,
                mask=await _grey_mask(call, route) if route.white else None,
            )
        if call.request.operation is Operation.GENERATION:
            return json_body(self._last_words(call, fields))
        inline = InlinePictures(call.workspace)
        placed = [_placed(inline, each.image, route) for each in call.request.images]
        if placed:
            single = bool(route.one) and len(placed) == 1
            fields[route.one if single else route.many] = placed[0] if single else placed
        return inline.body(self._last_words(call, fields))

    def _fields(self, call: Call, route: Route) -> dict[str, Any]:
        """Name the fields as the server does."""
        request, profile = call.request, self._profile
        fields: dict[str, Any] = {"model": call.model, **_size(request, route, strict=profile.strict)}
        if route.n:
            fields["n"] = call.n
        for ours, theirs in route.fields.items():
            value = getattr(request, ours)
            if value is not None and theirs:
                fields[theirs] = profile.values.get(ours, {}).get(value, value)
        if route.prompt and (prompt := prompt_of(request)) is not None:
            fields["prompt"] = prompt
        if route.says_format and self._response_format is not None:
            fields["response_format"] = self._response_format
        if request.edit_type is not None and not profile.strict:
            fields["type"] = request.edit_type
        return fields

    def _last_words(self, call: Call, fields: dict[str, Any]) -> dict[str, Any]:
        if self._profile.finish is not None:
            self._profile.finish(call, fields)
        return {**fields, **call.request.extra}

    async def _finished(self, answer: Answer, call: Call, route: Route) -> Finished:
        via = None if route is self._profile.vary else via_of(call.request)
        result = await finished(answer, base_url=self._http.base_url, via=via, prompt=prompt_of(call.request))
        said = answer.read(_Reported).usage if self._profile.cost_micros else None
        if self._profile.cost_micros is None or not isinstance(said, Mapping):
            return result
        return msgspec.structs.replace(
            result, usage=_tokens(said) or result.usage, cost_micros=self._profile.cost_micros(said)
        )


async def _grey_mask(call: Call, route: Route) -> HeldPart | None:
    mask = await white_changes(call)
    return HeldPart(name=route.mask, content=mask, content_type="image/png", filename="mask.png") if mask else None


def _placed(inline: InlinePictures, image: StoredImage, route: Route) -> object:
    if route.place == "base64":
        return inline.base64(image)
    url = inline.data_url(image)
    return {"type": "image_url", "image_url": {"url": url}} if route.place == "reference" else url


def _size(request: ImageRequest, route: Route, *, strict: bool) -> dict[str, Any]:
    """Name the size. `auto` is the server's own choice, which it makes when it is told nothing."""
    if route.size == "text":
        return {} if request.size is None or (strict and request.size == "auto") else {"size": request.size}
    size = route.sized(request)
    if size is None or route.only_size:
        return {}
    return {"width": size.width, "height": size.height} if route.size == "sides" else {"size": str(size)}


def _tokens(said: Mapping[str, Any]) -> Usage | None:
    """Read usage as chat models tell it."""
    members = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts = [value if type(value := said.get(name)) is int else None for name in members]
    usage = Usage(input_tokens=counts[0], output_tokens=counts[1], total_tokens=counts[2])
    return usage if usage != Usage() else None


def _response_format(entry: Entry[Any], profile: Profile) -> str | None:
    """Choose the word; raises `ConfigurationError` for a form that the server is known not to answer in."""
    asked: str = entry.options.response_format
    if asked == "none" or not profile.formats:
        return None
    if asked not in profile.formats:
        raise ConfigurationError(
            f"providers.{entry.settings.name}.response_format: {profile.label} answers {', '.join(profile.formats)} alone"
        )
    return profile.formats[asked]


def _on_own_network(settings: ProviderSettings) -> bool:
    """Take a server on a loopback or private address for one that costs time, not money."""
    host = urlsplit(settings.base_url or "").hostname or ""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _create(entry: Entry[Options]) -> OpenAICompatible:
    name = entry.options.profile
    profile = ANY if name is None else PROFILES.get(name)
    if profile is None:
        raise ConfigurationError(
            f"providers.{entry.settings.name}.profile: there is no {name!r}; known: {', '.join(PROFILES)}"
        )
    return OpenAICompatible(entry, profile)


def _module(profile: Profile) -> ProviderModule[ProfileOptions]:
    return ProviderModule(
        name=profile.name,
        doc=profile.doc,
        create=partial(OpenAICompatible, profile=profile),
        options=ProfileOptions,
        base_url=profile.base_url,
        env_key=profile.env_key,
        needs_key=not profile.local,
        repeatable=_on_own_network if profile.local else never,
        profile_of="openai_compatible",
    )


PROVIDER = ProviderModule(
    name=ANY.name,
    doc=ANY.doc,
    create=_create,
    options=Options,
    repeatable=_on_own_network,
)
MORE = tuple(_module(profile) for profile in PROFILES.values())
"""Types of their own, for the registry."""
