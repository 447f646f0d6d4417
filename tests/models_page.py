"""Writes docs/models.md from the catalogue: `python -m tests.models_page > docs/models.md`."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from types import MappingProxyType

from safelight.adapters.providers._base import ProviderSettings
from safelight.adapters.providers._http import open_sessions
from safelight.adapters.providers._registry import load_providers
from safelight.domain.capability import OPTIONAL_FIELDS, Life, ModelSpec, PixelRule
from safelight.domain.ids import ProviderName
from safelight.domain.image import Operation
from safelight.domain.price import ImagePrice, Price, TokenPrices

_SHOWN = 6
"""Longer lists of sizes and ratios are counted."""
_VERBS: Mapping[Operation, str] = MappingProxyType(
    {Operation.GENERATION: "generate", Operation.EDIT: "edit", Operation.VARIATION: "vary"}
)
_ANYWHERE = "http://127.0.0.1:8000/v1"
_HEAD = ("model", "operations", "life", "sizes and ratios", "formats", "max n", "fields", "price")
_INTRO = """\
# Models

What the gateway knows of each model, from the catalogue in the package. This page is written by
`python -m tests.models_page > docs/models.md`, and a test compares the two. `GET /v1/models` tells the same of the models
that are on. [Providers](providers.md#models-and-prices) says how to describe further models, or others' prices.

A model is asked for as `PROVIDER/MODEL`, such as `openai/gpt-image-2`. What its row rules out is refused before money is
spent; so are some combinations that no table can hold, of which [providers.md](providers.md) tells. A model that is
not listed is passed through, mostly unchecked. A `*` stands for any name.

- **operations**: with an edit stands the most pictures that it takes, where that is known.
- **life**: `live`, `legacy` (the maker advises another) or `retired` (refused), and the day of the shutdown if it is
  known; from that day on it is refused whatever stands here.
- **sizes and ratios**: *open* means that the catalogue sets no limit; the provider may.
- **formats**: *its own* means that they cannot be chosen.
- **max n**: pictures of one call; more become several calls. A dash: not known.
- **fields**: the optional fields that it can express, `size`, `aspect_ratio` and `output_format` aside, which have columns
  of their own; in brackets the values it knows.
- **price**: in US dollars, with the day on which the source said so. *Reported* means that the provider tells the cost with
  each answer, and that counts. A dash: the catalogue has none; what the provider does not tell either is `null` in a job.
"""


async def page() -> str:
    """Write the page."""
    sections, without = [], []
    for name, specs in (await _models()).items():
        if specs:
            sections.append(_section(name, specs))
        else:
            without.append(f"`{name}`")
    rest = (
        f"## Others\n\nOf the models of {', '.join(without)} nothing is listed: whatever you name is passed through.\n"
    )
    return "\n".join([_INTRO, *sections, rest])


async def _models() -> Mapping[str, tuple[ModelSpec, ...]]:
    """Give what each provider offers as it comes, in alphabetical order. Sends nothing."""
    found = {}
    async with AsyncExitStack() as stack:
        sessions = open_sessions()
        stack.push_async_callback(sessions.close)
        for name, module in sorted(load_providers().items()):
            address = _ANYWHERE if module.remote and module.base_url is None else None
            settings = ProviderSettings(name=ProviderName(name), type=name, base_url=address)
            provider = module.open(settings, sessions)
            stack.push_async_callback(provider.close)
            found[name] = tuple(provider.specs)
    return found


def _section(name: str, specs: Iterable[ModelSpec]) -> str:
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, specs)]
    return f"## `{name}`\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(spec: ModelSpec) -> tuple[str, ...]:
    if spec.life is Life.RETIRED:
        return (_name(spec), _operations(spec), _life(spec), *("-",) * 5)
    n = "-" if spec.max_n is None else str(spec.max_n)
    return (_name(spec), _operations(spec), _life(spec), _sizes(spec), _formats(spec), n, _fields(spec), _price(spec))


def _name(spec: ModelSpec) -> str:
    also = ", ".join(f"`{alias}`" for alias in sorted(spec.aliases))
    return f"`{spec.name}`" + (f" (also {also})" if also else "")


def _operations(spec: ModelSpec) -> str:
    words = [verb for operation, verb in _VERBS.items() if operation in spec.operations]
    if spec.max_images:
        words = [f"edit ({spec.max_images})" if word == "edit" else word for word in words]
    return ", ".join(words)


def _life(spec: ModelSpec) -> str:
    if spec.shutdown_date is None:
        return spec.life.value
    until = "" if spec.life is Life.RETIRED else "until "
    return f"{spec.life.value}, {until}{spec.shutdown_date}"


def _sizes(spec: ModelSpec) -> str:
    parts = []
    if "size" in spec.fields:
        parts += _few(sorted(spec.sizes, key=_by_sides), "sizes")
        parts += [_pixels(spec.pixel_rule)] if spec.pixel_rule else []
        parts = parts or ["size open"]
    if "aspect_ratio" in spec.fields:
        parts += _few(sorted(spec.aspect_ratios, key=_by_sides), "ratios") or ["ratio open"]
    return "; ".join(parts) or "-"


def _few(values: list[str], noun: str) -> list[str]:
    if not values:
        return []
    return [", ".join(values) if len(values) <= _SHOWN else f"{len(values)} {noun}"]


def _by_sides(text: str) -> tuple[bool, list[int], str]:
    numbers = [int(part) for part in text.replace(":", "x").split("x") if part.isdecimal()]
    return (not numbers, numbers, text)


def _pixels(rule: PixelRule) -> str:
    open_rule = PixelRule()
    parts = []
    if (rule.min_side, rule.max_side) != (open_rule.min_side, open_rule.max_side):
        parts.append(f"sides {_range(rule.min_side, rule.max_side, open_rule.max_side)}")
    if rule.multiple_of != open_rule.multiple_of:
        parts.append(f"multiples of {rule.multiple_of}")
    if (rule.min_pixels, rule.max_pixels) != (open_rule.min_pixels, open_rule.max_pixels):
        parts.append(f"{_range(rule.min_pixels, rule.max_pixels, open_rule.max_pixels)} pixels")
    if rule.max_ratio != open_rule.max_ratio:
        parts.append(f"up to {rule.max_ratio:g}:1")
    return "any pixels" + (f": {', '.join(parts)}" if parts else "")


def _range(least: int, most: int, no_limit: int) -> str:
    if most == no_limit:
        return f"from {least:,}"
    return f"up to {most:,}" if least == 1 else f"{least:,} to {most:,}"


def _formats(spec: ModelSpec) -> str:
    if "output_format" not in spec.fields:
        return "its own"
    return ", ".join(sorted(spec.formats)) or "open"


def _fields(spec: ModelSpec) -> str:
    choices = {"quality": spec.qualities, "input_fidelity": spec.fidelities}
    elsewhere = {"size", "aspect_ratio", "output_format"}
    shown = [name for name in OPTIONAL_FIELDS if name in spec.fields and name not in elsewhere]
    words = [f"`{name}`" + (f" ({', '.join(sorted(known))})" if (known := choices.get(name)) else "") for name in shown]
    return ", ".join(words) or "-"


def _price(spec: ModelSpec) -> str:
    if spec.price is None:
        return "-"
    parts = ["reported"] if spec.price.reported else []
    parts += _amounts(spec.price)
    return ", ".join(parts) + _source(spec.price)


def _amounts(price: Price) -> list[str]:
    parts = []
    if price.per_million_tokens:
        parts.append(f"{_tokens(price.per_million_tokens)} per million tokens")
    if price.per_image:
        parts.append(f"{_span(price.per_image)} a picture")
    if price.per_megapixel is not None:
        parts.append(f"{_usd(price.per_megapixel)} a megapixel")
    if price.per_input_image is not None:
        parts.append(f"{_usd(price.per_input_image)} an input picture")
    return parts


def _tokens(prices: TokenPrices) -> str:
    kinds = {
        "text in": prices.text_in,
        "image in": prices.image_in,
        "text out": prices.text_out,
        "image out": prices.image_out,
    }
    return ", ".join(f"{kind} {_usd(amount)}" for kind, amount in kinds.items() if amount is not None)


def _span(rows: tuple[ImagePrice, ...]) -> str:
    least, most = min(row.usd for row in rows), max(row.usd for row in rows)
    span = _usd(least) if least == most else f"{_usd(least)} to {_usd(most)}"
    sizes = {row.size for row in rows}
    return f"{span} ({sizes.pop()})" if len(rows) == 1 and sizes != {None} else span


def _usd(amount: Decimal) -> str:
    return f"${amount}"


def _source(price: Price) -> str:
    if price.source is None or price.read is None:
        return ""
    return f" ([{price.read}]({price.source}))" if price.source.startswith("http") else f" ({price.source})"


if __name__ == "__main__":
    print(asyncio.run(page()), end="")  # noqa: T201 - it is what this is for
