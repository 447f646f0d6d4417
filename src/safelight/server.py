"""Serves a gateway over HTTP until it is told to stop."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from types import FrameType

import structlog
import uvicorn

from safelight.config import Settings
from safelight.domain.errors import ConfigurationError
from safelight.http_protocol import HttpProtocol
from safelight.wiring import Gateway, open_gateway

log = structlog.get_logger(__name__)

_CONNECTION_GRACE_S = 5
_GC_THRESHOLDS = (50_000, 20, 50)
_BACKLOG = 2048


def listen(settings: Settings) -> socket.socket:
    """Take the address before anything is opened. Raises `ConfigurationError` with the remedy."""
    server = settings.server
    if not server.loopback and not settings.auth.required and not server.unprotected:
        raise ConfigurationError(
            f"server.host is {server.host}: whoever reaches it could spend your money, since nobody is asked for a key. "
            "Set auth.required: true, listen on 127.0.0.1 behind a proxy that asks, or set server.unprotected: true"
        )
    try:
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(
            f"cannot listen on {server.host}:{server.port}: {reason}. Choose another address with --host and --port, "
            "or server.host and server.port in the settings"
        ) from error


def address_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def serve(
    settings: Settings,
    listener: socket.socket,
    *,
    started: Callable[[str, Mapping[str, str]], None],
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then shut down in order; a second signal hurries.

    After a SIGHUP the providers' keys are those of `reread`.
    `started` gets the address once requests are answered and signals are heard, and the virtual keys that were made. Raises `ConfigurationError`,
    `StorageError`, `DataDirInUse`.
    """
    address = address_of(listener)
    async with _opened(settings, address) as gateway:
        if reread is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_keys, gateway, reread)
        await _Server(gateway, started=lambda: started(address, gateway.made_keys)).serve(sockets=[listener])


def reload_keys(gateway: Gateway, reread: Callable[[], Settings]) -> None:
    """Put the keys of the settings as they now are in the place of those in use; a fault leaves those."""
    try:
        gateway.reload_keys(reread())
    except ConfigurationError as error:
        log.error("provider_keys_not_reloaded", error=str(error))  # noqa: TRY400 - its message says it all


@contextlib.asynccontextmanager
async def embedded(
    settings: Settings, *, waiting: Callable[[float], None], made: Callable[[Mapping[str, str]], None]
) -> AsyncIterator[str]:
    """Run a gateway within this process, on a free loopback port, as long as the context lasts; gives its address.

    At the end, calls that are out are cut off and go on at the next start, unless a repeat would cost money: those
    get `shutdown_grace` seconds, which `waiting` is told. `made` gets the virtual keys that were made. Raises as `serve` does.
    """
    private = settings.server.model_copy(update={"host": "127.0.0.1", "port": 0, "public_url": None})
    settings = settings.model_copy(update={"server": private})
    listener = listen(settings)
    address = address_of(listener)
    with contextlib.closing(listener):
        async with _opened(settings, address) as gateway:
            server = _EmbeddedServer(gateway)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            made(gateway.made_keys)
            try:
                yield address
            finally:
                if gateway.has_paid_calls_out:
                    waiting(settings.jobs.shutdown_grace)
                    await gateway.drain()
                server.should_exit = True
                await serving


@contextlib.asynccontextmanager
async def _opened(settings: Settings, address: str) -> AsyncIterator[Gateway]:
    gateway = await open_gateway(settings, address=address)
    try:
        await gateway.start()
        _spare_the_collector()
        yield gateway
    finally:
        await gateway.close()


def _spare_the_collector() -> None:
    """Keep the garbage collector from walking through what lives as long as the process, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


class _Server(uvicorn.Server):
    """Drains the gateway before the listening socket is closed, so that pollers are answered to the end."""

    def __init__(self, gateway: Gateway, *, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                gateway.app,
                http=HttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_CONNECTION_GRACE_S,
            )
        )
        self._gateway = gateway
        self._tell_started = started
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then tell."""
        await super().startup(sockets)
        self._tell_started()

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


class _EmbeddedServer(_Server):
    """Leaves the signals to the command that it serves."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, started=lambda: None)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield
