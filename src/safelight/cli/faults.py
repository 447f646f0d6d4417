"""How a command ends: exit codes, and faults told in a sentence with its remedy."""

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import typer

from safelight.adapters.data_dir import DataDirInUse
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


class GatewayUnreachable(Exception):
    """The gateway gives no answer, or none of its own. `sent`: it may have had the request all the same."""

    def __init__(self, message: str, *, sent: bool) -> None:
        """Say where it was looked for."""
        super().__init__(message)
        self.sent = sent


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn what people can mend into a message and an exit code. Anything else is our own fault and keeps its trace."""
    try:
        yield
    except DataDirInUse as error:
        raise fail(f"{error}: stop it, or choose another folder with --data-dir", ExitCode.USAGE) from error
    except (ConfigurationError, StorageError, UsageError) as error:
        raise fail(str(error), ExitCode.USAGE) from error
    except GatewayUnreachable as error:
        raise fail(str(error), ExitCode.UNREACHABLE) from error


def fail(message: str, code: ExitCode) -> typer.Exit:
    """Tell what is wrong on standard error; raise what this returns."""
    note(f"error: {message}")
    return typer.Exit(code)


def note(message: str) -> None:
    """Say something beside the command's output."""
    typer.echo(message, err=True)
