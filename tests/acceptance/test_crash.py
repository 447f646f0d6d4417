"""SIGKILL at any moment: nothing accepted is lost, nothing is paid twice, no picture is missing."""

import asyncio
import hashlib
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from safelight.adapters.sqlite import committer
from tests.acceptance.gateway import Gateway, running, upstream
from tests.doubles import until
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

JOBS = 500
KILLS = 3
CLIENTS = 32


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


@pytest.fixture
async def spare() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


# Many jobs, killed at random


class Crowd:
    """Clients that submit until they get their 202, whatever becomes of the gateway meanwhile."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.accepted: dict[str, str] = {}
        self._prompts = iter([f"fox {number}" for number in range(JOBS)])

    async def submit_all(self) -> None:
        await asyncio.gather(*[self._client() for _ in range(CLIENTS)])

    async def _client(self) -> None:
        for prompt in self._prompts:
            while True:
                try:
                    self.accepted[await self.gateway.submit("box/flux", prompt)] = prompt
                    break
                except aiohttp.ClientError:  # killed; whether this one was accepted, nobody knows
                    await asyncio.sleep(0.05)


async def crash_through(gateway: Gateway, box: OpenAICompatibleSimulator, random: Random) -> Crowd:
    """Let the crowd submit, and kill the gateway in the middle of calls, three times."""
    crowd = Crowd(gateway)
    submitting = asyncio.create_task(crowd.submit_all())
    for number in range(KILLS):
        # The first kill comes while the slots fill, so that it meets the crowd still submitting, however fast that is.
        calls = random.randrange(20, 120) if number else random.randrange(5, 25)
        await box.wait_for_submissions(box.submissions + calls)
        await asyncio.sleep(random.random() / 50)
        await gateway.restart()
        assert not submitting.done() or number
    await submitting
    return crowd


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "paid"])
async def test_no_job_is_lost_however_often_the_gateway_is_killed(
    *, tmp_path: Path, box: OpenAICompatibleSimulator, repeatable: bool
) -> None:
    box.faults.always(Fault(delay_s=0.05))
    settings = {"box": upstream(box.base_url, repeatable=repeatable, concurrency=32)}
    async with running(tmp_path, providers=settings) as gateway:
        crowd = await crash_through(gateway, box, Random(7 + repeatable))
        bodies = await asyncio.gather(*[gateway.result(job_id) for job_id in crowd.accepted])
        await gateway.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE due_at IS NOT NULL)")
        await check_pictures(gateway, box, crowd, bodies)
        check_ledger(gateway, box, repeatable=repeatable)
        assert len(crowd.accepted) == JOBS
        for body in bodies:
            assert body["status"] == "completed" or not repeatable
            if body["status"] == "failed":
                assert body["error"]["error"]["code"] == "outcome_unknown"
                assert body["meta"]["charged"] == "unknown"
        gateway.signal()
        assert await gateway.ended() == 0


async def test_no_job_suffers_when_what_commits_is_killed(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    box.faults.always(Fault(delay_s=0.05))
    settings = {"box": upstream(box.base_url, repeatable=False, concurrency=32)}
    async with running(tmp_path, providers=settings) as gateway:
        crowd = Crowd(gateway)
        submitting = asyncio.create_task(crowd.submit_all())
        await until(lambda: bool(gateway.children(committer.__name__)))
        await box.wait_for_submissions(box.submissions + 50)
        assert not submitting.done()
        for pid in gateway.children(committer.__name__):
            os.kill(pid, signal.SIGKILL)
        await submitting
        bodies = await asyncio.gather(*[gateway.result(job_id) for job_id in crowd.accepted])
        assert [body["status"] for body in bodies] == ["completed"] * JOBS
        assert box.submissions == JOBS
        await check_pictures(gateway, box, crowd, bodies)
        check_ledger(gateway, box, repeatable=False)


async def check_pictures(
    gateway: Gateway, box: OpenAICompatibleSimulator, crowd: Crowd, bodies: list[Mapping[str, Any]]
) -> None:
    """Each completed job has the picture that the provider drew for it, and none else."""
    drawn: defaultdict[str, set[str]] = defaultdict(set)
    for exchange in box.exchanges:
        drawn[exchange.fields.get("prompt", "")].update(exchange.outputs_sha256)
    completed = [body for body in bodies if body["status"] == "completed"]
    assert len(completed) > JOBS / 2
    for body in completed:
        content = await gateway.picture(body)
        assert hashlib.sha256(content).hexdigest() in drawn[crowd.accepted[body["id"]]]


def check_ledger(gateway: Gateway, box: OpenAICompatibleSimulator, *, repeatable: bool) -> None:
    """Each call that the provider saw is an attempt; of a paid one there is never a second."""
    calls = Counter(exchange.fields["prompt"] for exchange in box.exchanges if exchange.submission)
    attempts: Counter[str] = Counter()
    for prompt, state in gateway.rows(
        "SELECT json_extract(jobs.request, '$.prompt'), attempts.state FROM attempts JOIN jobs ON jobs.id = job_id"
    ):
        attempts[prompt] += 1
        assert state in {"succeeded", "unknown"}
    # A submit that was cut off may have been accepted, and its client has then submitted the same prompt once more.
    jobs = Counter(row[0] for row in gateway.rows("SELECT json_extract(request, '$.prompt') FROM jobs"))
    assert not calls - attempts
    assert repeatable or not calls - jobs
    assert sum(attempts.values()) - sum(calls.values()) <= KILLS * 32


# One call, killed while it is out


@pytest.mark.parametrize(
    ("on_unknown", "status", "calls", "spare_calls"),
    [("fail", "failed", 1, 0), ("retry", "completed", 2, 0), ("fallback", "completed", 1, 1)],
)
async def test_a_paid_call_that_was_out_is_repeated_only_with_consent(
    tmp_path: Path,
    box: OpenAICompatibleSimulator,
    spare: OpenAICompatibleSimulator,
    on_unknown: str,
    status: str,
    calls: int,
    spare_calls: int,
) -> None:
    box.faults.push(Fault(hold=True))
    providers = {name: upstream(each.base_url, repeatable=False) for name, each in (("box", box), ("spare", spare))}
    async with running(tmp_path, providers=providers, jobs={"on_unknown": on_unknown}) as gateway:
        job_id = await gateway.submit("box/flux", fallbacks=["spare/flux"])
        await box.wait_for_submissions(1)
        await gateway.restart()
        body = await gateway.result(job_id)
        assert (body["status"], box.submissions, spare.submissions) == (status, calls, spare_calls)
        assert gateway.attempts(job_id)[0] == ("box", "unknown", "unknown")
        assert len(gateway.attempts(job_id)) == calls + spare_calls
        if status == "failed":
            assert body["error"]["error"]["code"] == "outcome_unknown"
            assert body["error"]["is_bifrost_error"] is False
            assert body["meta"]["charged"] == "unknown"
        else:
            assert hashlib.sha256(await gateway.picture(body)).hexdigest()


async def test_a_free_call_that_was_out_is_repeated(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    box.faults.push(Fault(hold=True))
    async with running(tmp_path, providers={"box": upstream(box.base_url)}) as gateway:
        job_id = await gateway.submit("box/flux")
        await box.wait_for_submissions(1)
        await gateway.restart()
        assert (await gateway.result(job_id))["status"] == "completed"
        assert gateway.attempts(job_id) == [("box", "unknown", "no"), ("box", "succeeded", "yes")]


async def test_accepted_work_is_polled_after_a_crash_and_not_started_again(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        job_id = await gateway.submit("builtin/handle-2")
        await gateway.until("SELECT 1 FROM attempts WHERE job_id = ? AND state = 'accepted'", job_id)
        before = gateway.rows("SELECT number, handle FROM attempts")
        await gateway.restart()
        body = await gateway.result(job_id)
        assert (body["status"], body["meta"]["attempts"]) == ("completed", 1)
        assert await gateway.picture(body)
        assert gateway.rows("SELECT number, handle FROM attempts") == before


# The moment of the 202


async def test_what_got_a_202_is_there_after_a_kill_in_the_same_moment(tmp_path: Path) -> None:
    ids: list[str] = []
    async with running(tmp_path) as gateway:
        for round_ in range(5):
            enough = asyncio.Event()

            async def client(enough: asyncio.Event = enough, most: int = len(ids) + 1 + 5 * round_) -> None:
                while not enough.is_set():
                    try:
                        ids.append(await gateway.submit("builtin/sketch"))
                    except aiohttp.ClientError:
                        return
                    if len(ids) >= most:
                        enough.set()

            clients = asyncio.gather(*[client() for _ in range(1 + round_)])
            await enough.wait()
            gateway.process.kill()
            await clients
            await gateway.process.wait()
            await gateway.start()
        bodies = await asyncio.gather(*[gateway.result(job_id) for job_id in ids])
        assert len(ids) >= 50
        assert {body["status"] for body in bodies} == {"completed"}


async def test_inputs_of_an_accepted_edit_survive_a_kill(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    box.faults.push(Fault(hold=True))
    picture = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x03\x00\x00\x00\x02\x08\x02\x00\x00\x00\x12\x16\xf1M"
    picture += bytes(700_000)
    async with running(tmp_path, providers={"box": upstream(box.base_url)}) as gateway:
        form = aiohttp.FormData({"model": "box/flux", "prompt": "redder"})
        form.add_field("image", picture, filename="fox.png", content_type="image/png")
        async with gateway.session.post(f"{gateway.url}/v1/async/images/edits", data=form) as response:
            assert response.status == 202
            location = response.headers["Location"]
        await box.wait_for_submissions(1)
        await gateway.restart()
        await box.wait_for_submissions(2)
        for exchange in box.exchanges[:2]:
            assert [file.sha256 for file in exchange.files] == [hashlib.sha256(picture).hexdigest()]
        await gateway.until("SELECT 1 FROM jobs WHERE status = 'completed'")
        async with gateway.session.get(f"{gateway.url}{location}") as response:
            assert (await response.json())["status"] == "completed"
