"""Gateways on real ports, and clients of them."""

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.api.serving import NO_RETRIES, ServedGateway, SimulatorThread, settings_for
from tests.simulators.openai import OpenAISimulator
from tests.simulators.openai_compatible import OpenAICompatibleSimulator


@pytest.fixture(scope="session")
def upstream_thread() -> Iterator[SimulatorThread[OpenAISimulator]]:
    with SimulatorThread(OpenAISimulator(key="sk-upstream")) as thread:
        yield thread


@pytest.fixture(scope="session")
def upstream(upstream_thread: SimulatorThread[OpenAISimulator]) -> OpenAISimulator:
    """OpenAI, as the gateway of `served` sees it."""
    return upstream_thread.simulator


@pytest.fixture(scope="session")
def gpu_box() -> Iterator[OpenAICompatibleSimulator]:
    """A server on the operator's own network, which answers links."""
    with SimulatorThread(OpenAICompatibleSimulator()) as thread:
        yield thread.simulator


@pytest.fixture(scope="session")
def served(
    tmp_path_factory: pytest.TempPathFactory, upstream: OpenAISimulator, gpu_box: OpenAICompatibleSimulator
) -> Iterator[ServedGateway]:
    """One gateway for all tests that leave it as they found it."""
    key = {"name": "main", "value": "sk-upstream"}
    openai = {"base_url": upstream.base_url, "keys": [key], "retries": NO_RETRIES, "breaker": {"failures": 0}}
    local = {"type": "openai_compatible", "base_url": gpu_box.base_url, "retries": NO_RETRIES, "response_format": "url"}
    settings = settings_for(
        tmp_path_factory.mktemp("gateway") / "data",
        server={"max_body": "40MB", "max_image": "30MB", "body_timeout": 5},
        providers={"openai": openai, "gpu-box": local},
        jobs={"sweep_interval": 600},
    )
    before = threading.active_count()
    with ServedGateway(settings) as gateway:
        yield gateway
    assert threading.active_count() <= before + 1  # the drawing threads end on their own


@pytest.fixture(autouse=True)
def _calm_upstream(request: pytest.FixtureRequest) -> Iterator[None]:
    """Forget the faults and the calls of the test before."""
    yield
    if "upstream" in request.fixturenames:
        simulator: OpenAISimulator = request.getfixturevalue("upstream")
        simulator.faults.clear()
        simulator.exchanges.clear()
        if "served" in request.fixturenames:
            gateway: ServedGateway = request.getfixturevalue("served")
            gateway.gateway.reload_keys(gateway.settings)  # a key that a test had refused is in again


@pytest.fixture
async def client(served: ServedGateway) -> AsyncIterator[Client]:
    async with Client(served.url) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ServedGateway]:
    """A gateway of the test's own, to count what lies on its disk or to break something in it."""
    with ServedGateway(settings_for(tmp_path / "data", server={"max_body": "2MB", "body_timeout": 1})) as gateway:
        yield gateway


@pytest.fixture
async def own_client(own: ServedGateway) -> AsyncIterator[Client]:
    async with Client(own.url) as client:
        yield client
