"""What a provider module declares, and what its providers share. Plain data: `config` fills it, `wiring` opens it.

A module of this folder whose name has no leading underscore declares `PROVIDER = ProviderModule(…)`; its factory makes
one provider from one entry under `providers:` in the settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import msgspec

from safelight.adapters.providers._catalogue import by_name, extend
from safelight.adapters.providers._http import Dialect, HttpSessions, ProviderHttp
from safelight.application.ports import Accepted, Call, Failed, Finished, Provider, Running
from safelight.domain.capability import ModelSpec, Rule
from safelight.domain.errors import ConfigurationError, InvalidRequest, ProviderRejected
from safelight.domain.ids import ProviderName
from safelight.domain.schedule import RetryPolicy


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For a provider without settings of its own. Others declare a frozen Struct like this one."""


O = TypeVar("O")  # noqa: E741 - the options of one provider module


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One entry under `providers:`: the settings that all providers have, and the provider's own as `options`."""

    name: ProviderName
    type: str
    """The module that serves it; the name of the entry where the settings say nothing."""
    base_url: str | None = None
    concurrency: int = 64
    """Calls at once."""
    timeout_s: float = 300.0
    """For one exchange, from its first to its last byte."""
    connect_timeout_s: float = 10.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    repeatable: bool | None = None
    """Whether a repeated call costs nothing; `None` leaves it to the module."""
    models: tuple[Mapping[str, Any], ...] = ()
    """Models that the operator describes, as tables of the catalogue's format; they extend and override it."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[O]):
    """What a factory makes a provider from: checked settings and the means."""

    settings: ProviderSettings
    options: O
    repeatable: bool
    sessions: HttpSessions

    def http(self, dialect: Dialect) -> ProviderHttp:
        """Prepare the way to this entry's server."""
        return ProviderHttp(
            base_url=self.settings.base_url or "",
            sessions=self.sessions,
            repeatable=self.repeatable,
            timeout_s=self.settings.timeout_s,
            connect_timeout_s=self.settings.connect_timeout_s,
            dialect=dialect,
        )


def never(_settings: ProviderSettings) -> bool:
    """Say for `ProviderModule.repeatable` that a repeat may be paid twice: the default."""
    return False


def always(_settings: ProviderSettings) -> bool:
    """Say for `ProviderModule.repeatable` that a repeat costs nothing."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderModule(Generic[O]):
    """One kind of provider."""

    name: str
    """How the settings spell it: the module's own name."""
    doc: str
    """One line for `safelight doctor` and the documentation."""
    create: Callable[[Entry[O]], Provider]
    options: type[O]
    base_url: str | None = None
    """Where it usually is; `None` where the operator must say."""
    remote: bool = True
    """Whether it has a server at all, and so a `base_url`."""
    env_key: str | None = None
    """The variable that usually holds its key, and switches it on where there are no settings."""
    needs_key: bool = False
    repeatable: Callable[[ProviderSettings], bool] = never
    deduplicates: bool = False
    """It knows a repeat by the call's token, at the same key: that, and no more, makes it repeatable."""
    calls_back: bool = False
    """It can tell that work is over, where `callbacks` of the settings asks for it."""
    profile_of: str | None = None
    """The module that declares it among its `MORE`, where it is another name for what that module does."""

    def settle(self, settings: ProviderSettings) -> ProviderSettings:
        """Fill in what the settings leave to the module; raises `ConfigurationError`."""
        if not self.remote:
            return replace(settings, repeatable=self._repeatable(settings))
        base_url = settings.base_url or self.base_url
        if base_url is None:
            raise ConfigurationError(
                f"providers.{settings.name}.base_url is missing: the address of the server, such as http://127.0.0.1:8000/v1"
            )
        _check_base_url(base_url, settings.name)
        settled = replace(settings, base_url=base_url)
        return replace(settled, repeatable=self._repeatable(settled))

    def _repeatable(self, settings: ProviderSettings) -> bool:
        return self.repeatable(settings) if settings.repeatable is None else settings.repeatable

    def open(self, settings: ProviderSettings, sessions: HttpSessions) -> Provider:
        """Make the provider of one entry; raises `ConfigurationError`. Sends nothing."""
        settled = self.settle(settings)
        entry = Entry(
            settings=settled,
            options=self.read_options(settings),
            repeatable=bool(settled.repeatable),
            sessions=sessions,
        )
        return self.create(entry)

    def read_options(self, settings: ProviderSettings) -> O:
        """Check the provider's own settings; raises `ConfigurationError`."""
        try:
            return msgspec.convert(dict(settings.options), self.options)
        except msgspec.ValidationError as exc:
            raise ConfigurationError(f"providers.{settings.name}: {exc}") from exc


def _check_base_url(base_url: str, name: ProviderName) -> None:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"providers.{name}.base_url must be an http or https address without user, query and fragment"
        )


class BaseProvider:
    """A provider that answers at once; one with handles overrides `poll` too. Made for one entry of the settings."""

    max_n: int | None = None
    """The most pictures of one call, for models of which nothing is known."""

    def __init__(
        self, settings: ProviderSettings, specs: Sequence[ModelSpec] = (), *, rules: tuple[Rule, ...] = ()
    ) -> None:
        """Keep the model table, the operator's word first; `rules` hold for every model of it.

        Raises `ConfigurationError` for a model that the operator describes wrongly.
        """
        known = extend(specs, settings.models, where=f"providers.{settings.name}.models")
        self._specs = tuple(replace(spec, rules=(*spec.rules, *rules)) for spec in known) if rules else known
        self._by_name = by_name(self._specs)

    @property
    def specs(self) -> Sequence[ModelSpec]:
        """The models it is known to offer."""
        return self._specs

    def spec(self, model: str) -> ModelSpec | None:
        """Look up what is known of a model, by its name or an alias; `None` when nothing is."""
        return self._by_name.get(model)

    async def start(self, call: Call) -> Accepted | Finished:
        """Buy the work. Raises `UnsupportedFeature` before any exchange, or a `ProviderError`."""
        spec = self.spec(call.model)
        if spec is not None:
            spec.check(call.request)
        return await self.submit(call)

    async def submit(self, call: Call) -> Accepted | Finished:
        """Make the one exchange that buys; the request can be expressed."""
        raise NotImplementedError

    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Refuse: a provider that answers at once gives no handles."""
        raise ProviderRejected(f"{call.request.target.provider} keeps no work under a handle such as {handle[:80]!r}")

    watchable = False

    async def watch(self, call: Call) -> float | None:
        """Look at work that is out. A provider that has something to show is `watchable`."""
        del call
        return None

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        """Refuse: most providers do not call back."""
        del headers, body
        raise InvalidRequest(f"{call.request.target.provider} does not call back")

    async def cancel(self, handle: str | None, call: Call) -> bool:
        """Stop accepted work; whether it was stopped. A provider that cannot says `False`."""
        del handle, call
        return False

    async def close(self) -> None:
        """Let go of what the provider alone holds; the sessions are not its own."""
