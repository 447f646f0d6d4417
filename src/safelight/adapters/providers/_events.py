"""Server-sent events whose data may be a picture of many megabytes: it passes by in pieces and is never held.

The libraries for this join an event's lines before they show it, which would hold such a picture several times.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation, read 2026-11-25.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator

from safelight.adapters.providers._answer import Lifts, read_lifted
from safelight.application.ports import Workspace

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DATA = b"data"
"""The one field that is read: OpenAI's data says itself what event it is."""


async def read_events(chunks: AsyncIterator[bytes], workspace: Workspace) -> AsyncGenerator[tuple[bytes, Lifts]]:
    """Give the data of each event, with placeholders for what was lifted out of it.

    An event that is cut off is given too, beyond the standard: its picture may be there as a whole, and is paid for.
    """
    source = _Source(chunks)
    while not source.over:
        text, lifted = await read_lifted(source.next_data(), workspace)
        if text:
            yield text, lifted


class _Source:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._pieces = _data_pieces(chunks)
        self.over = False

    async def next_data(self) -> AsyncIterator[bytes]:
        """The data of one event, piece by piece."""
        async for piece in self._pieces:
            if piece is None:
                return
            yield piece
        self.over = True


async def _data_pieces(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes | None]:
    """Give the data as it comes, and `None` at the end of each event."""
    head = b""  # of a line, until it is clear which field it holds
    is_data: bool | None = None
    has_data = False
    async for piece, ends in _lines(chunks):
        text = piece
        if is_data is None:
            head += piece
            name, colon, text = head.partition(b":")
            whole = ends or len(head) > len(_DATA) + len(b": ")
            if not whole:
                continue
            is_data = name == _DATA and (bool(colon) or ends)
            text = text.removeprefix(b" ")
            if is_data and has_data:
                yield b"\n"
        if is_data:
            has_data = True
            if text:
                yield text
        elif ends and not head and has_data:
            has_data = False
            yield None
        if ends:
            head, is_data = b"", None


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[bytes, bool]]:
    """Give the pieces of lines; the last one of each, perhaps empty, says that the line ends there."""
    after_return = False
    async for chunk in _without_mark(chunks):
        text = chunk.removeprefix(b"\n") if after_return else chunk
        after_return = chunk.endswith(b"\r")
        *whole, rest = _LINE_END.split(text)
        for line in whole:
            yield line, True
        if rest:
            yield rest, False


async def _without_mark(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Leave out a byte order mark at the beginning."""
    beginning: bytes | None = b""
    async for chunk in chunks:
        if beginning is None:
            yield chunk
            continue
        beginning += chunk
        if len(beginning) >= len(_BYTE_ORDER_MARK):
            yield beginning.removeprefix(_BYTE_ORDER_MARK)
            beginning = None
    if beginning:
        yield beginning
