"""Budgets and limits over HTTP: what a caller is told, and that nothing gets through beside them."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import SMALL, Client, check_shape
from tests.api.serving import NO_RETRIES, ServedGateway, settings_for
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

KEY = "sk-bf-of-the-first-team"
MODEL = {**SMALL, "model": "box/flux"}
SHOWN = {"x-bf-vk": KEY}


@pytest.fixture(scope="module")
def box(gpu_box: OpenAICompatibleSimulator) -> OpenAICompatibleSimulator:
    return gpu_box


@asynccontextmanager
async def limited(
    tmp_path: Path,
    box: OpenAICompatibleSimulator,
    *,
    provider: Mapping[str, Any] | None = None,
    priced: str = "box/flux",
    **key: Any,
) -> AsyncIterator[tuple[ServedGateway, Client]]:
    """A gateway with one virtual key, whose provider takes two cents for a picture."""
    entry = {"type": "openai_compatible", "base_url": box.base_url, "repeatable": False, "retries": NO_RETRIES}
    settings = settings_for(
        tmp_path / "data",
        providers={"box": {**entry, **(provider or {})}},
        prices={priced: {"per_image_usd": "0.02"}},
        virtual_keys=[{"name": "a", "value": KEY, **key}],
    )
    with ServedGateway(settings) as served:
        async with Client(served.url, SHOWN) as client:
            yield served, client


def ledger(served: ServedGateway) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(served.settings.storage.data_dir / "safelight.db")) as connection:
        return connection.execute("SELECT debit, credit, amount FROM ledger ORDER BY seq").fetchall()


async def test_a_budget_is_held_settled_and_then_exceeded(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    budgets = [{"limit_usd": "0.05", "period": "1d", "calendar": True}]
    async with limited(tmp_path, box, budgets=budgets) as (served, client):
        done = await client.run("generations", {**MODEL, "n": 2})
        assert done["meta"]["cost_usd"] == 0.04
        assert ledger(served) == [("free", "held", 40_000), ("held", "spent", 40_000)]

        reply = await client.send("generations", MODEL)

        assert reply.status == 402
        body = reply.json
        check_shape("BifrostError", body)
        assert (body["type"], body["status_code"]) == ("budget_exceeded", 402)
        message = body["error"]["message"]
        assert "the key 'a' has $0.01 left of $0.05 per 1d, and this may cost $0.02" in message
        assert "it resets at 20" in message
        assert "T00:00:00Z" in message
        assert 0 < int(reply.headers["retry-after"]) <= 86_400
        assert served.job_count() == 1
        async with Client(served.url) as anybody:
            await anybody.submit("generations", MODEL)


async def test_two_hundred_at_once_find_room_for_ten(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    async with limited(tmp_path, box, budgets=[{"limit_usd": "0.2", "period": "1h"}]) as (served, client):
        replies = await asyncio.gather(*[client.send("generations", MODEL) for _ in range(200)])
        assert sorted(reply.status for reply in replies) == [202] * 10 + [402] * 190
        assert served.job_count() == 10
        for reply in replies:
            if reply.status == 202:
                await client.end("generations", reply.json["id"])
        spent = sum(amount for _, credit, amount in ledger(served) if credit == "spent")
        assert spent == 200_000


async def test_teams_customers_and_providers_have_budgets_too(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    budget = [{"limit_usd": "0.03", "period": "1h"}]
    async with limited(tmp_path, box, provider={"budgets": budget}) as (_, client):
        await client.submit("generations", MODEL)
        assert "the provider 'box' has" in (await client.send("generations", MODEL)).json["error"]["message"]
    variants: list[dict[str, Any]] = [
        {"teams": [{"name": "shop", "budgets": budget}], "key": {"team": "shop"}},
        {"customers": [{"name": "acme", "budgets": budget}], "key": {"customer": "acme"}},
        {
            "customers": [{"name": "acme", "budgets": budget}],
            "teams": [{"name": "shop", "customer": "acme"}],
            "key": {"team": "shop"},
        },
    ]
    for number, sections in enumerate(variants):
        key = {"name": "a", "value": KEY, **sections.pop("key")}
        entry = {"type": "openai_compatible", "base_url": box.base_url, "repeatable": False}
        settings = settings_for(
            tmp_path / f"data-{number}",
            providers={"box": entry},
            prices={"box/flux": {"per_image_usd": "0.02"}},
            virtual_keys=[key],
            **sections,
        )
        with ServedGateway(settings) as served:
            async with Client(served.url, SHOWN) as client:
                await client.submit("generations", MODEL)
                assert (await client.send("generations", MODEL)).status == 402


async def test_an_unknown_price_is_refused_under_a_budget_unless_there_is_a_ceiling(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    unpriced = {**SMALL, "model": "box/other"}
    budgets = [{"limit_usd": 1, "period": "1M"}]
    async with limited(tmp_path / "a", box, budgets=budgets) as (_, client):
        for asked in (unpriced, {**MODEL, "fallbacks": ["box/other"]}):
            reply = await client.send("generations", asked)
            assert (reply.status, reply.json["type"], reply.json["error"]["code"]) == (
                402,
                "budget_exceeded",
                "price_unknown",
            )
        await client.run("generations", SMALL)  # what draws here costs nothing
    async with limited(tmp_path / "b", box, budgets=budgets, priced="box/x", max_cost_per_image_usd="0.3") as (
        served,
        client,
    ):
        await client.run("generations", {**MODEL, "n": 2})
        assert ledger(served) == [("free", "held", 600_000), ("held", "spent", 600_000)]


@pytest.mark.parametrize(
    ("limits", "asked", "word", "name"),
    [
        ({"requests": {"max": 2, "period": "1h"}}, [MODEL, MODEL, MODEL], "request_limited", "key-requests"),
        ({"images": {"max": 3, "period": "1d"}}, [MODEL, {**MODEL, "n": 3}], "rate_limited", "key-images"),
    ],
)
async def test_limits_answer_429_with_when_to_come_back(
    tmp_path: Path, box: OpenAICompatibleSimulator, limits: Any, asked: list[Any], word: str, name: str
) -> None:
    async with limited(tmp_path, box, limits=limits) as (_, client):
        *good, bad = asked
        for each in good:
            await client.submit("generations", each)

        reply = await client.send("generations", bad)

        assert (reply.status, reply.json["type"]) == (429, word)
        check_shape("BifrostError", reply.json)
        wait = int(reply.headers["retry-after"])
        assert wait > 0
        [(_, limit)] = limits.items()
        window = {"1h": 3600, "1d": 86_400}[limit["period"]]
        assert reply.headers["ratelimit-policy"] == f'"{name}";q={limit["max"]};w={window}'
        left = limit["max"] - len(good)
        assert reply.headers["ratelimit"] == f'"{name}";r={left};t={wait}'


async def test_a_failed_job_frees_its_money_and_holds_it_again_when_it_is_retried(
    tmp_path: Path, box: OpenAICompatibleSimulator
) -> None:
    budgets = [{"limit_usd": "0.03", "period": "1h"}]
    async with limited(
        tmp_path, box, budgets=budgets, providers=[{"provider": "*"}], provider={"base_url": "http://127.0.0.1:9/v1"}
    ) as (served, client):
        job = await client.run("generations", MODEL)
        assert job["status"] == "failed"
        assert ledger(served) == [("free", "held", 20_000), ("held", "free", 20_000)]
        again = await client.ask("POST", f"/v1/async/images/generations/{job['id']}/retry")
        assert again.status == 202
        assert ledger(served)[2:3] == [("free", "held", 20_000)]


@pytest.fixture(autouse=True)
def _calm(box: OpenAICompatibleSimulator) -> Iterator[None]:
    yield
    box.faults.clear()


async def batch_of(client: Client, *requests: Any) -> str:
    body = "\n".join(json.dumps(each) for each in requests).encode()
    reply = await client.ask("POST", "/v1/async/batches", data=body, headers={"content-type": "application/jsonl"})
    assert reply.status == 202, reply.body
    return str(reply.json["id"])


async def ended_batch(client: Client, batch_id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (batch := (await client.get(f"/v1/async/batches/{batch_id}")).json)["status"] == "running":  # noqa: ASYNC110 - over HTTP there is no event
            await asyncio.sleep(0.05)
    return dict(batch)


async def test_a_batch_must_fit_into_the_budget_as_a_whole(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    async with limited(tmp_path, box, budgets=[{"limit_usd": "0.05", "period": "1d"}]) as (served, client):
        jsonl = {"content-type": "application/jsonl"}
        for lines, told in [
            ([MODEL, MODEL, MODEL], "has $0.05 left of $0.05 per 1d, and this may cost $0.06"),
            ([MODEL, {**MODEL, "model": "box/unpriced"}], "line 2: nobody knows what 'box/unpriced' costs"),
        ]:
            body = "\n".join(map(json.dumps, lines)).encode()
            reply = await client.ask("POST", "/v1/async/batches", data=body, headers=jsonl)
            assert reply.status == 402
            assert told in reply.json["error"]["message"]
        assert (served.job_count(), served.blobs) == (0, [])

        batch_id = await batch_of(client, MODEL, MODEL)
        counts = {"pending": 0, "processing": 0, "completed": 2, "failed": 0}
        assert (await ended_batch(client, batch_id))["counts"] == counts
        assert sum(amount for _, credit, amount in ledger(served) if credit == "spent") == 40_000


async def test_lines_fail_where_the_budget_was_spent_besides(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    one_at_a_time = {"concurrency": 1}
    budgets = [{"limit_usd": "0.05", "period": "1d"}]
    async with limited(tmp_path, box, provider=one_at_a_time, budgets=budgets) as (served, client):
        box.faults.push(Fault(delay_s=1))
        batch_id = await batch_of(client, MODEL, MODEL)
        await asyncio.to_thread(served.wait_for_jobs, 1)
        await client.submit("generations", MODEL)
        counts = {"pending": 0, "processing": 0, "completed": 1, "failed": 1}
        assert (await ended_batch(client, batch_id))["counts"] == counts
        results = (await client.get(f"/v1/async/batches/{batch_id}/results")).body.decode()
        assert results.count('"budget_exceeded"') >= 1


async def test_lines_of_a_batch_wait_for_a_limit(tmp_path: Path, box: OpenAICompatibleSimulator) -> None:
    async with limited(tmp_path, box, limits={"requests": {"max": 2, "period": "1m"}}) as (served, client):
        await batch_of(client, MODEL, MODEL, MODEL)
        await asyncio.to_thread(served.wait_for_jobs, 2)
        reply = await client.send("generations", MODEL)
        assert reply.status == 429
        assert served.job_count() == 2


async def test_the_queue_as_a_whole_is_bounded(tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path / "data", jobs={"max_waiting": 3}, providers={"builtin": {"concurrency": 1, "retries": NO_RETRIES}}
    )
    with ServedGateway(settings) as served:
        async with Client(served.url) as client:
            slow = {**SMALL, "model": "builtin/slow-5"}
            replies = [await client.send("generations", slow) for _ in range(6)]
            refused = [reply for reply in replies if reply.status != 202]
            assert 2 <= len(refused) <= 3
            for reply in refused:
                assert (reply.status, reply.json["type"]) == (503, "request_dropped")
                assert int(reply.headers["retry-after"]) >= 1
