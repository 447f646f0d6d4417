"""What tests of all folders share: Postgres, and the engines that stores run on."""

import signal
from collections.abc import Iterator

import pytest

from tests import postgres
from tests.postgres import PostgresServer
from tests.s3 import S3
from tests.stores import ENGINES, Storage

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is in the background of a shell, and in what we start
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real Postgres, for the whole run."""
    server = postgres.server()
    yield server
    server.close()


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh Postgres database with this release's schema."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3) -> S3:
    """A real S3 API over HTTP, with an empty bucket."""
    s3_server.forget()
    return s3_server


@pytest.fixture(params=ENGINES)
def storage(request: pytest.FixtureRequest) -> Storage:
    """Fresh tables, on each engine in turn."""
    return ENGINES[request.param](request)
