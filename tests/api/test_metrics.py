"""`/metrics` of a gateway that has worked."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.client import SMALL, Client
from tests.api.serving import ServedGateway, settings_for


def samples(text: str) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(client: Client) -> "Numbers":
    reply = await client.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return Numbers(samples(reply.body.decode()))


class Numbers:
    def __init__(self, samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
        self._samples = samples

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name with these labels."""
        wanted = labels.items()
        return sum(value for (each, of), value in self._samples.items() if each == f"safelight_{name}" and wanted <= of)


async def test_counts_what_the_gateway_did(own_client: Client) -> None:
    for _ in range(3):
        await own_client.run()
    await own_client.run(values={**SMALL, "model": "builtin/fail-moderation"})

    seen = await scraped(own_client)
    assert seen("jobs_submitted_total", provider="builtin", type="image_generation") == 4
    assert seen("jobs_ended_total", status="completed", model="sketch") == 3
    assert seen("jobs_ended_total", status="failed", model="fail-moderation") == 1
    assert seen("upstream_call_seconds_count", call="start") == 4
    assert seen("upstream_errors_total", **{"class": "rejected"}) == 1
    assert seen("job_wait_seconds_count") == seen("job_run_seconds_count") == 4
    assert seen("job_run_seconds_sum") < seen("upstream_call_seconds_sum") + 1
    assert seen("pictures_total") == 3
    assert seen("store_seconds_count", work="write") >= 12
    assert seen("blob_seconds_count", work="write") >= 3
    assert seen("http_request_seconds_count", route="/v1/async/images/generations", status="2xx") == 4
    assert seen("queue_depth", provider="builtin") == 0
    assert seen("build_info") == 1


async def test_shows_the_queue_as_it_is(own_client: Client) -> None:
    before = await scraped(own_client)
    await own_client.submit(values={**SMALL, "model": "builtin/slow-60"})
    after = await scraped(own_client)

    assert before("queue_depth") == 0
    assert after("queue_depth", provider="builtin") == 1
    assert after("provider_slots", provider="builtin") == 64


async def test_paths_that_lead_nowhere_share_a_label(own_client: Client) -> None:
    for number in range(5):
        await own_client.get(f"/nowhere/{number}")

    assert (await scraped(own_client))("http_request_seconds_count", route="none", status="4xx") == 5


class TestProtected:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[ServedGateway]:
        key = "an-admin-key-that-nobody-guesses-9Xq2"
        settings = settings_for(tmp_path / "data", server={"protect_metrics": True}, auth={"admin_key": key})
        with ServedGateway(settings) as gateway:
            yield gateway

    async def test_asks_for_the_admin_key(self, own_client: Client) -> None:
        assert (await own_client.get("/metrics")).status == 401
        shown = {"Authorization": "Bearer an-admin-key-that-nobody-guesses-9Xq2"}
        assert (await own_client.get("/metrics", headers=shown)).status == 200
