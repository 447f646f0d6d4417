"""The Python client against a real gateway, blocking and with asyncio."""

import asyncio
import base64
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from PIL import Image
from standardwebhooks.webhooks import Webhook

from safelight.client import (
    AsyncSafelight,
    Conflict,
    GatewayUnreachable,
    InvalidRequest,
    JobFailed,
    NotAGateway,
    NotFound,
    Retries,
    Safelight,
    WaitTimeout,
    WebhookUnverified,
    verify_webhook,
)
from tests.api.client import mask, png
from tests.api.serving import ServedGateway, settings_for

SKETCH = "builtin/sketch"
SIZE = "32x16"


@pytest.fixture
def client(served: ServedGateway) -> Iterator[Safelight]:
    with Safelight(served.url) as client:
        yield client


@pytest.fixture
async def aclient(served: ServedGateway) -> AsyncIterator[AsyncSafelight]:
    async with AsyncSafelight(f"{served.url}/v1/") as client:
        yield client


def size_of(content: bytes | Path) -> tuple[int, int]:
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as picture:
        return picture.size


# One job


def test_generates_waits_and_saves(client: Safelight, tmp_path: Path) -> None:
    job = client.images.generate("a red kite", model=SKETCH, size=SIZE, metadata={"shop": "a"})
    assert job.status == "pending"
    assert job.meta.metadata == {"shop": "a"}
    [path] = job.save(tmp_path / "new" / "kite.png")
    assert path == tmp_path / "new" / "kite.png"
    assert size_of(path) == (32, 16)
    assert (job.status, job.ended, job.meta.charged, job.error) == ("completed", True, "no", None)
    assert job.state.completed_at is not None
    assert job.state.completed_at.tzinfo is UTC
    assert client.jobs.get(job.id).state == job.state
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["kite.png"]


async def test_generates_waits_and_saves_with_asyncio(aclient: AsyncSafelight, tmp_path: Path) -> None:
    job = await aclient.images.generate("a red kite", model=SKETCH, size=SIZE, n=2)
    paths = await job.save(tmp_path / "kites")
    assert [path.name for path in paths] == [f"{job.id}-1.png", f"{job.id}-2.png"]
    assert [size_of(path) for path in paths] == [(32, 16)] * 2
    assert size_of(await job.content(1)) == (32, 16)


def test_several_pictures_go_into_a_folder_and_one_may(client: Safelight, tmp_path: Path) -> None:
    job = client.images.generate("kites", model=SKETCH, size=SIZE, n=2, output_format="webp").wait()
    assert {path.parent for path in job.save(tmp_path / "kites.webp")} == {tmp_path / "kites.webp"}
    one = client.images.generate("kite", model=SKETCH, size=SIZE)
    assert one.save(tmp_path)[0] == tmp_path / f"{one.id}.png"


def test_edits_and_varies(client: Safelight, tmp_path: Path) -> None:
    (tmp_path / "house.png").write_bytes(png(32, 16))
    edited = client.images.edit(str(tmp_path / "house.png"), "a blue door", model=SKETCH, mask=mask(32, 16), seed=7)
    assert size_of(edited.wait().content()) == (32, 16)
    assert edited.meta.request_type == "image_edit"
    varied = client.images.vary(png(32, 16), model=SKETCH, n=2).wait()
    assert [size_of(varied.content(index)) for index in range(2)] == [(32, 16)] * 2


async def test_edits_and_varies_with_asyncio(aclient: AsyncSafelight, tmp_path: Path) -> None:
    (tmp_path / "house.png").write_bytes(png(32, 16))
    edited = await aclient.images.edit([tmp_path / "house.png"], "a blue door", model=SKETCH, mask=mask(32, 16))
    assert size_of(await (await edited.wait()).content()) == (32, 16)
    varied = await aclient.images.vary(tmp_path / "house.png", model=SKETCH)
    assert size_of(await (await varied.wait()).content()) == (32, 16)


def test_base64_is_saved_too(client: Safelight, tmp_path: Path) -> None:
    job = client.images.generate("a kite", model=SKETCH, size=SIZE, response_format="b64_json", output_format="jpeg")
    [path] = job.save(tmp_path / "kite.jpg")
    assert job.images[0].b64_json is not None
    assert path.read_bytes() == base64.b64decode(job.images[0].b64_json)


def test_tells_of_changes_while_it_waits(client: Safelight) -> None:
    seen = []
    job = client.images.generate("slow", model="builtin/slow-1", size=SIZE)
    job.wait(on_update=lambda it: seen.append(it.status))
    assert seen[-1] == "completed"
    assert "processing" in seen


async def test_a_coroutine_may_be_told_of_changes(aclient: AsyncSafelight) -> None:
    seen = []

    async def told(job: object) -> None:
        await asyncio.sleep(0)
        seen.append(job)

    job = await aclient.images.generate("slow", model="builtin/slow-1", size=SIZE)
    assert await job.wait(on_update=told) is job
    assert seen


def test_a_wait_that_is_over_leaves_the_job(client: Safelight) -> None:
    job = client.images.generate("slow", model="builtin/slow-2", size=SIZE)
    with pytest.raises(WaitTimeout, match="it goes on"):
        job.wait(timeout=0.1)
    assert not job.ended
    assert job.wait().status == "completed"


def test_a_failed_job_says_why(client: Safelight, tmp_path: Path) -> None:
    job = client.images.generate("x", model="builtin/fail-moderation", size=SIZE).wait()
    assert job.images == ()
    with pytest.raises(JobFailed) as caught:
        job.save(tmp_path / "x.png")
    assert caught.value.code == "moderation_blocked"
    assert not caught.value.cancelled
    assert caught.value.job.meta.charged == "no"
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_names_the_field(client: Safelight) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.images.generate("x", model=SKETCH, size="9999x9999")
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_feature", "size")
    with pytest.raises(InvalidRequest):
        client.images.edit(b"no image", "x", model=SKETCH)


# Ends and new beginnings


def test_cancels_what_runs_and_leaves_what_has_ended(client: Safelight) -> None:
    job = client.images.generate("slow", model="builtin/handle-30", size=SIZE)
    job.cancel()
    job.wait()
    with pytest.raises(JobFailed) as caught:
        job.raise_for_failure()
    assert caught.value.cancelled
    assert job.cancel().state == client.jobs.get(job.id).state, "nothing was deleted"
    done = client.images.generate("kite", model=SKETCH, size=SIZE).wait()
    assert done.cancel().status == "completed"
    assert size_of(done.content()) == (32, 16)


def test_deletes_what_has_ended_and_leaves_what_runs(client: Safelight) -> None:
    job = client.images.generate("slow", model="builtin/slow-1", size=SIZE)
    with pytest.raises(Conflict):
        job.delete()
    assert job.wait().status == "completed"
    job.delete()
    with pytest.raises(NotFound):
        job.refresh()


def test_retries_what_has_failed_and_nothing_else(client: Safelight) -> None:
    job = client.images.generate("x", model="builtin/fail-moderation", size=SIZE).wait()
    assert not job.retry().ended
    assert job.wait().meta.attempts == 2
    with pytest.raises(Conflict):
        client.images.generate("kite", model=SKETCH, size=SIZE).wait().retry()


async def test_ends_and_new_beginnings_with_asyncio(aclient: AsyncSafelight) -> None:
    job = await (await aclient.images.generate("x", model="builtin/fail-moderation", size=SIZE)).wait()
    assert (await (await job.retry()).wait()).meta.attempts == 2
    await job.cancel()
    await job.delete()
    with pytest.raises(NotFound):
        await aclient.jobs.get(job.id)


# Keys and lists


def test_a_key_makes_one_job_of_two_calls(client: Safelight) -> None:
    key = str(uuid4())
    jobs = [client.images.generate("a kite", model=SKETCH, size=SIZE, idempotency_key=key) for _ in range(2)]
    assert jobs[0].id == jobs[1].id
    assert client.images.generate("a kite", model=SKETCH, size=SIZE).id != jobs[0].id


def test_lists_page_by_page(client: Safelight) -> None:
    shop = str(uuid4())
    made = [
        client.images.generate(f"{n}", model=SKETCH, size=SIZE, metadata={"shop": shop}).wait().id for n in range(5)
    ]
    listed = client.jobs.list(metadata={"shop": shop}, page_size=2, status="completed", model=SKETCH)
    assert [job.id for job in listed] == made[::-1]
    today = datetime.now(UTC) - timedelta(hours=1)
    assert len(list(client.jobs.list(metadata={"shop": shop}, created_after=today))) == 5
    assert list(client.jobs.list(metadata={"shop": shop}, created_before=today)) == []
    assert list(client.jobs.list(metadata={"shop": shop}, status="failed")) == []


async def test_lists_with_asyncio(aclient: AsyncSafelight) -> None:
    made = await (await aclient.images.generate("kite", model=SKETCH, size=SIZE)).wait()
    assert (await anext(aclient.jobs.list(page_size=1, type="image_generation"))).id == made.id


# Events


def test_follows_a_job_to_its_end(client: Safelight) -> None:
    job = client.images.generate("slow", model="builtin/slow-1", size=SIZE)
    events = list(job.events())
    statuses = [event.status for event in events if event.name == "job"]
    assert (statuses[0], statuses[-1]) == ("pending", "completed")
    assert [int(event.id) for event in events] == sorted({int(event.id) for event in events})
    again = list(job.events(after=events[0].id))
    assert again == events[1:]


def test_follows_a_job_through_its_retry(client: Safelight) -> None:
    job = client.images.generate("x", model="builtin/fail-moderation", size=SIZE).wait().retry().wait()
    statuses = [event.status for event in job.events() if event.name == "job"]
    assert statuses == ["pending", "processing", "failed"] * 2


async def test_follows_all_jobs(aclient: AsyncSafelight) -> None:
    job = await aclient.images.generate("kite", model=SKETCH, size=SIZE)
    first = await anext(job.events())
    mine = set()
    async with asyncio.timeout(20):
        async for event in aclient.events(after=first.id):
            if event.job_id == job.id:
                mine.add(event.status)
            if "completed" in mine:
                break


# Batches


def test_runs_a_batch(client: Safelight, tmp_path: Path) -> None:
    lines = [{"model": SKETCH, "prompt": f"{n}", "size": SIZE} for n in range(7)]
    seen = []
    batch = client.batches.create([*lines, {"model": "nobody/x", "prompt": "x"}], metadata={"shop": "a"})
    batch.wait(on_update=lambda it: seen.append(it.counts.completed), timeout=60)
    assert (batch.status, batch.ended, batch.total, batch.counts.completed, batch.counts.failed) == (
        ("completed", True, 8, 7, 1)
    )
    assert seen == sorted(seen)
    results = list(batch.results(page_size=3))
    assert [line.line for line in results] == list(range(1, 9))
    first = batch.job(results[0])
    assert first is not None
    assert size_of(first.save(tmp_path / "1.png")[0]) == (32, 16)
    assert client.batches.get(batch.id).state == batch.state
    assert batch.id in [each.id for each in client.batches.list(page_size=2)]
    assert batch.retry_failed().status == "running"
    assert batch.cancel().status == "cancelled"


async def test_runs_a_batch_from_a_file_with_asyncio(aclient: AsyncSafelight, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"model": "builtin/sketch", "prompt": "a", "size": "16x16"}\n' * 3)
    batch = await aclient.batches.create(file, idempotency_key=(key := str(uuid4())))
    assert (await aclient.batches.create(file, idempotency_key=key)).id == batch.id
    lines = [line async for line in batch.results(follow=True, page_size=1)]
    assert [line.job is not None and line.job.status for line in lines] == ["completed"] * 3
    assert (await batch.wait()).status == "completed"
    assert batch.id in [each.id async for each in aclient.batches.list()]
    assert (await batch.refresh()).counts.completed == 3


def test_a_bad_line_is_named(client: Safelight) -> None:
    with pytest.raises(InvalidRequest, match="line 2: prompt cannot be empty") as caught:
        client.batches.create([{"model": SKETCH, "prompt": "a"}, {"model": SKETCH}])
    assert caught.value.param == "lines[2].prompt"


# The gateway goes away


def test_nobody_there_is_told_after_a_while() -> None:
    with Safelight("http://127.0.0.1:1", retries=Retries(most=1)) as client:
        with pytest.raises(GatewayUnreachable, match=r"no gateway answers at http://127\.0\.0\.1:1") as caught:
            client.images.generate("x", model=SKETCH)
        assert not caught.value.sent


def test_somebody_else_there_is_told_at_once() -> None:
    stranger = httpx2.MockTransport(lambda _: httpx2.Response(404, html="<p>no such page"))
    with httpx2.Client(transport=stranger) as http, pytest.raises(NotAGateway, match="not as a Safelight gateway does"):
        Safelight("http://stranger", http=http).models()


def test_waits_and_streams_live_through_a_restart(tmp_path: Path) -> None:
    with ExitStack() as clients:
        with ServedGateway(settings_for(tmp_path / "data")) as first:
            client = clients.enter_context(Safelight(first.url, retries=Retries(patience_s=20)))
            job = client.images.generate("slow", model="builtin/handle-2", size=SIZE)
            following = job.events()
            events = [next(following)]
            waiting = threading.Thread(target=job.wait)
            waiting.start()
        with ServedGateway(settings_for(tmp_path / "data", server={"port": first.port})):
            waiting.join(timeout=30)
            events += following
    assert job.status == "completed"
    assert [int(event.id) for event in events] == sorted({int(event.id) for event in events})
    assert (events[0].status, events[-1].status) == ("pending", "completed")


def test_models(client: Safelight) -> None:
    [sketch] = [model for model in client.models() if model.id == SKETCH]
    assert "png" in sketch.safelight["formats"]


def test_a_picture_that_breaks_off_is_fetched_again(tmp_path: Path) -> None:
    """By a gateway that cuts the first download in the middle."""
    tries = 0

    def answer(request: httpx2.Request) -> httpx2.Response:
        nonlocal tries
        tries += 1

        def content() -> Iterator[bytes]:
            yield b"half"
            if tries == 1:
                raise httpx2.ReadError("cut", request=request)
            yield b" and half"

        return httpx2.Response(200, headers={"content-type": "image/png"}, content=content())

    state = {
        "id": "j",
        "status": "completed",
        "created_at": "2026-11-25T10:00:00Z",
        "result": {"data": [{"url": "/x"}]},
    }

    def route(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=state) if request.url.path.startswith("/v1/async") else answer(request)

    with httpx2.Client(transport=httpx2.MockTransport(route)) as http:
        job = Safelight("http://gateway", http=http).jobs.get("j")
        [path] = job.save(tmp_path / "x.png")
    assert (path.read_bytes(), tries) == (b"half and half", 2)
    assert [each.name for each in tmp_path.iterdir()] == ["x.png"]


# Webhooks

SECRET = "whsec_" + base64.b64encode(b"made up for this test").decode()
BODY = b'{"event": "async_job.completed", "created_at": "2026-11-25T10:00:00Z", "data": {"id": "j"}}'


def signed(body: bytes, secret: str = SECRET, *, age: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(UTC) - age
    signature = Webhook(secret).sign("msg_1", at, body.decode())
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(int(at.timestamp())), "Webhook-Signature": signature}


def test_a_webhook_is_told_from_anybody_elses() -> None:
    event = verify_webhook(BODY, signed(BODY), SECRET)
    assert (event.type, event.data) == ("async_job.completed", {"id": "j"})
    other = "whsec_" + base64.b64encode(b"another one").decode()
    assert verify_webhook(BODY, signed(BODY), [other, SECRET]) == event
    for headers in (signed(BODY, other), signed(b"{}"), signed(BODY, age=timedelta(minutes=6)), {}):
        with pytest.raises(WebhookUnverified):
            verify_webhook(BODY, headers, SECRET)
    with pytest.raises(WebhookUnverified, match="no event"):
        verify_webhook(b"[]", signed(b"[]"), SECRET)
