"""The commands."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from safelight.cli import batch, demo, doctor, images, jobs, keys, migrate, serve, settings, transfer, usage, webhooks

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"safelight {version('safelight')}")
        raise typer.Exit


@app.callback()
def describe(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run AI image jobs durably: an accepted job is never lost, never paid for twice, never without its image."""


app.command()(serve.serve)
app.command()(images.generate)
app.command()(images.edit)
app.command()(images.vary)
app.add_typer(jobs.app, name="jobs")
app.add_typer(batch.app, name="batch")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.command()(usage.usage)
app.command()(doctor.doctor)
app.command()(migrate.migrate)
app.command()(transfer.transfer)
app.command()(settings.settings)
app.command()(demo.demo)


def main() -> None:
    """Entry point."""
    app()
