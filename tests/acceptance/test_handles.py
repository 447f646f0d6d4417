"""SIGKILL while providers hold our work under handles: it is asked for again, and bought once."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.gateway import END_S, POLL_S, Gateway, running
from tests.simulators._base import Fault
from tests.simulators.fal import FalSimulator
from tests.simulators.replicate import ReplicateSimulator

JOBS = 50
LOST = 10
FOREVER = 10**9
KEY = "key-of-the-test"

Service = FalSimulator | ReplicateSimulator


@dataclass(frozen=True, kw_only=True)
class Case:
    """A provider with handles. The patterns are the paths of a poll and of a picture."""

    name: str
    model: str
    make: Callable[[], Service]
    polls: str
    pictures: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"keys": [{"name": "main", "value": KEY}], "concurrency": JOBS + 14}


CASES = (
    Case(
        name="fal",
        model="fal-ai/flux/schnell",
        make=lambda: FalSimulator(key=KEY),
        polls="*/status",
        pictures="/files/*",
    ),
    Case(
        name="replicate",
        model="black-forest-labs/flux-schnell",
        make=lambda: ReplicateSimulator(key=KEY),
        polls="/v1/predictions/*",
        pictures="/delivery/*",
    ),
)


@pytest.fixture(params=CASES, ids=[case.name for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    found = request.param
    assert isinstance(found, Case)
    return found


@pytest.fixture
async def service(case: Case) -> AsyncIterator[Service]:
    """It never finishes anything by itself."""
    async with case.make() as simulator:
        simulator.running_polls = FOREVER
        yield simulator


@pytest.fixture
async def gateway(case: Case, service: Service, tmp_path: Path) -> AsyncIterator[Gateway]:
    entry = {**case.settings, "base_url": service.base_url}
    async with running(tmp_path, providers={case.name: entry}) as started:
        yield started


@pytest.mark.parametrize("held", ["polls", "pictures"])
async def test_work_that_is_out_is_asked_for_again_and_bought_once(
    case: Case, service: Service, gateway: Gateway, held: str
) -> None:
    jobs = await submit_all(gateway, case)
    await accepted(gateway, JOBS)
    before = gateway.rows("SELECT job_id, number, handle FROM attempts ORDER BY job_id")
    await gateway.kill()

    # The next process asks for all of it, and is killed while the answers are on their way.
    service.running_polls = FOREVER if held == "polls" else 0
    pattern = case.polls if held == "polls" else case.pictures
    service.faults.always(Fault(hold=True, method="GET", path=pattern))
    seen = len(service.exchanges)
    await gateway.start()
    await held_back(service, seen)
    await gateway.kill()

    service.faults.clear()
    service.release()
    service.running_polls = 0
    await gateway.start()
    bodies = await asyncio.gather(*[gateway.result(job_id) for job_id in jobs])

    assert service.submissions == JOBS
    assert gateway.rows("SELECT job_id, number, handle FROM attempts ORDER BY job_id") == before
    for body in bodies:
        assert body["status"] == "completed", body
        assert (body["meta"]["attempts"], body["meta"]["charged"]) == (1, "yes")
    for body in bodies:
        content = await gateway.picture(body)
        assert hashlib.sha256(content).hexdigest() == drawn(service)[jobs[body["id"]]]


async def test_a_submit_without_an_answer_is_not_repeated_beside_those_that_have_a_handle(
    case: Case, service: Service, gateway: Gateway
) -> None:
    service.faults.push(*[Fault(hold=True, method="POST")] * LOST)
    jobs = await submit_all(gateway, case)
    await service.wait_for_submissions(JOBS)
    await accepted(gateway, JOBS - LOST)
    await gateway.kill()

    service.release()
    service.running_polls = 0
    await gateway.start()
    bodies = await asyncio.gather(*[gateway.result(job_id) for job_id in jobs])
    failed = [body for body in bodies if body["status"] == "failed"]
    assert service.submissions == JOBS
    assert len(failed) == LOST
    for body in failed:
        assert body["error"]["error"]["code"] == "outcome_unknown"
        assert body["meta"]["charged"] == "unknown"


async def submit_all(gateway: Gateway, case: Case) -> dict[str, str]:
    """Submit the jobs; gives the prompt of each."""
    prompts = [f"fox {number}" for number in range(JOBS)]
    model = f"{case.name}/{case.model}"
    ids = await asyncio.gather(*[gateway.submit(model, prompt, output_format="png") for prompt in prompts])
    return dict(zip(ids, prompts, strict=True))


async def accepted(gateway: Gateway, count: int) -> None:
    """Wait until so many handles are in the ledger."""
    await gateway.until("SELECT 1 FROM attempts WHERE state = 'accepted' GROUP BY state HAVING count(*) = ?", count)


async def held_back(service: Service, seen: int) -> None:
    """Wait until a new answer for each job is held back."""
    async with asyncio.timeout(END_S):
        while len({each.path for each in service.exchanges[seen:] if each.status is None}) < JOBS:  # noqa: ASYNC110 - the simulator tells of submissions alone
            await asyncio.sleep(POLL_S)


def drawn(service: Service) -> dict[str, str]:
    """The hash of the picture of each prompt."""
    if isinstance(service, FalSimulator):
        made = [(request.inputs["prompt"], request.contents) for request in service.requests.values()]
    else:
        made = [(prediction.input["prompt"], prediction.contents) for prediction in service.predictions.values()]
    return {prompt: hashlib.sha256(content).hexdigest() for prompt, (content,) in made}
