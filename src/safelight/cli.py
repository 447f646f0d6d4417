"""The command line."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from safelight.adapters.data_dir import DataDirInUse
from safelight.config import load
from safelight.domain.errors import ConfigurationError, StorageError
from safelight.server import listen, serve as serve_gateway
from safelight.wiring import usual_keys

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main_callback() -> None:
    """Run AI image jobs durably."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option()] = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
    data_dir: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Run the gateway."""
    server = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    storage = {"data_dir": data_dir} if data_dir else {}
    overrides = {name: values for name, values in {"server": server, "storage": storage}.items() if values}
    try:
        settings = load(config, overrides, usual_keys())
        listener = listen(settings)
        uvloop.run(
            serve_gateway(settings, listener, started=lambda address: typer.echo(f"Safelight listens on {address}"))
        )
    except (ConfigurationError, StorageError, DataDirInUse) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
