"""What the operator sees of queue and providers, and what pausing one does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import SMALL, Client
from tests.api.serving import ServedGateway, settings_for
from tests.api.test_metrics import scraped


async def lane(client: Client, provider: str) -> Mapping[str, Any]:
    reply = await client.get("/api/queue")
    assert reply.status == 200, reply.body
    found: Mapping[str, Any] = next(each for each in reply.json["data"] if each["provider"] == provider)
    return found


async def test_the_queue_agrees_with_the_metrics(own_client: Client) -> None:
    for _ in range(2):
        await own_client.submit(values={**SMALL, "model": "builtin/slow-60"})
    await own_client.submit(values={**SMALL, "model": "nowhere/model", "fallbacks": ["builtin/slow-60"]})

    async def busy() -> bool:
        return bool((await lane(own_client, "builtin"))["processing"] == 3)

    while not await busy():
        pass
    seen, told = await lane(own_client, "builtin"), await scraped(own_client)
    assert (seen["pending"], seen["slots"]) == (0, 64)
    assert told("queue_depth", provider="builtin", state="processing") == seen["processing"]
    assert told("queue_depth", provider="builtin", state="pending") == seen["pending"]


async def test_a_paused_provider_gets_nothing_until_it_is_resumed(own_client: Client) -> None:
    paused = await own_client.ask("POST", "/api/providers/builtin/pause")
    assert (paused.status, paused.json["switch"]) == (200, "paused")
    job = await own_client.submit()
    reply = await own_client.get(f"/v1/async/jobs/{job['id']}?wait=0.5")
    assert (reply.status, reply.json["status"]) == (202, "pending")
    assert (await lane(own_client, "builtin"))["pending"] == 1
    waiting = await lane(own_client, "builtin")
    assert waiting["oldest_pending_s"] > 0
    assert [(each["priority"], each["count"]) for each in waiting["waiting"]] == [("interactive", 1)]

    assert (await own_client.ask("POST", "/api/providers/builtin/resume")).json["switch"] == "on"
    assert (await own_client.end("generations", job["id"]))["status"] == "completed"


class TestDraining:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[ServedGateway]:
        """With a second provider to fall back to."""
        spare = {"type": "builtin"}
        with ServedGateway(settings_for(tmp_path / "data", providers={"spare": spare})) as gateway:
            yield gateway

    async def test_jobs_with_fallbacks_take_them(self, own_client: Client) -> None:
        assert (await own_client.ask("POST", "/api/providers/builtin/drain")).json["switch"] == "draining"
        job = await own_client.run(values={**SMALL, "fallbacks": ["spare/sketch"]})
        assert job["meta"]["provider"] == "spare"

    async def test_others_wait(self, own_client: Client) -> None:
        await own_client.ask("POST", "/api/providers/builtin/drain")
        job = await own_client.submit()
        assert (await own_client.get(f"/v1/async/jobs/{job['id']}?wait=0.5")).status == 202


async def test_a_switch_outlives_the_process(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    with ServedGateway(settings) as gateway:
        async with Client(gateway.url) as client:
            await client.ask("POST", "/api/providers/builtin/pause")
    with ServedGateway(settings) as gateway:
        async with Client(gateway.url) as client:
            job = await client.submit()
            assert (await client.get(f"/v1/async/jobs/{job['id']}?wait=0.5")).status == 202


async def test_providers_are_listed_with_models_and_prices(client: Client) -> None:
    reply = await client.get("/api/providers")

    found = {provider["provider"]: provider for provider in reply.json["data"]}
    assert found.keys() == {"builtin", "openai", "gpu-box"}
    assert [key["name"] for key in found["openai"]["keys"]] == ["main"]
    assert b"sk-upstream" not in reply.body
    models = {model["id"]: model for model in found["openai"]["models"]}
    assert models["openai/gpt-image-2"]["price"]["per_million_tokens"]["text_in"] == "5"
    assert found["builtin"]["repeatable"] is True


@pytest.mark.parametrize("path", ["/api/providers/nowhere/pause", "/api/providers/nowhere/resume"])
async def test_an_unknown_provider_is_told(client: Client, path: str) -> None:
    assert (await client.ask("POST", path)).status == 404


class TestWithAdminKey:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[ServedGateway]:
        key = "an-admin-key-that-nobody-guesses-9Xq2"
        with ServedGateway(settings_for(tmp_path / "data", auth={"admin_key": key})) as gateway:
            yield gateway

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/api/queue"), ("GET", "/api/providers"), ("POST", "/api/providers/builtin/pause")],
    )
    async def test_nobody_else_may(self, own_client: Client, method: str, path: str) -> None:
        assert (await own_client.ask(method, path)).status == 401
