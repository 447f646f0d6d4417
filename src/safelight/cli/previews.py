"""Pictures in the terminal, drawn with half blocks, where it can show enough colours."""

import asyncio
import contextlib
import io
import sys
from collections.abc import AsyncIterator

from PIL import Image
from rich.console import Console
from rich.text import Text

from safelight.cli.progress import Progress
from safelight.client import AsyncJob, SafelightError

_COLUMNS, _ROWS = 48, 20
_UPPER_HALF = "\u2580"


def can_show() -> bool:
    """Whether somebody looks at a terminal with 16 million colours."""
    console = Console(stderr=True)
    return console.is_terminal and console.color_system == "truecolor" and sys.stdin.isatty()


def drawn(content: bytes) -> Text:
    """A picture as text: each character is two pixels, one above the other. Raises `OSError` for what is none."""
    with Image.open(io.BytesIO(content)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_COLUMNS, 2 * _ROWS))
        pixels = small.load()
        assert pixels is not None  # noqa: S101 - it has been loaded
        text = Text()
        for y in range(0, small.height - 1, 2):
            for x in range(small.width):
                upper, lower = pixels[x, y], pixels[x, y + 1]
                text.append(_UPPER_HALF, f"rgb{upper} on rgb{lower}".replace(" ", "").replace("on", " on "))
            text.append("\n")
        return text


@contextlib.asynccontextmanager
async def show_previews(job: AsyncJob, progress: Progress) -> AsyncIterator[None]:
    """Show what a provider has drawn so far, as long as the context lasts, and then the first picture."""
    looking = asyncio.create_task(_follow(job, progress))
    try:
        yield
        if job.images:
            await _show(job, progress)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _follow(job: AsyncJob, progress: Progress) -> None:
    async for event in job.events():
        if event.name == "partial_image" and "url" in event.data:
            with contextlib.suppress(SafelightError, OSError):
                progress.above(drawn(await job.preview(event)))


async def _show(job: AsyncJob, progress: Progress) -> None:
    """Nice to have: a preview that cannot be shown is no fault."""
    with contextlib.suppress(SafelightError, OSError):
        progress.above(drawn(await job.content(0)))
