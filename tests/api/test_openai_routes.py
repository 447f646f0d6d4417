"""The OpenAI routes: the same job, awaited; and `response_format`, kept on every route."""

import asyncio
import base64
import io
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from PIL import Image

from tests.api.client import KINDS, REQUEST_TYPES, SMALL, Client, Reply, check_shape, form, parts_of
from tests.api.serving import NO_RETRIES, ServedGateway, SimulatorThread, settings_for
from tests.api.test_contract_jobs import REFUSALS
from tests.simulators._base import Fault
from tests.simulators.openai import OpenAISimulator
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

OPENAI = {"model": "openai/gpt-image-2", "prompt": "a red kite"}
LOCAL = {"model": "gpu-box/flux", "prompt": "a red kite"}
LATER = {"x-bf-async": "true"}


def picture(reply: Reply) -> dict[str, Any]:
    """The one picture of an answer, held to the contract."""
    assert reply.status == 200, reply.body[:500]
    check_shape("ImageGenerationResponse", reply.json)
    [item] = reply.json["data"]
    found: dict[str, Any] = item
    return found


def values_of(kind: str, **more: str) -> Any:
    return {**SMALL, **more} if kind == "generations" else parts_of(kind, **more)


@pytest.mark.parametrize("kind", KINDS)
async def test_result_is_the_answer(client: Client, kind: str) -> None:
    reply = await client.send(kind, wait=True)

    picture(reply)
    assert reply.json["extra_fields"]["request_type"] == REQUEST_TYPES[kind]
    job = await client.poll(kind, reply.headers["x-safelight-job-id"])
    assert job.json["result"] == reply.json
    assert job.json["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", REFUSALS)
async def test_failure_has_its_own_status(client: Client, kind: str, model: str) -> None:
    reply = await client.send(kind, values_of(kind, model=f"builtin/{model}"), wait=True)

    status, code = REFUSALS[model]
    body = reply.error(status)
    assert body["error"]["code"] == code
    assert ("retry-after" in reply.headers) is (status in {429, 503})
    job = await client.poll(kind, reply.headers["x-safelight-job-id"])
    assert job.json["error"] == body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 503, 529])
async def test_providers_status_is_passed_on(client: Client, upstream: OpenAISimulator, status: int) -> None:
    upstream.faults.always(Fault(kind="status", status=status))

    reply = await client.send("generations", OPENAI, wait=True)

    body = reply.error(status)
    assert body["extra_fields"]["provider"] == "openai"
    assert ("retry-after" in reply.headers) is (status in {429, 503})


@pytest.mark.parametrize("kind", KINDS)
async def test_refusal_makes_no_job(client: Client, kind: str) -> None:
    reply = await client.send(kind, values_of(kind, size="big"), wait=True)

    reply.error(400, "size must be")
    assert "x-safelight-job-id" not in reply.headers


async def test_extra_parameters_pass_by_themselves(client: Client, upstream: OpenAISimulator) -> None:
    await client.send("generations", {**OPENAI, "safety_identifier": "me"}, wait=True)

    assert upstream.exchanges[0].fields["safety_identifier"] == "me"


# ------------------------------------------------------------------------------------------------ awaited, or not


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headers", [LATER, {"X-BF-Async": " TRUE "}, {"prefer": "respond-async"}])
async def test_job_at_once_when_asked(client: Client, kind: str, headers: Mapping[str, str]) -> None:
    """Design, beyond the contract 7 (instead of checklist 17)."""
    reply = await client.send(kind, values_of(kind, model="builtin/handle-1"), wait=True, headers=headers)

    assert reply.status == 202
    check_shape("AsyncJobSubmitted", reply.json)
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.headers["location"] == f"/v1/async/images/{kind}/{reply.json['id']}"
    assert reply.headers["x-safelight-job-id"] == reply.json["id"]
    assert (await client.get(reply.headers["location"])).status == 202


@pytest.mark.parametrize("headers", [{"x-bf-async": "false"}, {"x-bf-async": "1"}, {"prefer": "wait=0"}, {}])
async def test_awaited_unless_asked(client: Client, headers: Mapping[str, str]) -> None:
    picture(await client.send("generations", SMALL, wait=True, headers=headers))


@pytest.mark.parametrize("prefer", ["respond-async, wait=30", "Respond-Async,wait=30", 'wait="30"; x, respond-async'])
async def test_answer_within_the_time_granted(client: Client, prefer: str) -> None:
    picture(await client.send("generations", SMALL, wait=True, headers={"prefer": prefer}))


async def test_job_after_the_time_granted(client: Client) -> None:
    headers = {"prefer": "respond-async, wait=1"}

    reply = await client.send("generations", {**SMALL, "model": "builtin/slow-5"}, wait=True, headers=headers)

    assert reply.status == 202
    check_shape("AsyncJobRunning", reply.json)
    assert reply.json["status"] == "processing"


async def test_ttl_header_holds_here_too(client: Client) -> None:
    reply = await client.send("generations", SMALL, wait=True, headers={"x-bf-async-job-result-ttl": "9"})

    job = (await client.poll("generations", reply.headers["x-safelight-job-id"])).json
    assert job["expires_at"][17:19] != job["completed_at"][17:19]


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_leaves_does_not_cancel(
    client: Client,
    served: ServedGateway,
    upstream_thread: SimulatorThread[OpenAISimulator],
    upstream: OpenAISimulator,
    kind: str,
) -> None:
    upstream.faults.push(Fault(hold=True))
    values: Any = OPENAI if kind == "generations" else parts_of(kind, model="openai/gpt-image-2", prompt="x")
    body: Any = {"json": values} if kind == "generations" else {"data": form(values)}
    async with aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(force_close=True)) as leaving:
        call = asyncio.create_task(leaving.post(f"/v1/images/{kind}", **body, headers={"x-request-id": f"left-{kind}"}))
        await upstream_thread.wait_for_submissions(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    job_id = served.job_named(f"left-{kind}")
    assert (await client.poll(kind, job_id)).status == 202

    upstream_thread.release()

    assert (await client.end(kind, job_id))["status"] == "completed"
    assert upstream.submissions == 1


async def test_whoever_waits_at_a_shutdown_is_told_where_to_ask(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_for(tmp_path_factory.mktemp("drained") / "data", jobs={"shutdown_grace": 0})
    with ServedGateway(settings) as gateway:
        async with Client(gateway.url) as client:
            job = await client.submit(values={**SMALL, "model": "builtin/slow-600"})
            waiting = asyncio.create_task(client.send("generations", {**SMALL, "model": "builtin/slow-600"}, wait=True))
            await client.until("generations", job["id"], lambda reply: reply.json["status"] == "processing")
            await asyncio.to_thread(gateway.wait_for_jobs, 2)

            await asyncio.to_thread(gateway.call, gateway.gateway.drain)

            reply = await waiting
            reply.error(503, "the gateway is shutting down")
            assert int(reply.headers["retry-after"]) >= 1
            again = await client.get(reply.headers["location"])
            assert again.status == 202
            (await client.get("/ready")).error(503)


# --------------------------------------------------------------------------------------------------- response_format


async def decoded(client: Client, item: Mapping[str, Any]) -> bytes:
    if "b64_json" in item:
        return base64.b64decode(item["b64_json"], validate=True)
    reply = await client.get(item["url"])
    assert reply.status == 200
    return reply.body


@pytest.mark.parametrize("values", [SMALL, OPENAI, LOCAL], ids=["builtin", "openai", "gpu-box"])
@pytest.mark.parametrize(("asked", "member"), [("url", "url"), ("b64_json", "b64_json"), (None, None)])
@pytest.mark.parametrize("wait", [True, False], ids=["awaited", "polled"])
async def test_pictures_come_as_asked(
    client: Client, values: Mapping[str, Any], asked: str | None, member: str | None, *, wait: bool
) -> None:
    """Whatever the provider sends. Nothing asked: base64 from models that answer base64 alone, else a link."""
    values = {**values, **({"response_format": asked} if asked else {})}
    if wait:
        item = picture(await client.send("generations", values, wait=True))
    else:
        item = (await client.run(values=values))["result"]["data"][0]

    member = member or ("b64_json" if values["model"].startswith("openai/") else "url")
    assert item.keys() == {"index", member}
    Image.open(io.BytesIO(await decoded(client, item))).verify()


async def test_links_of_a_provider_are_not_handed_on(client: Client, gpu_box: OpenAICompatibleSimulator) -> None:
    """They end when it pleases the provider: the picture is fetched at once, and shown from here."""
    item = picture(await client.send("generations", {**LOCAL, "response_format": "url"}, wait=True))

    assert item["url"].startswith(f"{client.url}/v1/files/")
    assert [exchange.method for exchange in gpu_box.exchanges[-2:]] == ["POST", "GET"]
    assert gpu_box.exchanges[-2].fields["response_format"] == "url"


async def test_link_is_on_the_host_that_the_caller_used(client: Client, served: ServedGateway) -> None:
    item = picture(await client.send("generations", {**SMALL, "response_format": "url"}, wait=True))
    aliased = picture(
        await client.send(
            "generations", {**SMALL, "response_format": "url"}, wait=True, headers={"host": "pictures.example:81"}
        )
    )

    assert item["url"].startswith(f"{served.url}/v1/files/")
    assert urlsplit(aliased["url"]).netloc == "pictures.example:81"


async def test_public_url_wins(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_for(
        tmp_path_factory.mktemp("public") / "data", server={"public_url": "https://pictures.example/gateway/"}
    )
    with ServedGateway(settings) as gateway:
        async with Client(gateway.url) as client:
            item = picture(await client.send("generations", {**SMALL, "response_format": "url"}, wait=True))

            assert item["url"].startswith("https://pictures.example/gateway/v1/files/")
            assert (await client.get(item["url"].removeprefix("https://pictures.example/gateway"))).status == 200


async def test_several_pictures_in_base64_under_an_exact_length(client: Client) -> None:
    values = {"model": "builtin/sketch", "prompt": "noise", "n": 3, "size": "400x400", "response_format": "b64_json"}

    reply = await client.send("generations", values, wait=True)

    assert int(reply.headers["content-length"]) == len(reply.body)
    assert [item["index"] for item in reply.json["data"]] == [0, 1, 2]
    for item in reply.json["data"]:
        Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))).verify()


def test_settings_of_the_shared_gateway(served: ServedGateway) -> None:
    """The tests above count calls: nothing is tried twice."""
    assert served.settings.providers["openai"].retries.max == NO_RETRIES["max"]
