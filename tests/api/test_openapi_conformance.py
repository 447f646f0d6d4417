"""The gateway against its own description: every route, every status, every header and body, good input and bad."""

import base64
import copy
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings, strategies
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from safelight.api.docs import openapi_document
from tests.api.client import mask, png
from tests.api.serving import ServedGateway

PICTURES = (png(), png(3, 5), mask(7, 2))
ANY_MODEL = "gpu-box/any"
"""Of a server of which nothing is known: whatever the description allows is passed on."""

schemathesis.openapi.format(
    "image-reference", strategies.sampled_from([base64.b64encode(each).decode() for each in PICTURES])
)
for kind in ("image/png", "image/jpeg", "image/webp", "image/gif"):
    schemathesis.openapi.media_type(kind, strategies.sampled_from(PICTURES))
schemathesis.openapi.media_type(
    "application/jsonl",
    strategies.lists(
        strategies.just(b'{"model": "builtin/sketch", "prompt": "a kite", "size": "16x16"}'), min_size=1, max_size=3
    ).map(b"\n".join),
)


def test_every_route_is_described_and_every_description_has_a_route(served: ServedGateway) -> None:
    described = {
        (path, method.upper())
        for path, item in openapi_document()["paths"].items()
        for method in item
        if method in {"get", "head", "post", "put", "patch", "delete", "options"}
    }
    routes = served.gateway.app.routes

    assert {(route.path, method) for route in routes for method in route.methods or ()} == described


WEBHOOK = {"$ref": "#/components/parameters/Webhook"}


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        yield from ((f"{method} {path}", item[method]) for method in ("get", "post", "put", "delete") if method in item)


def as_it_can_be_generated() -> dict[str, Any]:
    """The description, with one good model in the place of any text, and one file in the place of a list of files.

    Schemathesis sends the items of a list as plain fields, without a file name.
    """
    document = copy.deepcopy(openapi_document())
    for name in ("ImageGenerationRequest", "ImageEditForm", "ImageVariationForm"):
        schema = document["components"]["schemas"][name]
        schema["properties"]["model"] = {"type": "string", "enum": [ANY_MODEL]}
        if name != "ImageGenerationRequest":
            schema["properties"]["metadata"] = {"type": "string", "enum": ['{"shop": "berlin"}']}
        if schema["properties"].pop("image[]", None):
            del schema["anyOf"]
            schema["required"] = ["model", "image"]
            schema["properties"]["image"] = {"type": "string", "format": "binary"}
    for _, operation in operations_of(document):  # a webhook of any name is refused
        operation["parameters"] = [it for it in operation.get("parameters", []) if it != WEBHOOK]
    receiver = document["components"]["schemas"]["WebhookRequest"]["properties"]
    receiver["url"] = {"type": "string", "enum": ["https://hooks.example/images"]}
    del receiver["headers"]
    return document


CONFIG = SchemathesisConfig.from_dict({"generation": {"mode": "all", "deterministic": True, "allow-x00": False}})
described = schemathesis.openapi.from_dict(as_it_can_be_generated(), config=CONFIG).exclude(path="/v1/async/events")
"""All but the stream that never ends."""


@described.hook
def map_case(_: schemathesis.HookContext, case: "schemathesis.Case[Any]") -> "schemathesis.Case[Any]":
    """Schemathesis makes an empty text of `model` in forms that it takes for good."""
    good = case.meta is not None and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE
    if good and isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = ANY_MODEL
    if good and case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())  # one that came with another request before is refused
    if good and case.query:
        case.query.pop("cursor", None)  # one is good that the gateway gave
    return case


@pytest.fixture(scope="session")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@described.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
def test_gateway_does_as_described(
    case: "schemathesis.Case[Any]", served: ServedGateway, session: requests.Session
) -> None:
    # What is refused on the awaited routes may have been refused by the provider.
    awaited = case.path.startswith("/v1/images/")
    excluded: list[Any] = [positive_data_acceptance] if awaited else []
    case.call_and_validate(base_url=served.url, session=session, excluded_checks=excluded)
