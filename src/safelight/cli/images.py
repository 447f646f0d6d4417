"""`safelight generate`, `edit` and `vary`."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from safelight.cli import options
from safelight.cli.connection import Order
from safelight.cli.errand import Errand, finish, place
from safelight.cli.faults import UsageError, explained
from safelight.cli.pictures import Destination, Saved
from safelight.cli.previews import can_show
from safelight.domain.image import Operation

BY_DEFAULT = "builtin/sketch"

Model = Annotated[str, typer.Option("--model", "-m", help="Provider and model.")]
Size = Annotated[str | None, typer.Option(help="Such as 1024x768, or auto; the model's own choice otherwise.")]
Count = Annotated[int, typer.Option("--n", "-n", min=1, max=10, help="How many pictures.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same picture, where a model can.")]
Quality = Annotated[str | None, typer.Option(help="Such as low, medium or high.")]
Format = Annotated[str | None, typer.Option("--format", help="png, jpeg, webp or gif; otherwise as -o ends.")]
Fallback = Annotated[list[str] | None, typer.Option(help="Provider and model to try next; may be repeated.")]
Extra = Annotated[list[str] | None, typer.Option(help="name=value for the provider alone; may be repeated.")]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="File or folder; otherwise here, named after the prompt and the job."),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite files.")]
Preview = Annotated[
    bool | None,
    typer.Option(help="Show the picture in the terminal as it comes; by default where the terminal has the colours."),
]
Images = Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, help="PNG, JPEG or WebP.")]
Mask = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, readable=True, help="PNG as large as the image; transparent is edited."),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Model = BY_DEFAULT,
    size: Size = None,
    n: Count = 1,
    seed: Seed = None,
    quality: Quality = None,
    output_format: Format = None,
    fallback: Fallback = None,
    extra: Extra = None,
    output: Output = None,
    force: Force = False,
    preview: Preview = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Draw a picture from a prompt, and print where it is."""
    with explained():
        said = _options(n, fallback, extra, size=size, seed=seed, quality=quality, output_format=output_format)
        order = Order(operation=Operation.GENERATION, model=model, prompt=prompt, options=said)
        saved = Saved(destination=Destination.of(output, force=force), title=prompt)
        shown = can_show() if preview is None else preview
        finish(Errand(place=place(url, config, data_dir), saved=saved, order=order, previews=shown), as_json=as_json)


def edit(
    images: Images,
    prompt: Annotated[str, typer.Option("--prompt", help="What to change.")],
    mask: Mask = None,
    model: Model = BY_DEFAULT,
    size: Size = None,
    n: Count = 1,
    seed: Seed = None,
    quality: Quality = None,
    output_format: Format = None,
    fallback: Fallback = None,
    extra: Extra = None,
    output: Output = None,
    force: Force = False,
    preview: Preview = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Change an image, inside a mask if one is given. Further images are for the model to draw upon."""
    with explained():
        said = _options(
            n, fallback, extra, size=size, seed=seed, quality=quality, output_format=output_format, mask=mask
        )
        order = Order(operation=Operation.EDIT, model=model, prompt=prompt, options=said, images=tuple(images))
        saved = Saved(destination=Destination.of(output, force=force), title=prompt)
        shown = can_show() if preview is None else preview
        finish(Errand(place=place(url, config, data_dir), saved=saved, order=order, previews=shown), as_json=as_json)


def vary(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="PNG, JPEG or WebP.")],
    model: Model = BY_DEFAULT,
    size: Size = None,
    n: Count = 1,
    fallback: Fallback = None,
    extra: Extra = None,
    output: Output = None,
    force: Force = False,
    preview: Preview = None,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Draw variations of an image."""
    with explained():
        said = _options(n, fallback, extra, size=size)
        order = Order(operation=Operation.VARIATION, model=model, options=said, images=(image,))
        saved = Saved(destination=Destination.of(output, force=force), title=f"{image.stem} variation")
        shown = can_show() if preview is None else preview
        finish(Errand(place=place(url, config, data_dir), saved=saved, order=order, previews=shown), as_json=as_json)


def _options(n: int, fallback: list[str] | None, extra: list[str] | None, **others: Any) -> dict[str, Any]:
    """What was said, as the client takes it."""
    said = {"n": n if n > 1 else None, "fallbacks": fallback or None, "extra": _extra(extra) or None, **others}
    return {name: value for name, value in said.items() if value is not None}


def _extra(pairs: list[str] | None) -> dict[str, Any]:
    """Read `name=value`; a value that is JSON is taken as such. Raises `UsageError`."""
    extra: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--extra takes name=value, not {pair!r}")
        try:
            extra[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            extra[name] = text
    return extra
