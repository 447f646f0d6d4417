"""Providers that call back: the gateway asks at once, once, and only those who have signed."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from safelight.adapters.providers import bfl, fal, replicate
from safelight.domain.errors import ConfigurationError
from safelight.domain.ids import JobId
from safelight.domain.job import AttemptState
from tests.acceptance.gateway import free_port
from tests.api.client import END_S, Client
from tests.api.serving import ServedGateway, SimulatorThread, settings_for
from tests.simulators._base import Fault
from tests.simulators.bfl import BFLSimulator
from tests.simulators.fal import KEYS_PATH, FalSimulator
from tests.simulators.replicate import ReplicateSimulator

LONG_S = 3600.0
MODELS = {"replicate": "black-forest-labs/flux-schnell", "fal": "fal-ai/flux/dev", "bfl": "flux-2-pro"}
FORGED: dict[str, dict[str, Any]] = {
    "replicate": {"secret": "whsec_" + base64.b64encode(b"another").decode()},
    "fal": {"signer": Ed25519PrivateKey.generate()},
    "bfl": {"secret": "another"},
}


def simulator_of(name: str) -> Any:
    return {"replicate": ReplicateSimulator, "fal": FalSimulator, "bfl": BFLSimulator}[name](key="sk-upstream")


class Yard:
    """A provider that calls back, and a gateway that asks it by itself in an hour."""

    def __init__(self, name: str, thread: SimulatorThread[Any], gateway: ServedGateway) -> None:
        self.name = name
        self.thread = thread
        self.gateway = gateway

    async def accepted(self, client: Client) -> str:
        """Submit a job, and wait until the provider's handle is written down."""
        values = {"model": f"{self.name}/{MODELS[self.name]}", "prompt": "a red kite"}
        job_id = str((await client.submit(values=values))["id"])
        async with asyncio.timeout(END_S):
            while True:
                if await self.state(job_id) is AttemptState.ACCEPTED:
                    return job_id
                await asyncio.sleep(0.01)  # nothing tells of this commit

    async def state(self, job_id: str) -> AttemptState | None:
        async def read() -> Any:
            return await self.gateway.gateway.read.store.history(JobId(job_id))

        attempts = (await asyncio.to_thread(self.gateway.call, read)).attempts
        return attempts[-1].state if attempts else None

    async def tell(self, **forged: Any) -> int:
        """Have the provider call back about the one job that it has."""
        simulator = self.thread.simulator
        [known] = getattr(simulator, {"replicate": "predictions", "fal": "requests", "bfl": "tasks"}[self.name])
        return int(await self.thread.run(simulator.tell(known, **forged)))


@pytest.fixture(params=list(MODELS))
def yard(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    name: str = request.param
    for module in (replicate, fal):
        monkeypatch.setattr(module, "_LEAST_PAUSE_S", LONG_S)
    monkeypatch.setattr(bfl.BlackForestLabs, "_pause_s", lambda *_: LONG_S)
    port = free_port()
    with SimulatorThread(simulator_of(name)) as thread:
        root = thread.simulator.base_url
        options = {"keys_url": f"{root}{KEYS_PATH}"} if name == "fal" else {}
        entry = {
            "base_url": root,
            "keys": [{"name": "main", "value": "sk-upstream"}],
            "callbacks": True,
            "retries": {"max": 0},
            **options,
        }
        server = {"port": port, "public_url": f"http://127.0.0.1:{port}"}
        with ServedGateway(settings_for(tmp_path, server=server, providers={name: entry})) as gateway:
            yield Yard(name, thread, gateway)


async def test_a_callback_brings_the_end_at_once_and_only_one(yard: Yard) -> None:
    async with Client(yard.gateway.url) as client:
        job_id = await yard.accepted(client)
        assert await yard.tell() == 204
        ended = await client.end("generations", job_id)
        assert (ended["status"], ended["meta"]["attempts"]) == ("completed", 1)
        assert await yard.tell() == 204
        assert (await client.poll("generations", job_id)).json == ended
    assert yard.thread.simulator.submissions == 1


async def test_who_has_not_signed_is_refused_and_changes_nothing(yard: Yard) -> None:
    async with Client(yard.gateway.url) as client:
        job_id = await yard.accepted(client)
        polls = len(yard.thread.simulator.exchanges)
        assert await yard.tell(**FORGED[yard.name]) == 400
        if yard.name != "bfl":
            assert await yard.tell(at=1_700_000_000) == 400
        path = f"/v1/callbacks/{yard.name}/{job_id}"
        for wrong in (path, f"{path}?token=", f"{path}?token=%C3%A9", f"/v1/callbacks/builtin/{job_id}?token=x"):
            (await client.ask("POST", wrong, json={})).error(404, "there is no such callback")
        assert (await client.poll("generations", job_id)).json["status"] == "processing"
        asked = [exchange.path for exchange in yard.thread.simulator.exchanges[polls:]]
        assert set(asked) <= {KEYS_PATH, "/v1/webhooks/default/secret"}
        assert await yard.tell() == 204
        assert (await client.end("generations", job_id))["status"] == "completed"


async def test_a_callback_of_a_job_that_is_gone_is_no_fault(yard: Yard) -> None:
    async with Client(yard.gateway.url) as client:
        job_id = await yard.accepted(client)
        await yard.tell()
        await client.end("generations", job_id)
        assert (await client.ask("DELETE", f"/v1/async/images/generations/{job_id}")).status == 204
        assert await yard.tell() == 204


@pytest.mark.parametrize("yard", ["replicate", "fal"], indirect=True)
async def test_what_cannot_be_checked_now_is_to_be_sent_again(yard: Yard) -> None:
    async with Client(yard.gateway.url) as client:
        job_id = await yard.accepted(client)
        yard.thread.simulator.faults.push(Fault(kind="status", status=500))
        assert await yard.tell() == 503
        assert await yard.tell() == 204
        assert (await client.end("generations", job_id))["status"] == "completed"


async def test_a_body_without_end_is_not_read(yard: Yard) -> None:
    async with Client(yard.gateway.url) as client:
        await yard.accepted(client)
        url = str(yard.gateway.gateway.app.services.callback.addresses.of(yard.name, "j").url)  # type: ignore[union-attr,arg-type]  # there are addresses
        reply = await client.ask("POST", url.removeprefix(yard.gateway.url), data=b"x" * 9_000_000)
        assert reply.status == 413


@pytest.mark.parametrize(
    ("name", "server", "told"),
    [("openai", {"public_url": "http://gw.example"}, "does not call back"), ("fal", {}, "public_url")],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, name: str, server: dict[str, Any], told: str) -> None:
    entry = {"keys": [{"value": "k"}], "callbacks": True}
    with (
        pytest.raises(ConfigurationError, match=told),
        ServedGateway(settings_for(tmp_path, server=server, providers={name: entry})),
    ):
        pass
