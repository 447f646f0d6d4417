"""`safelight jobs`: what the record says of jobs."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from safelight.adapters.sqlite.inspection import SqliteInspection
from safelight.cli import options
from safelight.cli.client import Body, Refused, connected, message_of
from safelight.cli.errand import Errand, finish, place, print_json
from safelight.cli.faults import ExitCode, UsageError, explained, fail
from safelight.cli.images import Force, Output
from safelight.cli.pictures import Destination, Saved
from safelight.cli.record import history_body, job_body
from safelight.cli.tables import columns, moment, size
from safelight.domain.ids import JobId
from safelight.domain.job import JobStatus
from safelight.wiring import open_inspection

app = typer.Typer(no_args_is_help=True, help="Look at jobs, and fetch their pictures.")

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
    """List the jobs of a data folder, newest first, also while a gateway uses it."""
    with explained():
        if options.gateway(url, data_dir):
            raise UsageError("a gateway cannot be asked for a list yet: name its data folder with --data-dir instead")
        folder = options.settings(config, data_dir=data_dir).storage.data_dir
        with _opened(folder) as inspection:
            jobs = inspection.jobs(status=status, limit=limit) if inspection else ()
    bodies = [job_body(job) for job in jobs]
    if as_json:
        print_json({"jobs": bodies})
    elif bodies:
        typer.echo(columns([_JOB_TITLES, *map(_row, bodies)]))
    else:
        typer.echo(f"no jobs in {folder}", err=True)


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
            return await client.any_job(job_id)

    try:
        return uvloop.run(ask())
    except Refused as error:
        raise fail(f"the gateway refused: {message_of(error.body)}", ExitCode.FAILED) from error


def _row(body: Body) -> tuple[str, ...]:
    meta = body["meta"]
    images = len(body["images"])
    result = body["error"]["error"]["code"] if "error" in body else f"{images} image{'s' * (images != 1)}"
    return (
        body["id"],
        moment(body["created_at"]),
        body["status"],
        meta["request_type"].removeprefix("image_"),
        meta["model"],
        str(meta["attempts"]),
        result if body["status"] in {"completed", "failed"} else "-",
    )


def _described(body: Body) -> str:
    meta = body["meta"]
    cost = meta.get("cost_usd")
    facts = {
        "job": body["id"],
        "type": meta["request_type"],
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
        facts["error"] = message_of(body["error"])
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
        message_of(attempt["error"]) if "error" in attempt else "-",
    )


def _image_row(index: int, image: Body) -> tuple[str, ...]:
    pixels = f"{image['width']}x{image['height']}"
    return str(index), image["content_type"], pixels, size(image["size_bytes"]), f"sha256 {image['sha256']}"
