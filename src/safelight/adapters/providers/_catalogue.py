"""The models as data: `catalogue/<provider>.toml` in the package, and tables of the same format in the settings.

A table has a member for each of `ModelSpec` but `rules`, which are code. What it leaves out is not known, so nothing is
refused for it. Prices are text, which is exact; a number is taken as it is written.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from safelight.domain.capability import OPTIONAL_FIELDS, Life, ModelSpec, PixelRule
from safelight.domain.errors import ConfigurationError
from safelight.domain.image import Operation, ResponseFormat
from safelight.domain.price import ImagePrice, Price, TokenPrices

_Text = Annotated[str, Meta(min_length=1)]
_Texts = frozenset[_Text]
_Count = Annotated[int, Meta(ge=1)]
_PACKAGE = "safelight.adapters.providers"

T = TypeVar("T")


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        """Refuse prices that are no amount (msgspec's hook); it adds the place to the message."""
        for name in self.__struct_fields__:
            amount = getattr(self, name)
            if isinstance(amount, Decimal) and not (amount.is_finite() and amount >= 0):
                raise ValueError(f"{name} must be an amount of US dollars, not {amount}")

    def said(self) -> dict[str, Any]:
        """Take what stands in the table, nothing in the place of what it leaves out."""
        members = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in members if value is not UNSET}


class _PixelTable(_Table, frozen=True):
    multiple_of: _Count | UnsetType = UNSET
    min_side: _Count | UnsetType = UNSET
    max_side: _Count | UnsetType = UNSET
    min_pixels: _Count | UnsetType = UNSET
    max_pixels: _Count | UnsetType = UNSET
    max_ratio: Annotated[float, Meta(ge=1)] | UnsetType = UNSET


class _ImagePriceTable(_Table, frozen=True):
    usd: Decimal
    size: _Text | None = None
    quality: _Text | None = None


class _TokenPriceTable(_Table, frozen=True):
    text_in: Decimal | None = None
    image_in: Decimal | None = None
    text_out: Decimal | None = None
    image_out: Decimal | None = None


class _PriceTable(_Table, frozen=True):
    per_image: tuple[_ImagePriceTable, ...] = ()
    per_image_usd: Decimal | None = None
    """Short for a `per_image` row that fits any picture."""
    per_input_image: Decimal | None = None
    per_million_tokens: _TokenPriceTable | None = None
    per_megapixel: Decimal | None = None
    reported: bool = False
    source: _Text | None = None
    read: date | None = None

    def price(self) -> Price:
        """Make the domain's price list."""
        rows = [ImagePrice(**row.said()) for row in self.per_image]
        if self.per_image_usd is not None:
            rows.append(ImagePrice(usd=self.per_image_usd))
        tokens = self.per_million_tokens
        return Price(
            per_image=tuple(rows),
            per_input_image=self.per_input_image,
            per_million_tokens=TokenPrices(**tokens.said()) if tokens else None,
            per_megapixel=self.per_megapixel,
            reported=self.reported,
            source=self.source,
            read=self.read,
        )


class _ModelTable(_Table, frozen=True):
    name: _Text
    operations: frozenset[Operation] | UnsetType = UNSET
    aliases: _Texts | UnsetType = UNSET
    fields: _Texts | UnsetType = UNSET
    sizes: _Texts | UnsetType = UNSET
    pixel_rule: _PixelTable | UnsetType | None = UNSET
    aspect_ratios: _Texts | UnsetType = UNSET
    qualities: _Texts | UnsetType = UNSET
    formats: _Texts | UnsetType = UNSET
    fidelities: _Texts | UnsetType = UNSET
    max_n: _Count | UnsetType | None = UNSET
    max_prompt_chars: _Count | UnsetType | None = UNSET
    max_images: _Count | UnsetType | None = UNSET
    answers: frozenset[ResponseFormat] | UnsetType = UNSET
    life: Life | UnsetType = UNSET
    shutdown_date: date | UnsetType | None = UNSET
    price: _PriceTable | UnsetType | None = UNSET
    wire: dict[str, Any] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Refuse fields that no request has (msgspec's hook)."""
        super().__post_init__()
        if self.fields is not UNSET and (unknown := self.fields - set(OPTIONAL_FIELDS)):
            raise ValueError(
                f"fields: no request has {', '.join(sorted(unknown))}; known: {', '.join(OPTIONAL_FIELDS)}"
            )
        if self.operations is not UNSET and not self.operations:
            raise ValueError("operations must name one at least")

    def over(self, base: ModelSpec | None) -> ModelSpec:
        """Make the spec: what the table says, else what `base` says; raises `ValueError`."""
        said = self.said()
        if self.pixel_rule:
            said["pixel_rule"] = PixelRule(**self.pixel_rule.said())
        if self.price:
            said["price"] = self.price.price()
        if base is not None:
            aliases = base.aliases if base.name == self.name else frozenset()
            return replace(base, **{"aliases": aliases, **said})
        if self.operations is UNSET:
            raise ValueError("operations is missing")
        return ModelSpec(**{"fields": frozenset(OPTIONAL_FIELDS), **said})


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: list[dict[str, Any]]


@cache
def load_catalogue(provider: str) -> tuple[ModelSpec, ...]:
    """Read the models that ship for a provider module; raises `ConfigurationError` with file, model and member."""
    where = f"catalogue/{provider}.toml"
    try:
        text = files(_PACKAGE).joinpath("catalogue", f"{provider}.toml").read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"{where} cannot be read: {exc.strerror}") from exc
    return read_catalogue(text, where=where)


def read_catalogue(text: str, *, where: str) -> tuple[ModelSpec, ...]:
    """Read a catalogue file's text; raises `ConfigurationError`."""
    try:
        tables = msgspec.convert(tomllib.loads(text), _File).models
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise ConfigurationError(f"{where}: {exc}") from exc
    return extend((), tables, where=where)


def extend(specs: Sequence[ModelSpec], tables: Iterable[Mapping[str, Any]], *, where: str) -> tuple[ModelSpec, ...]:
    """Add the tables' models to `specs`; a model that is known keeps what its table leaves out.

    A table for an alias makes a model of its own. Raises `ConfigurationError`.
    """
    known = by_name(specs)
    added: dict[str, ModelSpec] = {}
    for number, table in enumerate(tables, start=1):
        spec = _spec(table, known, f"{where}: model {table.get('name', number)!r}")
        if spec.name in added:
            raise ConfigurationError(f"{where}: model {spec.name!r} stands there twice")
        added[spec.name] = spec
    merged = {**{spec.name: spec for spec in specs}, **added}
    _refuse_shared_aliases(merged.values(), where)
    return tuple(merged.values())


def by_name(specs: Iterable[ModelSpec]) -> dict[str, ModelSpec]:
    """All names that models answer to; a model's own name wins over another's alias."""
    specs = tuple(specs)
    aliases = {alias: spec for spec in specs for alias in spec.aliases}
    return {**aliases, **{spec.name: spec for spec in specs}}


def read_price(table: Mapping[str, Any], *, where: str) -> Price:
    """Read a price of the settings; raises `ConfigurationError`."""
    return _converted(table, _PriceTable, where).price()


def _spec(table: Mapping[str, Any], known: Mapping[str, ModelSpec], where: str) -> ModelSpec:
    read = _converted(table, _ModelTable, where)
    try:
        return read.over(known.get(read.name))
    except ValueError as exc:
        raise ConfigurationError(f"{where}: {exc}") from exc


def _converted(table: Mapping[str, Any], kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as exc:
        raise ConfigurationError(f"{where}: {exc}") from exc


def _refuse_shared_aliases(specs: Iterable[ModelSpec], where: str) -> None:
    seen: dict[str, str] = {}
    for spec in specs:
        for alias in sorted(spec.aliases):
            if alias in seen:
                raise ConfigurationError(f"{where}: {alias!r} is an alias of both {seen[alias]!r} and {spec.name!r}")
            seen[alias] = spec.name
