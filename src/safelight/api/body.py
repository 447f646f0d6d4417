"""Reads a request body chunk by chunk, under a size limit and a time limit, inflated where it came compressed."""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request

_STEP_BYTES = 64 * 1024  # inflated at a time, so that a bomb goes off in small pieces
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZLIB_WINDOW = zlib.MAX_WBITS
_RAW_DEFLATE_WINDOW = -zlib.MAX_WBITS
_LONGEST_LENGTH_DIGITS = 18


class BodyError(Exception):
    """A request body cannot be taken. `message` is safe to show; `status` is the HTTP status that fits."""

    status = 400

    def __init__(self, message: str) -> None:
        """Keep the message; it must quote nothing of the body."""
        super().__init__(message)
        self.message = message


class BodyTooLarge(BodyError):
    """More bytes than the limit, as sent or once inflated."""

    status = 413


class InvalidCompressedBody(BodyError):
    """The compression is broken."""


class UnsupportedEncoding(BodyError):
    """A content encoding that we do not inflate, or several."""

    status = 415


class UnsupportedContentType(BodyError):
    """Not the kind of body that this route reads."""

    status = 415


class BodyTimeout(BodyError):
    """The client sent nothing for too long."""

    status = 408


class ClientDisconnected(BodyError):
    """The client left before the body's end; nobody reads an answer."""

    status = 499


_POLITE_BYTES = 1024 * 1024


async def drop_body(request: Request, *, idle_timeout_s: float) -> None:
    """Read a short body that nobody wants: a client that is cut off while it sends may never read its answer."""
    with contextlib.suppress(BodyError):
        async for _ in body_chunks(request, limit_bytes=_POLITE_BYTES, idle_timeout_s=idle_timeout_s):
            pass


async def body_chunks(request: Request, *, limit_bytes: int, idle_timeout_s: float) -> AsyncIterator[bytes]:
    """Yield the body, inflated, in chunks that are never empty. Nothing is read when the headers alone refuse it.

    `limit_bytes` holds for the bytes sent and for the inflated bytes; `idle_timeout_s` is the longest wait between
    two chunks in seconds. Raises `BodyError`.
    """
    _check_announced_length(request.headers.get("content-length"), limit_bytes)
    inflater = _inflater(request.headers.getlist("content-encoding"))
    received = _received(request, limit_bytes=limit_bytes, idle_timeout_s=idle_timeout_s)
    if inflater is None:
        async for chunk in received:
            yield chunk
        return
    inflated_bytes = 0
    async for chunk in received:
        for piece in inflater.feed(chunk):
            inflated_bytes += len(piece)
            if inflated_bytes > limit_bytes:
                raise BodyTooLarge(f"decompressed request body exceeds max allowed size of {limit_bytes} bytes")
            yield piece
            await asyncio.sleep(0)  # a small chunk may inflate to a thousand pieces: let others run between them
    inflater.finish()


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"request body exceeds max allowed size of {limit_bytes} bytes")


def _check_announced_length(header: str | None, limit_bytes: int) -> None:
    """Refuse early; a header that is no number is the server's business, and the bytes are counted anyway."""
    if (
        header is not None
        and header.isascii()
        and header.isdigit()
        and (len(header) > _LONGEST_LENGTH_DIGITS or int(header) > limit_bytes)
    ):
        raise _too_large(limit_bytes)


async def _received(request: Request, *, limit_bytes: int, idle_timeout_s: float) -> AsyncIterator[bytes]:
    received_bytes = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(idle_timeout_s):
                message = await request.receive()
        except TimeoutError as exc:
            raise BodyTimeout(f"no part of the request body came for {idle_timeout_s:g} seconds") from exc
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the client left before the end of the request body")
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        received_bytes += len(chunk)
        if received_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        if chunk:
            yield chunk


def _inflater(headers: list[str]) -> "_Inflater | None":
    """Choose by the Content-Encoding headers; `None` for a plain body."""
    names = [name.strip().lower() for header in headers for name in header.split(",")]
    match [name for name in names if name not in {"", "identity"}]:
        case []:
            return None
        case ["gzip" | "x-gzip"]:
            return _Inflater(_GZIP_WINDOW)
        case ["deflate"]:
            return _Inflater(None)
        case [_]:
            raise UnsupportedEncoding("unsupported content encoding: only gzip and deflate are accepted")
        case _:
            raise UnsupportedEncoding("unsupported content encoding: only one encoding may be applied")


class _Inflater:
    """Inflates one stream in bounded steps. `window` is zlib's `wbits`; `None` tells zlib from raw deflate itself."""

    def __init__(self, window: int | None) -> None:
        self._window = window
        self._start = b""  # what came before there was enough to tell the format
        self._stream: zlib._Decompress | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Give what `chunk` inflates to, piece by piece."""
        if self._stream is None:
            chunk = self._start + chunk
            if len(chunk) < 2:
                self._start = chunk
                return
            self._stream = zlib.decompressobj(self._window or _deflate_window(chunk))
        yield from _inflate(self._stream, chunk)

    def finish(self) -> None:
        """Check that the stream came to its end."""
        if self._stream is None or not self._stream.eof:
            raise InvalidCompressedBody("invalid compressed request body: it ends too early")


def _deflate_window(start: bytes) -> int:
    """Tell zlib's wrapping, which "deflate" means, from the raw stream that many clients send (RFC 9110, 8.4.1.2)."""
    is_zlib = start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start[:2]) % 31 == 0
    return _ZLIB_WINDOW if is_zlib else _RAW_DEFLATE_WINDOW


def _inflate(stream: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    more = True
    while more:
        try:
            piece = stream.decompress(data, _STEP_BYTES)
        except zlib.error as exc:
            raise InvalidCompressedBody("invalid compressed request body: the data is corrupt") from exc
        if stream.unused_data:
            raise InvalidCompressedBody("invalid compressed request body: data follows its end")
        data = stream.unconsumed_tail
        more = bool(data) or len(piece) == _STEP_BYTES
        if piece:
            yield piece
