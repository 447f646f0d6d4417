"""What a request is likely to cost."""

import pytest

from tests.api.client import Client


async def test_is_free_where_it_costs_time_alone(client: Client) -> None:
    reply = await client.get("/v1/estimate?model=builtin/sketch&n=4&size=512x512")

    assert (reply.status, reply.json) == (200, {"object": "estimate", "model": "builtin/sketch", "cost_usd": 0})


async def test_comes_from_the_catalogue(client: Client) -> None:
    reply = await client.get("/v1/estimate?model=openai/gpt-image-2&n=2&size=1024x1024&quality=low")

    assert reply.json["cost_usd"] == 0.012


@pytest.mark.parametrize("model", ["nowhere/model", "openai/unheard-of"])
async def test_is_unknown_where_nobody_has_said(client: Client, model: str) -> None:
    reply = await client.get(f"/v1/estimate?model={model}")

    assert (reply.status, reply.json["cost_usd"]) == (200, None)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "model"),
        ("model=bare", "model"),
        ("model=builtin/sketch&n=0", "n"),
        ("model=builtin/sketch&n=two", "n"),
        ("model=builtin/sketch&size=huge", "size"),
        ("model=builtin/sketch&operation=image_song", "operation"),
        ("model=builtin/sketch&input_images=17", "input_images"),
    ],
)
async def test_refuses_what_a_request_may_not_say(client: Client, query: str, param: str) -> None:
    reply = await client.get(f"/v1/estimate?{query}")

    assert (reply.status, reply.json["error"]["param"]) == (400, param)
