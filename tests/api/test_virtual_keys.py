"""Virtual keys over HTTP: where they may stand, what they allow, how they end."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from safelight.domain.errors import ConfigurationError
from tests.api.client import SMALL, Client, check_shape, parts_of
from tests.api.serving import ServedGateway, settings_for

A, B, OLD = "sk-bf-of-the-first-team", "sk-bf-of-the-second-team", "sk-bf-of-long-ago"
ADMIN = "9b1f-correct-horse-battery"
PAST = "2020-01-01T00:00:00Z"


def vk(key: str) -> Mapping[str, str]:
    return {"x-bf-vk": key}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedGateway]:
    """A gateway that asks everybody for a key."""
    sketch = {"provider": "builtin", "models": ["sketch", "slow-*"]}
    settings = settings_for(
        tmp_path_factory.mktemp("keyed") / "data",
        auth={"required": True, "admin_key": ADMIN},
        virtual_keys=[
            {"name": "a", "value": A, "providers": [sketch]},
            {"name": "b", "value": B, "providers": [{"provider": "builtin", "keys": []}]},
            {"name": "none", "value": "sk-bf-nothing", "providers": []},
            {"name": "old", "value": OLD, "expires_at": PAST},
            {"name": "off", "value": "sk-bf-switched-off", "active": False},
        ],
    )
    with ServedGateway(settings) as gateway:
        yield gateway


@pytest.fixture
async def asking(keyed: ServedGateway) -> AsyncIterator[Client]:
    async with Client(keyed.url) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"x-bf-vk": A},
        {"X-BF-VK": f"  {A} "},
        {"Authorization": f"Bearer {A}"},
        {"authorization": f"bearer {A}"},
        {"x-api-key": A},
        {"x-goog-api-key": A},
        {"api-key": A},
        {"x-bf-vk": A, "Authorization": "Bearer sk-of-somebody-else"},
        {"Authorization": "Bearer sk-dummy", "x-api-key": A},
    ],
)
async def test_a_key_may_stand_in_each_of_the_contracts_headers(asking: Client, headers: Mapping[str, str]) -> None:
    await asking.submit(headers=headers)


@pytest.mark.parametrize(
    ("headers", "status", "word"),
    [
        ({}, 401, "virtual_key_required"),
        ({"Authorization": "Bearer sk-dummy"}, 401, "virtual_key_required"),
        ({"x-api-key": "of-the-first-team"}, 401, "virtual_key_required"),
        (vk("sk-bf-of-nobody"), 401, "virtual_key_not_found"),
        (vk("anything"), 401, "virtual_key_not_found"),
        (vk("Bearer " + A), 401, "virtual_key_not_found"),
        ({"Authorization": "Bearer sk-bf-of-nobody"}, 401, "virtual_key_not_found"),
        (vk(OLD), 403, "access_blocked"),
        (vk("sk-bf-switched-off"), 403, "access_blocked"),
        (vk("sk-bf-nothing"), 403, "provider_blocked"),
        (vk(B), 403, "provider_blocked"),
    ],
)
@pytest.mark.parametrize("kind", ["generations", "edits", "variations"])
async def test_refusals_come_at_submit_and_leave_nothing_behind(
    keyed: ServedGateway, asking: Client, headers: Mapping[str, str], status: int, word: str, kind: str
) -> None:
    jobs = keyed.job_count()

    for wait in (False, True):
        reply = await asking.send(kind, headers=headers, wait=wait)

        assert reply.status == status, reply.body
        body = reply.json
        check_shape("BifrostError", body)
        assert (body["type"], body["error"]["type"], body["status_code"]) == (word, word, status)
        assert "is_bifrost_error" not in body
    assert keyed.job_count() == jobs
    assert images_of_nobody(keyed) == []


def images_of_nobody(served: ServedGateway) -> list[str]:
    """Images of jobs that are not there."""
    with closing(sqlite3.connect(served.settings.storage.data_dir / "safelight.db")) as connection:
        jobs = {job_id for (job_id,) in connection.execute("SELECT id FROM jobs")}
    return [blob.name for blob in served.blobs if blob.name[:36] not in jobs]


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({**SMALL, "model": "builtin/fail-auth"}, "model_blocked"),
        ({**SMALL, "model": "openai/gpt-image-2"}, "provider_blocked"),
        ({**SMALL, "fallbacks": ["builtin/fail-auth"]}, "model_blocked"),
        ({**SMALL, "fallbacks": ["openai/gpt-image-2"]}, "provider_blocked"),
    ],
)
async def test_the_allow_list_holds_for_target_and_fallbacks(asking: Client, values: Any, word: str) -> None:
    reply = await asking.send("generations", values, headers=vk(A))
    assert (reply.status, reply.json["type"]) == (403, word)


async def test_the_administrator_needs_no_virtual_key(asking: Client) -> None:
    await asking.submit(headers={"Authorization": f"Bearer {ADMIN}"})


async def test_edits_take_keys_too(asking: Client) -> None:
    await asking.submit("edits", parts_of("edits"), headers=vk(A))


async def test_nothing_that_a_key_reads_like_is_in_the_database(keyed: ServedGateway, asking: Client) -> None:
    await asking.submit(headers=vk(A))
    written = b"".join(path.read_bytes() for path in keyed.settings.storage.data_dir.glob("safelight.db*"))
    for secret in (A, B, OLD, ADMIN):
        assert secret.encode() not in written


async def test_rotation_overlaps_and_revocation_does_not(tmp_path: Path) -> None:
    with ServedGateway(
        settings_for(tmp_path / "data", auth={"required": True}, virtual_keys=[{"name": "a"}])
    ) as served:
        [(name, first)] = served.gateway.made_keys.items()
        assert name == "a"
        assert first.startswith("sk-bf-")
        administer = served.gateway.administer
        key_id = only_key(served)["id"]
        async with Client(served.url) as client:
            _, second = served.call(lambda: administer.rotate(key_id, overlap_s=60, actor="test"))
            for shown in (first, second):
                await client.submit(headers=vk(shown))
            _, third = served.call(lambda: administer.rotate(key_id, overlap_s=0, actor="test"))
            await client.submit(headers=vk(third))
            for shown in (first, second):
                assert (await client.send("generations", headers=vk(shown))).json["type"] == "virtual_key_not_found"
            served.call(lambda: administer.revoke(key_id, actor="test"))
            assert (await client.send("generations", headers=vk(third))).json["type"] == "access_blocked"


def only_key(served: ServedGateway) -> dict[str, Any]:
    path = served.settings.storage.data_dir / "safelight.db"
    with closing(sqlite3.connect(path)) as connection:
        [(key_id, source)] = connection.execute("SELECT id, source FROM holders WHERE kind = 'key'").fetchall()
    return {"id": key_id, "source": source}


async def test_settings_are_reconciled_by_name_at_each_start(tmp_path: Path) -> None:
    def gateway(*keys: Mapping[str, Any]) -> ServedGateway:
        teams = [{"name": "shop", "customer": "acme"}]
        return ServedGateway(
            settings_for(tmp_path / "data", customers=[{"name": "acme"}], teams=teams, virtual_keys=keys)
        )

    with gateway({"name": "a", "value": A, "team": "shop"}) as served:
        first = only_key(served)
        assert served.gateway.made_keys == {}
    with gateway({"name": "a", "value": A, "team": "shop"}) as served:
        assert only_key(served) == first
        assert len(changes(served)) == 4
    with gateway({"name": "a", "value": B, "team": "shop"}) as served:
        assert only_key(served) == first
        async with Client(served.url) as client:
            await client.submit(headers=vk(B))
            assert (await client.send("generations", headers=vk(A))).status == 401
    with gateway() as served:
        async with Client(served.url) as client:
            assert (await client.send("generations", headers=vk(B))).json["type"] == "access_blocked"
        assert changes(served)[0] == ("settings", "revoked", "key")


def changes(served: ServedGateway) -> list[tuple[str, str, str]]:
    page = served.call(lambda: served.gateway.access_store.changes(limit=100, offset=0))
    return [(each.actor, each.action, each.subject) for each in page.items]


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"virtual_keys": [{"name": "a", "value": A, "team": "nowhere"}]}, "no team named 'nowhere'"),
        ({"virtual_keys": [{"name": "a", "value": A}, {"name": "b", "value": A}]}, "reads just like this one"),
        ({"virtual_keys": [{"name": "a", "value": A}, {"name": "a", "value": B}]}, "named 'a'"),
    ],
)
def test_settings_that_do_not_fit_together_stop_the_start(tmp_path: Path, sections: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told), ServedGateway(settings_for(tmp_path / "data", **sections)):
        pass


async def test_a_key_ends_while_the_gateway_runs(tmp_path: Path) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    key = {"name": "a", "value": A, "expires_at": ends.isoformat()}
    with ServedGateway(settings_for(tmp_path / "data", virtual_keys=[key])) as served:
        async with Client(served.url) as client, asyncio.timeout(20):
            statuses = [202]
            while statuses[-1] == 202:
                statuses.append((await client.send("generations", headers=vk(A))).status)
            assert statuses[-1] == 403
            assert datetime.now(UTC) >= ends


async def test_a_job_is_its_own_keys_alone(keyed: ServedGateway) -> None:
    """Checklist 8: read with each header of its key, with another key, with none, with an unknown one."""
    async with Client(keyed.url, vk(A)) as own:
        job = await own.run()
        path, poll = f"/v1/async/jobs/{job['id']}", f"/v1/async/images/generations/{job['id']}"
        unknown = await own.get(f"/v1/async/images/generations/{uuid4()}")
        assert unknown.status == 404
        for shown in ({"Authorization": f"Bearer {A}"}, {"x-api-key": A}, {"x-goog-api-key": A}, {"api-key": A}):
            async with Client(keyed.url, shown) as client:
                assert (await client.get(poll)).json["id"] == job["id"]
        strangers: list[Mapping[str, str]] = [vk(B), {}, {"Authorization": "Bearer sk-dummy"}]
        for headers in strangers:
            async with Client(keyed.url, headers) as client:
                for method, where in (
                    ("GET", poll),
                    ("GET", path),
                    ("GET", f"{poll}?wait=5"),
                    ("GET", f"{path}/events"),
                    ("DELETE", path),
                    ("DELETE", poll),
                    ("POST", f"{path}/retry"),
                ):
                    reply = await client.ask(method, where)
                    assert (reply.status, reply.json) == (404, unknown.json), (method, where, headers)
                assert job["id"] not in (await client.get("/v1/async/jobs?limit=100")).body.decode()
        async with Client(keyed.url, vk("sk-bf-of-nobody")) as client:
            assert (await client.get(poll)).json["type"] == "virtual_key_not_found"
        assert job["id"] in (await own.get("/v1/async/jobs?limit=100")).body.decode()
    async with Client(keyed.url, {"Authorization": f"Bearer {ADMIN}"}) as admin:
        assert (await admin.get(poll)).json["id"] == job["id"]


async def test_a_foreign_job_takes_as_long_as_one_that_is_not_there(keyed: ServedGateway) -> None:
    async with Client(keyed.url, vk(A)) as own:
        job = await own.run()
    async with Client(keyed.url, vk(B)) as client:
        took: dict[str, list[float]] = {"foreign": [], "missing": []}
        for _ in range(20):
            for name, job_id in (("foreign", job["id"]), ("missing", str(uuid4()))):
                began = time.perf_counter()
                assert (await client.get(f"/v1/async/jobs/{job_id}")).status == 404
                took[name].append(time.perf_counter() - began)
    assert min(took["foreign"]) >= 0.01
    assert min(took["missing"]) >= 0.01


async def test_a_job_without_a_key_is_everybodys(tmp_path: Path) -> None:
    with ServedGateway(settings_for(tmp_path / "data", virtual_keys=[{"name": "a", "value": A}])) as served:
        async with Client(served.url) as anybody, Client(served.url, vk(A)) as keyed_client:
            job = await anybody.submit()
            for client in (anybody, keyed_client):
                assert (await client.get(f"/v1/async/images/generations/{job['id']}")).status in {200, 202}


async def test_a_key_may_see_all_jobs_of_its_team(tmp_path: Path) -> None:
    keys = [
        {"name": "a", "value": A, "team": "shop"},
        {"name": "b", "value": B, "team": "shop", "sees_team": True},
    ]
    with ServedGateway(settings_for(tmp_path / "data", teams=[{"name": "shop"}], virtual_keys=keys)) as served:
        async with Client(served.url, vk(A)) as one, Client(served.url, vk(B)) as two:
            first, second = await one.submit(), await two.submit()
            assert (await two.get(f"/v1/async/jobs/{first['id']}")).status in {200, 202}
            assert (await one.get(f"/v1/async/jobs/{second['id']}")).status == 404


async def test_every_answer_carries_the_headers_that_keep_browsers_honest(keyed: ServedGateway) -> None:
    async with Client(keyed.url, {"Origin": "https://elsewhere.example"}) as client:
        pages = ("/", "/console/main.js", "/docs", "/docs/docs.js")
        for path in (*pages, "/health", "/nowhere", "/v1/async/jobs/x", "/api/usage"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-frame-options"] == "DENY"
            assert not [name for name in headers if name.startswith("access-control-")]
        assert (await client.ask("OPTIONS", "/v1/async/images/generations")).status == 405
