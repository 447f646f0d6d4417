"""What callers see of faults in Postgres, and which of them pass by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from asyncpg.exceptions import DataError as ArgumentError

from safelight.domain.errors import StorageError

_OURS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.SyntaxOrAccessError,
    ArgumentError,
)
"""Faults of a statement or its values: trying again cannot help."""
_FOREIGN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
_CLASHES = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


def translated(error: Exception) -> Exception:
    """What callers see of a fault in the database; faults of our own stay as they are."""
    if not isinstance(error, _FOREIGN):
        return error
    if isinstance(error, _OURS) and not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return error
    said = "it did not answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    failure = StorageError(f"the database failed: {said}")
    failure.__cause__ = error
    return failure


@contextmanager
def translating() -> Iterator[None]:
    """Let no exception of the driver out."""
    try:
        yield
    except Exception as error:
        failure = translated(error)
        if failure is error:
            raise
        raise failure from error


def lost(error: BaseException) -> bool:
    """Whether the connection is gone, or the server is going or not there."""
    return isinstance(error, _LOST) and not isinstance(error, (ArgumentError, TimeoutError, asyncpg.QueryCanceledError))


def clash(error: BaseException) -> bool:
    """Whether the transaction was rolled back because of another one."""
    return isinstance(error, _CLASHES)
