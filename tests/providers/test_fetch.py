import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from safelight.adapters import address_guard
from safelight.adapters.fetch import HttpPictureFetcher
from safelight.application.ports import RemotePicture
from safelight.domain.errors import ProviderError, ProviderProtocolError, ProviderUnavailable, StorageError
from tests.providers.support import FolderWorkspace, image_bytes

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Names(AbstractResolver):
    """Knows the names it is told; counts how often it is asked."""

    def __init__(self, **addresses: str) -> None:
        self._addresses = addresses
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        assert family in {socket.AF_UNSPEC, socket.AF_INET}
        self.asked.append(host)
        address = self._addresses.get(host.partition(".")[0])
        if address is None:
            raise OSError(-2, "Name or service not known")
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


class Site:
    """A web server on loopback with routes that tests set."""

    def __init__(self) -> None:
        self.routes: dict[str, Handler] = {}
        self.requests: list[web.Request] = []

    async def start(self) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        return int(self._runner.addresses[0][1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def picture(self, path: str = "/a.png", **more: Any) -> RemotePicture:
        return RemotePicture(url=f"http://{self.host}{path}", **{"trusted_host": self.host, **more})

    def answer(self, path: str, **response: Any) -> None:
        async def handle(_request: web.Request) -> web.Response:
            return web.Response(**response)

        self.routes[path] = handle

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.routes[request.path](request)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    started = Site()
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
def names() -> Names:
    return Names(private="127.0.0.1", metadata="169.254.169.254")


@pytest.fixture
async def fetcher(names: Names) -> AsyncIterator[HttpPictureFetcher]:
    opened = HttpPictureFetcher(timeout_s=10, max_bytes=1_000_000, resolver=names)
    yield opened
    await opened.close()


async def refused(fetcher: HttpPictureFetcher, picture: RemotePicture, workspace: FolderWorkspace) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await fetcher.fetch(picture, workspace.open_sink())
    assert workspace.sinks[-1].ending is not None
    return caught.value


class TestOwnServer:
    async def test_streams_the_picture(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace
    ) -> None:
        content = image_bytes() + bytes(500_000)
        site.answer("/a.png", body=content)
        sink = workspace.open_sink()
        await fetcher.fetch(site.picture(), sink)
        assert workspace.bytes_of(sink.image) == content
        assert sink.largest_chunk_bytes <= 64 * 1024
        headers = site.requests[0].headers
        assert "Authorization" not in headers
        assert "Cookie" not in headers

    async def test_follows_three_redirects(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace
    ) -> None:
        for number, status in enumerate((301, 302, 307)):
            headers = {"Location": f"/{number + 1}", "Set-Cookie": "a=b"}
            site.answer(f"/{number}", status=status, headers=headers)
        site.answer("/3", body=image_bytes())
        sink = workspace.open_sink()
        await fetcher.fetch(site.picture("/0"), sink)
        assert sink.ending == "closed"
        assert "Cookie" not in site.requests[-1].headers

    async def test_follows_no_fourth(self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace) -> None:
        site.answer("/a.png", status=308, headers={"Location": "/a.png"})
        error = await refused(fetcher, site.picture(), workspace)
        assert type(error) is ProviderProtocolError
        assert len(site.requests) == 4

    async def test_too_large(self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace) -> None:
        site.answer("/a.png", body=image_bytes() + bytes(1_000_000))
        error = await refused(fetcher, site.picture(), workspace)
        assert type(error) is ProviderProtocolError
        assert workspace.sinks[-1].ending == "aborted"

    @pytest.mark.parametrize(
        "response", [{"text": "<html>"}, {"body": b""}, {"status": 204}, {"status": 206, "body": b"x"}]
    )
    async def test_no_picture(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace, response: dict[str, Any]
    ) -> None:
        site.answer("/a.png", **response)
        assert type(await refused(fetcher, site.picture(), workspace)) is ProviderProtocolError

    @pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 410])
    async def test_final_statuses(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace, status: int
    ) -> None:
        site.answer("/a.png", status=status)
        assert type(await refused(fetcher, site.picture(), workspace)) is ProviderProtocolError

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    async def test_statuses_that_pass(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace, status: int
    ) -> None:
        site.answer("/a.png", status=status)
        assert type(await refused(fetcher, site.picture(), workspace)) is ProviderUnavailable

    async def test_half_a_picture(self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace) -> None:
        async def half(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = 1000
            await response.prepare(request)
            await response.write(image_bytes())
            assert request.transport is not None
            request.transport.close()
            return response

        site.routes["/a.png"] = half
        assert type(await refused(fetcher, site.picture(), workspace)) is ProviderUnavailable
        assert workspace.sinks[-1].ending == "aborted"

    async def test_silence(self, site: Site, workspace: FolderWorkspace) -> None:
        fetcher = HttpPictureFetcher(timeout_s=0.2)
        released = asyncio.Event()

        async def wait(_request: web.Request) -> web.StreamResponse:
            await released.wait()
            return web.Response()

        site.routes["/a.png"] = wait
        error = await refused(fetcher, site.picture(), workspace)
        released.set()
        await fetcher.close()
        assert (type(error), error.status) == (ProviderUnavailable, 504)

    async def test_nobody_there(self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace) -> None:
        picture = site.picture()
        await site.stop()
        assert type(await refused(fetcher, picture, workspace)) is ProviderUnavailable

    async def test_our_own_store_fails(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace
    ) -> None:
        site.answer("/a.png", body=image_bytes())
        workspace.write_fault = StorageError("no room")
        with pytest.raises(StorageError):
            await fetcher.fetch(site.picture(), workspace.open_sink())
        assert workspace.open_sinks == 0

    async def test_cancelled(self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace) -> None:
        arrived, released = asyncio.Event(), asyncio.Event()

        async def wait(_request: web.Request) -> web.StreamResponse:
            arrived.set()
            await released.wait()
            return web.Response()

        site.routes["/a.png"] = wait
        task = asyncio.create_task(fetcher.fetch(site.picture(), workspace.open_sink()))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()
        assert workspace.open_sinks == 0


class TestGuard:
    @pytest.mark.parametrize(
        "url",
        [
            "https://private.example/a.png",
            "https://metadata.example/a.png",
            "https://127.0.0.1/a.png",
            "https://2130706433/a.png",
            "https://[::1]/a.png",
            "http://cdn.example/a.png",
            "file:///etc/passwd",
            "https://user:pass@cdn.example/",
            "https://[::1",
            "",
        ],
    )
    async def test_refuses_for_good(self, fetcher: HttpPictureFetcher, workspace: FolderWorkspace, url: str) -> None:
        error = await refused(fetcher, RemotePicture(url=url), workspace)
        assert type(error) is ProviderProtocolError
        assert workspace.sinks[-1].ending == "aborted"

    async def test_the_port_belongs_to_the_trusted_host(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace
    ) -> None:
        for other in (f"127.0.0.1:{site.port + 1}", "127.0.0.1", f"localhost:{site.port}"):
            error = await refused(fetcher, site.picture(trusted_host=other), workspace)
            assert type(error) is ProviderProtocolError
        assert site.requests == []

    @pytest.mark.parametrize(
        "location",
        ["http://127.0.0.1:1/b", "https://127.0.0.1/b", "https://private.example/b", "ftp://x/b", "https://[::1", ""],
    )
    async def test_each_hop_is_checked(
        self, fetcher: HttpPictureFetcher, site: Site, workspace: FolderWorkspace, location: str
    ) -> None:
        site.answer("/a.png", status=302, headers={"Location": location})
        error = await refused(fetcher, site.picture(), workspace)
        assert type(error) is ProviderProtocolError

    async def test_a_name_that_is_not_there_may_come_back(
        self, fetcher: HttpPictureFetcher, workspace: FolderWorkspace
    ) -> None:
        error = await refused(fetcher, RemotePicture(url="https://gone.example/a.png"), workspace)
        assert type(error) is ProviderUnavailable

    async def test_the_checked_address_is_the_one_connected_to(
        self,
        fetcher: HttpPictureFetcher,
        names: Names,
        workspace: FolderWorkspace,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The name is looked up once: there is no second answer to connect to."""
        connected: list[str] = []

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.append(writer.get_extra_info("sockname")[0])
            await reader.read(1)
            writer.close()

        seen: list[IPv4Address | IPv6Address] = []

        def public(address: IPv4Address | IPv6Address) -> bool:
            seen.append(address)
            return True

        monkeypatch.setattr(address_guard, "is_public", public)
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        error = await refused(fetcher, RemotePicture(url=f"https://private.example:{port}/"), workspace)
        server.close()
        await server.wait_closed()
        assert type(error) is ProviderUnavailable  # no TLS there
        assert names.asked == ["private.example"]
        assert seen == [IPv4Address("127.0.0.1")]
        assert connected == ["127.0.0.1"]
