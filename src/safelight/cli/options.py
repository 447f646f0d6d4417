"""Options that several commands share, and the settings that come of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from safelight.cli.faults import UsageError
from safelight.config import Settings, load, usual_gateway
from safelight.wiring import usual_keys

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file, YAML or JSON. Otherwise that of SAFELIGHT_CONFIG, or none."),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", "-d", help="Folder of the jobs and images. Otherwise the settings say.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="Postgres that several processes share. Others can see it here: better SAFELIGHT_STORAGE__DATABASE_URL."
    ),
]
BlobUrl = Annotated[str | None, typer.Option(help="Bucket for the images: s3://…, gs://… or az://…, or a folder.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Gateway to talk to, else that of SAFELIGHT_URL. Without one: the gateway that holds the data folder, or one within.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]


def gateway(url: str | None, data_dir: Path | None) -> str | None:
    """The address of the gateway that is meant; `None` where the data folder decides. Raises `UsageError`."""
    if url and data_dir:
        raise UsageError("--url and --data-dir exclude each other: a gateway has its own data folder")
    return url or (None if data_dir else usual_gateway())


def settings(config: Path | None, *, data_dir: Path | None = None, **sections: Mapping[str, Any]) -> Settings:
    """Read the settings with what the command line says above them. Raises `ConfigurationError`."""
    said = {**sections, "storage": {**sections.get("storage", {}), "data_dir": data_dir}}
    overrides = {
        name: values
        for name, section in said.items()
        if (values := {key: value for key, value in section.items() if value is not None})
    }
    return load(config, overrides, usual_keys())
