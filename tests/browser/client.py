"""The gateway's API, for what a test sets up or looks up beside the browser."""

import time
from collections.abc import Mapping
from typing import Any

import requests

from tests.api.serving import ServedGateway

WAIT_S = 30


def ask(gateway: ServedGateway, method: str, path: str, **options: Any) -> Any:
    response = requests.request(method, f"{gateway.url}{path}", timeout=WAIT_S, **options)
    assert response.ok, response.text
    return response.json() if response.content else None


def made(
    gateway: ServedGateway,
    prompt: str = "a red kite over dunes",
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Mapping[str, Any]:
    """A job that has ended."""
    job = submitted(gateway, prompt, headers=headers, **members)
    until = time.monotonic() + WAIT_S
    while True:
        path = f"/v1/async/jobs/{job['id']}?wait=20&expand=request,pictures,ledger"
        found: Mapping[str, Any] = ask(gateway, "GET", path, headers=headers)
        if found["status"] in {"completed", "failed"}:
            return found
        assert time.monotonic() < until


def submitted(
    gateway: ServedGateway,
    prompt: str = "a red kite over dunes",
    *,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Mapping[str, Any]:
    """A job on its way."""
    values = {"model": "builtin/sketch", "size": "384x256", "quality": "low", "prompt": prompt, **members}
    found: Mapping[str, Any] = ask(gateway, "POST", "/v1/async/images/generations", json=values, headers=headers)
    return found


def newest(gateway: ServedGateway) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ask(gateway, "GET", "/v1/async/jobs?limit=1&expand=request,pictures")["data"][0]
    return found
