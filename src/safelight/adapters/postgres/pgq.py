"""PgQueuer as we use it: its names, and its queries within our transactions."""

import asyncio
from typing import Any, Self

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.tm import TaskManager
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel
from pgqueuer.ports.driver import Driver, NotifyCallback

from safelight.adapters.sql.database import Transaction

CHANNEL = "ch_pgqueuer"


def settings() -> DBSettings:
    """PgQueuer's usual names, whatever its variables say: only `config` reads the environment.

    Its log is no record of ours, so it need not survive a crash of the server.
    """
    return DBSettings(
        prefix="",
        db_schema=None,
        channel=Channel(CHANNEL),
        function="fn_pgqueuer_changed",
        statistics_table="pgqueuer_statistics",
        queue_status_type="pgqueuer_status",
        queue_table="pgqueuer",
        queue_table_log="pgqueuer_log",
        trigger="tg_pgqueuer_changed",
        schedules_table="pgqueuer_schedules",
        durability=Durability.balanced,
        widen_id=True,
    )


class Pgq:
    """Makes PgQueuer's queries for a transaction. What it renders is rendered once."""

    def __init__(self) -> None:
        """Connects to nothing."""
        self._environment = QueryBuilderEnvironment(settings())
        self._builder = QueryQueueBuilder(settings())

    def on(self, transaction: Transaction) -> Queries:
        """PgQueuer's queries within a transaction."""
        return Queries(_TransactionDriver(transaction), qbe=self._environment, qbq=self._builder)


class _TransactionDriver(Driver):
    """PgQueuer's way to the database, on a transaction of ours. It never listens: `listen.py` does."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        found: Any = await self._transaction.fetch(query, *args)
        return [dict(row) for row in found]

    async def execute(self, query: str, *args: object) -> str:
        return str(await self._transaction.execute(query, *args))

    async def notify(self, channel: str, payload: str) -> None:
        await self._transaction.execute("SELECT pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        raise NotImplementedError

    @property
    def shutdown(self) -> asyncio.Event:
        raise NotImplementedError

    @property
    def tm(self) -> TaskManager:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None
