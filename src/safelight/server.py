"""Serves a gateway over HTTP until it is told to stop."""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn

from safelight.adapters.data_dir import acquire
from safelight.config import Settings
from safelight.domain.errors import ConfigurationError
from safelight.wiring import Gateway

log = structlog.get_logger(__name__)

_CONNECTION_GRACE_S = 5
_BACKLOG = 2048


def listen(settings: Settings) -> socket.socket:
    """Take the address before anything is opened. Raises `ConfigurationError` with the remedy."""
    server = settings.server
    if not server.loopback and not server.unprotected:
        raise ConfigurationError(
            f"server.host is {server.host}: whoever reaches it could spend your money, since this release asks nobody "
            "for a key. Listen on 127.0.0.1 behind a proxy that does, or set server.unprotected: true"
        )
    try:
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {server.host}:{server.port}: {error.strerror}") from error


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def serve(settings: Settings, listener: socket.socket, *, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then shut down in order; a second signal hurries.

    `started` gets the address once requests are answered. Raises `ConfigurationError`, `StorageError`,
    `DataDirInUse`.
    """
    address = address_of(listener)
    data_dir = acquire(settings.storage.data_dir, address=address)
    gateway = Gateway(settings, data_dir)
    try:
        await gateway.start()
        server = _Server(gateway)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        started(address)
        await serving
    finally:
        await gateway.close()


class _Server(uvicorn.Server):
    """Drains the gateway before the listening socket is closed, so that pollers are answered to the end."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(
            uvicorn.Config(
                gateway.app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_CONNECTION_GRACE_S,
            )
        )
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal, stop at the second."""
        del frame
        self._loop.call_soon_threadsafe(self._shut_down, signal.Signals(sig).name)

    def _shut_down(self, name: str) -> None:
        if self._draining is not None:
            log.warning("shutdown_hurried", signal=name)
            self.should_exit = self.force_exit = True
            return
        log.info("shutting_down", signal=name)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._gateway.drain()
        self.should_exit = True
