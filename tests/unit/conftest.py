"""What the use cases' tests share: the real store on a fresh file."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from safelight.adapters.sql.jobs import SqlJobStore
from tests.stores import sqlite_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlJobStore]:
    store = sqlite_store(tmp_path / "jobs.db")
    yield store
    await store.close()
