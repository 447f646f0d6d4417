"""Call an ASGI application inside the process: one request, one whole answer, no socket and no client library."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    """By lower-case name; several of one name are joined with a comma."""
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def request(
    app: ASGIApp,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | AsyncIterable[bytes] = b"",
    gone: asyncio.Event | None = None,
) -> Answer:
    """Send `body` (whole, or in the chunks that it yields) and collect the answer.

    `content-length` is set for a whole body. The client stays until it has the answer, or leaves when the caller
    sets `gone`; the status of an answer that never started is 0.
    """
    gone = gone or asyncio.Event()
    path, _, query = target.partition("?")
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names:
        pairs.insert(0, ("host", "safelight.test"))
    if isinstance(body, bytes) and body and "content-length" not in names:
        pairs.append(("content-length", str(len(body))))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(path).decode(),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 50000),
        "server": ("safelight.test", 80),
        "extensions": {},
    }
    incoming = _messages(body, gone)
    status = 0
    got: dict[str, str] = {}
    chunks: list[bytes] = []

    async def receive() -> Message:
        return await anext(incoming)

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            assert not status, "the answer started twice"
            status = message["status"]
            for raw_name, raw_value in message.get("headers", ()):
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                got[name] = f"{got[name]}, {value}" if name in got else value
        elif message["type"] == "http.response.body":
            assert status, "the body came before its status"
            chunks.append(bytes(message.get("body", b"")))
            if not message.get("more_body", False):
                gone.set()

    await app(scope, receive, send)
    return Answer(status, got, b"".join(chunks))


async def _messages(body: bytes | AsyncIterable[bytes], gone: asyncio.Event) -> AsyncIterator[Message]:
    if isinstance(body, bytes):
        yield {"type": "http.request", "body": body, "more_body": False}
    else:
        async for chunk in body:
            yield {"type": "http.request", "body": chunk, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}
    await gone.wait()
    while True:
        yield {"type": "http.disconnect"}
