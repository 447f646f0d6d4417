"""`safelight transfer`."""

import asyncio
from typing import Annotated

import typer

from safelight.cli import options
from safelight.cli.faults import explained
from safelight.cli.tables import columns, size
from safelight.storage import require_postgres


def transfer(
    to: Annotated[str, typer.Option(help="Postgres that takes the jobs: postgresql://…")],
    blobs: Annotated[
        str | None, typer.Option(help="Bucket that takes the images; without it they stay where they are.")
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
) -> None:
    """Take a stopped gateway's jobs and images from its data folder to Postgres and a bucket. The folder stays as it is.

    What has arrived is read back and compared.
    """
    with explained():
        require_postgres()
        from safelight.storage.transfer import transfer as run  # noqa: PLC0415 - needs packages of an extra

        done = asyncio.run(run(options.settings(config, data_dir=data_dir), to=to, blobs=blobs))
    typer.echo(columns([("TABLE", "ROWS"), *[(name, str(count)) for name, count in done.rows.items() if count]]))
    images = "stay where they are" if done.images is None else f"{done.images}, {size(done.image_bytes)}"
    typer.echo(f"images {images}; all of it was read back and is the same")
