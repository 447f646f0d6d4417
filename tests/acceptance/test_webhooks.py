"""Webhooks of processes that are killed: what the end of a job promised is told after the next start."""

from pathlib import Path

from tests.acceptance.gateway import Gateway, running
from tests.receiver import Receiver, signatures

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
JOBS = 5


def entry(url: str) -> dict[str, object]:
    return {"name": "orders", "url": url, "allow_private_network": True, "secret": SECRET}


async def submitted(gateway: Gateway) -> str:
    headers = {"x-bf-async-webhook": "orders"}
    status, body, _ = await gateway.post(
        "/v1/async/images/generations", headers=headers, model="builtin/sketch", prompt="a fox"
    )
    assert status == 202, body
    return str(body["id"])


async def test_a_kill_between_the_end_and_its_delivery_loses_nothing(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        receiver.hold()  # calls go out, and none is answered before the kill
        async with running(tmp_path, webhooks=[entry(receiver.url)]) as gateway:
            jobs = {await submitted(gateway) for _ in range(JOBS)}
            for job_id in jobs:
                await gateway.result(job_id)
            await receiver.until(lambda it: it.at_work >= 1)
            assert gateway.rows("SELECT count(*) FROM webhook_deliveries WHERE due_at IS NOT NULL") == [(JOBS,)]
            await gateway.kill()
            receiver.release()
            before = len(receiver.calls)
            await gateway.start()
            await receiver.until(lambda it: {call.data["job_id"] for call in it.calls[before:]} >= jobs)
            await gateway.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM webhook_deliveries WHERE due_at IS NOT NULL)")
        ids = {call.data["job_id"]: call.id for call in receiver.calls}
        assert ids.keys() == jobs
        assert all(call.id == ids[call.data["job_id"]] for call in receiver.calls)  # a repeat is known by its id
        assert all(signatures(SECRET, call.headers, call.body) == 1 for call in receiver.calls)


async def test_a_kill_while_a_job_runs_tells_of_its_end_once(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path, webhooks=[entry(receiver.url)]) as gateway:
        headers = {"x-bf-async-webhook": "orders"}
        _, body, _ = await gateway.post(
            "/v1/async/images/generations", headers=headers, model="builtin/slow-1", prompt="a fox"
        )
        await gateway.until("SELECT 1 FROM attempts")
        await gateway.restart()
        await gateway.result(str(body["id"]))
        (call,) = await receiver.received(1)
        assert call.data["job_id"] == body["id"]
        assert gateway.rows("SELECT count(*) FROM webhook_deliveries") == [(1,)]
