"""`safelight jobs`: look at jobs, follow them, end them, run them again."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from safelight.adapters.sqlite.inspection import SqliteInspection
from safelight.cli import options
from safelight.cli.connection import connected
from safelight.cli.errand import Errand, Place, carried_out, finish, place, print_json
from safelight.cli.faults import ExitCode, UsageError, explained, fail, note
from safelight.cli.images import Force, Output
from safelight.cli.pictures import Destination, Saved
from safelight.cli.record import history_body, job_body
from safelight.cli.tables import columns, moment, size
from safelight.client import AsyncJob, Conflict, ErrorBody, Event, JobState
from safelight.domain.ids import JobId
from safelight.domain.job import JobStatus
from safelight.wiring import open_inspection

app = typer.Typer(no_args_is_help=True, help="Look at jobs, fetch their pictures, end them, run them again.")

Body = dict[str, Any]
T = TypeVar("T")

JobIdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id; in a data folder its beginning is enough.")
]

_JOB_TITLES = ("ID", "CREATED", "STATUS", "TYPE", "MODEL", "ATTEMPTS", "RESULT")
_ATTEMPT_TITLES = ("#", "PROVIDER", "MODEL", "KEY", "STATE", "SECONDS", "CHARGED", "ERROR")
_ID_START = re.compile(r"[0-9a-f-]{1,36}")


@app.command("list")
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first: those of a data folder, also while a gateway uses it, or those of a gateway."""
    with explained():
        if address := options.gateway(url, data_dir):
            where, bodies = address, carried_out(_listed(address, status, limit))
        else:
            folder = options.settings(config, data_dir=data_dir).storage.data_dir
            with _opened(folder) as inspection:
                jobs = inspection.jobs(status=status, limit=limit) if inspection else ()
            where, bodies = str(folder), [job_body(job) for job in jobs]
    if as_json:
        print_json({"jobs": bodies})
    elif bodies:
        typer.echo(columns([_JOB_TITLES, *map(_row, bodies)]))
    else:
        note(f"no jobs in {where}")


async def _listed(url: str, status: JobStatus | None, limit: int) -> list[Body]:
    found: list[Body] = []
    async with connected(url) as client:
        async for job in client.jobs.list(page_size=min(limit, 100), status=status and status.value):
            found.append(_body(job.state))
            if len(found) == limit:
                break
    return found


@app.command()
def show(
    job_id: JobIdArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Show a job: its state, its times, each attempt, its pictures."""
    with explained():
        if address := options.gateway(url, data_dir):
            body = _asked(address, job_id)
        else:
            body = _read(options.settings(config, data_dir=data_dir).storage.data_dir, job_id)
    if as_json:
        print_json(body)
    else:
        typer.echo(_described(body))


@app.command()
def fetch(
    job_id: JobIdArgument,
    output: Output = None,
    force: Force = False,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Wait for a job's end and fetch its pictures."""
    with explained():
        where = place(url, config, data_dir)
        if where.settings:
            job_id = _read(where.settings.storage.data_dir, job_id)["id"]
        saved = Saved(destination=Destination.of(output, force=force), title="picture")
        finish(Errand(place=where, saved=saved, job_id=job_id), as_json=as_json)


@app.command()
def watch(
    job_id: JobIdArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Follow what happens to a job, from its beginning to its end."""

    async def follow(job: AsyncJob) -> JobState:
        async for event in job.events():
            typer.echo(msgspec.json.encode(event).decode() if as_json else _event_line(event))
        return (await job.refresh()).state

    ended = _do(place(url, config, data_dir), job_id, follow)
    if ended.error is not None:
        raise fail(f"job {ended.id} failed: {ended.error}", ExitCode.FAILED)


@app.command()
def cancel(
    job_id: JobIdArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """End a job: one that waits never starts, one that runs has its result dropped. Says whether it was charged."""

    async def end(job: AsyncJob) -> JobState:
        if not job.ended and not (await job.cancel()).ended:
            note("A provider is at work on it; waiting for its answer, which is dropped.")
            await job.wait()
        return job.state

    state = _do(place(url, config, data_dir), job_id, end)
    if as_json:
        print_json(_body(state))
    elif state.meta.cancelled:
        typer.echo(f"Job {state.id} is cancelled; charged: {state.meta.charged}")
    else:
        typer.echo(f"Job {state.id} had ended before: {state.status}; charged: {state.meta.charged}")


@app.command()
def retry(
    job_id: JobIdArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Run a failed job again under its id: the consent to pay again, where the first outcome is not known."""

    async def again(job: AsyncJob) -> JobState:
        return (await job.retry()).state

    where = place(url, config, data_dir)
    state = _do(where, job_id, again)
    if as_json:
        print_json(_body(state))
    else:
        typer.echo(f"Job {state.id} runs again. To get its pictures: safelight jobs fetch {state.id}{where.option}")


@app.command()
def delete(
    job_id: JobIdArgument,
    url: options.Url = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
) -> None:
    """Remove a job that has ended, with its pictures, now."""

    async def remove(job: AsyncJob) -> str:
        await job.delete()
        return job.id

    typer.echo(f"Job {_do(place(url, config, data_dir), job_id, remove)} is deleted")


def _do(where: Place, job_id: str, use: Callable[[AsyncJob], Awaitable[T]]) -> T:
    """Do something with a job, through the gateway that has it."""
    with explained():
        if where.settings:
            job_id = _read(where.settings.storage.data_dir, job_id)["id"]

        async def do() -> T:
            async with where.reach() as reached:
                return await use(await reached.client.jobs.get(job_id))

        try:
            return carried_out(do())
        except Conflict as error:
            raise fail(str(error), ExitCode.FAILED) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(ExitCode.INTERRUPTED) from error


def _event_line(event: Event) -> str:
    """An event for people: when, what, and the facts that it brings."""
    data = dict(event.data)
    if "completed_at" in data:  # the end, with the whole job
        why = _message(data["error"]) if "error" in data else ""
        return "  ".join([moment(data["completed_at"]), f"{event.name:<13}", data["status"], why]).rstrip()
    facts = [f"{name} {value}" for name, value in _flat(data) if name not in {"id", "job_id", "at", "status"}]
    return "  ".join([moment(data.get("at")), f"{event.name:<13}", data.get("status", ""), *facts]).rstrip()


def _flat(data: Body) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value


def _body(state: JobState) -> Body:
    body: Body = msgspec.to_builtins(state)
    return body


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[SqliteInspection | None]:
    inspection = open_inspection(folder)
    try:
        yield inspection
    finally:
        if inspection:
            inspection.close()


def _read(folder: Path, start: str) -> Body:
    """Read the job whose id begins so; raises `UsageError`, and `typer.Exit` when there is none."""
    with _opened(folder) as inspection:
        found = inspection.ids(start) if inspection and _ID_START.fullmatch(start) else ()
        history = inspection.history(JobId(found[0])) if inspection and found else None
    if len(found) > 1:
        raise UsageError(f"several jobs begin with {start}: give more of the id")
    if history is None:
        raise fail(f"there is no job {start} in {folder}, or not any more", ExitCode.FAILED)
    return history_body(history)


def _asked(url: str, job_id: str) -> Body:
    """Ask a gateway for a job; it does not tell the ledger."""

    async def ask() -> Body:
        async with connected(url) as client:
            return _body((await client.jobs.get(job_id)).state)

    return carried_out(ask())


def _row(body: Body) -> tuple[str, ...]:
    meta = body["meta"]
    images = len(body["images"] if "images" in body else body.get("result", {}).get("data", ()))
    result = body["error"]["error"].get("code", "-") if "error" in body else f"{images} image{'s' * (images != 1)}"
    return (
        body["id"],
        moment(body["created_at"]),
        body["status"],
        meta.get("request_type", "image_generation").removeprefix("image_"),
        meta["model"],
        str(meta.get("attempts", 0)),
        result if body["status"] in {"completed", "failed"} else "-",
    )


def _described(body: Body) -> str:
    meta = body["meta"]
    cost = meta.get("cost_usd")
    facts = {
        "job": body["id"],
        "type": meta.get("request_type", "image_generation"),
        "model": meta["model"],
        "status": body["status"],
        "created": moment(body["created_at"]),
        "started": moment(body.get("started_at")),
        "completed": moment(body.get("completed_at")),
        "kept until": moment(body.get("expires_at")),
        "cost": "-" if cost is None else f"${cost:.4f}",
        "charged": meta.get("charged", "-"),
    }
    if "error" in body:
        facts["error"] = _message(body["error"])
    lines = [columns([(f"{name}:", value) for name, value in facts.items() if value != "-"])]
    if ledger := body.get("ledger"):
        lines += ["attempts:", columns([_ATTEMPT_TITLES, *map(_attempt_row, ledger)], indent="  ")]
    if images := body.get("images"):
        lines += ["images:", columns([_image_row(index, image) for index, image in enumerate(images)], indent="  ")]
    if links := [picture["url"] for picture in body.get("result", {}).get("data", []) if "url" in picture]:
        lines += ["images:", *(f"  {link}" for link in links)]
    return "\n".join(lines)


def _attempt_row(attempt: Body) -> tuple[str, ...]:
    seconds = attempt.get("duration_s")
    return (
        str(attempt["number"]),
        attempt["provider"],
        attempt["model"],
        attempt["key"] or "-",
        f"{attempt['state']} ({attempt['error_class']})" if "error_class" in attempt else attempt["state"],
        "-" if seconds is None else f"{seconds:.3f}",
        attempt.get("charged", "-"),
        _message(attempt["error"]) if "error" in attempt else "-",
    )


def _image_row(index: int, image: Body) -> tuple[str, ...]:
    pixels = f"{image['width']}x{image['height']}"
    return str(index), image["content_type"], pixels, size(image["size_bytes"]), f"sha256 {image['sha256']}"


def _message(error: Body) -> str:
    return str(msgspec.convert(error, ErrorBody))
