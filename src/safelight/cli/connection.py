"""Talks to a gateway as any client would: the one way, also to the gateway inside this process."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from safelight.cli.faults import UsageError
from safelight.client import AsyncJob, AsyncSafelight, Retries
from safelight.config import usual_api_key
from safelight.domain.image import Operation

PATIENCE_S = 30.0
"""How long a gateway that has answered before may be away, to be restarted or replaced."""
_AT_ONCE = Retries(most=0, patience_s=0)
"""For a gateway that we can start ourselves, should it go away."""
_FROM_AFAR = Retries(most=2, patience_s=PATIENCE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be drawn. `options` are those of the client's methods."""

    operation: Operation
    model: str
    prompt: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[Path, ...] = ()

    async def submit(self, client: AsyncSafelight, **more: Any) -> AsyncJob:
        """Hand it in. Raises `SafelightError`."""
        options: Any = {**self.options, **more}
        match self.operation:
            case Operation.GENERATION:
                return await client.images.generate(self.prompt, model=self.model, **options)
            case Operation.EDIT:
                return await client.images.edit(self.images, self.prompt, model=self.model, **options)
            case Operation.VARIATION:
                return await client.images.vary(self.images[0], model=self.model, **options)


@contextlib.asynccontextmanager
async def connected(url: str, *, ours: bool = False) -> AsyncIterator[AsyncSafelight]:
    """Talk to the gateway at an address. `ours`: whoever goes away can be started again. Raises `UsageError`."""
    # Proxies of the environment are for the world outside; a gateway is named by its own address.
    async with httpx2.AsyncClient(trust_env=False, headers={"User-Agent": "safelight-cli"}) as http:
        try:
            retries = _AT_ONCE if ours else _FROM_AFAR
            client = AsyncSafelight(url, api_key=usual_api_key(), retries=retries, http=http)
        except ValueError as error:
            raise UsageError(str(error)) from error
        yield client
