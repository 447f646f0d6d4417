"""`safelight doctor`."""

from collections.abc import Iterator
from pathlib import Path

import typer

from safelight.adapters.data_dir import DataDirInUse, check_free
from safelight.cli import checks, options
from safelight.cli.checks import Check, Mark
from safelight.cli.errand import print_json
from safelight.cli.faults import ExitCode
from safelight.domain.errors import ConfigurationError

_COLOURS = {Mark.OK: "green", Mark.OFF: "bright_black", Mark.WARN: "yellow", Mark.FAIL: "red"}


def doctor(config: options.Config = None, data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """Check settings, data folder and providers, and say what to do. Calls no provider."""
    found = list(_examine(config, data_dir))
    failed = any(check.mark is Mark.FAIL for check in found)
    if as_json:
        print_json({"ok": not failed, "checks": [_body(check) for check in found]})
    else:
        width = max(len(check.name) for check in found)
        for check in found:
            typer.echo(_line(check, width))
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.OK)


def _examine(config: Path | None, data_dir: Path | None) -> Iterator[Check]:
    yield from checks.program()
    try:
        settings = options.settings(config, data_dir=data_dir)
    except ConfigurationError as error:
        yield from checks.settings_source(config, error)
        return
    folder = settings.storage.data_dir
    yield from checks.settings_source(config, None)
    yield from checks.data_folder(folder)
    yield from checks.database(folder) if settings.storage.database_url is None else checks.shared_database(settings)
    yield from checks.bucket(settings)
    yield from checks.address(settings, in_use=_in_use(folder))
    yield from checks.public_url(settings)
    yield from checks.providers(settings, config)


def _in_use(folder: Path) -> bool:
    try:
        check_free(folder)
    except DataDirInUse:
        return True
    return False


def _body(check: Check) -> dict[str, str]:
    body = {"name": check.name, "mark": check.mark.value, "finding": check.finding}
    return {**body, "remedy": check.remedy} if check.remedy else body


def _line(check: Check, width: int) -> str:
    mark = typer.style(f"{check.mark:<4}", fg=_COLOURS[check.mark])
    line = f"{mark}  {check.name:<{width}}  {check.finding}"
    return f"{line}\n      {'':<{width}}  -> {check.remedy}" if check.remedy else line
