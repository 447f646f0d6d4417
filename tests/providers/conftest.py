from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from safelight.adapters.providers._http import HttpSessions, open_sessions
from tests.providers.support import FolderWorkspace


@pytest.fixture
def workspace(tmp_path: Path) -> FolderWorkspace:
    return FolderWorkspace(tmp_path)


@pytest.fixture
async def sessions() -> AsyncIterator[HttpSessions]:
    opened = open_sessions()
    yield opened
    await opened.close()
