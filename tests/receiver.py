"""A webhook receiver over HTTP, written from the Standard Webhooks text alone: no library of ours or theirs."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

END_S = 20.0
WEBHOOK_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(frozen=True, slots=True)
class Received:
    """One call, as it came in."""

    headers: Mapping[str, str]
    body: bytes
    answered: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]


def signatures(secret: str, headers: Mapping[str, str], body: bytes) -> int:
    """How many of the signatures are made with this secret."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"].split(" ").count(f"v1,{expected}")


Answer = int | web.Response


class Receiver:
    """Answers as it is told, 204 by default; remembers every call."""

    def __init__(self) -> None:
        self.calls: list[Received] = []
        self.answer: Callable[[], Answer] = lambda: 204
        self.at_work = 0
        self.most_at_work = 0
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/hook"
        self.port = int(port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        await self._runner.cleanup()

    def hold(self) -> None:
        """Answer nobody before `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def until(self, done: Callable[["Receiver"], bool]) -> None:
        """Wait until something holds of this receiver."""
        async with asyncio.timeout(END_S), self._changed:
            await self._changed.wait_for(lambda: done(self))

    async def received(self, count: int) -> list[Received]:
        """Wait for so many answered calls."""
        await self.until(lambda it: len(it.calls) >= count)
        return self.calls

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        await self._tell(1)
        try:
            await self._open.wait()
            answer = self.answer()
            response = answer if isinstance(answer, web.Response) else web.Response(status=answer)
            self.calls.append(Received(request.headers.copy(), body, response.status))
            return response
        finally:
            await self._tell(-1)

    async def _tell(self, change: int) -> None:
        self.at_work += change
        self.most_at_work = max(self.most_at_work, self.at_work)
        async with self._changed:
            self._changed.notify_all()
