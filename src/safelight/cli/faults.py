"""How a command ends: exit codes, and faults told in a sentence with its remedy."""

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import typer

from safelight.adapters.data_dir import DataDirInUse
from safelight.client import GatewayUnreachable, Refused, SafelightError, Unavailable
from safelight.domain.errors import ConfigurationError, StorageError


class ExitCode(IntEnum):
    """What scripts may rely on."""

    OK = 0
    FAILED = 1
    """The job failed, a check failed, or there is no such thing."""
    USAGE = 2
    """The command, the request or the settings must be changed."""
    UNREACHABLE = 3
    """The gateway did not answer; try again."""
    INTERRUPTED = 130


class UsageError(Exception):
    """The command cannot be carried out as it was given."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what people can mend into a message and an exit code. Anything else is our own fault and keeps its trace."""
    try:
        yield
    except DataDirInUse as error:
        raise fail(f"{error}: stop it, or choose another folder with --data-dir", ExitCode.USAGE) from error
    except (ConfigurationError, StorageError, UsageError) as error:
        raise fail(str(error), ExitCode.USAGE) from error
    except (GatewayUnreachable, Unavailable) as error:
        raise fail(unreachable(error), ExitCode.UNREACHABLE) from error
    except Refused as error:
        raise fail(f"the gateway refused: {error}", ExitCode.FAILED) from error


def unreachable(error: SafelightError) -> str:
    """Say that no gateway answers, and what to do about it."""
    if isinstance(error, Unavailable):
        return f"the gateway cannot serve now: {error}"
    remedy = ": start one with `safelight serve`, or give its address with --url"
    return f"{error}{'' if getattr(error, 'sent', False) else remedy}"


def fail(message: str, code: ExitCode) -> typer.Exit:
    """Tell what is wrong on standard error; raise what this returns."""
    note(f"error: {message}")
    return typer.Exit(code)


def note(message: str) -> None:
    """Say something beside the command's output."""
    typer.echo(message, err=True)
