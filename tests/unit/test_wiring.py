"""What the settings become."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from safelight.adapters.providers._http import open_sessions
from safelight.application.advance import ProviderEntry
from safelight.config import Settings, load
from safelight.domain.capability import Life, ModelSpec
from safelight.domain.errors import ConfigurationError
from safelight.domain.ids import ProviderName
from safelight.domain.price import ImagePrice, Price
from safelight.wiring import open_providers, operator_prices, warn_of_endings
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
