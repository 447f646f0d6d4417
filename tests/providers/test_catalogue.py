"""The models as data: what ships, and what the settings make of it."""

from datetime import date
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest

from safelight.adapters.providers._base import BaseProvider, ProviderSettings
from safelight.adapters.providers._catalogue import extend, load_catalogue, read_catalogue, read_price
from safelight.adapters.providers._rules import transparency_needs_alpha
from safelight.domain.capability import OPTIONAL_FIELDS, Life, ModelSpec, PixelRule
from safelight.domain.errors import ConfigurationError
from safelight.domain.ids import ProviderName
from safelight.domain.image import Operation, ResponseFormat
from safelight.domain.price import ImagePrice, Price, TokenPrices

SHIPPED = sorted(
    entry.name.removesuffix(".toml")
    for entry in files("safelight.adapters.providers").joinpath("catalogue").iterdir()
    if entry.name.endswith(".toml")
)
WHOLE = """
[[models]]
name = "m-1"
aliases = ["m-1-2026"]
operations = ["image_generation", "image_edit"]
fields = ["size", "quality"]
sizes = ["1024x1024"]
pixel_rule = { multiple_of = 16, max_side = 3840, max_ratio = 3 }
aspect_ratios = ["1:1"]
qualities = ["low"]
formats = ["png"]
fidelities = ["high"]
max_n = 10
max_prompt_chars = 320
max_images = 16
answers = ["url"]
life = "legacy"
shutdown_date = 2026-12-01
[models.price]
source = "https://prices.example"
read = 2026-11-23
per_image = [{ size = "1024x1024", quality = "low", usd = "0.006" }, { usd = "0.053" }]
per_input_image = "0.01"
per_million_tokens = { text_in = "5", image_out = "30" }
per_megapixel = "0.04"
reported = true
[models.wire]
step = 8
"""
M1 = ModelSpec(
    name="m-1",
    aliases=frozenset({"m-1-2026"}),
    operations=frozenset({Operation.GENERATION, Operation.EDIT}),
    fields=frozenset({"size", "quality"}),
    sizes=frozenset({"1024x1024"}),
    pixel_rule=PixelRule(multiple_of=16, max_side=3840, max_ratio=3.0),
    aspect_ratios=frozenset({"1:1"}),
    qualities=frozenset({"low"}),
    formats=frozenset({"png"}),
    fidelities=frozenset({"high"}),
    max_n=10,
    max_prompt_chars=320,
    max_images=16,
    answers=frozenset({ResponseFormat.URL}),
    life=Life.LEGACY,
    shutdown_date=date(2026, 12, 1),
    price=Price(
        per_image=(
            ImagePrice(usd=Decimal("0.006"), size="1024x1024", quality="low"),
            ImagePrice(usd=Decimal("0.053")),
        ),
        per_input_image=Decimal("0.01"),
        per_million_tokens=TokenPrices(text_in=Decimal(5), image_out=Decimal(30)),
        per_megapixel=Decimal("0.04"),
        reported=True,
        source="https://prices.example",
        read=date(2026, 11, 23),
    ),
    wire={"step": 8},
)


def provider(*tables: dict[str, Any], **more: Any) -> BaseProvider:
    return BaseProvider(ProviderSettings(name=ProviderName("p"), type="p", models=tables), (M1,), **more)


class TestShipped:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_every_file_can_be_read(self, name: str) -> None:
        specs = load_catalogue(name)
        assert specs
        for spec in specs:
            price = spec.price
            if price is not None and price != Price(reported=True):
                assert price.source, f"{spec.name}: say where the price stands"
                assert price.read, f"{spec.name}: say when it was read"

    def test_a_file_that_is_missing(self) -> None:
        with pytest.raises(ConfigurationError, match=r"catalogue/nobody\.toml cannot be read"):
            load_catalogue("nobody")


class TestFormat:
    def test_every_member(self) -> None:
        assert read_catalogue(WHOLE, where="f") == (M1,)

    def test_what_is_left_out_is_not_known(self) -> None:
        [spec] = read_catalogue('[[models]]\nname = "m"\noperations = ["image_edit"]', where="f")
        assert spec == ModelSpec(
            name="m", operations=frozenset({Operation.EDIT}), fields=frozenset(OPTIONAL_FIELDS), answers=spec.answers
        )

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ('fields = ["size"', 'fields = ["siz"', r"fields: no request has siz"),
            ("aliases", "alias", "unknown field `alias`"),
            ("multiple_of", "multiple", r"unknown field `multiple` - at `\$\.pixel_rule`"),
            ('"image_edit"', '"edit"', r"'edit' - at `\$\.operations\[1\]`"),
            ('operations = ["image_generation", "image_edit"]', "operations = []", "operations must name one"),
            ('operations = ["image_generation", "image_edit"]', "", "operations is missing"),
            ("max_n = 10", "max_n = 0", r"at `\$\.max_n`"),
            ("max_n = 10", 'max_n = "ten"', r"at `\$\.max_n`"),
            ('life = "legacy"', 'life = "dead"', r"at `\$\.life`"),
            ("2026-12-01", '"soon"', r"at `\$\.shutdown_date`"),
            ("read = 2026-11-23", "read = 2026", r"at `\$\.price\.read`"),
            ('"0.053"', '"5 cents"', r"at `\$\.price\.per_image\[1\]\.usd`"),
            ('"0.053"', '"-1"', r"usd must be an amount of US dollars, not -1 - at `\$\.price\.per_image\[1\]`"),
            ('"0.04"', '"NaN"', r"per_megapixel must be an amount .* at `\$\.price`"),
            ("text_in", "text", r"at `\$\.price\.per_million_tokens`"),
        ],
    )
    def test_a_fault_is_told_with_file_model_and_member(self, old: str, new: str, told: str) -> None:
        assert old in WHOLE
        with pytest.raises(ConfigurationError, match=rf"^catalogue/x\.toml: model 'm-1': .*{told}"):
            read_catalogue(WHOLE.replace(old, new), where="catalogue/x.toml")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[[models", "f: "),
            ("models = 3", r"f: .*\$\.models"),
            ("[[model]]", "unknown field `model`"),
            ("[[models]]\nsizes = []", "f: model 1: .*`name`"),
            (WHOLE + WHOLE, "'m-1' stands there twice"),
            (WHOLE + WHOLE.replace('"m-1"', '"m-2"'), "'m-1-2026' is an alias of both 'm-1' and 'm-2'"),
        ],
    )
    def test_a_file_that_is_not_whole(self, text: str, told: str) -> None:
        with pytest.raises(ConfigurationError, match=told):
            read_catalogue(text, where="f")


class TestSettings:
    def test_an_alias_leads_to_the_model(self) -> None:
        offered = provider()
        assert offered.spec("m-1-2026") is offered.spec("m-1")
        assert offered.specs == (M1,)
        assert offered.spec("m-2") is None

    def test_a_new_model_is_a_few_lines(self) -> None:
        offered = provider(
            {"name": "m-2", "operations": ["image_generation"], "max_n": 1, "price": {"per_image_usd": 1}}
        )
        spec = offered.spec("m-2")
        assert spec is not None
        assert (spec.max_n, spec.price) == (1, Price(per_image=(ImagePrice(usd=Decimal(1)),)))
        assert [each.name for each in offered.specs] == ["m-1", "m-2"]

    def test_a_known_model_keeps_what_is_not_said(self) -> None:
        offered = provider({"name": "m-1", "max_n": 1, "life": "live", "shutdown_date": None, "price": None})
        [spec] = offered.specs
        assert (spec.max_n, spec.life, spec.shutdown_date, spec.price) == (1, Life.LIVE, None, None)
        assert (spec.sizes, spec.aliases) == (M1.sizes, M1.aliases)
        assert offered.spec("m-1-2026") == spec

    def test_an_alias_can_become_a_model_of_its_own(self) -> None:
        offered = provider({"name": "m-1-2026", "max_n": 1})
        named, aliased = offered.spec("m-1"), offered.spec("m-1-2026")
        assert named is not None
        assert aliased is not None
        assert (named.max_n, aliased.max_n, aliased.aliases, aliased.sizes) == (10, 1, frozenset(), M1.sizes)

    def test_rules_hold_for_every_model(self) -> None:
        offered = provider({"name": "m-2", "operations": ["image_edit"]}, rules=(transparency_needs_alpha,))
        assert {spec.rules for spec in offered.specs} == {(transparency_needs_alpha,)}

    def test_a_fault_names_the_setting(self) -> None:
        with pytest.raises(ConfigurationError, match=r"^providers\.p\.models: model 'm-2': operations is missing"):
            provider({"name": "m-2"})

    def test_dates_come_as_yaml_or_as_text(self) -> None:
        day = date(2027, 1, 2)
        for said in (day, day.isoformat()):
            [spec] = extend((M1,), [{"name": "m-1", "shutdown_date": said}], where="w")
            assert spec.shutdown_date == day


class TestPrices:
    @pytest.mark.parametrize("usd", [0.002, "0.002", "2e-3"])
    def test_one_price_for_every_picture(self, usd: object) -> None:
        assert read_price({"per_image_usd": usd}, where="w") == Price(per_image=(ImagePrice(usd=Decimal("0.002")),))

    def test_the_whole_table_works_too(self) -> None:
        table = {"per_image": [{"size": "2K", "usd": 0.1}], "per_image_usd": 0.2}
        rows = (ImagePrice(usd=Decimal("0.1"), size="2K"), ImagePrice(usd=Decimal("0.2")))
        assert read_price(table, where="w") == Price(per_image=rows)

    @pytest.mark.parametrize("table", [{"per_image_usd": "free"}, {"per_image_usd": -1}, {"usd": 1}])
    def test_a_fault_names_the_setting(self, table: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=r"^prices: 'gpu-box/flux': "):
            read_price(table, where="prices: 'gpu-box/flux'")
