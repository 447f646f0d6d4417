"""Finds the provider modules: every module of this folder without a leading underscore."""

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from safelight.adapters import providers
from safelight.adapters.providers._base import ProviderModule
from safelight.domain.errors import ConfigurationError


def load_providers() -> Mapping[str, ProviderModule[Any]]:
    """Import all provider modules, by name. Raises `ConfigurationError` for one that is not whole."""
    names = [found.name for found in pkgutil.iter_modules(providers.__path__) if not found.name.startswith("_")]
    return collect(_import(name) for name in sorted(names))


def collect(modules: Iterable[ModuleType]) -> Mapping[str, ProviderModule[Any]]:
    """Take what modules declare, `PROVIDER` and perhaps `MORE`; raises `ConfigurationError`."""
    found: dict[str, ProviderModule[Any]] = {}
    for module in modules:
        for declared in (_declared(module), *getattr(module, "MORE", ())):
            if declared.name in found:
                raise ConfigurationError(f"the provider module {module.__name__} declares {declared.name!r} again")
            found[declared.name] = declared
    return MappingProxyType(found)


def _import(name: str) -> ModuleType:
    path = f"{providers.__name__}.{name}"
    try:
        return import_module(path)
    except ImportError as exc:
        raise ConfigurationError(f"the provider module {path} cannot be imported: {exc}") from exc


def _declared(module: ModuleType) -> ProviderModule[Any]:
    declared = getattr(module, "PROVIDER", None)
    if not isinstance(declared, ProviderModule):
        raise ConfigurationError(f"the provider module {module.__name__} declares no PROVIDER = ProviderModule(...)")
    own_name = module.__name__.rpartition(".")[2]
    if declared.name != own_name:
        raise ConfigurationError(f"the provider module {module.__name__} declares the name {declared.name!r}")
    return declared
