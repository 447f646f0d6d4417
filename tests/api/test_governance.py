"""The administration of access and money over HTTP."""

import asyncio
import csv
import io
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.api.client import SMALL, Client
from tests.api.serving import NO_RETRIES, ServedGateway, settings_for
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

ADMIN = "9b1f-correct-horse-battery"
PROVIDER_SECRET = "sk-upstream-3f9a1c77"
OTHER_SECRET = "sk-upstream-8e2b4d60"
MODEL = {**SMALL, "model": "box/flux"}


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory, gpu_box: OpenAICompatibleSimulator) -> Iterator[ServedGateway]:
    box = {
        "type": "openai_compatible",
        "base_url": gpu_box.base_url,
        "repeatable": False,
        "retries": NO_RETRIES,
        "keys": [{"name": "main", "value": PROVIDER_SECRET}],
    }
    settings = settings_for(
        tmp_path_factory.mktemp("governed") / "data",
        auth={"admin_key": ADMIN},
        providers={"box": box},
        prices={"box/flux": {"per_image_usd": "0.02"}},
    )
    with ServedGateway(settings) as served:
        yield served


@pytest.fixture
async def admin(governed: ServedGateway) -> AsyncIterator[Client]:
    async with Client(governed.url, {"Authorization": f"Bearer {ADMIN}"}) as client:
        yield client


async def made(admin: Client, **members: Any) -> tuple[dict[str, Any], str]:
    reply = await admin.ask("POST", "/api/virtual-keys", json=members)
    assert reply.status == 201, reply.body
    return reply.json["virtual_key"], reply.json["key"]


PATHS = [
    ("GET", "/api/virtual-keys"),
    ("POST", "/api/virtual-keys"),
    ("GET", "/api/virtual-keys/x"),
    ("PUT", "/api/virtual-keys/x"),
    ("DELETE", "/api/virtual-keys/x"),
    ("POST", "/api/virtual-keys/x/rotate"),
    ("POST", "/api/virtual-keys/x/revoke"),
    ("GET", "/api/teams"),
    ("GET", "/api/customers"),
    ("GET", "/api/providers/box/limits"),
    ("GET", "/api/providers/box/keys"),
    ("PUT", "/api/providers/box/keys/a"),
    ("PUT", "/api/prices"),
    ("GET", "/api/prices"),
    ("GET", "/api/usage"),
    ("GET", "/api/audit-log"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_only_the_administrator_gets_in(governed: ServedGateway, admin: Client, method: str, path: str) -> None:
    _, key = await made(admin, name=f"curious {method} {path}")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {key}"}, {"x-bf-vk": key}):
        async with Client(governed.url, headers) as client:
            reply = await client.ask(method, path, json={} if method in {"PUT", "POST"} else None)
            assert (reply.status, reply.json["type"]) == (401, "admin_key_required")


async def test_a_key_is_made_shown_once_changed_rotated_revoked_and_deleted(
    governed: ServedGateway, admin: Client
) -> None:
    await admin.ask("POST", "/api/customers", json={"name": "acme"})
    await admin.ask("POST", "/api/teams", json={"name": "shop", "customer": "acme"})
    shown, key = await made(admin, name="orders", team="shop", budgets=[{"limit_usd": 1, "period": "1d"}])
    assert (shown["team"], shown["active"], shown["providers"]) == (
        "shop",
        True,
        [{"provider": "*", "models": ["*"], "keys": ["*"]}],
    )
    path = f"/api/virtual-keys/{shown['id']}"
    read = await admin.get(path)
    assert read.json == shown
    assert key.encode() not in read.body
    assert shown["readings"][0]["ending"] == key[-4:]

    async with Client(governed.url, {"x-bf-vk": key}) as client:
        await client.run("generations", MODEL)
    [counted] = (await admin.get(path)).json["counted"]
    assert (counted["used"], counted["left"], counted["held"]) == (0.02, 0.98, 0)

    changed = await admin.ask("PUT", path, json={"name": "orders", "priority": "bulk", "weight": 3})
    assert (changed.json["team"], changed.json["priority"], changed.json["budgets"]) == (None, "bulk", [])
    rotated = (await admin.ask("POST", f"{path}/rotate", json={"overlap_seconds": 0})).json
    assert rotated["key"] != key
    for value, status in ((key, 401), (rotated["key"], 202)):
        async with Client(governed.url, {"x-bf-vk": value}) as client:
            assert (await client.send("generations")).status == status
    assert (await admin.ask("POST", f"{path}/revoke")).json["active"] is False
    async with Client(governed.url, {"x-bf-vk": rotated["key"]}) as client:
        assert (await client.send("generations")).json["type"] == "access_blocked"
    assert (await admin.ask("DELETE", path)).status == 204
    assert (await admin.get(path)).status == 404


async def test_names_are_taken_once_and_what_others_belong_to_stays(admin: Client) -> None:
    team = (await admin.ask("POST", "/api/teams", json={"name": "press"})).json
    assert (await admin.ask("POST", "/api/teams", json={"name": "press"})).status == 409
    key, _ = await made(admin, name="press key", team="press")
    assert (await admin.ask("DELETE", f"/api/teams/{team['id']}")).status == 409
    assert (await admin.ask("POST", "/api/virtual-keys", json={"name": "x", "team": "nobody"})).status == 404
    await admin.ask("DELETE", f"/api/virtual-keys/{key['id']}")
    assert (await admin.ask("DELETE", f"/api/teams/{team['id']}")).status == 204


async def test_lists_are_paged_and_searched(admin: Client) -> None:
    for number in range(5):
        await admin.ask("POST", "/api/customers", json={"name": f"Paged_{number}%"})
    page = (await admin.get("/api/customers?search=paged_&limit=2&offset=2")).json
    assert [each["name"] for each in page["customers"]] == ["Paged_2%", "Paged_3%"]
    assert (page["count"], page["total_count"], page["limit"], page["offset"]) == (2, 5, 2, 2)
    assert (await admin.get("/api/customers?search=d_1%25")).json["total_count"] == 1
    assert (await admin.get("/api/customers?limit=0")).status == 400


async def test_a_provider_key_is_used_without_a_restart_and_never_comes_back(
    governed: ServedGateway, admin: Client, gpu_box: OpenAICompatibleSimulator
) -> None:
    path = "/api/providers/box/keys"
    gpu_box.exchanges.clear()
    assert (await admin.ask("PUT", f"{path}/main", json={"value": OTHER_SECRET})).status == 204
    listed = await admin.get(path)
    assert [(each["name"], each["source"]) for each in listed.json["data"]] == [("main", "api")]
    await admin.run("generations", MODEL)
    assert gpu_box.exchanges[-1].headers["authorization"] == f"Bearer {OTHER_SECRET}"
    assert (await admin.ask("DELETE", f"{path}/main")).status == 204
    assert [(each["name"], each["source"]) for each in (await admin.get(path)).json["data"]] == [("main", "settings")]
    await admin.run("generations", MODEL)
    assert gpu_box.exchanges[-1].headers["authorization"] == f"Bearer {PROVIDER_SECRET}"
    assert (await admin.ask("DELETE", f"{path}/main")).status == 404
    await admin.ask("PUT", f"{path}/spare", json={"value": OTHER_SECRET, "weight": 0})
    written = b"".join(each.read_bytes() for each in governed.settings.storage.data_dir.glob("safelight.db*"))
    for secret in (OTHER_SECRET, PROVIDER_SECRET):
        assert secret.encode() not in written
        assert secret.encode() not in (await admin.get(path)).body + (await admin.get("/api/audit-log")).body


async def test_stored_keys_and_prices_hold_after_a_restart(tmp_path: Any, gpu_box: OpenAICompatibleSimulator) -> None:
    box = {"type": "openai_compatible", "base_url": gpu_box.base_url, "repeatable": False}
    settings = settings_for(tmp_path / "data", providers={"box": box})
    with ServedGateway(settings) as served:
        async with Client(served.url) as client:
            await client.ask("PUT", "/api/providers/box/keys/added", json={"value": OTHER_SECRET})
            await client.ask("PUT", "/api/prices", json={"model": "box/flux", "price": {"per_image_usd": "0.5"}})
    gpu_box.exchanges.clear()
    with ServedGateway(settings) as served:
        async with Client(served.url) as client:
            job = await client.run("generations", MODEL)
    assert gpu_box.exchanges[-1].headers["authorization"] == f"Bearer {OTHER_SECRET}"
    assert job["meta"]["cost_usd"] == 0.5


async def test_prices_win_until_they_are_deleted(admin: Client) -> None:
    assert (
        await admin.ask("PUT", "/api/prices", json={"model": "box/flux", "price": {"per_image_usd": "0.07"}})
    ).status == 204
    assert (await admin.run("generations", MODEL))["meta"]["cost_usd"] == 0.07
    assert [each["model"] for each in (await admin.get("/api/prices")).json["data"]] == ["box/flux"]
    assert (
        await admin.ask("PUT", "/api/prices", json={"model": "box/flux", "price": {"per_image_usd": "cheap"}})
    ).status == 400
    assert (
        await admin.ask("PUT", "/api/prices", json={"model": "nobody/flux", "price": {"per_image_usd": 1}})
    ).status == 404
    assert (await admin.ask("DELETE", "/api/prices?model=box/flux")).status == 204
    assert (await admin.run("generations", MODEL))["meta"]["cost_usd"] == 0.02


async def test_limits_of_a_provider_are_set_and_hold_at_once(admin: Client) -> None:
    path = "/api/providers/box/limits"
    said = await admin.ask("PUT", path, json={"limits": {"requests": {"max": 0, "period": "1h"}}})
    assert said.json["counted"][0]["limit"] == 0
    refused = await admin.send("generations", MODEL)
    assert (refused.status, refused.headers["ratelimit-policy"]) == (429, '"provider-requests";q=0;w=3600')
    await admin.ask("PUT", path, json={})
    await admin.submit("generations", MODEL)


async def test_usage_is_summed_by_what_is_asked_also_of_jobs_that_are_gone(
    governed: ServedGateway, admin: Client
) -> None:
    _, key = await made(admin, name="=reported")
    async with Client(governed.url, {"x-bf-vk": key}) as client:
        jobs = [await client.run("generations", {**MODEL, "n": 2}) for _ in range(2)]

        async def report(query: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await admin.get(f"/api/usage?{query}")).json["data"]
            return found

        expected = {"key": "=reported", "model": "flux", "jobs": 2, "calls": 2, "images": 4, "cost_usd": 0.08}
        for _ in range(2):
            rows = [row for row in await report("by=key,model") if row["key"] == "=reported"]
            assert rows == [{**expected, "failed": 0, "seconds": rows[0]["seconds"], "unpriced": 0}]
            assert rows[0]["seconds"] > 0
            assert (await client.ask("DELETE", f"/v1/async/jobs/{jobs.pop()['id']}")).status == 204
    today = datetime.now(UTC).date()
    [total] = await report("by=")
    days = await report(f"by=day,provider&since={today}&until={today}")
    assert total["images"] == sum(row["images"] for row in days)
    assert {row["day"] for row in days} == {today.isoformat()}
    assert await report(f"by=day&until={today - timedelta(days=40)}") == []
    text = await admin.get("/api/usage?by=key&format=csv")
    assert text.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(text.body.decode())))
    assert "'=reported" in {row["key"] for row in rows}
    for bad in ("by=colour", "since=yesterday", "format=xml"):
        assert (await admin.get(f"/api/usage?{bad}")).status == 400


async def test_every_change_is_in_the_audit_log(admin: Client) -> None:
    key, _ = await made(admin, name="watched")
    await admin.ask("POST", f"/api/virtual-keys/{key['id']}/rotate")
    await admin.ask("DELETE", f"/api/virtual-keys/{key['id']}")
    log = (await admin.get("/api/audit-log?limit=3")).json
    assert [(each["action"], each["subject"], each["subject_id"]) for each in log["changes"]] == [
        (action, "key", key["id"]) for action in ("deleted", "rotated", "created")
    ]
    assert {each["actor"] for each in log["changes"]} == {"admin@127.0.0.1"}
    assert log["changes"][0]["detail"] == {"name": "watched"}
    assert log["total_count"] >= 3


async def test_what_administrators_do_at_once_is_all_done(governed: ServedGateway, admin: Client) -> None:
    replies = await asyncio.gather(
        *[admin.ask("POST", "/api/customers", json={"name": f"at once {at % 5}"}) for at in range(20)]
    )
    assert sorted(reply.status for reply in replies) == [201] * 5 + [409] * 15
    with closing(sqlite3.connect(governed.settings.storage.data_dir / "safelight.db")) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM holders WHERE name LIKE 'at once%'").fetchall()
    assert count == 5
