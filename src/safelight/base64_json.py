"""Base64 in JSON without holding it: long values are lifted out of a text that streams in, or rendered into one.

A picture in a JSON body is one string of megabytes. `lift` decodes such strings piece by piece into sinks and leaves
placeholders in the JSON; `render` goes the other way. Neither ever holds more than about 200 KiB of a value.
"""

import binascii
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count

import msgspec
import pybase64

from safelight.sink import Sink

_PIECE_CHARS = 64 * 1024  # base64 text decoded at a time: large enough for the codec, small enough for many requests
_PIECE_BYTES = _PIECE_CHARS // 4 * 3
_LONGEST_DATA_URL_HEADER = 256
_LOOK_BACK_BYTES = 128
_LONGEST_ESCAPE = len(rb"\u0041")

_WHITESPACE = b" \t\r\n"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")

# Whole strings and whatever stands between them, up to a string that does not end here.
_WHOLE_STRINGS = re.compile(rb'[^"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"]*+)*+', re.DOTALL)
# The inside of a string: up to its closing quote, or up to an escape that is not whole.
_STRING_TEXT = re.compile(rb'[^"\\]*+(?:\\(?:u[0-9A-Fa-f]{4}|[^u])[^"\\]*+)*+')
_PLACEHOLDER = re.compile(rb"lifted:[0-9]+:[0-9a-f]{16}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


class LiftError(ValueError):
    """The JSON text cannot be taken; the message is safe to show."""


class MalformedJson(LiftError):
    """A string never ends or holds a broken escape. What remains after lifting is not otherwise checked."""


class JsonTooLarge(LiftError):
    """What remains of the JSON, long values apart, is over the limit."""


class KeyTooLong(LiftError):
    """A member's name is over the threshold."""


class SizeMismatch(RuntimeError):
    """A source gave more or fewer bytes than announced, so the content length already sent was wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftedValue:
    """What stood in the place of a placeholder.

    `media_type` comes from a data URL, in lower case. `size_bytes` counts decoded bytes. When `is_base64` is false,
    the value was no base64, its sink was aborted, and the other members say nothing.
    """

    placeholder: str
    media_type: str | None
    size_bytes: int
    is_base64: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """The JSON text that remains, and what its placeholders stand for, in the order of the text."""

    json: bytes
    values: Mapping[str, LiftedValue]


OpenSink = Callable[[str], Awaitable[Sink]]
"""Makes the sink of one value, given its placeholder. It may raise, to refuse one value too many."""


class Placeholders:
    """Makes strings that a sender cannot guess, for one text."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._numbers = count()

    def next(self) -> str:
        """Make one; none is a part of another."""
        return f"lifted:{next(self._numbers)}:{self._token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMembers:
    """Members that hold text, not base64: `threshold` holds for their values instead of the general one."""

    names: tuple[str, ...]
    threshold: int


async def lift(
    chunks: AsyncIterator[bytes],
    open_sink: OpenSink,
    *,
    threshold: int = 16 * 1024,
    texts: TextMembers | None = None,
    max_json_bytes: int,
) -> Lifted:
    """Read a JSON text and lift out every string value with more than `threshold` bytes of JSON text.

    Each lifted value's base64 goes into a sink of its own; a sink is opened only once there are bytes for it. The
    rest of the text, at most `max_json_bytes`, is returned unparsed. The caller owns the sinks that were closed
    before an error. Raises `LiftError`, and whatever `chunks` or a sink raises.
    """
    lifter = _Lifter(open_sink, threshold=threshold, texts=texts, max_json_bytes=max_json_bytes)
    # A string that begins and ends inside one window is then never over the threshold.
    window_bytes = min(_PIECE_CHARS, threshold + len(b'""'))
    try:
        async for chunk in chunks:
            for window in _windows(chunk, window_bytes):
                await lifter.feed(window)
        return await lifter.end()
    except BaseException:
        await lifter.abort()
        raise


def _windows(chunk: bytes, size_bytes: int) -> Iterator[bytes]:
    return (chunk[start : start + size_bytes] for start in range(0, len(chunk), size_bytes))


class _Lifter:
    """Walks through the text window by window. `feed`, then `end`; `abort` after an error in either."""

    def __init__(self, open_sink: OpenSink, *, threshold: int, texts: TextMembers | None, max_json_bytes: int) -> None:
        self._open_sink = open_sink
        self._general_threshold = self._threshold = threshold
        self._text_threshold = texts.threshold if texts else threshold
        self._text_name = _before_value_of(texts.names) if texts else None
        self._max_json_bytes = max_json_bytes
        self._placeholders = Placeholders()
        self._json = bytearray()
        self._values: dict[str, LiftedValue] = {}
        self._in_string = False
        self._carry = b""  # the beginning of an escape that the last window cut
        self._text = bytearray()  # of the string we are in, as far as it is neither kept nor decoded yet
        self._long: _LongString | None = None  # set from the threshold until we know that it is no key

    async def feed(self, window: bytes) -> None:
        data = self._carry + window
        self._carry = b""
        position = 0
        while position < len(data):
            step = self._within_string if self._in_string else self._between_strings
            position = await step(data, position)

    async def end(self) -> Lifted:
        if self._in_string:
            raise MalformedJson("the JSON text ends inside a string")
        await self._settle_long_string()
        return Lifted(json=bytes(self._json), values=self._values)

    async def abort(self) -> None:
        if self._long is not None:
            await self._long.abort()

    async def _between_strings(self, data: bytes, start: int) -> int:
        if self._long is not None:
            following = data[start:].lstrip(_WHITESPACE)
            if not following:
                self._keep(data[start:])
                return len(data)
            if following.startswith(b":"):
                raise KeyTooLong(f"the name of a member is longer than {self._threshold} bytes")
            await self._settle_long_string()
        end = _end_of(_WHOLE_STRINGS, data, start)
        self._keep(data[start:end])
        self._in_string = end < len(data)
        if self._in_string and self._text_name is not None:
            is_text = self._text_name.search(self._json[-_LOOK_BACK_BYTES:]) is not None
            self._threshold = self._text_threshold if is_text else self._general_threshold
        return end + 1

    async def _within_string(self, data: bytes, start: int) -> int:
        end = _text_end(data, start)
        await self._add_text(data[start:end])
        if data[end : end + 1] == b'"':
            await self._leave_string()
            return end + 1
        self._carry = data[end:]
        if len(self._carry) >= _LONGEST_ESCAPE:
            raise MalformedJson("the JSON text holds a string with a broken escape")
        return len(data)

    async def _add_text(self, text: bytes) -> None:
        self._text += text
        if self._long is None and len(self._text) > self._threshold:
            self._long = _LongString(self._placeholders.next(), self._open_sink)
        if self._long is not None and len(self._text) >= _PIECE_CHARS:
            await self._pass_on(self._long)

    async def _leave_string(self) -> None:
        self._in_string = False
        if self._long is None:
            self._keep(b'"%b"' % bytes(self._text))
            self._text.clear()
        else:
            await self._pass_on(self._long)
            self._keep(b'"%b"' % self._long.placeholder.encode())

    async def _pass_on(self, long: "_LongString") -> None:
        piece = bytes(self._text)
        self._text.clear()
        await long.write(piece)

    async def _settle_long_string(self) -> None:
        if self._long is not None:
            value = await self._long.close()
            self._values[value.placeholder] = value
            self._long = None

    def _keep(self, text: bytes) -> None:
        if len(self._json) + len(text) > self._max_json_bytes:
            raise JsonTooLarge(f"the JSON text, apart from base64 values, exceeds {self._max_json_bytes} bytes")
        self._json += text


def _before_value_of(names: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(rb'[{,][ \t\r\n]*"(?:%b)"[ \t\r\n]*:[ \t\r\n]*$' % "|".join(names).encode())


def _text_end(data: bytes, start: int) -> int:
    """Find where the string text from `start` on ends: at its closing quote, a cut escape, or the end of `data`."""
    quote = data.find(b'"', start)
    end = len(data) if quote < 0 else quote
    # Only a backslash just before can make the quote an escaped one, or be the start of a cut escape.
    last_escape = data.find(b"\\", max(start, end - _LONGEST_ESCAPE + 1), end)
    return end if last_escape < 0 else _end_of(_STRING_TEXT, data, start)


def _end_of(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    match = pattern.match(data, start)
    return match.end() if match else start


class _LongString:
    """One lifted value on its way into its sink."""

    def __init__(self, placeholder: str, open_sink: OpenSink) -> None:
        self.placeholder = placeholder
        self._open_sink = open_sink
        self._decoder = _Base64Decoder()
        self._sink: Sink | None = None
        self._is_base64 = True

    async def write(self, text: bytes) -> None:
        """Take JSON text with whole escapes; from the first fault on, the rest is dropped."""
        if not self._is_base64:
            return
        try:
            decoded = self._decoder.feed(text)
        except _NotBase64Error:
            await self._refuse()
        else:
            await self._pass_on(decoded)

    async def close(self) -> LiftedValue:
        """Write what remains and close the sink."""
        if self._is_base64:
            try:
                decoded = self._decoder.finish()
            except _NotBase64Error:
                await self._refuse()
            else:
                await self._pass_on(decoded)
                await self._close_sink()
        return LiftedValue(
            placeholder=self.placeholder,
            media_type=self._decoder.media_type,
            size_bytes=self._decoder.size_bytes,
            is_base64=self._is_base64,
        )

    async def abort(self) -> None:
        """Abort the sink unless it has ended."""
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.abort()

    async def _refuse(self) -> None:
        self._is_base64 = False
        await self.abort()

    async def _pass_on(self, decoded: bytes) -> None:
        if decoded:
            if self._sink is None:
                self._sink = await self._open_sink(self.placeholder)
            await self._sink.write(decoded)

    async def _close_sink(self) -> None:
        sink = self._sink or await self._open_sink(self.placeholder)
        self._sink = None
        await sink.close()


def decode(text: str) -> bytes | None:
    """Decode one value that is held already, as `lift` would have; `None` when it is no base64."""
    decoder = _Base64Decoder()
    try:
        return decoder.feed(msgspec.json.encode(text)[1:-1]) + decoder.finish()
    except _NotBase64Error:
        return None


class _NotBase64Error(Exception):
    pass


class _Base64Decoder:
    """Decodes one value that comes as pieces of JSON text. Raises `_NotBase64Error`."""

    def __init__(self) -> None:
        self.media_type: str | None = None
        self.size_bytes = 0
        self._header: bytes | None = b""  # a data URL's beginning while it is incomplete, then `None`
        self._rest = b""  # less than one group of four, nothing but the alphabet
        self._padding = 0

    def feed(self, text: bytes) -> bytes:
        """Decode a piece of JSON text that cuts no escape."""
        if self._header is not None:
            return self._decode_any(self._after_header(_unescape(text)))
        try:
            return self._decode(text)
        except binascii.Error:  # rare: escapes, line breaks, the other alphabet
            return self._decode_any(_unescape(text))

    def finish(self) -> bytes:
        """Decode what is left; a missing padding is forgiven."""
        start = self._decode_any(self._header) if self._header else b""
        missing = -len(self._rest) % 4
        if len(self._rest) == 1 or self._padding not in {0, missing}:
            raise _NotBase64Error
        end = pybase64.b64decode(self._rest + b"=" * missing, validate=True)
        self.size_bytes += len(end)
        return start + end

    def _after_header(self, chars: bytes) -> bytes:
        """Cut off a data URL's header, once it is there as a whole."""
        beginning = ((self._header or b"") + chars).lstrip(_WHITESPACE)
        if beginning[:5].lower() != b"data:"[: len(beginning)]:
            self._header = None
            return beginning
        comma = beginning.find(b",", 0, _LONGEST_DATA_URL_HEADER)
        if comma < 0:
            if len(beginning) >= _LONGEST_DATA_URL_HEADER:
                raise _NotBase64Error
            self._header = beginning
            return b""
        self._header = None
        self._read_header(beginning[5:comma].decode("latin-1").lower())
        return beginning[comma + 1 :]

    def _read_header(self, header: str) -> None:
        media_type, *parameters = (part.strip() for part in header.split(";"))
        if parameters[-1:] != ["base64"]:
            raise _NotBase64Error
        if _MEDIA_TYPE.fullmatch(media_type):
            self.media_type = media_type

    def _decode_any(self, chars: bytes) -> bytes:
        try:
            return self._decode(chars.translate(_FROM_URL_SAFE, _WHITESPACE))
        except binascii.Error as exc:
            raise _NotBase64Error from exc

    def _decode(self, chars: bytes) -> bytes:
        """Decode all whole groups; raises `binascii.Error`, and then nothing has changed."""
        digits, padding = self._split_padding(chars)
        digits = self._rest + digits
        whole = len(digits) - len(digits) % 4
        rest = digits[whole:]
        if rest.translate(None, _ALPHABET):
            raise binascii.Error
        decoded = pybase64.b64decode(memoryview(digits)[:whole], validate=True)
        self._rest, self._padding = rest, padding
        self.size_bytes += len(decoded)
        return decoded

    def _split_padding(self, chars: bytes) -> tuple[bytes, int]:
        """Take the padding off, which nothing may follow; gives the digits and the padding's length so far."""
        digits, sign, more = chars.partition(b"=")
        padding = self._padding + len(sign) + len(more)
        if (self._padding and digits) or more.strip(b"=") or padding > 2:
            raise binascii.Error
        return digits, padding


def _unescape(text: bytes) -> bytes:
    """Resolve JSON escapes as strictly as JSON asks."""
    try:
        return msgspec.json.decode(b'"%b"' % text, type=str).encode("ascii")
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise _NotBase64Error from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """Bytes to be put in as base64. `read` starts a new pass over them, which must give `size_bytes` bytes."""

    size_bytes: int
    read: Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A JSON text ready to be sent, with its exact length; `chunks` can be run through once."""

    content_length: int
    chunks: AsyncIterator[bytes]


def render(template: bytes, inserts: Mapping[str, Insert]) -> Rendered:
    """Put base64 in the place of placeholders, which may stand anywhere inside a string of `template`.

    Placeholders come from `Placeholders`; each must stand in the template once, else `ValueError`. While `chunks`
    runs it raises `SizeMismatch` if a source gives more or fewer bytes than announced, and what the sources raise.
    """
    found = [match for match in _PLACEHOLDER.finditer(template) if match.group().decode() in inserts]
    if sorted(match.group().decode() for match in found) != sorted(inserts):
        raise ValueError("every placeholder must stand in the JSON text once")
    pieces = list(_pieces(template, found, inserts))
    length = sum(_base64_length(piece.size_bytes) if isinstance(piece, Insert) else len(piece) for piece in pieces)
    return Rendered(content_length=length, chunks=_chunks(pieces))


def _pieces(
    template: bytes, found: Iterable[re.Match[bytes]], inserts: Mapping[str, Insert]
) -> Iterator[bytes | Insert]:
    kept_to = 0
    for match in found:
        yield template[kept_to : match.start()]
        yield inserts[match.group().decode()]
        kept_to = match.end()
    yield template[kept_to:]


def _base64_length(size_bytes: int) -> int:
    return (size_bytes + 2) // 3 * 4


async def _chunks(pieces: Iterable[bytes | Insert]) -> AsyncIterator[bytes]:
    for piece in pieces:
        if isinstance(piece, Insert):
            async with aclosing(_encoded(piece)) as encoded:
                async for chunk in encoded:
                    yield chunk
        else:
            yield piece


async def _encoded(insert: Insert) -> AsyncGenerator[bytes, None]:
    rest = b""
    missing_bytes = insert.size_bytes
    async with _closing(insert.read()) as source:
        async for chunk in source:
            missing_bytes -= len(chunk)
            if missing_bytes < 0:
                raise SizeMismatch(f"a source gave more than the {insert.size_bytes} bytes announced")
            for window in _windows(chunk, _PIECE_BYTES):
                whole_groups, rest = _split_groups(rest + window)
                if whole_groups:
                    yield pybase64.b64encode(whole_groups)
    if missing_bytes:
        raise SizeMismatch(f"a source gave {missing_bytes} bytes fewer than the {insert.size_bytes} announced")
    if rest:
        yield pybase64.b64encode(rest)


def _split_groups(data: bytes) -> tuple[bytes, bytes]:
    whole = len(data) - len(data) % 3
    return data[:whole], data[whole:]


@asynccontextmanager
async def _closing(source: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close a source that can be closed, so that whoever stops reading halfway leaves no file open."""
    try:
        yield source
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
