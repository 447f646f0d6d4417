"""What `safelight doctor` looks at. Nothing is changed, and no provider is called."""

import asyncio
import contextlib
import os
import platform
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

from safelight import server
from safelight.adapters.data_dir import DataDirInUse, check_free, database_of
from safelight.adapters.providers._base import ProviderModule
from safelight.adapters.providers._http import open_sessions
from safelight.application.provider_entry import ProviderEntry
from safelight.cli.tables import size
from safelight.config import ProviderEntrySettings, Settings, settings_file, stray_variables
from safelight.domain.capability import Life, ModelSpec
from safelight.domain.errors import ConfigurationError, StorageError
from safelight.storage import look_at_bucket, look_at_database
from safelight.wiring import known_entries, open_inspection, open_provider, provider_modules, provider_settings

_LOW_SPACE_BYTES = 1_000_000_000
_NO_SPACE_BYTES = 50_000_000
_NETWORKED = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph"})
_FLEETING = frozenset({"tmpfs", "ramfs"})
_MOUNTS = Path("/proc/self/mounts")


class Mark(StrEnum):
    """How a check came out; `off` is neither good nor bad."""

    OK = "ok"
    OFF = "off"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report, with what to do about it."""

    name: str
    mark: Mark
    finding: str
    remedy: str | None = None


def program() -> Iterator[Check]:
    """Say what runs."""
    finding = f"safelight {version('safelight')}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    yield Check(name="program", mark=Mark.OK, finding=finding)


def settings_source(config: Path | None, fault: ConfigurationError | None) -> Iterator[Check]:
    """Say where the settings come from, and whether they can be read."""
    path = settings_file(config)
    source = str(path) if path else "no file: defaults and SAFELIGHT_* variables"
    if fault:
        yield Check(name="settings", mark=Mark.FAIL, finding=str(fault), remedy="`safelight settings` lists them all")
    else:
        yield Check(name="settings", mark=Mark.OK, finding=source)
    for name in stray_variables():
        yield Check(
            name="settings",
            mark=Mark.WARN,
            finding=f"{name} is set, but is no setting",
            remedy="sections are set off by two underscores, as in SAFELIGHT_SERVER__PORT",
        )


def data_folder(folder: Path) -> Iterator[Check]:
    """See whether the folder can be used, and who does."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        remedy = "make it writable, or choose another with --data-dir or SAFELIGHT_STORAGE__DATA_DIR"
        yield Check(name="data folder", mark=Mark.FAIL, finding=f"{existing} cannot be written to", remedy=remedy)
        return
    yield Check(name="data folder", mark=Mark.OK, finding=f"{folder.absolute()}, {_use_of(folder)}")
    yield _space(existing)
    yield _filesystem(existing)


def _use_of(folder: Path) -> str:
    if not folder.exists():
        return "made at the first start"
    try:
        check_free(folder)
    except DataDirInUse as error:
        holder = error.holder
        at = f" at {holder.address}" if holder and holder.address else ""
        return f"in use by process {holder.pid}{at}" if holder else "in use"
    return "not in use"


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    mark = Mark.FAIL if free < _NO_SPACE_BYTES else Mark.WARN if free < _LOW_SPACE_BYTES else Mark.OK
    remedy = (
        None if mark is Mark.OK else "make room, or shorten jobs.result_ttl: images are kept until their job expires"
    )
    return Check(name="disk", mark=mark, finding=f"{size(free)} free", remedy=remedy)


def _filesystem(folder: Path) -> Check:
    kind = _filesystem_of(folder)
    if kind in _NETWORKED:
        finding = f"{kind}: locks and syncs of network filesystems are not to be trusted with a database"
        return Check(name="filesystem", mark=Mark.WARN, finding=finding, remedy="choose a data folder on a local disk")
    if kind in _FLEETING:
        finding = f"{kind}: what is in memory is gone after a reboot, and with it every job"
        return Check(name="filesystem", mark=Mark.WARN, finding=finding, remedy="choose a data folder on a disk")
    return Check(name="filesystem", mark=Mark.OK, finding=kind or "of unknown kind")


def _filesystem_of(folder: Path) -> str | None:
    """The kind of the mount that holds a folder, where the system tells."""
    try:
        mounts = [line.split() for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    holding = [(len(mount[1]), mount[2]) for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(holding, default=(0, None))[1]


def database(folder: Path) -> Iterator[Check]:
    """See whether the record is whole."""
    path = database_of(folder)
    try:
        inspection = open_inspection(folder)
        if inspection is None:
            yield Check(name="database", mark=Mark.OK, finding="made at the first start")
            return
        with contextlib.closing(inspection):
            fault = inspection.fault()
            finding = f"schema {inspection.schema}, {size(path.stat().st_size)}, quick check passed"
    except ConfigurationError as error:
        yield Check(name="database", mark=Mark.WARN, finding=str(error))
        return
    except StorageError as error:
        fault, finding = str(error), ""
    if fault:
        remedy = f"stop the gateway, keep a copy of {path}, and try `sqlite3 {path} .recover`"
        yield Check(name="database", mark=Mark.FAIL, finding=fault, remedy=remedy)
    else:
        yield Check(name="database", mark=Mark.OK, finding=finding)


def shared_database(settings: Settings) -> Iterator[Check]:
    """See whether the Postgres answers, and whether its schema is this release's."""
    where = settings.storage.shown_database_url
    try:
        found = asyncio.run(look_at_database(settings))
    except (ConfigurationError, StorageError) as error:
        remedy = "see that it runs, and that storage.database_url names it, its user and the password"
        yield Check(name="database", mark=Mark.FAIL, finding=f"{where}: {error}", remedy=remedy)
        return
    if found is None:
        return
    finding = f"{where}, Postgres {found.server}, schema {found.schema or 'not made yet'}"
    if found.schema > found.newest:
        remedy = f"run a newer release of safelight: this one knows schemas up to {found.newest}"
        yield Check(name="database", mark=Mark.FAIL, finding=finding, remedy=remedy)
    else:
        yield Check(name="database", mark=Mark.OK, finding=finding)
    if not settings.auth.encryption_keys:
        finding = "none is set: the one for stored secrets lies in the database beside them"
        remedy = "set SAFELIGHT_ENCRYPTION_KEY, the same for all processes"
        yield Check(name="encryption key", mark=Mark.WARN, finding=finding, remedy=remedy)


def bucket(settings: Settings) -> Iterator[Check]:
    """See whether the images' bucket can be listed."""
    where = settings.storage.blob_url
    try:
        if asyncio.run(look_at_bucket(settings)):
            yield Check(name="images", mark=Mark.OK, finding=f"{where} answers")
    except (ConfigurationError, StorageError) as error:
        remedy = "see to the vendor's usual variables, and to storage.blob_options"
        yield Check(name="images", mark=Mark.FAIL, finding=f"{where}: {error}", remedy=remedy)


def address(settings: Settings, *, in_use: bool) -> Iterator[Check]:
    """See whether the address could be taken; the gateway that runs may have it."""
    where = settings.server
    name = f"{where.host}:{where.port}"
    if in_use:
        yield Check(name="address", mark=Mark.OK, finding=f"{name}; a gateway is running")
        return
    try:
        server.listen(settings).close()
    except ConfigurationError as error:
        yield Check(name="address", mark=Mark.FAIL, finding=str(error))
    else:
        yield Check(
            name="address", mark=Mark.OK, finding=f"{name} is free" if where.port else f"{where.host}, a free port"
        )
    if where.unprotected and not where.loopback and not settings.auth.required:
        finding = "whoever reaches the address can spend your money: nobody is asked for a key"
        yield Check(name="address", mark=Mark.WARN, finding=finding, remedy="see that only those reach it who may")


def public_url(settings: Settings) -> Iterator[Check]:
    """Say what links to images begin with."""
    finding = settings.server.public_url or "not set: links to images begin with the address that the caller used"
    yield Check(name="public_url", mark=Mark.OK, finding=finding)


def providers(settings: Settings, config: Path | None) -> Iterator[Check]:
    """Say which providers are on, and what would switch the others on."""
    entries = known_entries(settings)
    modules = provider_modules()
    for name, entry in entries.items():
        yield _provider(name, entry, modules.get(entry.type or name))
    used = {entry.type or name for name, entry in entries.items()}
    for name, module in modules.items():
        if name not in used:
            yield Check(name=name, mark=Mark.OFF, finding=module.doc, remedy=_switch(module, settings_file(config)))


def _switch(module: "ProviderModule[object]", path: Path | None) -> str:
    if module.env_key is None:
        return f"add an entry with type: {module.name} under providers: in {path or 'a settings file'}"
    if path is None:
        return f"set {module.env_key}"
    return f"write into {path}: providers: {{{module.name}: {{keys: [{{value: env.{module.env_key}}}]}}}}"


def _provider(name: str, entry: ProviderEntrySettings, module: "ProviderModule[object] | None") -> Check:
    if not entry.enabled:
        return Check(name=name, mark=Mark.OFF, finding="switched off in the settings", remedy="set enabled: true")
    try:
        opened = asyncio.run(_open(name, entry))
    except ConfigurationError as error:
        return Check(name=name, mark=Mark.FAIL, finding=str(error))
    base_url = module.settle(provider_settings(name, entry)).base_url if module else None
    facts = [
        base_url,
        _keys(entry),
        "a repeated call costs nothing" if opened.repeatable else "a repeated call may cost money",
        *_models(opened.provider.specs),
    ]
    empty = [key.name for key in entry.keys if not key.value.get_secret_value().strip()]
    if empty:
        remedy = f"give {module.env_key} a value" if module and module.env_key else "give it a value"
        return Check(name=name, mark=Mark.WARN, finding=f"key {empty[0]} is empty", remedy=remedy)
    return Check(name=name, mark=Mark.OK, finding="; ".join(fact for fact in facts if fact))


async def _open(name: str, entry: ProviderEntrySettings) -> ProviderEntry:
    """Make the provider, as the gateway would at its start, and let go of it."""
    sessions = open_sessions()
    try:
        opened = open_provider(name, entry, sessions)
        await opened.provider.close()
    finally:
        await sessions.close()
    return opened


def _keys(entry: ProviderEntrySettings) -> str:
    names = ", ".join(key.name for key in entry.keys)
    return f"key {names}" if names else "no key"


def _models(specs: Sequence[ModelSpec]) -> Iterator[str]:
    if not specs:
        yield "any model"
        return
    usable = [spec for spec in specs if spec.life is not Life.RETIRED]
    yield f"{len(usable)} known model{'s' * (len(usable) != 1)}"
    ending = [f"{spec.name} ({spec.shutdown_date})" for spec in usable if spec.shutdown_date]
    if ending:
        yield f"to be shut down: {', '.join(ending)}"
    retired = [spec.name for spec in specs if spec.life is Life.RETIRED]
    if retired:
        yield f"retired: {', '.join(retired)}"
