"""Speaks to the administration of a gateway, below `/api`."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import uvloop

from safelight.adapters.data_dir import DataDirInUse, check_free
from safelight.cli import options
from safelight.cli.faults import ExitCode, UsageError, explained, fail
from safelight.client._calls import Call, gateway_url
from safelight.client._steps import Gateway
from safelight.client.aio import AsyncTransport
from safelight.client.errors import AuthenticationFailed, InvalidRequest

Body = dict[str, Any]
T = TypeVar("T")


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


def asked(
    url: str | None, config: Path | None, data_dir: Path | None, ask: Callable[[Administration], Awaitable[T]]
) -> T:
    """Ask a running gateway: the one at the address, or the one that holds the data folder."""
    with explained():
        address = options.gateway(url, data_dir)
        settings = options.settings(config, data_dir=data_dir)
        key = settings.auth.admin_key

        async def run() -> T:
            gateway = address or _running(settings.storage.data_dir)
            async with administering(gateway, key=key.get_secret_value() if key else None) as client:
                return await ask(client)

        try:
            return uvloop.run(run())
        except (InvalidRequest, AuthenticationFailed) as error:
            raise fail(f"the gateway refused: {error}", ExitCode.USAGE) from error


def _running(folder: Path) -> str:
    """The address of the gateway that holds a data folder."""
    try:
        check_free(folder)
    except DataDirInUse as error:
        if error.holder is None or error.holder.address is None:
            raise
        return error.holder.address
    raise UsageError(f"no gateway runs on {folder}: start one with `safelight serve`, or give its address with --url")
