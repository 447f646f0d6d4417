"""`safelight migrate`."""

import asyncio

import typer

from safelight.cli import options
from safelight.cli.faults import explained
from safelight.storage import migrate_storage


def migrate(
    config: options.Config = None, data_dir: options.DataDir = None, database_url: options.DatabaseUrl = None
) -> None:
    """Bring the database up to this release, and do no more. `serve` does so too, when it starts."""
    with explained():
        settings = options.settings(config, data_dir=data_dir, storage={"database_url": database_url})
        before, after = asyncio.run(migrate_storage(settings))
    typer.echo(f"schema {after}, {'as before' if before == after else f'before {before}'}")
