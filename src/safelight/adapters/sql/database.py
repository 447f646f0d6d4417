"""What the stores need of an engine. SQLite and Postgres each have one `Database`; the SQL above it is written once."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = Sequence[Any]


class Transaction(Protocol):
    """Statements of one transaction, with `$1` placeholders."""

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""
        ...

    async def change_one(self, statement: str, *values: Any) -> bool:
        """Run a statement that is to change one row; whether it did.

        It has each of its placeholders once, in their order, where it is an `INSERT` of values; where it goes by a row
        that is there, nothing before its one `WHERE` reads another table.
        """
        ...

    async def execute_many(self, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement once for each row of values."""
        ...

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Read all rows."""
        ...

    async def fetch_one(self, statement: str, *values: Any) -> Row | None:
        """Read the first row, `None` where there is none."""
        ...


Work = Callable[[Transaction], Awaitable[T]]
"""Part of a use case. It awaits nothing but its transaction, and may be run again after a rollback."""


class Database(Protocol):
    """One engine. Every method raises `StorageError` when it fails; an exception of the work's own rolls it back."""

    settled: str
    """A condition on rows of `events`: no other transaction can write one before them any more."""

    async def write(self, work: Work[T], *, then: Callable[[], None] | None = None, job_id: str | None = None) -> T:
        """Do `work` in one transaction; it is durable when this returns.

        `then` is called in the event loop once it is, also when the caller has been cancelled meanwhile. `job_id` says that
        what the work reads before a `change_one` is changed by no other work but those of this job: so those of several jobs
        may be done in turns.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Do queries of unknown length."""
        ...

    async def look_up(self, work: Work[T]) -> T:
        """Do queries that find a few rows by their key."""
        ...

    async def close(self) -> None:
        """Finish what was asked for and let go."""
        ...
