"""One job from its order to its pictures on disk, through whatever gateway there is."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import typer
import uvloop

from safelight import logs, server
from safelight.adapters.data_dir import DataDirInUse
from safelight.cli import options
from safelight.cli.client import Body, GatewayClient, Order, Refused, connected, message_of
from safelight.cli.faults import ExitCode, GatewayUnreachable, fail, note
from safelight.cli.pictures import Saved
from safelight.cli.progress import Progress
from safelight.config import Settings
from safelight.domain.image import Operation

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_PATIENCE_S = 30.0
"""How long a gateway may be away, to be restarted or replaced, before we stop waiting for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where jobs run: at a gateway's address, or in a data folder."""

    url: str | None
    settings: Settings | None

    @contextlib.asynccontextmanager
    async def reach(self, errand: "Errand") -> AsyncIterator[GatewayClient]:
        """Talk to the gateway at the address; or to the one that holds the data folder; or start one within."""
        async with contextlib.AsyncExitStack() as stack:
            yield await stack.enter_async_context(connected(self.url or await self._local(stack, errand)))

    async def _local(self, stack: contextlib.AsyncExitStack, errand: "Errand") -> str:
        assert self.settings is not None  # noqa: S101 - there is an address or there are settings
        try:
            address = await stack.enter_async_context(
                server.embedded(self.settings, waiting=_paid_call_out, made=_keys_made)
            )
        except DataDirInUse as error:
            if error.holder is None or error.holder.address is None:
                raise
            errand.embedded = False
            return error.holder.address
        errand.embedded = True
        return address

    @property
    def option(self) -> str:
        """How a later command is pointed to the same place."""
        if self.settings is None:
            return f" --url {self.url}"
        default = Settings.model_fields["storage"].get_default().data_dir
        folder = self.settings.storage.data_dir
        return "" if folder == default else f" --data-dir {folder}"


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
    embedded: bool = False
    ended: Body | None = None

    async def run(self) -> Body:
        """Order, wait, fetch; returns the job as it ended. Raises `GatewayUnreachable`, `Refused`, `UsageError`.

        A gateway that goes away is looked for again: the job is stored, so that whoever comes next goes on with it.
        """
        with Progress() as progress:
            while True:
                try:
                    async with self.place.reach(self) as client:
                        return await self._run(client, progress)
                except GatewayUnreachable as error:
                    if not self._worth_waiting(error, progress):
                        raise
                    progress.lost()
                    await asyncio.sleep(_LONGEST_PAUSE_S)

    def _worth_waiting(self, error: GatewayUnreachable, progress: Progress) -> bool:
        """Never order twice; look again only where a gateway has answered before, or is about to start."""
        in_doubt = self.job_id is None and error.sent
        if in_doubt or (self.place.url and not progress.heard):
            return False
        return time.monotonic() - progress.heard_at < _PATIENCE_S

    async def _run(self, client: GatewayClient, progress: Progress) -> Body:
        if self.ended is None:
            self.ended = await self._wait(client, progress)
        links = [picture["url"] for picture in self.ended.get("result", {}).get("data", [])]
        await self.saved.fetch(client, self.ended["id"], links)
        return self.ended

    async def _wait(self, client: GatewayClient, progress: Progress) -> Body:
        job = await self._job(client)
        pause_s = _FIRST_PAUSE_S
        while job["status"] not in {"completed", "failed"}:
            progress.show(job)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
            job = await client.job(Operation(job["meta"]["request_type"]), job["id"])
        return job

    async def _job(self, client: GatewayClient) -> Body:
        """The job: ordered now, or long ago."""
        if self.job_id is None:
            assert self.order is not None  # noqa: S101 - there is an order or there is a job
            job = await client.submit(await self._as_named(self.order, client))
            self.job_id = job["id"]
            note(f"Job {self.job_id} accepted{'' if self.embedded else f' by {client.url}'}")
            return job
        return await client.any_job(self.job_id)

    async def _as_named(self, order: Order, client: GatewayClient) -> Order:
        """Ask for the format that the output file's name promises, where the model is known to offer it."""
        wanted = self.saved.destination.format
        if wanted is None or order.operation is Operation.VARIATION or "output_format" in order.fields:
            return order
        offered = wanted in await client.formats(order.fields["model"])
        return replace(order, fields={**order.fields, "output_format": wanted}) if offered else order

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


def finish(errand: Errand, *, as_json: bool) -> None:
    """Run an errand to its end and print what came of it; raises `typer.Exit` unless there are pictures."""
    errand.saved.destination.prepare(errand.order.fields.get("n", 1) if errand.order else 1)
    try:
        job = uvloop.run(errand.run())
    except KeyboardInterrupt as error:
        note(errand.farewell())
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except GatewayUnreachable as error:
        stored = f"\nJob {errand.job_id} was accepted and is stored. {errand.way_back}" if errand.job_id else ""
        raise fail(f"{error}{stored}", ExitCode.UNREACHABLE) from error
    except Refused as error:
        if as_json:
            print_json(error.body)
        at_fault = errand.job_id is None and error.status < 500
        message = f"the gateway refused: {message_of(error.body)}"
        raise fail(message, ExitCode.USAGE if at_fault else ExitCode.FAILED) from error
    if job["status"] == "failed":
        if as_json:
            print_json({"id": job["id"], **job["error"]})
        raise fail(f"job {job['id']} failed: {message_of(job['error'])}", ExitCode.FAILED)
    files = errand.saved.files
    if as_json:
        print_json({**job, "files": files})
    else:
        typer.echo("\n".join(files))


def print_json(body: Body) -> None:
    """Print one object, for scripts and for people."""
    typer.echo(msgspec.json.format(msgspec.json.encode(body)).decode())
