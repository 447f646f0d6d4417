"""Fetches result links into the blob store, within limits of address, size and time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from safelight.adapters.address_guard import AddressRefused, GuardedResolver, check_url
from safelight.application.ports import ImageSink, RemotePicture
from safelight.domain.errors import InvalidRequest, ProviderProtocolError, ProviderUnavailable

MAX_REDIRECTS = 3
MAX_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 64 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN = frozenset({408, 425, 429})
_HEADERS = {"User-Agent": "safelight", "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}


class HttpPictureFetcher:
    """The `PictureFetcher` for links. No key, cookie or header of a caller goes with a request."""

    def __init__(
        self,
        *,
        timeout_s: float = 120.0,
        connect_timeout_s: float = 10.0,
        max_bytes: int = MAX_BYTES,
        resolver: AbstractResolver | None = None,
        private_hosts: frozenset[str] = frozenset(),
    ) -> None:
        """Open the sessions; needs a running loop. `resolver` looks names up in place of the system's.

        `private_hosts` are names and addresses of the operator's own network that links may lead to, over http as well.
        """
        self._max_bytes = max_bytes
        self._private_hosts = private_hosts
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=connect_timeout_s, sock_connect=connect_timeout_s)
        self._guarded = _session(timeout, GuardedResolver(resolver))
        self._trusting = _session(timeout, resolver)

    async def fetch(self, picture: RemotePicture, sink: ImageSink) -> None:
        """Stream the link's bytes into `sink` and close it; on failure the sink is aborted.

        A GET costs nothing: what may pass by itself raises `ProviderUnavailable`, all else `ProviderProtocolError`.
        """
        try:
            await self._stream(picture, sink)
        except BaseException:
            await sink.abort()
            raise
        try:
            await sink.close()
        except InvalidRequest as exc:
            raise ProviderProtocolError(f"the provider linked to something that {exc.message}") from exc

    async def close(self) -> None:
        """Close all connections."""
        await self._guarded.close()
        await self._trusting.close()

    async def _stream(self, picture: RemotePicture, sink: ImageSink) -> None:
        left_bytes = self._max_bytes
        try:
            async with self._open(_parse(picture.url), picture.trusted_host) as response:
                async for chunk in response.content.iter_chunked(PIECE_BYTES):
                    left_bytes -= len(chunk)
                    if left_bytes < 0:
                        raise ProviderProtocolError(f"the provider's picture is larger than {self._max_bytes} bytes")
                    await sink.write(chunk)
        except InvalidRequest as exc:
            raise ProviderProtocolError(f"the provider linked to something that {exc.message}") from exc
        except AddressRefused as exc:
            raise ProviderProtocolError(f"the provider's picture was not fetched: {exc}") from exc
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
            _raise_lost(exc)

    @asynccontextmanager
    async def _open(self, url: URL, trusted_host: str | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Follow redirects by hand: each hop is checked like the first."""
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session_for(url, trusted_host).get(
                url, headers=_HEADERS, allow_redirects=False
            ) as response:
                if response.status not in _REDIRECTS:
                    _check_status(response.status)
                    yield response
                    return
                url = url.join(_parse(response.headers.get("Location", "")))
        raise ProviderProtocolError(f"the provider's picture link was redirected more than {MAX_REDIRECTS} times")

    def _session_for(self, url: URL, trusted_host: str | None) -> aiohttp.ClientSession:
        """Choose how to go there; raises `AddressRefused`."""
        if trusted_host is not None and url.scheme in {"http", "https"} and f"{url.host}:{url.port}" == trusted_host:
            return self._trusting
        if url.host in self._private_hosts and url.scheme in {"http", "https"} and url.user is None:
            return self._trusting
        check_url(url)
        return self._guarded


def _session(timeout: aiohttp.ClientTimeout, resolver: AbstractResolver | None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, resolver=resolver)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout, read_bufsize=32 * 1024
    )


def _parse(link: str) -> URL:
    try:
        return URL(link)
    except ValueError as exc:
        raise AddressRefused("the link cannot be read") from exc


def _check_status(status: int) -> None:
    if status == 200:
        return
    message = f"the provider's picture link answered HTTP {status}"
    if status >= 500 or status in _TRY_AGAIN:
        raise ProviderUnavailable(message, status=502)
    raise ProviderProtocolError(message, status=502)


def _raise_lost(exc: Exception) -> NoReturn:
    if isinstance(exc.__cause__, AddressRefused):  # from the resolver: the connector wraps it
        raise ProviderProtocolError(f"the provider's picture was not fetched: {exc.__cause__}") from exc
    if isinstance(exc, aiohttp.InvalidURL):
        raise ProviderProtocolError("the provider's picture link cannot be read") from exc
    if isinstance(exc, TimeoutError):
        raise ProviderUnavailable("the provider's picture could not be fetched in time", status=504) from exc
    raise ProviderUnavailable(f"the provider's picture could not be fetched: {type(exc).__name__}") from exc
