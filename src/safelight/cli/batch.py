"""`safelight batch`: a file of orders, its pictures in a folder; run again, it goes on where it was."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from safelight.cli import options
from safelight.cli.connection import PATIENCE_S
from safelight.cli.errand import Place, carried_out, place, print_json
from safelight.cli.faults import ExitCode, UsageError, explained, fail, note
from safelight.cli.images import BY_DEFAULT
from safelight.cli.pictures import slug, suffix
from safelight.cli.progress import Waiting
from safelight.cli.tables import columns, moment
from safelight.client import (
    AsyncBatch,
    AsyncSafelight,
    BatchLine,
    BatchState,
    GatewayUnreachable,
    InvalidRequest,
    NotFound,
)

app = typer.Typer(no_args_is_help=True, help="Run a file of prompts, and look at batches.")

T = TypeVar("T")
BatchId = Annotated[str, typer.Argument(metavar="ID", help="The batch's id.")]

_TITLES = ("ID", "CREATED", "STATUS", "LINES", "PENDING", "PROCESSING", "COMPLETED", "FAILED")
_FETCHED_AT_ONCE = 8
_PAUSE_S = 1.0
_GONE = "result_expired"


class Collected(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line of `results.jsonl`: what became of a line of the file."""

    line: int
    """From 1, as in the file."""
    status: str
    job: str | None = None
    files: list[str] = []
    error: str | None = None
    code: str | None = None


class State(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What is known of the run, beside its results: kept in a small file in the output folder."""

    digest: str
    """Of the lines that are run."""
    batch: str | None = None
    lines: list[int] = []
    """Which line of the file each of the batch is."""
    collected: bool = False
    """Whether every result of that batch has been looked at."""


@app.command("run")
def run(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="One JSON object a line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures and results.jsonl.")],
    model: Annotated[str, typer.Option("--model", "-m", help="For lines that name none.")] = BY_DEFAULT,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run lines again that failed before.")] = False,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Run a file of generations and save the pictures. The same command goes on after an interruption."""
    with explained():
        folder = Folder.of(output, orders(file, model))
        running = Run(place=place(url, config, data_dir), folder=folder, retry_failed=retry_failed)
        try:
            carried_out(running.to_its_end())
        except InvalidRequest as error:
            raise fail(f"the gateway refused: {error}", ExitCode.USAGE) from error
        except KeyboardInterrupt as error:
            note(running.farewell())
            raise typer.Exit(ExitCode.INTERRUPTED) from error
    failed = [each for each in folder.done.values() if each.status == "failed"]
    completed = len(folder.done) - len(failed)
    if as_json:
        told = {"batch": folder.state.batch, "completed": completed, "failed": len(failed), "folder": str(output)}
        print_json(told)
    else:
        typer.echo(f"{completed} of {len(folder.orders)} lines are done; the pictures are in {output}{os.sep}")
    if failed:
        reasons = "\n".join(f"  line {each.line}: {each.error}" for each in failed[:10])
        more = f"\n  and {len(failed) - 10} more, see {folder.results}" if len(failed) > 10 else ""
        count = f"{len(failed)} line{'s' * (len(failed) > 1)}"
        raise fail(f"{count} failed (--retry-failed runs what failed again):\n{reasons}{more}", ExitCode.FAILED)


@app.command("list")
def list_batches(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List batches, newest first."""

    async def find(client: AsyncSafelight) -> list[BatchState]:
        found: list[BatchState] = []
        async for batch in client.batches.list(page_size=min(limit, 100)):
            found.append(batch.state)
            if len(found) == limit:
                break
        return found

    states = _do(place(url, config, data_dir), find)
    if as_json:
        print_json({"batches": msgspec.to_builtins(states)})
    elif states:
        typer.echo(columns([_TITLES, *map(_row, states)]))
    else:
        note("no batches")


@app.command("show")
def show(
    batch_id: BatchId,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show how a batch fares."""

    async def read(client: AsyncSafelight) -> BatchState:
        return (await client.batches.get(batch_id)).state

    _tell(_do(place(url, config, data_dir), read), as_json=as_json)


@app.command("cancel")
def cancel(
    batch_id: BatchId,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Start no line of a batch any more, and end those that run."""

    async def end(client: AsyncSafelight) -> BatchState:
        return (await (await client.batches.get(batch_id)).cancel()).state

    _tell(_do(place(url, config, data_dir), end), as_json=as_json)


def _do(where: Place, use: Callable[[AsyncSafelight], Awaitable[T]]) -> T:
    async def do() -> T:
        async with where.reach() as reached:
            return await use(reached.client)

    with explained():
        return carried_out(do())


def _tell(state: BatchState, *, as_json: bool) -> None:
    if as_json:
        print_json(state)
    else:
        typer.echo(columns([_TITLES, _row(state)]))


def _row(state: BatchState) -> tuple[str, ...]:
    counts = state.counts
    numbers = (state.total, counts.pending, counts.processing, counts.completed, counts.failed)
    return (state.id, moment(state.created_at.isoformat()), state.status, *map(str, numbers))


# Running a file

Order = Mapping[str, Any]


def orders(file: Path, model: str) -> Mapping[int, Order]:
    """The lines of a file by their numbers, each with a model. Raises `UsageError` for one that is no order."""
    found: dict[int, Order] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            order = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise UsageError(f"{file}, line {number}: {error}") from error
        if not isinstance(order.get("prompt"), str):
            raise UsageError(f"{file}, line {number}: it has no prompt")
        found[number] = {"model": model, "response_format": "url", **order}
    if not found:
        raise UsageError(f"{file} has no line")
    return found


@dataclass(slots=True, kw_only=True)
class Folder:
    """The output folder: pictures, `results.jsonl`, and where the run was left."""

    path: Path
    orders: Mapping[int, Order]
    state: State
    done: dict[int, Collected] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, orders: Mapping[int, Order]) -> "Folder":
        """Make the folder, or go on with one. Raises `UsageError` where it belongs to another file."""
        digest = hashlib.sha256(msgspec.json.encode(list(orders.items()))).hexdigest()
        folder = cls(path=path, orders=orders, state=State(digest=digest))
        try:
            path.mkdir(parents=True, exist_ok=True)
            if folder.memory.exists():
                folder.state = msgspec.json.decode(folder.memory.read_bytes(), type=State)
                lines = folder.results.read_bytes().splitlines() if folder.results.exists() else []
                # A line that was cut off by a crash is told again.
                whole = [line for line in lines if line.endswith(b"}")]
                folder.done = {
                    each.line: each for each in (msgspec.json.decode(line, type=Collected) for line in whole)
                }
        except OSError as error:
            raise UsageError(f"the folder {path} cannot be used: {error.strerror}") from error
        if folder.state.digest != digest:
            raise UsageError(f"{path} holds the pictures of other orders: choose another folder for these")
        return folder

    @property
    def memory(self) -> Path:
        """Where the state is kept."""
        return self.path / ".batch.json"

    @property
    def results(self) -> Path:
        """What became of each line."""
        return self.path / "results.jsonl"

    @property
    def remaining(self) -> list[int]:
        """The lines of which nothing final is known."""
        return [number for number in self.orders if number not in self.done]

    def keep(self, state: State) -> None:
        """Write the state down, whole."""
        part = self.memory.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(state))
        part.replace(self.memory)
        self.state = state

    def add(self, collected: Collected) -> None:
        """Write down what became of a line. A result that is gone is no end: the line is run again next time."""
        if collected.code == _GONE:
            return
        self.done[collected.line] = collected
        with self.results.open("ab") as file:
            file.write(msgspec.json.encode(collected) + b"\n")

    def forget_failed(self) -> None:
        """Let the lines that failed be run again."""
        self.done = {number: each for number, each in self.done.items() if each.status != "failed"}
        self.results.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in self.done.values()))

    def name(self, number: int, index: int, count: int, content_type: str) -> Path:
        """Name a picture after its line and its prompt."""
        width = len(str(max(self.orders)))
        which = f"-{index + 1}" if count > 1 else ""
        return self.path / f"{number:0{width}}-{slug(self.orders[number]['prompt'])}{which}{suffix(content_type)}"


class Lines(Waiting):
    """How many lines have ended."""

    def __init__(self, folder: Folder) -> None:
        """Show what is done already."""
        super().__init__(
            TextColumn("lines"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            told="",
            total=len(folder.orders),
        )
        self._folder = folder
        self.show()

    def show(self) -> None:
        """Show how far it is."""
        failed = sum(each.status == "failed" for each in self._folder.done.values())
        self.heard(f"[red]{failed} failed" if failed else "", completed=len(self._folder.done))


async def _found(client: AsyncSafelight, batch_id: str | None) -> AsyncBatch | None:
    """The batch, if the gateway still has it."""
    with contextlib.suppress(NotFound):
        return await client.batches.get(batch_id) if batch_id else None
    return None


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a file, or what is left of it."""

    place: Place
    folder: Folder
    retry_failed: bool
    embedded: bool = False

    async def to_its_end(self) -> None:
        """Hand in what has not been handed in, and collect all results. Raises `SafelightError`, `UsageError`."""
        with Lines(self.folder) as progress:
            while True:
                try:
                    async with self.place.reach() as reached:
                        self.embedded = reached.embedded
                        return await self._with(reached.client, progress.show)
                except GatewayUnreachable:
                    # At an address the client has waited already. In a data folder we may be the next gateway.
                    if self.place.url or progress.silent_s > PATIENCE_S:
                        raise
                    await asyncio.sleep(_PAUSE_S)

    async def _with(self, client: AsyncSafelight, on_progress: Callable[[], object]) -> None:
        if self.folder.remaining or self.retry_failed:
            batch = await self._batch(client)
            on_progress()
            await self._collect(batch, on_progress)
            self.folder.keep(msgspec.structs.replace(self.folder.state, collected=True))

    async def _batch(self, client: AsyncSafelight) -> AsyncBatch:
        """The batch that is under way, or a new one of the lines that remain."""
        state = self.folder.state
        known = await _found(client, state.batch)
        if self.retry_failed:
            self.folder.forget_failed()
            self.retry_failed = False
            if known is not None:
                state = msgspec.structs.replace(state, collected=False)
                await known.retry_failed()
        if known is not None and not state.collected:
            self.folder.keep(state)
            return known
        return await self._new(client)

    async def _new(self, client: AsyncSafelight) -> AsyncBatch:
        """Hand in the lines that remain. Their keys, and that of the whole, follow from what they say."""
        lines, digest = self.folder.remaining, self.folder.state.digest
        keyed = [{"idempotency_key": f"{digest[:32]}-{number}", **self.folder.orders[number]} for number in lines]
        whole = hashlib.sha256(f"{digest} {lines}".encode()).hexdigest()
        batch = await client.batches.create(keyed, idempotency_key=whole, passes_extra=True)
        self.folder.keep(State(digest=digest, batch=batch.id, lines=lines))
        note(f"Batch {batch.id} accepted, {len(lines)} lines")
        return batch

    async def _collect(self, batch: AsyncBatch, on_progress: Callable[[], object]) -> None:
        """Save what comes, some at a time."""
        slots = asyncio.Semaphore(_FETCHED_AT_ONCE)
        saving: list[asyncio.Task[None]] = []

        async def save(number: int, line: BatchLine) -> None:
            try:
                self.folder.add(await self._saved(batch, number, line))
                on_progress()
            finally:
                slots.release()

        try:
            async for line in batch.results(follow=True):
                number = self.folder.state.lines[line.line - 1]
                if number in self.folder.done:
                    continue
                await slots.acquire()
                for task in [task for task in saving if task.done()]:
                    saving.remove(task)
                    task.result()
                saving.append(asyncio.create_task(save(number, line)))
            await asyncio.gather(*saving)
        finally:
            for task in saving:
                task.cancel()
            await asyncio.gather(*saving, return_exceptions=True)

    async def _saved(self, batch: AsyncBatch, number: int, line: BatchLine) -> Collected:
        job = batch.job(line)
        why = job.error if job else line.error
        if job is None or why is not None:
            code = why.error.code if why else None
            return Collected(line=number, status="failed", job=job.id if job else None, error=str(why), code=code)
        count = len(job.images)
        names = [partial(self.folder.name, number, index, count) for index in range(count)]
        try:
            paths = [await job.download(index, name) for index, name in enumerate(names)]
        except OSError as error:
            raise UsageError(f"{error.filename or self.folder.path} cannot be written: {error.strerror}") from error
        return Collected(line=number, status="completed", job=job.id, files=[path.name for path in paths])

    def farewell(self) -> str:
        """What becomes of the batch when whoever waits for it leaves."""
        batch = self.folder.state.batch
        if batch is None:
            return "Interrupted before the batch was accepted. The same command starts it."
        where = "stays in the data folder" if self.embedded else "goes on at the gateway"
        return (
            f"Interrupted. Batch {batch} {where}; the same command goes on with it. To end it:\n"
            f"  safelight batch cancel {batch}{self.place.option}"
        )
