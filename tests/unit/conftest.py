"""What the use cases' tests share: the real store on a fresh file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from safelight.adapters.sqlite.jobs import SqliteJobStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteJobStore]:
    store = SqliteJobStore(tmp_path / "jobs.db")
    yield store
    await store.close()
