"""A cancelled job is stopped at its provider too, where the provider can, and what it cost is told."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import END_S, Client
from tests.api.serving import ServedGateway, SimulatorThread, settings_for
from tests.simulators._base import Fault
from tests.simulators.comfyui import ComfyUISimulator
from tests.simulators.fal import FalSimulator
from tests.simulators.replicate import ReplicateSimulator
from tests.simulators.sdwebui import SDWebUISimulator

KEYS = [{"name": "main", "value": "sk-upstream"}]


def gateway_to(folder: Path, name: str, thread: SimulatorThread[Any], **entry: Any) -> ServedGateway:
    return ServedGateway(settings_for(folder, providers={name: {"base_url": thread.simulator.base_url, **entry}}))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(END_S):
        while True:
            if true():
                return
            await asyncio.sleep(0.02)  # the simulator tells nobody


async def cancelled(client: Client, job_id: str) -> None:
    reply = await client.ask("DELETE", f"/v1/async/images/generations/{job_id}")
    assert reply.status == 202
    assert reply.json["meta"]["cancelled"] is True


@pytest.mark.parametrize(
    ("name", "make", "model", "stops", "charged"),
    [
        ("replicate", lambda: ReplicateSimulator(running_polls=100), "black-forest-labs/flux-dev", "cancel", "unknown"),
        ("fal", lambda: FalSimulator(running_polls=2), "fal-ai/flux/dev", "cancel", "yes"),
        (
            "comfyui",
            lambda: ComfyUISimulator(stages=("in_progress",) * 100),
            "sd_xl_base_1.0.safetensors",
            "cancel",
            "no",
        ),
    ],
)
async def test_accepted_work_is_stopped(
    tmp_path: Path, name: str, make: Callable[[], Any], model: str, stops: str, charged: str
) -> None:
    """fal only takes note: a request that runs is finished and billed all the same."""
    started: AbstractContextManager[SimulatorThread[Any]] = SimulatorThread(make())
    with started as thread, gateway_to(tmp_path, name, thread, keys=KEYS) as gateway:
        async with Client(gateway.url) as client:
            job = await client.submit(values={"model": f"{name}/{model}", "prompt": "a red kite"})
            await until(lambda: any(each.method == "GET" for each in thread.simulator.exchanges))
            await cancelled(client, job["id"])
            ended = await client.end("generations", job["id"])
        assert (ended["status"], ended["status_code"]) == ("failed", 499)
        assert ended["error"]["error"]["code"] == "job_cancelled"
        assert ended["meta"]["charged"] == charged
        asked = [each.path for each in thread.simulator.exchanges if each.path.endswith(stops)]
        assert (len(asked), thread.simulator.submissions) == (1, 1)


async def test_a_drawing_that_is_waited_for_is_interrupted(tmp_path: Path) -> None:
    with SimulatorThread(SDWebUISimulator()) as thread, gateway_to(tmp_path, "sdwebui", thread) as gateway:
        webui = thread.simulator
        webui.faults.push(Fault(hold=True, path="*/txt2img"))
        async with Client(gateway.url) as client:
            job = await client.submit(values={"model": "sdwebui/current", "prompt": "a red kite"})
            await thread.wait_for_submissions(1)
            webui.current = webui.exchanges[0].fields["force_task_id"]
            await cancelled(client, job["id"])
            await until(lambda: webui.interrupts == 1)
            thread.release()
            ended = await client.end("generations", job["id"])
        assert (ended["status"], ended["status_code"], ended["meta"]["charged"]) == ("failed", 499, "no")
