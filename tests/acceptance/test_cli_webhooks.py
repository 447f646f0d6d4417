"""`safelight webhooks` as a whole: commands, a gateway and a receiver, each a process or a port of its own."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from safelight.cli.app import app
from tests.acceptance.processes import WAIT_S, Gateway, gateway, started
from tests.receiver import Receiver, signatures

KEY = "an-administrators-key-of-32-signs"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("webhooks"), env={"SAFELIGHT_ADMIN_KEY": KEY}) as it:
        assert it.url
        yield it


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


class Cli:
    """Commands for one gateway, run within this process, beside the receiver of the test."""

    def __init__(self, running: Gateway) -> None:
        self.gateway = running
        self.folder = running.data_dir.parent

    async def run(self, *arguments: str, code: int = 0, key: str = KEY) -> Result:
        command = ["webhooks", *arguments, "--data-dir", str(self.gateway.data_dir)]
        done = await asyncio.to_thread(CliRunner().invoke, app, command, env={"SAFELIGHT_ADMIN_KEY": key})
        assert done.exit_code == code, done.output
        return done

    async def submit(self, webhook: str) -> str:
        """Have a job of the gateway tell an endpoint; gives its id."""
        command = f"""curl -sf {self.gateway.url}/v1/images/generations -H 'Content-Type: application/json'
            -H 'x-bf-async-webhook: {webhook}' -D - -o answer
            -d '{{"model": "builtin/sketch", "prompt": "a kite", "size": "16x16"}}'"""
        done = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", command.replace("\n", " ")],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
        )
        (line,) = [line for line in done.stdout.splitlines() if line.lower().startswith("x-safelight-job-id")]
        return line.partition(":")[2].strip()


@pytest.fixture
def cli(running: Gateway) -> Cli:
    return Cli(running)


async def test_an_endpoints_whole_life(cli: Cli, receiver: Receiver) -> None:
    made = await cli.run(
        *("create", "orders", receiver.url, "--allow-private-network", "--event", "async_job.completed"),
        *("--header", "X-Tenant=blue", "--max-retries", "7", "--json"),
    )
    secret, endpoint = json.loads(made.stdout)["secret"], json.loads(made.stdout)["endpoint"]
    assert endpoint["max_retries"] == 7

    await cli.run("test", "orders")
    assert signatures(secret, receiver.calls[0].headers, receiver.calls[0].body) == 1
    assert receiver.calls[0].headers["X-Tenant"] == "blue"

    await cli.run("update", "orders", "--include-links", "--new-name", "pictures")
    shown = (await cli.run("show", "pictures")).stdout
    assert "include_links, allow_private_network" in shown
    assert "blue" not in shown
    listed = (await cli.run("list")).stdout
    assert f"pictures  {receiver.url}  completed  on" in listed

    job_id = await cli.submit("pictures")
    call = (await receiver.received(2))[1]
    assert call.data["job_id"] == job_id
    assert call.data["images"]
    assert call.headers["X-Tenant"] == "blue"  # its value came back masked, and was kept

    history = json.loads((await cli.run("deliveries", "pictures", "--json")).stdout)["deliveries"]
    assert [line["webhook_id"] for line in history] == [call.id]
    assert job_id in (await cli.run("deliveries", "pictures")).stdout
    await cli.run("redeliver", call.id)
    assert (await receiver.received(3))[2].id == call.id
    while json.loads((await cli.run("show", "pictures", "--json")).stdout)["pending_deliveries"]:
        pass
    await cli.run("redeliver", "pictures", "--since", "2026-01-01T00:00:00Z")
    assert (await receiver.received(4))[3].id == call.id

    fresh = json.loads((await cli.run("rotate", "pictures", "--overlap", "60", "--json")).stdout)["secret"]
    receiver.answer = lambda: 410
    refused = await cli.run("test", "pictures", code=1)
    assert "the receiver answered 410" in refused.stderr
    call = receiver.calls[-1]
    assert [signatures(each, call.headers, call.body) for each in (fresh, secret)] == [1, 1]
    await cli.run("resume", "pictures")
    await cli.run("delete", "pictures")
    assert "not found" in (await cli.run("show", "pictures", code=1)).stderr


async def test_what_is_wrong_is_told(cli: Cli, receiver: Receiver, tmp_path: Path) -> None:
    assert "https://" in (await cli.run("create", "x", "http://shop.example/", code=2)).stderr
    await cli.run("create", "twice", receiver.url, "--allow-private-network")
    taken = await cli.run("create", "twice", receiver.url, "--allow-private-network", code=1)
    assert "already" in taken.stderr
    assert "admin key" in (await cli.run("list", code=2, key="another-key-of-32-signs-or-so-x9")).stderr
    assert "NAME=VALUE" in (await cli.run("update", "twice", "--header", "x", code=2)).stderr
    assert "no time" in (await cli.run("redeliver", "twice", "--since", "yesterday", code=2)).stderr
    assert "--since" in (await cli.run("redeliver", "twice", "--until", "2026-01-01", code=2)).stderr
    nowhere = await asyncio.to_thread(CliRunner().invoke, app, ["webhooks", "list", "--data-dir", str(tmp_path)])
    assert nowhere.exit_code == 2
    assert "no gateway runs" in nowhere.stderr


async def test_listening_verifies_and_prints(cli: Cli) -> None:
    env = {"SAFELIGHT_ADMIN_KEY": KEY}
    with started("webhooks", "listen", "--data-dir", "data", cwd=cli.folder, env=env) as listener:
        assert listener.stderr is not None
        assert listener.stdout is not None
        begun = await asyncio.to_thread(listener.stderr.readline)
        assert "x-bf-async-webhook: listen" in begun
        job_id = await cli.submit("listen")
        lines = [await asyncio.to_thread(listener.stdout.readline) for _ in range(2)]
        assert {line.split()[1] for line in lines} == {"async_job.started", "async_job.completed"}
        assert {line.split()[2] for line in lines} == {job_id}

        address = begun.split()[2].rstrip(";")
        forged = ["curl", "-s", "-o", "forged", "-w", "%{http_code}", address, "-H", "webhook-id: x", "-d", "{}"]
        done = await asyncio.to_thread(
            subprocess.run, forged, cwd=cli.folder, capture_output=True, text=True, check=True
        )
        assert done.stdout == "400"
        assert "REFUSED" in await asyncio.to_thread(listener.stderr.readline)

        listener.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(listener.wait, WAIT_S) == 130
    assert "not found" in (await cli.run("show", "listen", code=1)).stderr


async def test_listening_with_a_secret_needs_no_gateway(tmp_path: Path) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with started("webhooks", "listen", "--secret", secret, "--json", cwd=tmp_path) as listener:
        assert listener.stderr is not None
        assert (await asyncio.to_thread(listener.stderr.readline)).startswith("Listening on http://127.0.0.1:")
        listener.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(listener.wait, WAIT_S) == 130
