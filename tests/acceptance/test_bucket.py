"""A gateway whose images are in a bucket: faults of the bucket cost no picture, and clients fetch from it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.gateway import Gateway, running, upstream
from tests.s3 import S3
from tests.simulators._base import Fault
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def box() -> AsyncIterator[OpenAICompatibleSimulator]:
    async with OpenAICompatibleSimulator() as simulator:
        yield simulator


@pytest.fixture
async def gateway(tmp_path: Path, s3: S3, box: OpenAICompatibleSimulator) -> AsyncIterator[Gateway]:
    storage = {"blob_url": s3.url, "blob_options": s3.options}
    providers = {"box": upstream(box.base_url, repeatable=False)}
    async with running(tmp_path, storage=storage, providers=providers) as gateway:
        yield gateway


async def test_a_picture_is_fetched_from_the_bucket_by_our_own_link(
    gateway: Gateway, s3: S3, box: OpenAICompatibleSimulator
) -> None:
    body = await gateway.result(await gateway.submit("box/flux", response_format="url"))
    url = body["result"]["data"][0]["url"]
    assert url.startswith(gateway.url)
    async with gateway.session.get(url, allow_redirects=False) as response:
        assert response.status == 307
        direct = response.headers["Location"]
        assert direct.startswith(s3.endpoint)
    async with gateway.session.get(direct) as response:
        assert (response.status, response.content_type) == (200, "image/png")
        assert hashlib.sha256(await response.read()).hexdigest() in box.exchanges[0].outputs_sha256
    assert hashlib.sha256(await gateway.picture(body)).hexdigest() in box.exchanges[0].outputs_sha256
    assert gateway.files() == []


async def test_pages_of_the_gateway_show_its_images_without_leaving_it(gateway: Gateway) -> None:
    body = await gateway.result(await gateway.submit("box/flux", response_format="url"))
    headers = {"Sec-Fetch-Site": "same-origin"}
    url = body["result"]["data"][0]["url"]
    async with gateway.session.get(url, headers=headers, allow_redirects=False) as response:
        assert (response.status, response.content_type) == (200, "image/png")


async def test_base64_comes_from_the_bucket(gateway: Gateway) -> None:
    body = await gateway.result(await gateway.submit("box/flux", response_format="b64_json"))
    assert body["result"]["data"][0]["b64_json"]


@pytest.mark.parametrize("status", [500, 503])
async def test_a_bucket_that_fails_while_a_picture_comes_costs_no_picture(
    gateway: Gateway, s3: S3, box: OpenAICompatibleSimulator, status: int
) -> None:
    box.faults.push(Fault(hold=True))
    job_id = await gateway.submit("box/flux", response_format="url")
    await box.wait_for_submissions(1)
    s3.fault = status
    box.release()
    async with asyncio.timeout(30):
        while sum(method == "PUT" for method, _ in s3.requests) < 4:  # noqa: ASYNC110 - the server's thread has no event
            await asyncio.sleep(0.02)
    assert (await gateway.poll(job_id))[1]["status"] == "processing"
    s3.fault = None
    body = await gateway.result(job_id)
    assert body["status"] == "completed"
    assert hashlib.sha256(await gateway.picture(body)).hexdigest() in box.exchanges[0].outputs_sha256
    assert box.submissions == 1


async def test_a_slow_bucket_is_waited_for(gateway: Gateway, s3: S3) -> None:
    s3.delay_s = 1.0
    body = await gateway.result(await gateway.submit("box/flux", response_format="url"))
    assert body["status"] == "completed"
    assert await gateway.picture(body)


async def test_a_bucket_that_is_gone_is_told_by_ready_and_refuses_inputs(gateway: Gateway, s3: S3) -> None:
    body = await gateway.result(await gateway.submit("box/flux", response_format="b64_json"))
    s3.fault = 503
    assert not await gateway.ready()
    async with gateway.session.get(f"{gateway.url}/v1/async/images/generations/{body['id']}") as response:
        assert response.status == 503  # not a 404, and not a body without its picture
    s3.fault = None
    assert (await gateway.poll(body["id"]))[1]["status"] == "completed"
