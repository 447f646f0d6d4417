"""What the settings become."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from safelight.adapters.providers._http import open_sessions
from safelight.application.provider_entry import ProviderEntry
from safelight.config import Settings, load
from safelight.domain.breaker import BreakerPolicy
from safelight.domain.capability import Life, ModelSpec
from safelight.domain.errors import ConfigurationError
from safelight.domain.ids import ProviderName
from safelight.domain.price import ImagePrice, Price
from safelight.server import listen, reload_keys
from safelight.wiring import Gateway, open_gateway, open_providers, operator_prices, warn_of_endings
from tests.doubles import ScriptedProvider
from tests.making import PAID

SPEC = ModelSpec(name="flux", operations=frozenset(), fields=frozenset())
BOX = ProviderName("gpu-box")
YAML = """
providers:
  gpu-box:
    type: openai_compatible
    base_url: http://127.0.0.1:9/v1
    models:
      - {name: flux, operations: [image_generation], max_n: 1, shutdown_date: 2027-01-02, price: {per_image_usd: 0.5}}
prices:
  gpu-box/flux: {per_image_usd: 0.002}
  gpu-box/org/other: {per_megapixel: "0.04"}
"""


def settings(tmp_path: Path, text: str = YAML) -> Settings:
    file = tmp_path / "safelight.yaml"
    file.write_text(text)
    return load(file, {}, {})


async def opened(wanted: Settings) -> Mapping[ProviderName, ProviderEntry]:
    sessions = open_sessions()
    try:
        return open_providers(wanted, sessions)
    finally:
        await sessions.close()


async def test_models_and_prices_of_the_settings_reach_the_provider(tmp_path: Path) -> None:
    entry = (await opened(settings(tmp_path)))[BOX]
    spec = entry.provider.spec("flux")
    assert spec is not None
    assert (spec.max_n, spec.shutdown_date) == (1, date(2027, 1, 2))
    assert spec.price == Price(per_image=(ImagePrice(usd=Decimal("0.5")),))
    assert entry.price("flux") == Price(per_image=(ImagePrice(usd=Decimal("0.002")),))
    assert entry.price("org/other") == Price(per_megapixel=Decimal("0.04"))
    assert entry.price("unheard-of") is None


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("gpu-box/flux", "box/flux", "'box/flux' names a provider that is not in the settings"),
        ("gpu-box/flux", "flux", "prices"),
        ("0.002", "cheap", r"prices: 'gpu-box/flux': .*per_image_usd"),
        ("max_n: 1", "max: 1", r"providers\.gpu-box\.models: model 'flux': .*`max`"),
    ],
)
async def test_what_cannot_be_read_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        await opened(settings(tmp_path, YAML.replace(old, new)))


def test_without_prices_there_are_none() -> None:
    assert operator_prices(Settings()) == {}


def test_an_operator_is_warned_of_models_near_their_end() -> None:
    specs = [
        SPEC,
        replace(SPEC, name="old", life=Life.RETIRED),
        replace(SPEC, name="ending", shutdown_date=date(2026, 12, 1)),
    ]
    with capture_logs() as logs:
        warn_of_endings({PAID: ScriptedProvider(specs=specs)}, date(2026, 11, 23))
    plain: list[dict[str, Any]] = [dict(entry) for entry in logs]
    models = {"old": "retired", "ending": "2026-12-01"}
    assert plain == [{"event": "models_near_their_end", "log_level": "warning", "provider": "paid", "models": models}]


# Other keys while it runs

KEYS = """
providers:
  openai:
    keys: [{name: old, value: sk-1}, {name: both, value: sk-2}]
"""
OPENAI = ProviderName("openai")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = await open_gateway(settings(tmp_path, KEYS + f"storage: {{data_dir: {tmp_path / 'data'}}}"))
    yield gateway
    await gateway.close()


def keys(gateway: Gateway) -> dict[str | None, str | None]:
    entry = gateway._providers[OPENAI]
    return {name: entry.key(name).value for name in [each.key.name for each in entry.keys]}


async def test_keys_are_swapped_while_it_runs(gateway: Gateway, tmp_path: Path) -> None:
    with capture_logs() as logs:
        wanted = KEYS.replace("name: old", "name: new").replace("sk-2", "sk-3")
        reload_keys(gateway, lambda: settings(tmp_path, wanted))
    assert keys(gateway) == {"new": "sk-1", "both": "sk-3"}
    assert gateway._providers[OPENAI].key("old").value == "sk-1"
    plain: list[dict[str, Any]] = [dict(entry) for entry in logs]
    names = {"openai": ["new", "both"]}
    assert plain == [{"event": "provider_keys_reloaded", "log_level": "info", "keys": names}]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (KEYS.replace("name: old", "name: both"), "a name of its own"),
        ("providers: {openai: {}}", "no key any more"),
        ("providers: [", "is not YAML"),
    ],
)
async def test_settings_that_cannot_be_used_change_nothing(
    gateway: Gateway, tmp_path: Path, wanted: str, told: str
) -> None:
    with capture_logs() as logs:
        reload_keys(gateway, lambda: settings(tmp_path, wanted))
    assert keys(gateway) == {"old": "sk-1", "both": "sk-2"}
    assert [entry["event"] for entry in logs] == ["provider_keys_not_reloaded"]
    assert told in logs[0]["error"]
    assert "sk-" not in str(logs)


async def test_weights_limits_and_breakers_come_from_the_settings(tmp_path: Path) -> None:
    text = """
    providers:
      openai:
        keys: [{name: a, value: sk-1, weight: 3, concurrency: 4}]
        breaker: {failures: 7, open_for: 9}
        retries: {share: 0.5, least: 3}
    """
    entries = await opened(settings(tmp_path, text))
    (key,) = entries[OPENAI].keys
    assert (key.weight, key.concurrency) == (3, 4)
    assert entries[OPENAI].breaker == BreakerPolicy(failures=7, open_for_s=9)
    assert (entries[OPENAI].retry.share, entries[OPENAI].retry.least) == (0.5, 3)


async def test_the_built_in_provider_is_neither_left_alone_nor_spared(tmp_path: Path) -> None:
    builtin = (await opened(settings(tmp_path)))[ProviderName("builtin")]
    assert (builtin.breaker.failures, builtin.retry.share) == (0, 1.0)


@pytest.mark.parametrize("name", ["admin_key", "encryption_key"])
def test_weak_and_sample_secrets_are_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.* is too easily guessed") as caught:
        settings(tmp_path, f"auth: {{{name}: hunter2-hunter2}}")
    assert "hunter2" not in str(caught.value)


def test_secrets_come_from_their_usual_variables_unless_the_file_says_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_ADMIN_KEY", "9b1f correct horse battery")
    monkeypatch.setenv("SAFELIGHT_ENCRYPTION_KEY", "77aa staple of the usual kind")
    auth = settings(tmp_path, "auth: {encryption_key: [first of two long keys, 77aa staple of the usual kind]}").auth
    assert auth.admin_key is not None
    assert auth.admin_key.get_secret_value() == "9b1f correct horse battery"
    assert auth.encryption_keys == ("first of two long keys", "77aa staple of the usual kind")
    assert settings(tmp_path, "").auth.encryption_keys == ("77aa staple of the usual kind",)
    assert "battery" not in repr(auth)


def test_beyond_loopback_it_listens_where_everybody_is_asked_for_a_key(tmp_path: Path) -> None:
    server = "server: {host: 0.0.0.0, port: 0}"
    with pytest.raises(ConfigurationError, match="nobody is asked for a key"):
        listen(settings(tmp_path, server))
    listen(settings(tmp_path, f"{server}\nauth: {{required: true}}")).close()
