"""Pictures that develop: previews over real HTTP, from the provider's stream to a link, and gone with their job."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from safelight.domain.event import EventName, preview_of
from safelight.domain.ids import JobId
from safelight.domain.image import StoredImage
from tests.api.client import END_S, Client
from tests.api.serving import ServedGateway, SimulatorThread, settings_for
from tests.doubles import sha256
from tests.simulators._base import Fault
from tests.simulators.comfyui import ComfyUISimulator
from tests.simulators.openai import OpenAISimulator
from tests.simulators.sdwebui import SDWebUISimulator

WANTED = {"model": "openai/gpt-image-2", "prompt": "a red kite", "n": 2, "partial_images": 1}


@pytest.fixture
def openai() -> Iterator[SimulatorThread[OpenAISimulator]]:
    with SimulatorThread(OpenAISimulator(key="sk-upstream")) as thread:
        yield thread


def gateway_to(folder: Path, name: str, **entry: Any) -> ServedGateway:
    return ServedGateway(settings_for(folder, providers={name: entry}, jobs={"sweep_interval": 0.05}))


@pytest.fixture
def gateway(tmp_path: Path, openai: SimulatorThread[OpenAISimulator]) -> Iterator[ServedGateway]:
    key = {"name": "main", "value": "sk-upstream"}
    with gateway_to(tmp_path, "openai", base_url=openai.simulator.base_url, keys=[key]) as started:
        yield started


async def progress(client: Client, job_id: str) -> float:
    """Wait until a running job says how far it is."""
    seen = await client.until(
        "generations", job_id, lambda reply: reply.status != 202 or "progress" in reply.json["meta"]
    )
    assert seen[-1].status == 202
    return float(seen[-1].json["meta"]["progress"])


async def shown(gateway: ServedGateway, job_id: str, *, count: int) -> list[StoredImage]:
    """Wait until so many previews are in the job's log."""

    async def read() -> Any:
        return await gateway.gateway.read.store.events(JobId(job_id), after=0, limit=100)

    async with asyncio.timeout(END_S):
        while True:
            events = [logged.event for logged in await asyncio.to_thread(gateway.call, read)]
            found = [preview_of(event) for event in events if event.name is EventName.PARTIAL_IMAGE]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


async def test_a_preview_can_be_seen_while_the_job_runs_and_is_gone_with_it(
    gateway: ServedGateway, openai: SimulatorThread[OpenAISimulator]
) -> None:
    openai.simulator.faults.push(Fault(kind="stalled"))
    async with Client(gateway.url) as client:
        job = await client.submit(values=WANTED, headers={"x-bf-async-job-result-ttl": "1"})
        [preview, *_] = await shown(gateway, job["id"], count=1)
        assert (await client.poll("generations", job["id"])).json["status"] == "processing"

        links = gateway.gateway.app.services.links
        later = gateway.gateway.read.clock.now() + timedelta(minutes=1)
        link = links.url(preview, expires_at=later, base_url=gateway.url)
        reply = await client.get(link.removeprefix(gateway.url))
        assert (reply.status, sha256(reply.body)) == (200, preview.sha256)
        assert (reply.headers["content-type"], preview.dimensions.width) == ("image/png", 1024)

        openai.release()
        ended = await client.end("generations", job["id"])
        assert (ended["status"], len(ended["result"]["data"])) == ("completed", 2)
        assert len(await shown(gateway, job["id"], count=2)) == 2
        assert len(gateway.blobs) == 4

        await asyncio.to_thread(gateway.wait_until_empty)
        assert (await client.get(link.removeprefix(gateway.url))).status == 404


async def test_the_last_picture_before_a_broken_stream_is_kept_and_paid_for_once(
    gateway: ServedGateway, openai: SimulatorThread[OpenAISimulator]
) -> None:
    openai.simulator.faults.push(Fault(kind="truncated"))
    async with Client(gateway.url) as client:
        ended = await client.run(values=WANTED)
    assert ended["status"] == "completed"
    assert len(ended["result"]["data"]) == 1
    assert ended["result"]["extra_fields"]["shortfall"]["error"]["code"] == "fewer_images"
    assert openai.simulator.submissions == 1


async def test_a_stream_that_breaks_off_before_its_first_picture_is_unknown(
    gateway: ServedGateway, openai: SimulatorThread[OpenAISimulator]
) -> None:
    openai.simulator.faults.push(Fault(kind="truncated"))
    async with Client(gateway.url) as client:
        ended = await client.run(values={**WANTED, "n": 1})
    assert (ended["status"], ended["error"]["error"]["code"]) == ("failed", "outcome_unknown")
    assert ended["meta"]["charged"] == "unknown"
    assert openai.simulator.submissions == 1


async def test_a_web_ui_is_looked_at_while_it_draws(tmp_path: Path) -> None:
    with (
        SimulatorThread(SDWebUISimulator()) as webui,
        gateway_to(tmp_path, "sdwebui", base_url=webui.simulator.base_url) as gateway,
    ):
        webui.simulator.faults.push(Fault(hold=True, path="*/txt2img"))
        webui.simulator.share = 0.6
        async with Client(gateway.url) as client:
            job = await client.submit(values={"model": "sdwebui/current", "prompt": "a red kite", "partial_images": 1})
            await webui.wait_for_submissions(1)
            webui.simulator.current = webui.simulator.exchanges[0].fields["force_task_id"]
            [preview] = await shown(gateway, job["id"], count=1)
            assert (preview.dimensions.width, await progress(client, job["id"])) == (64, 0.6)
            webui.release()
            assert (await client.end("generations", job["id"]))["status"] == "completed"


async def test_comfyui_is_listened_to_while_it_draws(tmp_path: Path) -> None:
    stages = ("pending", "in_progress", "in_progress", "in_progress")
    with (
        SimulatorThread(ComfyUISimulator(stages=stages)) as comfyui,
        gateway_to(tmp_path, "comfyui", base_url=comfyui.simulator.base_url) as gateway,
    ):
        wanted = {"model": "comfyui/sd_xl_base_1.0.safetensors", "prompt": "a red kite", "partial_images": 2}
        async with Client(gateway.url) as client:
            job = await client.submit(values=wanted)
            assert 0.3 < await progress(client, job["id"]) < 1
            assert (await client.end("generations", job["id"]))["status"] == "completed"
        assert [preview.dimensions.width for preview in await shown(gateway, job["id"], count=2)] == [64, 64]
        assert comfyui.simulator.submissions == 1
