"""`safelight demo`: a gateway of its own, three jobs over HTTP, three pictures. No key, no network."""

import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw

from safelight.cli.connection import Order, connected
from safelight.cli.errand import carried_out
from safelight.cli.faults import ExitCode, explained, fail
from safelight.cli.pictures import Destination, Saved
from safelight.cli.tables import size
from safelight.client import AsyncSafelight, SafelightError
from safelight.domain.image import Operation

_MODEL = "builtin/sketch"
_SIZE = (1024, 768)
_BALLOON_AREA = (640, 30, 980, 400)
"""Left, top, right, bottom, in pixels: where the edit may paint."""
_START_S = 30.0
_STOP_S = 40.0
_ADDRESS = re.compile(r"listens on (http\S+)")


class DemoFailed(Exception):
    """Something did not go as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One of the demo's jobs, and the file that its picture becomes."""

    title: str
    file: str
    order: Order


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo-out"),
) -> None:
    """Draw, edit and vary a picture through a gateway of its own. Needs no key and no network."""
    with explained():
        try:
            carried_out(_play(output))
        except (DemoFailed, SafelightError) as error:
            raise fail(str(error), ExitCode.FAILED) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(ExitCode.INTERRUPTED) from error


async def _play(output: Path) -> None:
    Destination(folder=output).prepare(1)
    with tempfile.TemporaryDirectory(prefix="safelight-demo-") as scratch:
        async with _gateway(Path(scratch)) as address, connected(address) as client:
            for scene in _scenes(output, Path(scratch)):
                await _perform(client, scene, output)
    typer.echo(f"\nThe gateway has stopped. The pictures are in {output}{os.sep}")


@contextlib.asynccontextmanager
async def _gateway(scratch: Path) -> AsyncIterator[str]:
    """Run a gateway as a process of its own, with nothing but defaults, and stop it in order."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "safelight.cli", "serve", "--port", "0", "--log-level", "error"),
        *("--data-dir", str(scratch / "data")),
        stdout=PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("SAFELIGHT_")},
    )
    try:
        address = await _address(process)
        typer.echo(f"A gateway listens on {address} (process {process.pid}), with docs at {address}/docs")
        yield address
    finally:
        await _stop(process)
    if process.returncode != 0:
        raise DemoFailed(f"the gateway ended with exit code {process.returncode}")


async def _address(process: Process) -> str:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_S):
            async for line in process.stdout:
                if found := _ADDRESS.search(line.decode()):
                    return found[1]
    raise DemoFailed("the gateway did not start; its messages stand above")


async def _stop(process: Process) -> None:
    """SIGTERM, as an init system would; SIGKILL for one that does not listen."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()


def _scenes(output: Path, scratch: Path) -> tuple[Scene, ...]:
    """The jobs in their order: each takes the picture of the first one."""
    lighthouse = "1-generated-lighthouse.png"
    return (
        Scene(
            title="A generation",
            file=lighthouse,
            order=_order(
                Operation.GENERATION,
                prompt="a lighthouse by the sea at dusk, under the stars",
                size=f"{_SIZE[0]}x{_SIZE[1]}",
                seed=7,
            ),
        ),
        Scene(
            title="An edit inside a mask",
            file="2-edited-with-a-balloon.png",
            order=_order(
                Operation.EDIT,
                image=output / lighthouse,
                mask=_mask(scratch / "mask.png"),
                prompt="a hot air balloon",
                seed=7,
            ),
        ),
        Scene(
            title="A variation",
            file="3-varied-lighthouse.png",
            order=_order(Operation.VARIATION, image=output / lighthouse),
        ),
    )


def _order(operation: Operation, *, prompt: str = "", image: Path | None = None, **options: Any) -> Order:
    return Order(operation=operation, model=_MODEL, prompt=prompt, options=options, images=(image,) if image else ())


def _mask(path: Path) -> Path:
    """A mask as OpenAI's API takes it: transparent where the picture may change."""
    mask = Image.new("RGBA", _SIZE, (0, 0, 0, 255))
    ImageDraw.Draw(mask).ellipse(_BALLOON_AREA, fill=(0, 0, 0, 0))
    mask.save(path)
    return path


async def _perform(client: AsyncSafelight, scene: Scene, output: Path) -> None:
    prompt = scene.order.prompt
    typer.echo(f"\n{scene.title}{f': {prompt!r}' if prompt else ''}")
    start = time.monotonic()
    job = await scene.order.submit(client)
    typer.echo(f"  {time.monotonic() - start:5.2f} s  pending     job {job.id}")
    async for event in job.events():
        if event.name == "job" and event.status != "pending":
            typer.echo(f"  {time.monotonic() - start:5.2f} s  {event.status}")
    await job.refresh()
    job.raise_for_failure()
    saved = Saved(destination=Destination(folder=output, file=scene.file, force=True), title=scene.title)
    await saved.fetch(job)
    path = output / scene.file
    with Image.open(path) as picture:
        typer.echo(f"  -> {path}, {picture.width}x{picture.height} pixels, {size(path.stat().st_size)}")
