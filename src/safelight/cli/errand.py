"""One job from its order to its pictures on disk, through whatever gateway there is."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import typer
import uvloop

from safelight import logs, server
from safelight.adapters.data_dir import DataDirInUse
from safelight.cli import options
from safelight.cli.connection import PATIENCE_S, Order, connected
from safelight.cli.faults import ExitCode, fail, note, unreachable
from safelight.cli.pictures import Saved
from safelight.cli.previews import show_previews
from safelight.cli.progress import Progress
from safelight.client import AsyncJob, AsyncSafelight, GatewayUnreachable, Refused, Unavailable
from safelight.config import Settings
from safelight.domain.image import Operation

T = TypeVar("T")
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where jobs run: at a gateway's address, or in a data folder."""

    url: str | None
    settings: Settings | None

    @contextlib.asynccontextmanager
    async def reach(self) -> AsyncIterator["Reached"]:
        """Talk to the gateway at the address; or to the one that holds the data folder; or start one within."""
        async with contextlib.AsyncExitStack() as stack:
            url, embedded = (self.url, False) if self.url else await self._local(stack)
            client = await stack.enter_async_context(connected(url, ours=self.url is None))
            yield Reached(client=client, embedded=embedded)

    async def _local(self, stack: contextlib.AsyncExitStack) -> tuple[str, bool]:
        assert self.settings is not None  # noqa: S101 - there is an address or there are settings
        try:
            embedded = server.embedded(self.settings, waiting=_paid_call_out, made=_keys_made)
            return await stack.enter_async_context(embedded), True
        except DataDirInUse as error:
            if error.holder is None or error.holder.address is None:
                raise
            return error.holder.address, False

    @property
    def option(self) -> str:
        """How a later command is pointed to the same place."""
        if self.settings is None:
            return f" --url {self.url}"
        default = Settings.model_fields["storage"].get_default().data_dir
        folder = self.settings.storage.data_dir
        return "" if folder == default else f" --data-dir {folder}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A gateway that is talked to. `embedded`: it runs within this command, and ends with it."""

    client: AsyncSafelight
    embedded: bool


def _paid_call_out(grace_s: float) -> None:
    note(
        f"A provider is being called, which may cost money: waiting up to {grace_s:g} s for its answer. "
        "Ctrl-C again leaves at once."
    )


def _keys_made(made: Mapping[str, str]) -> None:
    for name, key in made.items():
        note(f"Virtual key {name}: {key} (shown this once)")


def place(url: str | None, config: Path | None, data_dir: Path | None) -> Place:
    """Where a command's jobs run. Raises `ConfigurationError`, `UsageError`."""
    if url := options.gateway(url, data_dir):
        return Place(url=url, settings=None)
    settings = options.settings(config, data_dir=data_dir)
    _quieten(settings)
    return Place(url=None, settings=settings)


def _quieten(settings: Settings) -> None:
    """Let a gateway within a command log faults alone, unless the settings say how much they want."""
    level = settings.log.level if "level" in settings.log.model_fields_set else "error"
    logs.configure(style=settings.log.format, level=level)


@dataclass(slots=True, kw_only=True)
class Errand:
    """What is known of the job so far is kept here, also when the errand is interrupted."""

    place: Place
    saved: Saved
    order: Order | None = None
    job_id: str | None = None
    previews: bool = False
    embedded: bool = False
    key: str = field(default_factory=lambda: str(uuid4()))
    """Makes the order one order, however often it is handed in."""
    ended: AsyncJob | None = None

    async def run(self) -> AsyncJob:
        """Order, wait, fetch; returns the job as it ended. Raises `SafelightError`, `UsageError`.

        A gateway that goes away is looked for again: the job is stored, so that whoever comes next goes on with it.
        """
        with Progress() as progress:
            while True:
                try:
                    async with self.place.reach() as reached:
                        self.embedded = reached.embedded
                        return await self._run(reached.client, progress)
                except GatewayUnreachable:
                    # At an address the client has waited already. In a data folder we may be the next gateway.
                    if self.place.url or progress.silent_s > PATIENCE_S:
                        raise
                    progress.lost()
                    await asyncio.sleep(_PAUSE_S)

    async def _run(self, client: AsyncSafelight, progress: Progress) -> AsyncJob:
        job = await self._job(client)
        async with show_previews(job, progress) if self.previews else contextlib.nullcontext():
            await self._wait(job, progress)
        await self.saved.fetch(job)
        return job

    async def _wait(self, job: AsyncJob, progress: Progress) -> None:
        progress.show(job.state)
        try:
            await job.wait(on_update=lambda it: progress.show(it.state))
        except asyncio.CancelledError:  # Ctrl-C
            if not sys.stdin.isatty() or not await progress.asked(f"Cancel job {job.id}?"):
                raise
            _go_on()
            await job.cancel()
            await job.wait()

    async def _job(self, client: AsyncSafelight) -> AsyncJob:
        """The job: ordered now, or long ago."""
        if self.job_id is not None:
            return await client.jobs.get(self.job_id)
        assert self.order is not None  # noqa: S101 - there is an order or there is a job
        job = await self.order.submit(client, **await self._as_named(self.order, client), idempotency_key=self.key)
        self.job_id = job.id
        note(f"Job {self.job_id} accepted{'' if self.embedded else f' by {client.url}'}")
        return job

    async def _as_named(self, order: Order, client: AsyncSafelight) -> dict[str, Any]:
        """Ask for the format that the output file's name promises, where the model is known to offer it."""
        wanted = self.saved.destination.format
        if wanted is None or order.operation is Operation.VARIATION or "output_format" in order.options:
            return {}
        offered = next((model.safelight for model in await client.models() if model.id == order.model), {})
        return {"output_format": wanted} if wanted in offered.get("formats", ()) else {}

    def farewell(self) -> str:
        """What becomes of the job when whoever waits for it leaves."""
        if self.job_id is None:
            return (
                f"Interrupted before an answer. `safelight jobs list{self.place.option}` tells whether there is a job."
            )
        where = (
            "stays in the data folder and goes on at the next start of a gateway there"
            if self.embedded
            else "goes on at the gateway"
        )
        return f"Interrupted. Job {self.job_id} {where}. {self.way_back}"

    @property
    def way_back(self) -> str:
        """The commands that lead to the job again."""
        return (
            "To look at it, and to get its pictures:\n"
            f"  safelight jobs show {self.job_id}{self.place.option}\n"
            f"  safelight jobs fetch {self.job_id}{self.place.option}"
        )


def _go_on() -> None:
    """Take an interrupt for answered."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only tasks are cancelled
    task.uncancel()


def carried_out(errand: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on the fast loop."""
    return uvloop.run(errand)


def finish(errand: Errand, *, as_json: bool) -> None:
    """Run an errand to its end and print what came of it; raises `typer.Exit` unless there are pictures."""
    errand.saved.destination.prepare(int(errand.order.options.get("n", 1)) if errand.order else 1)
    try:
        job = carried_out(errand.run())
    except KeyboardInterrupt as error:
        note(errand.farewell())
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except (GatewayUnreachable, Unavailable) as error:
        stored = f"\nJob {errand.job_id} was accepted and is stored. {errand.way_back}" if errand.job_id else ""
        raise fail(f"{unreachable(error)}{stored}", ExitCode.UNREACHABLE) from error
    except Refused as error:
        if as_json:
            print_json(error.body)
        at_fault = errand.job_id is None
        raise fail(f"the gateway refused: {error}", ExitCode.USAGE if at_fault else ExitCode.FAILED) from error
    if job.error is not None:
        if as_json:
            print_json({"id": job.id, **msgspec.to_builtins(job.error)})
        raise fail(f"job {job.id} failed: {job.error}", ExitCode.FAILED)
    files = errand.saved.files
    if as_json:
        print_json({**msgspec.to_builtins(job.state), "files": files})
    else:
        typer.echo("\n".join(files))


def print_json(body: Any) -> None:
    """Print one object, for scripts and for people."""
    typer.echo(msgspec.json.format(msgspec.json.encode(body)).decode())
