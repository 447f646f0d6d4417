"""Speaks to the administration of a gateway, below `/api`."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from safelight.cli.faults import UsageError
from safelight.client._calls import Call, gateway_url
from safelight.client._steps import Gateway
from safelight.client.aio import AsyncTransport

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Administration:
    """One gateway, for whoever has its admin key."""

    _transport: AsyncTransport
    _key: str | None

    async def ask(self, method: str, path: str, json: Mapping[str, Any] | None = None) -> Body:
        """Send one request; nothing but a GET is repeated. Raises the client's errors."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        call = Call(method=method, path=f"/api{path}", headers=headers, json=json, repeatable=method == "GET")
        return await self._transport.ask(call, Body)


@contextlib.asynccontextmanager
async def administering(url: str, *, key: str | None) -> AsyncIterator[Administration]:
    """Talk to the gateway at an address. Raises `UsageError` for what is no address."""
    try:
        gateway = Gateway(url=gateway_url(url))
    except ValueError as error:
        raise UsageError(str(error)) from error
    async with httpx2.AsyncClient(trust_env=False, headers={"User-Agent": "safelight-cli"}) as http:
        yield Administration(AsyncTransport(gateway, http), key)
