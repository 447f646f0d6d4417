"""What the use cases' tests share: the real store on a fresh file, and the bell that it rings."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from safelight.adapters.bell import LocalBell
from safelight.adapters.sql.jobs import SqlJobStore
from tests.stores import sqlite_store


@pytest.fixture
def bell() -> LocalBell:
    return LocalBell()


@pytest.fixture
async def store(tmp_path: Path, bell: LocalBell) -> AsyncIterator[SqlJobStore]:
    store = sqlite_store(tmp_path / "jobs.db", bell)
    yield store
    await store.close()
