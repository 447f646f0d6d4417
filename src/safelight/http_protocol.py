"""HTTP/1.1 on one connection: uvicorn's protocol, with bounds on the head of a request and errors in our shape."""

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn._types import ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from safelight.api.errors import error_body

_MOST_HEAD_BYTES = 64 * 1024
"""Checked whenever bytes have come, so that a head may be larger by what one read of the socket brings."""
_HEAD_TIMEOUT_S = 30.0
_LARGE_BYTES = 64 * 1024
"""Written as it is: joining would only copy it."""
_LINGER_S = 2.0
"""How long what a refused client still sends is read and dropped: a reset could destroy the answer on its way."""


class HttpProtocol(HttpToolsProtocol):
    """Refuses heads that are endless or never end; lets a client that was refused in mid-body read the answer."""

    lingering = False
    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for a request."""
        super().connection_made(_Lingering(transport, self))
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, unless the connection is on its way out."""
        if self.lingering:
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._refuse(431, "the request's headers are too large")
            elif self._head_timer is None:
                self._watch_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Start the request, or let it wait for the one before it.

        As uvicorn does, but for what is never used here: WebSockets, a root path, a limit on connections.
        """
        self._in_head = False
        self._forget_head()
        url, version = httptools.parse_url(self.url), self.parser.get_http_version()
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        before = self._current
        self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_response_complete(self) -> None:
        """Wait for the next request; but not behind the rest of a body that nobody will read, however slow it is."""
        if not self.pipeline and self.coming_in:
            self.transport.close()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP. If it follows a whole request, that one is answered first, and alone."""
        current = self._current
        if current and not current.response_complete and not current.more_body:
            current.keep_alive = False
            self.flow.pause_reading()
            return
        self._refuse(400, msg)

    @property
    def coming_in(self) -> bool:
        """Whether a part of a request is still on its way."""
        return self._in_head or (self._current is not None and self._current.more_body)

    @property
    def _current(self) -> RequestResponseCycle | None:
        """The request whose head came last; uvicorn's annotation leaves the `None` out."""
        return self.cycle

    def _watch_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._head_is_late)

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._current and not self._current.response_complete:
            self._watch_head()  # the next request is late, but this one is still being answered
        elif self._in_head:
            self._refuse(408, "the request's headers came too slowly")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self._forget_head()
        if self.transport.is_closing():
            return
        body = msgspec.json.encode(error_body(message=message, status=status, type_="invalid_request_error"))
        headers = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + headers + body)
        self.transport.close()


class Exchange(RequestResponseCycle):
    """A request and its answer. One that is whole goes out at once; the others are left to uvicorn.

    Those come in parts, end the connection or have no length.
    """

    _start: HTTPResponseStartEvent | None = None
    """The head of an answer that waits for its body."""

    async def send(self, message: ASGISendEvent) -> None:
        """See ASGI."""
        start, self._start = self._start, None
        if message["type"] == "http.response.start" and self._may_wait(message):
            self._start = message
            return
        if start is not None:
            if (head := self._head(start, message)) is not None:
                self._finish(head, message)
                return
            await super().send(start)
        await super().send(message)

    def _may_wait(self, start: HTTPResponseStartEvent) -> bool:
        """Whether a body follows soon: events do not, and who listens for them is waiting for the head."""
        names = [name for name, _ in start["headers"]]
        return self.keep_alive and b"content-length" in names and b"connection" not in names

    def _head(self, start: HTTPResponseStartEvent, message: Any) -> bytes | None:
        """The head of an answer that can go out now; `None` for one that uvicorn has to look at."""
        headers = [*self.default_headers, *start["headers"]]
        if message.get("more_body") or (b"content-length", b"%d" % len(message["body"])) not in headers:
            return None
        if self.disconnected or self.flow.write_paused or self.scope["method"] == "HEAD":
            return None
        lines = list(map(b": ".join, headers))
        if not b" ".join(lines).decode("latin-1").isprintable():
            return None
        return b"%b%b\r\n\r\n" % (STATUS_LINE[start["status"]], b"\r\n".join(lines))

    def _finish(self, head: bytes, message: Any) -> None:
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.writelines((head, message["body"]))
        self.message_event.set()
        self.on_response()


class _Lingering(asyncio.Transport):
    """A transport that, closed while a request still comes in, goes on reading for a moment and drops what comes.

    What is written within one turn of the loop goes out in one piece: each would wake the client by itself, or wait until
    the client has confirmed the one before.
    """

    def __init__(self, transport: asyncio.Transport, protocol: HttpProtocol) -> None:
        super().__init__()
        self._transport = transport
        self._protocol = protocol
        self._closing = False
        self._waiting: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._waiting:
            self._waiting.append(bytes(data))
        elif len(data) >= _LARGE_BYTES:
            self._transport.write(data)
        else:
            self._waiting.append(bytes(data))
            self._protocol.loop.call_soon(self._flush)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Write what is whole at once."""
        self._waiting.extend(list_of_data)
        self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(b"".join(waiting))

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        if self._closing:
            return
        self._closing = True
        if self._transport.is_closing() or not self._protocol.coming_in or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._protocol.lingering = True
        self._transport.write_eof()
        self._protocol.flow.resume_reading()
        asyncio.get_running_loop().call_later(_LINGER_S, self._transport.abort)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()
