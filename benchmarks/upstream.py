"""A fake OpenAI-shaped provider that answers at once: the load tests' upstream, never their bottleneck.

`POST /v1/images/generations` answers one real PNG as base64. Control routes: `GET /count`, `POST /hold`,
`POST /release`, `POST /image?bytes=N` (the size of the PNG from now on).
"""

import argparse
import asyncio
import base64
import io
import math
import os
import time
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs

import httptools
import msgspec
import uvloop
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable


def small_png() -> bytes:
    return _png(Image.linear_gradient("L").resize((64, 64)))


def noise_png(size_bytes: int) -> bytes:
    """Draw a square RGB picture of noise; as nothing in it compresses, the file is within 1 % of `size_bytes`."""
    side = math.isqrt(size_bytes // 3)
    return _png(Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)), compress_level=0)


def _png(image: Image.Image, compress_level: int = 6) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def http_answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def image_answer(png: bytes) -> bytes:
    body = {"created": int(time.time()), "data": [{"b64_json": base64.b64encode(png).decode()}]}
    return http_answer(msgspec.json.encode(body))


class Upstream:
    """What all connections share: the prepared answer, the count of calls, and who waits while it is held."""

    def __init__(self, png: bytes) -> None:
        self.png = png
        self.answer = image_answer(png)
        self.calls = 0
        self.arrived_ns = 0
        self.held = False
        self.waiting: list[asyncio.Transport] = []
        self.routes: dict[bytes, Callable[[bytes], bytes]] = {
            b"/v1/models": self._models,
            b"/count": self._count,
            b"/hold": self._hold,
            b"/release": self._release,
            b"/image": self._image,
        }

    def generate(self, transport: asyncio.Transport) -> None:
        self.arrived_ns = time.monotonic_ns()
        self.calls += 1
        if self.held:
            self.waiting.append(transport)
        else:
            transport.write(self.answer)

    def respond(self, url: bytes) -> bytes:
        path, _, query = url.partition(b"?")
        route = self.routes.get(path)
        if route is None:
            return http_answer(b'{"error":{"message":"no such route"}}', b"404 Not Found")
        return http_answer(route(query))

    def _models(self, _query: bytes) -> bytes:
        return b'{"object":"list","data":[{"id":"any","object":"model"}]}'

    def _count(self, _query: bytes) -> bytes:
        state = {
            "calls": self.calls,
            "waiting": len(self.waiting),
            "arrived_ns": self.arrived_ns,
            "image_bytes": len(self.png),
        }
        return msgspec.json.encode(state)

    def _hold(self, query: bytes) -> bytes:
        self.held = True
        return self._count(query)

    def _release(self, query: bytes) -> bytes:
        self.held = False
        for transport in self.waiting:
            transport.write(self.answer)
        self.waiting.clear()
        return self._count(query)

    def _image(self, query: bytes) -> bytes:
        self.png = noise_png(int(parse_qs(query.decode())["bytes"][0]))
        self.answer = image_answer(self.png)
        return self._count(query)


class Connection(asyncio.Protocol):
    """One keep-alive connection; httptools calls the `on_…` methods."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by shape, not by class

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_message_complete(self) -> None:
        if self._url == b"/v1/images/generations":
            self._upstream.generate(self._transport)
        else:
            self._transport.write(self._upstream.respond(self._url))


async def serve(upstream: Upstream, host: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), host, port, backlog=1024)
    bound = server.sockets[0].getsockname()[1]
    print(f"upstream: http://{host}:{bound}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--image-bytes", type=int, help="answer a PNG of about this many bytes (default: 64x64)")
    options = parser.parse_args()
    png = noise_png(options.image_bytes) if options.image_bytes else small_png()
    uvloop.run(serve(Upstream(png), options.host, options.port))


if __name__ == "__main__":
    main()
