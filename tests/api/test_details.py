"""What `expand` adds to a job's body."""

import hashlib

import pytest

from tests.api.client import SMALL, Client, File, check_shape, mask, png


async def test_tells_what_was_asked_for_who_was_called_and_what_came(client: Client) -> None:
    asked = {**SMALL, "n": 2, "seed": 7, "response_format": "b64_json"}
    job = await client.run(values=asked)

    reply = await client.get(f"/v1/async/images/generations/{job['id']}?expand=request,ledger,pictures")
    check_shape("AsyncJobFinished", reply.json)
    meta = reply.json["meta"]
    assert meta["request"] == {"operation": "image_generation", **asked}
    (line,) = meta["ledger"]
    assert (line["number"], line["provider"], line["model"], line["state"]) == (1, "builtin", "sketch", "succeeded")
    assert line["duration_s"] >= 0
    for picture, shown in zip(reply.json["result"]["data"], meta["pictures"], strict=True):
        content = (await client.get(picture["url"])).body
        assert shown["sha256"] == hashlib.sha256(content).hexdigest()
        assert (shown["width"], shown["height"], shown["size_bytes"]) == (16, 16, len(content))


async def test_shows_the_images_that_were_sent(client: Client) -> None:
    sent = [("model", "builtin/sketch"), ("prompt", "a door"), File("image[]", png()), File("mask", mask())]
    job = await client.run("edits", sent)

    request = (await client.get(f"/v1/async/jobs/{job['id']}?expand=request")).json["meta"]["request"]
    assert (await client.get(request["images"][0]["url"])).body == png()
    assert (await client.get(request["mask"]["url"])).body == mask()


async def test_a_running_job_has_details_too(own_client: Client) -> None:
    job = await own_client.submit(values={**SMALL, "model": "builtin/slow-60"}, headers={"x-bf-eh-secret": "s3cret"})

    reply = await own_client.get(f"/v1/async/jobs/{job['id']}?expand=request,pictures")
    check_shape("AsyncJobRunning", reply.json)
    assert (reply.status, reply.json["meta"]["pictures"]) == (202, [])
    assert reply.json["meta"]["request"]["prompt"] == SMALL["prompt"]
    assert b"s3cret" not in reply.body


async def test_a_failed_call_says_why(client: Client) -> None:
    job = await client.run(values={**SMALL, "model": "builtin/fail-rejected"})

    (line,) = (await client.get(f"/v1/async/jobs/{job['id']}?expand=ledger")).json["meta"]["ledger"]
    assert (line["state"], line["error_class"], line["charged"]) == ("failed", "rejected", "no")
    assert line["error"]


@pytest.mark.parametrize("query", ["expand=prompt", "expand=request,secrets", "expand=request&expand=nothing"])
async def test_other_words_are_refused(client: Client, query: str) -> None:
    job = await client.run()

    assert (await client.get(f"/v1/async/jobs/{job['id']}?{query}")).error(400)["error"]["param"] == "expand"


async def test_a_list_tells_requests_and_pictures_but_no_ledgers(own_client: Client) -> None:
    await own_client.run()

    (listed,) = (await own_client.get("/v1/async/jobs?expand=request,pictures")).json["data"]
    assert listed["meta"]["request"]["prompt"] == SMALL["prompt"]
    assert listed["meta"]["pictures"][0]["width"] == 16
    assert (await own_client.get("/v1/async/jobs?expand=ledger")).error(400)["error"]["param"] == "expand"
