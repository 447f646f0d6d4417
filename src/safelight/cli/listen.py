"""A webhook receiver for the terminal."""

import asyncio
from typing import Self

import typer
from aiohttp import web

from safelight.cli.faults import UsageError
from safelight.client.errors import WebhookUnverified
from safelight.client.webhooks import WebhookEvent, verify_webhook

_MOST_BYTES = 64 * 1024 * 1024


class Listening:
    """Takes calls on a loopback port while its context lasts; prints each, verified or refused."""

    def __init__(self, *, port: int, secret: str | None, as_json: bool) -> None:
        """`secret` may also be set later, before the first call."""
        self._port = port
        self.secret = secret
        self._as_json = as_json
        self.url = ""

    async def __aenter__(self) -> Self:
        """Begin to listen; raises `UsageError` when the port is taken."""
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(f"port {self._port} cannot be listened on: choose another with --port") from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the port go."""
        await self._runner.cleanup()

    async def for_ever(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = verify_webhook(body, request.headers, self.secret or "")
        except WebhookUnverified as error:
            typer.echo(f"REFUSED  {error}", err=True)
            return web.Response(status=400, text="the signature is not valid")
        typer.echo(body.decode() if self._as_json else _described(event))
        return web.Response(status=204)


def _described(event: WebhookEvent) -> str:
    data = event.data
    code = f" ({data['status_code']})" if "status_code" in data else ""
    return (
        f"{event.timestamp.isoformat().replace('+00:00', 'Z')}  {event.type}  {data['job_id']}  {data['status']}{code}"
    )
