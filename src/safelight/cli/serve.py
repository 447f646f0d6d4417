"""`safelight serve`."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Literal

import typer
import uvloop

from safelight import logs, server
from safelight.cli import options
from safelight.cli.faults import explained
from safelight.config import Role, Settings
from safelight.wiring import enabled_providers, provider_modules


def serve(
    config: options.Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: options.DataDir = None,
    database_url: options.DatabaseUrl = None,
    blob_url: options.BlobUrl = None,
    role: Annotated[Role | None, typer.Option(help="What this process of several does.")] = None,
    log_format: Annotated[
        Literal["console", "json"] | None, typer.Option(help="For reading, or one JSON object a line.")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, typer.Option(help="The least that is logged.")
    ] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C. SIGHUP reads the providers' keys anew.

    Options win over SAFELIGHT_* variables (such as SAFELIGHT_SERVER__PORT), and those over the settings file.
    `safelight settings` lists every setting.
    """
    with explained():

        def read() -> Settings:
            return options.settings(
                config,
                data_dir=data_dir,
                storage={"database_url": database_url, "blob_url": blob_url},
                server={"host": host, "port": port, "role": role},
                log={"format": log_format, "level": log_level},
            )

        settings = read()
        listener = server.listen(settings)
        logs.configure(style=settings.log.format, level=settings.log.level)
        started = lambda address, made: typer.echo(_greeting(settings, address, made))  # noqa: E731 - as short as it can be
        uvloop.run(server.serve(settings, listener, started=started, reread=read))


def _greeting(settings: Settings, address: str, made: Mapping[str, str]) -> str:
    enabled = enabled_providers(settings)
    off = provider_modules().keys() - {entry.type or name for name, entry in enabled.items()}
    lines = [
        f"Safelight listens on {address}",
        f"  version      {version('safelight')}",
        f"  docs         {address}/docs",
        *_where(settings),
        f"  providers    {', '.join(enabled) or 'none'}",
    ]
    if off:
        lines.append(f"  not on       {len(off)} more: `safelight doctor` says how to switch them on")
    lines += [f"  virtual key  {name}: {key} (shown this once)" for name, key in made.items()]
    return "\n".join(lines)


def _where(settings: Settings) -> list[str]:
    """What keeps the jobs; of a database's URL nothing that is secret."""
    folder = f"  data folder  {settings.storage.data_dir.absolute()}"
    url = settings.storage.shown_database_url
    return (
        [folder] if url is None else [f"  database     {url}", f"  role         {settings.server.role.value}", folder]
    )
