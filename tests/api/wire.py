"""HTTP by hand, for what no client library would send."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

WAIT_S = 20.0
GENERATIONS = "/v1/async/images/generations"
EDITS = "/v1/async/images/edits"


@dataclass(frozen=True, slots=True)
class RawReply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def head(path: str, *lines: str, method: str = "POST", host: str | None = "gateway.test") -> bytes:
    """The head of a request; `lines` are headers as they are to be sent."""
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *hosts, *lines, "", ""]).encode("latin-1")


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_reply(reader: asyncio.StreamReader) -> RawReply | None:
    """One answer; `None` when the connection ends without one."""
    async with asyncio.timeout(WAIT_S):
        try:
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
            status = int(first.split()[1])
            if status == 100:
                return await read_reply(reader)
            return RawReply(status, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


async def exchange(port: int, *pieces: bytes, end: bool = False) -> RawReply | None:
    """Send the pieces, whether they are taken or not, and read the answer; `end` closes our half."""
    async with connected(port) as (reader, writer):
        sending = asyncio.create_task(_send(writer, pieces, end=end))
        try:
            return await read_reply(reader)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, pieces: Iterable[bytes], *, end: bool) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    if end:
        writer.write_eof()


def multipart(*parts: tuple[str, bytes], boundary: str = "cut") -> bytes:
    """A form; each part is its Content-Disposition (from `name=` on) and its content."""
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"
        for disposition, content in parts
    )
    return body + f"--{boundary}--\r\n".encode()
