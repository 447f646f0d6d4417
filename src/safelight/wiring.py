"""The only place that picks implementations and joins them into a running gateway."""

import asyncio
import contextlib
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from safelight.adapters.batch_lines import BlobBatchLines
from safelight.adapters.blobs.timed import TimedBlobStore
from safelight.adapters.data_dir import database_of
from safelight.adapters.fetch import HttpPictureFetcher
from safelight.adapters.images import JobWorkspace
from safelight.adapters.metrics import Metrics
from safelight.adapters.providers._base import ProviderModule, ProviderSettings
from safelight.adapters.providers._catalogue import read_price
from safelight.adapters.providers._http import HttpSessions, open_sessions
from safelight.adapters.providers._registry import load_providers
from safelight.adapters.secret_box import AesGcmBox
from safelight.adapters.sql.access import SqlAccessStore
from safelight.adapters.sql.batches import SqlBatchStore
from safelight.adapters.sql.counts import SqlCounts
from safelight.adapters.sql.overrides import SqlOverrideStore
from safelight.adapters.sql.reseal import reseal
from safelight.adapters.sql.switches import SqlSwitches
from safelight.adapters.sql.usage import SqlUsage
from safelight.adapters.sql.webhooks import SqlWebhookStore
from safelight.adapters.sqlite.inspection import SqliteInspection
from safelight.adapters.webhooks import HttpWebhookSender
from safelight.api.access import Access, AccessLog
from safelight.api.admin import AdminDoor
from safelight.api.app import Api
from safelight.api.jobs import JobRenderer
from safelight.api.links import Links
from safelight.api.metrics import metrics_routes
from safelight.api.service import probe_routes
from safelight.api.services import ApiLimits, MetricsPage, Services
from safelight.api.webhook_events import WebhookRenderer
from safelight.application.administer import Administer
from safelight.application.advance import Advance
from safelight.application.backlog import Backlog
from safelight.application.batch import Batches, Feed
from safelight.application.callback import CallbackAddresses, TakeCallback
from safelight.application.callers import Callers, keyed_hash
from safelight.application.cancel import Cancel
from safelight.application.deliver import Deliver
from safelight.application.estimate import Estimate
from safelight.application.follow import Follow, Tail
from safelight.application.govern import Govern
from safelight.application.keep_going import keep_going
from safelight.application.key_pool import KeyEntry, KeyPool
from safelight.application.observer import Observers
from safelight.application.overrides import Override
from safelight.application.pace import Pace
from safelight.application.ports import Provider, ProviderKey
from safelight.application.provider_entry import ProviderEntry
from safelight.application.queue_state import ReadQueue
from safelight.application.read import Read
from safelight.application.report import Watchers
from safelight.application.retry import Retry
from safelight.application.submit import Submit
from safelight.application.sweep import Sweep, survived
from safelight.application.switches import Switches
from safelight.application.webhooks import ConfiguredEndpoint, Webhooks
from safelight.config import KeySettings, ProviderEntrySettings, Role, Settings, TraceSettings, WebhookSettings
from safelight.declared import declared
from safelight.domain.breaker import BreakerPolicy
from safelight.domain.caller import Caller
from safelight.domain.errors import ConfigurationError, InvalidRequest, RequestError, StorageError
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.price import Price
from safelight.domain.schedule import RetryPolicy
from safelight.domain.webhook import DeliveryLimits, EndpointSettings
from safelight.logs import JobLog
from safelight.storage import Storage, open_storage

if TYPE_CHECKING:  # needs packages of an extra
    from safelight.adapters.traces import Traces

log = structlog.get_logger(__name__)

BUILTIN = "builtin"
KEY_HASH = "virtual_key_hash"
"""The fact under which the key of the virtual keys' hashes lies, itself encrypted."""
_LOOK_FOR_OVERRIDES_S = 2.0
_LINK_TIMEOUT_S = 30.0
"""For an input image behind a link: its submit waits for it."""
_ORPHANS_EVERY = timedelta(hours=6)
_WEBHOOK_GRACE_S = 5.0
_MOST_OUTPUT_PIXELS = 1_000_000_000


def usual_keys() -> Mapping[str, str]:
    """Which variable switches which provider on, where there is no settings file."""
    return {name: module.env_key for name, module in load_providers().items() if module.env_key}


def provider_modules() -> Mapping[str, ProviderModule[Any]]:
    """The kinds of providers that there are."""
    return load_providers()


def provider_settings(name: str, entry: ProviderEntrySettings) -> ProviderSettings:
    """An entry of the settings file as the provider modules take it."""
    return ProviderSettings(
        name=ProviderName(name),
        type=entry.type or name,
        base_url=entry.base_url,
        concurrency=entry.concurrency,
        timeout_s=entry.timeout,
        connect_timeout_s=entry.connect_timeout,
        retry=RetryPolicy(
            max=entry.retries.max,
            initial_s=entry.retries.initial,
            max_delay_s=entry.retries.max_delay,
            share=entry.retries.share,
            least=entry.retries.least,
        ),
        repeatable=entry.repeatable,
        models=entry.models,
        options=entry.options,
    )


def known_entries(settings: Settings) -> Mapping[str, ProviderEntrySettings]:
    """All entries of the settings, and `builtin`, which needs none."""
    return {BUILTIN: ProviderEntrySettings(), **settings.providers}


def enabled_providers(settings: Settings) -> Mapping[str, ProviderEntrySettings]:
    """The entries that are on; `builtin` always is, unless it is switched off by name."""
    return {name: entry for name, entry in known_entries(settings).items() if entry.enabled}


def open_providers(settings: Settings, sessions: HttpSessions) -> dict[ProviderName, ProviderEntry]:
    """Make every enabled provider; raises `ConfigurationError`. Sends nothing."""
    prices = operator_prices(settings)
    for name, entry in enabled_providers(settings).items():
        if entry.callbacks and not settings.server.public_url:
            raise ConfigurationError(f"providers.{name}.callbacks needs server.public_url: where it is to call back")
    return {
        ProviderName(name): replace(open_provider(name, entry, sessions), prices=prices.get(name, {}))
        for name, entry in enabled_providers(settings).items()
    }


def _callback_addresses(settings: Settings, secret: bytes) -> CallbackAddresses | None:
    """Where providers call back; nowhere, as long as nobody has said how the gateway is reached from outside."""
    url = settings.server.public_url
    return CallbackAddresses(key=secret, public_url=url) if url else None


def operator_prices(settings: Settings) -> Mapping[str, Mapping[str, Price]]:
    """The settings' prices, by provider and model; raises `ConfigurationError`."""
    known, found = known_entries(settings), defaultdict[str, dict[str, Price]](dict)
    for target, table in settings.prices.items():
        provider, _, model = target.partition("/")
        if provider not in known:
            raise ConfigurationError(f"prices: {target!r} names a provider that is not in the settings")
        found[provider][model] = read_price(table, where=f"prices: {target!r}")
    return found


def open_provider(name: str, entry: ProviderEntrySettings, sessions: HttpSessions) -> ProviderEntry:
    """Make one provider; raises `ConfigurationError`. Sends nothing."""
    modules = load_providers()
    module = modules.get(entry.type or name)
    if module is None:
        known = ", ".join(sorted(modules))
        raise ConfigurationError(f"providers.{name}: there is no provider type {entry.type or name!r}; known: {known}")
    if module.needs_key and not entry.keys:
        raise ConfigurationError(
            f"providers.{name} has no key: set {module.env_key} and write keys: [{{value: env.{module.env_key}}}], "
            "or take it out; the model builtin/sketch needs no key"
        )
    if entry.callbacks and not module.calls_back:
        able = ", ".join(sorted(each.name for each in modules.values() if each.calls_back))
        raise ConfigurationError(f"providers.{name}.callbacks: {module.name} does not call back; these do: {able}")
    wanted = module.settle(provider_settings(name, entry))
    # The built-in provider's failures are made for tests and tell nothing of it: no breaker, and as many retries as asked.
    return ProviderEntry(
        provider=module.open(wanted, sessions),
        keys=_keys(name, entry.keys),
        repeatable=bool(wanted.repeatable),
        retry=wanted.retry if module.remote else replace(wanted.retry, share=1.0),
        concurrency=wanted.concurrency,
        deduplicated=module.deduplicates,
        callbacks=entry.callbacks,
        breaker=BreakerPolicy(
            failures=entry.breaker.failures if module.remote else 0, open_for_s=entry.breaker.open_for
        ),
    )


def warn_of_endings(providers: Mapping[ProviderName, Provider], today: date) -> None:
    """Tell the operator of models that are shut down, or soon will be: one line a provider."""
    for name, provider in providers.items():
        ending = {
            spec.name: spec.shutdown_date.isoformat() if spec.shutdown_date else spec.life_on(today).value
            for spec in provider.specs
            if spec.near_its_end(today)
        }
        if ending:
            log.warning("models_near_their_end", provider=name, models=ending)


def open_inspection(folder: Path) -> SqliteInspection | None:
    """Look into the database of a data folder, which may be in use; `None` when there is none yet.

    Raises `ConfigurationError`, `StorageError`.
    """
    path = database_of(folder)
    return SqliteInspection(path) if path.exists() else None


def _open_traces(settings: TraceSettings) -> "Traces | None":
    """Raise `ConfigurationError` where the packages are missing."""
    if settings.endpoint is None:
        return None
    try:
        from safelight.adapters.traces import Traces, open_tracing  # noqa: PLC0415 - needs packages of an extra
    except ImportError as error:
        raise ConfigurationError(
            f"traces.endpoint needs the package {error.name}: pip install 'safelight[otel]'"
        ) from error
    return Traces(open_tracing(endpoint=settings.endpoint, share=settings.share, service=settings.service))


def _keys(name: str, keys: tuple[KeySettings, ...]) -> tuple[KeyEntry, ...]:
    if len({key.name for key in keys}) < len(keys):
        raise ConfigurationError(f"providers.{name}.keys: each key needs a name of its own")
    entries = [
        KeyEntry(
            key=ProviderKey(name=key.name, value=key.value.get_secret_value()),
            models=key.models,
            weight=key.weight,
            concurrency=key.concurrency,
        )
        for key in keys
    ]
    return tuple(entries) or (KeyEntry(key=ProviderKey(name=None, value=None)),)


async def _reconcile(webhooks: Webhooks, settings: Settings) -> None:
    """Bring the endpoints of the settings into the store; raises `ConfigurationError`."""
    names = [entry.name for entry in settings.webhooks]
    if len(set(names)) < len(names):
        raise ConfigurationError("webhooks: each endpoint needs a name of its own")
    try:
        await webhooks.reconcile([_configured(entry) for entry in settings.webhooks])
    except InvalidRequest as error:
        raise ConfigurationError(f"webhooks: {error.message}") from error


def _configured(entry: WebhookSettings) -> ConfiguredEndpoint:
    return ConfiguredEndpoint(
        settings=EndpointSettings(
            name=entry.name,
            url=entry.url,
            events=entry.events,
            headers={name: value.get_secret_value() for name, value in entry.headers.items()},
            include_response=entry.include_response,
            include_links=entry.include_links,
            allow_private_network=entry.allow_private_network,
            disabled=entry.disabled,
            limits=DeliveryLimits(**{limit.name: getattr(entry, limit.name) for limit in fields(DeliveryLimits)}),
        ),
        secret=entry.secret.get_secret_value() if entry.secret else None,
    )


def _begun(name: str, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    return asyncio.create_task(keep_going(name, work))


def _admin_door(settings: Settings) -> AdminDoor:
    key = settings.auth.admin_key
    return AdminDoor(key=key.get_secret_value() if key else None, loopback=settings.server.loopback)


def _with_stored(keys: tuple[KeyEntry, ...], stored: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
    """The settings' keys with those that an administrator added; of one name, theirs."""
    names = {entry.key.name for entry in stored}
    return (*(key for key in keys if key.key.name is not None and key.key.name not in names), *stored) or keys


def _renewed(
    entry: ProviderEntry, said: ProviderEntrySettings, name: str, stored: tuple[KeyEntry, ...]
) -> ProviderEntry:
    keys = _with_stored(_keys(name, said.keys), stored)
    if any(each.key.name for each in entry.keys) and not said.keys and not stored:
        raise ConfigurationError(
            f"providers.{name}.keys: the settings name no key any more; a restart is needed for that"
        )
    return entry.with_keys(keys)


async def open_gateway(settings: Settings, *, address: str | None = None) -> "Gateway":
    """Make a gateway, not started yet; on a failure nothing stays open. `address` is where it answers.

    Raises `ConfigurationError`, `StorageError`, `DataDirInUse`.
    """
    sessions = open_sessions()
    try:
        providers = open_providers(settings, sessions)
        lanes = {name: entry.concurrency for name, entry in providers.items()}
        metrics = Metrics({name: entry.provider for name, entry in providers.items()})
        storage = await open_storage(settings, lanes, address=address, timed=metrics.stored)
        return Gateway(settings, storage, providers, sessions, metrics, address=address)
    except BaseException:
        await sessions.close()
        raise


class Gateway:
    """A whole gateway, or the part of it that its role names: `start`, serve `app`, `drain`, `close`."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        providers: dict[ProviderName, ProviderEntry],
        sessions: HttpSessions,
        metrics: Metrics,
        *,
        address: str | None = None,
    ) -> None:
        """All that it is handed is closed by `close`. `address` is where it answers, for links in webhooks."""
        self._settings = settings
        self._storage = storage
        self._providers = providers
        self._sessions = sessions
        self._clock, self._bell = storage.clock, storage.bell
        self._store, self._queue = storage.jobs, storage.queue
        self._blobs = TimedBlobStore(storage.blobs, metrics.blob)
        self._metrics = metrics
        self._traces = _open_traces(settings.traces)
        heard_by = [JobLog(prompts=settings.log.prompts), metrics, self._traces]
        self._observer = Observers([each for each in heard_by if each is not None])
        self._keys = KeyPool()
        self._switches = Switches(
            store=SqlSwitches(storage.database), jobs=self._store, queue=self._queue, clock=storage.clock
        )
        self._watchers = Watchers()
        self._batches = SqlBatchStore(storage.database, storage.jobs)
        self._batch_lines = BlobBatchLines(storage.blobs, storage.clock)
        self.secret_box = AesGcmBox(storage.encryption_keys)
        self.access_store = SqlAccessStore(storage.database)
        self._overrides = SqlOverrideStore(storage.database, self.secret_box)
        self._stored_keys: Mapping[str, tuple[KeyEntry, ...]] = {}
        """Keys of providers that an administrator added, by provider."""
        self._keys_of = settings
        """The settings that the providers' keys were read from last."""
        self.made_keys: Mapping[str, str] = {}
        """Virtual keys of the settings that had no value: made at this start, to be shown once."""
        self._accepting = True
        self._tasks: list[asyncio.Task[None]] = []
        self._engine: asyncio.Task[None] | None = None
        private_hosts = settings.server.private_hosts
        self._fetcher = HttpPictureFetcher(private_hosts=private_hosts)
        self._intake_fetcher = HttpPictureFetcher(
            timeout_s=_LINK_TIMEOUT_S, max_bytes=settings.server.max_image, private_hosts=private_hosts
        )
        self._address = address or f"http://{settings.server.host}:{settings.server.port}"
        self._endpoints = SqlWebhookStore(storage.database, box=self.secret_box, ring=self._bell.ring)
        self._sender = HttpWebhookSender(clock=self._clock)
        self._courier: asyncio.Task[None] | None = None
        self.read = Read(store=self._store, queue=self._queue, bell=self._bell, clock=self._clock)
        self.cancel = Cancel(
            read=self.read,
            store=self._store,
            queue=self._queue,
            blobs=self._blobs,
            clock=self._clock,
            observer=self._observer,
        )
        self.retry: Retry
        self.submit: Submit
        self.batches = Batches(
            store=self._batches,
            lines=self._batch_lines,
            jobs=self._store,
            bell=self._bell,
            clock=self._clock,
            cancel_job=self.cancel.cancel,
        )
        self.app: Api

    def _ports(self) -> dict[ProviderName, Provider]:
        return {name: entry.provider for name, entry in self._providers.items()}

    def workspace(self, job_id: JobId) -> JobWorkspace:
        """A job's images from providers."""
        limits = self._settings.jobs
        return JobWorkspace(
            self._blobs,
            job_id,
            clock=self._clock,
            max_bytes=limits.max_output_image,
            max_pixels=_MOST_OUTPUT_PIXELS,
            paid=True,
        )

    def _intake_workspace(self, job_id: JobId) -> JobWorkspace:
        limits = self._settings.server
        return JobWorkspace(
            self._blobs, job_id, clock=self._clock, max_bytes=limits.max_image, max_pixels=limits.max_pixels
        )

    async def start(self) -> None:
        """Make the application; take up the jobs that an earlier process left."""
        warn_of_endings(self._ports(), self._clock.now().date())
        secret = await self._store.fact("link_secret", secrets.token_bytes(32))
        if renewed := await reseal(self._storage.database, self.secret_box, facts=(KEY_HASH,)):
            log.info("secrets_encrypted_anew", secrets=renewed)
        callers = await self._open_callers()
        await self._apply_overrides()
        estimate = Estimate(providers=self._providers)
        self._govern = govern = Govern(callers=callers, estimate=estimate)
        self.retry = Retry(read=self.read, store=self._store, queue=self._queue, clock=self._clock, govern=govern)
        self.submit = Submit(
            store=self._store,
            queue=self._queue,
            providers=self._ports(),
            clock=self._clock,
            govern=govern,
            backlog=Backlog(most=self._settings.jobs.max_waiting, count=self._store.waiting, clock=self._clock),
            observer=self._observer,
        )
        server, jobs, told = self._settings.server, self._settings.jobs, self._settings.log
        callbacks = _callback_addresses(self._settings, secret)
        await self._switches.look()
        advance = self._advance(callbacks)
        queue = ReadQueue(counts=SqlCounts(self._storage.database), advance=advance, clock=self._clock)
        links = Links(secret, public_url=server.public_url)
        events = self._webhook_renderer(links)
        webhooks = Webhooks(store=self._endpoints, sender=self._sender, clock=self._clock, sample=events.sample)
        await _reconcile(webhooks, self._settings)
        self.app = Api(
            Services(
                submit=self.submit,
                read=self.read,
                follow=Follow(store=self._store, bell=self._bell, tail=Tail(self._store)),
                batches=self.batches,
                estimate=estimate,
                queue=queue,
                switches=self._switches,
                cancel=self.cancel,
                retry=self.retry,
                pace=Pace(
                    slots={name: entry.concurrency for name, entry in self._providers.items()}, clock=self._clock
                ),
                blobs=self._blobs,
                workspace=self._intake_workspace,
                providers=self._ports(),
                links=links,
                callback=TakeCallback(
                    store=self._store,
                    queue=self._queue,
                    clock=self._clock,
                    providers=self._providers,
                    addresses=callbacks,
                    call_of=advance.call_of,
                ),
                limits=ApiLimits(
                    max_body_bytes=server.max_body,
                    max_image_bytes=server.max_image,
                    body_idle_timeout_s=server.body_timeout,
                    result_ttl_s=jobs.result_ttl,
                    max_result_ttl_s=jobs.max_result_ttl,
                    batch_ttl_s=min(jobs.batch_ttl, jobs.max_result_ttl),
                    webhook_history=timedelta(seconds=jobs.webhook_history),
                ),
                admin=_admin_door(self._settings),
                fetcher=self._intake_fetcher,
                callers=callers,
                administer=self.administer,
                override=Override(store=self._overrides, clock=self._clock, apply=self._apply_overrides),
                check_price=partial(read_price, where="the price"),
                usage=SqlUsage(self._storage.database).report,
                metrics=MetricsPage(page=partial(self._metrics.page, queue.state), protected=server.protect_metrics),
                access=Access(served=self._metrics.served, kept=AccessLog(told.access), spans=self._traces),
                webhooks=webhooks,
                ready=self._check_ready,
            ),
            routes=[*probe_routes(), *metrics_routes()] if server.role is Role.WORKER else None,
        )
        self._tasks = [
            _begun("metrics", self._metrics.watch_the_loop),
            _begun("switches", self._switches.follow),
            _begun("overrides", self._watch_overrides),
        ]
        if server.role is not Role.API:
            self._engine = _begun("queue", partial(self._queue.run, advance.step))
            await self._work(self._deliver(events))
            self._tasks.append(_begun("batches", self._feed().run))

    async def _open_callers(self) -> Callers:
        """Get to know the virtual keys, those of the settings included."""
        sealed = await self._store.fact(KEY_HASH, self.secret_box.seal(secrets.token_hex(32)))
        callers = Callers(
            self.access_store,
            digest=keyed_hash(self.secret_box.open(sealed).encode()),
            clock=self._clock,
            required=self._settings.auth.required,
        )
        self.administer = Administer(store=self.access_store, callers=callers, clock=self._clock)
        try:
            self.made_keys = await self.administer.reconcile(declared(self._settings))
        except RequestError as error:
            raise ConfigurationError(f"the settings of virtual keys, teams and customers: {error.message}") from error
        return callers

    def _feed(self) -> Feed:
        """Batches are fed by whoever works, on nobody's behalf."""
        return Feed(
            store=self._batches,
            lines=self._batch_lines,
            queue=self._queue,
            bell=self._bell,
            clock=self._clock,
            lane_share=self._lane_share,
            govern=self._govern,
            retry_job=lambda job_id: self.retry.again(job_id, Caller(admin=True)),
        )

    def _lane_share(self, lane: ProviderName) -> int:
        """How many lines of batches may wait or run in a lane at a time."""
        entry = self._providers.get(lane)
        return max(1, int(self._settings.jobs.batch_share * entry.concurrency)) if entry else 1

    async def _work(self, deliver: Deliver) -> None:
        if self._settings.storage.database_url is None:  # nobody else can be at work, so a lease is a dead process's
            await self._endpoints.drop_leases()
        self._courier = _begun("webhooks", deliver.run)
        self._tasks.append(_begun("sweeper", partial(self._sweep_for_ever, deliver)))

    def _webhook_renderer(self, links: Links) -> WebhookRenderer:
        jobs = JobRenderer(blobs=self._blobs, links=links, providers=self._ports(), base_url=lambda: self._address)
        return WebhookRenderer(jobs=jobs, clock=self._clock)

    def _deliver(self, events: WebhookRenderer) -> Deliver:
        return Deliver(
            store=self._endpoints,
            jobs=self._store,
            sender=self._sender,
            render=events.body,
            bell=self._bell,
            clock=self._clock,
            observer=self._observer,
        )

    def _advance(self, callbacks: CallbackAddresses | None) -> Advance:
        return Advance(
            store=self._store,
            providers=self._providers,
            workspace=self.workspace,
            fetcher=self._fetcher,
            blobs=self._blobs,
            clock=self._clock,
            on_unknown=self._settings.jobs.on_unknown,
            keys=self._keys,
            watchers=self._watchers,
            callback_address=callbacks.of if callbacks else None,
            observer=self._observer,
            switches=self._switches.of,
        )

    def reload_keys(self, settings: Settings) -> None:
        """Take the providers' keys of other settings; all else stays. Raises `ConfigurationError`, and changes nothing.

        Calls that are out go on with the keys that they have.
        """
        said = enabled_providers(settings)
        renewed = {
            name: _renewed(entry, said[name], name, self._stored_keys.get(name, ()))
            for name, entry in self._providers.items()
            if name in said
        }
        for name, entry in renewed.items():
            self._providers[name] = entry
            self._keys.renew(name)
        self._keys_of = settings
        names = {name: [each.key.name for each in entry.keys] for name, entry in renewed.items()}
        log.info("provider_keys_reloaded", keys={name: keys for name, keys in names.items() if keys != [None]})

    async def _apply_overrides(self) -> None:
        """Have the engine take the keys and prices that administrators added; calls that are out keep theirs."""
        found = defaultdict[str, list[KeyEntry]](list)
        for stored, value in await self._overrides.keys():
            key = ProviderKey(name=stored.name, value=value)
            found[stored.provider].append(
                KeyEntry(key=key, models=stored.models, weight=stored.weight, concurrency=stored.concurrency)
            )
        self._stored_keys = {name: tuple(keys) for name, keys in found.items()}
        prices: dict[str, dict[str, Price]] = {
            name: dict(table) for name, table in operator_prices(self._settings).items()
        }
        for price in await self._overrides.prices():
            prices.setdefault(price.provider, {})[price.model] = read_price(price.table, where="a stored price")
        said = known_entries(self._keys_of)
        for name, entry in self._providers.items():
            keys = _with_stored(_keys(name, said[name].keys), self._stored_keys.get(name, ()))
            self._providers[name] = replace(entry.with_keys(keys), prices=prices.get(name, {}))
            if keys != entry.keys:
                self._keys.renew(name)

    async def _watch_overrides(self) -> None:
        """See what other processes changed."""
        version = await self.access_store.version()
        while True:
            await asyncio.sleep(_LOOK_FOR_OVERRIDES_S)
            try:
                newest = await self.access_store.version()
                if newest != version:
                    await self._apply_overrides()
                    version = newest
            except StorageError as error:
                log.warning("overrides_not_read", error=error.message)

    async def _check_ready(self) -> None:
        if not self._accepting:
            raise StorageError("the gateway is shutting down")
        await self._store.check()
        await self._blobs.check()

    async def _sweep_for_ever(self, deliver: Deliver) -> None:
        sweep = Sweep(
            store=self._store,
            batches=self._batches,
            blobs=self._blobs,
            clock=self._clock,
            deadline=timedelta(seconds=self._settings.jobs.deadline),
            observer=self._observer,
        )
        orphans_at = self._clock.now()
        while True:
            await sweep.once()
            if self._clock.now() >= orphans_at:
                await sweep.remove_orphans()
                await survived(lambda: deliver.forget(timedelta(seconds=self._settings.jobs.webhook_history)))
                orphans_at = self._clock.now() + _ORPHANS_EVERY
            await asyncio.sleep(self._settings.jobs.sweep_interval)

    @property
    def has_paid_calls_out(self) -> bool:
        """Whether a provider is being called whose repeat may cost money."""
        return any(not self._providers[name].repeatable for name in self._queue.running & self._providers.keys())

    async def drain(self) -> None:
        """Start nothing any more; give running calls `shutdown_grace` seconds; leave the rest for the next start."""
        self._accepting = False
        self._queue.stop()
        if self._engine is not None:
            await asyncio.wait([self._engine], timeout=self._settings.jobs.shutdown_grace)
        self._bell.silence()
        if self._courier is not None:
            await asyncio.wait([self._courier], timeout=_WEBHOOK_GRACE_S)

    async def close(self) -> None:
        """Stop everything and let go of it."""
        tasks = [task for task in (self._engine, self._courier, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._watchers.close()
        for entry in self._providers.values():
            with contextlib.suppress(Exception):
                await entry.provider.close()
        await self._fetcher.close()
        await self._intake_fetcher.close()
        await self._sender.close()
        await self._sessions.close()
        await self._storage.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
