"""Reads multipart/form-data as it arrives: files stream into sinks, text fields are collected under limits.

The splitting into parts is python-multipart's. Headers are read here, strictly: whatever two programs could
understand differently is refused, not guessed.
"""

import re
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, assert_never
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from safelight.api.body import BodyError
from safelight.sink import Sink

_WINDOW_BYTES = 64 * 1024
_LONGEST_BOUNDARY = 70  # RFC 2046, 5.1.1
_LONGEST_FILENAME_CHARS = 255
_LONGEST_NAME_IN_MESSAGE_CHARS = 100

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=?!#$%&*^`|~ -]*[0-9A-Za-z'()+_,./:=?!#$%&*^`|~-]")
# One `; name=value` of a header, the value bare or quoted.
_PARAMETER = re.compile(r'[ \t]*;[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]+))')
_QUOTED_PAIR = re.compile(r'\\(["\\])')
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ENCODED_FILENAME = re.compile(r"utf-8'[A-Za-z0-9-]*'([!#$&+.^_`|~0-9A-Za-z%-]*)", re.IGNORECASE)
_PLAIN_TRANSFER_ENCODINGS = frozenset({"7bit", "8bit", "binary"})
_READ_HEADERS = frozenset({"content-disposition", "content-type", "content-transfer-encoding"})


class MultipartError(BodyError):
    """The form cannot be taken."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        """Keep the message and the HTTP status that fits."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipartLimits:
    """How much of a form is taken. Sizes are bytes."""

    max_parts: int = 1000
    max_field_bytes: int = 1024 * 1024
    max_total_field_bytes: int = 4 * 1024 * 1024
    max_file_bytes: int = 100 * 1024 * 1024
    max_files: int = 64
    max_headers: int = 8
    max_header_bytes: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TextField:
    """One text part."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What a file part says of itself; none of it is to be trusted.

    `filename` is for display only: no folders, no control characters, at most 255 characters, perhaps empty.
    `content_type` is in lower case, without parameters, `None` when the part has none.
    """

    name: str
    filename: str
    content_type: str | None


SinkT = TypeVar("SinkT", bound=Sink)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormFile(Generic[SinkT]):
    """One file part, complete in its sink, which is closed."""

    info: FileInfo
    size_bytes: int
    sink: SinkT


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[SinkT]):
    """All parts of a form, fields and files each in their order."""

    fields: tuple[TextField, ...]
    files: tuple[FormFile[SinkT], ...]


async def read_form(
    chunks: AsyncIterator[bytes],
    content_type: str | None,
    *,
    limits: MultipartLimits,
    open_file: Callable[[FileInfo], Awaitable[SinkT]],
) -> Form[SinkT]:
    """Read a form; `content_type` is the request's header. A part with a file name, even an empty one, is a file.

    `open_file` makes the sink of one file when its headers have come; it may raise to refuse it. On any error the
    sink in use is aborted; the caller owns those already closed. Raises `MultipartError`, and whatever `chunks`,
    `open_file` or a sink raises.
    """
    splitter = _Splitter(_boundary(content_type), limits)
    builder = _FormBuilder(limits, open_file)
    try:
        async for chunk in chunks:
            for start in range(0, len(chunk), _WINDOW_BYTES):
                for event in splitter.feed(chunk[start : start + _WINDOW_BYTES]):
                    await builder.take(event)
        splitter.finish()
    except BaseException:
        await builder.abort()
        raise
    return builder.form()


def _fault(why: str, *, status: int = 400) -> MultipartError:
    return MultipartError(f"failed to parse multipart form: {why}", status=status)


def _shown(name: str) -> str:
    """Quote a field's name for a message."""
    cut = name if len(name) <= _LONGEST_NAME_IN_MESSAGE_CHARS else name[:_LONGEST_NAME_IN_MESSAGE_CHARS] + "…"
    return f'"{cut}"'


def _boundary(content_type: str | None) -> bytes:
    """Read the boundary from the request's Content-Type."""
    if content_type is None:
        raise _fault("the request has no Content-Type; multipart/form-data is needed")
    value, parameters = _parse_header(content_type, "the request's Content-Type")
    if value != "multipart/form-data":
        raise _fault("the request's Content-Type is not multipart/form-data")
    boundary = parameters.get("boundary")
    if not boundary:
        raise _fault("the request's Content-Type has no boundary")
    if len(boundary) > _LONGEST_BOUNDARY:
        raise _fault(f"the boundary is longer than {_LONGEST_BOUNDARY} characters")
    if not _BOUNDARY.fullmatch(boundary):
        raise _fault("the boundary holds characters that it may not hold")
    return boundary.encode("ascii")


def _parse_header(header: str, what: str) -> tuple[str, dict[str, str]]:
    """Split `value; name=value; name="value"`; `value` and the names come in lower case."""
    if _CONTROL.search(header):
        raise _fault(f"{what} holds control characters")
    value, separator, rest = header.partition(";")
    parameters: dict[str, str] = {}
    rest = (separator + rest).rstrip(" \t").removesuffix(";")
    position = 0
    while position < len(rest):
        match = _PARAMETER.match(rest, position)
        if match is None:
            raise _fault(f"{what} is malformed")
        name, quoted, bare = match.groups()
        if name.lower() in parameters:
            raise _fault(f"{what} says {name.lower()} twice")
        parameters[name.lower()] = bare if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        position = match.end()
    return value.strip(" \t").lower(), parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class _PartHead:
    """A part's headers, understood. `filename` is `None` for a text field."""

    name: str
    filename: str | None
    content_type: str | None


def _read_head(headers: dict[str, str]) -> _PartHead:
    """Understand the headers of one part, whose names are in lower case."""
    if "content-disposition" not in headers:
        raise _fault("a part has no Content-Disposition")
    disposition, parameters = _parse_header(headers["content-disposition"], "a part's Content-Disposition")
    if disposition != "form-data":
        raise _fault("a part's Content-Disposition is not form-data")
    name = parameters.get("name")
    if not name:
        raise _fault("a part has no name")
    if any("*" in key and key != "filename*" for key in parameters):
        raise _fault(f"the part {_shown(name)} has a parameter of a kind that forms may not use")
    transfer_encoding = headers.get("content-transfer-encoding", "binary").strip().lower()
    if transfer_encoding not in _PLAIN_TRANSFER_ENCODINGS:
        raise _fault(f"the part {_shown(name)} has a Content-Transfer-Encoding, which is not accepted")
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return _PartHead(name=name, filename=_filename(parameters, name), content_type=content_type or None)


def _filename(parameters: dict[str, str], name: str) -> str | None:
    """Choose and clean the file name; `filename*` is forbidden in forms (RFC 7578, 4.2) but several clients send it."""
    filename = parameters.get("filename")
    encoded = parameters.get("filename*")
    if encoded is not None:
        match = _ENCODED_FILENAME.fullmatch(encoded)
        if match is None:
            raise _fault(f"the part {_shown(name)} has a malformed filename*")
        filename = unquote_to_bytes(match[1]).decode("utf-8", "replace")
    return None if filename is None else _display_name(filename)


def _display_name(filename: str) -> str:
    base = re.split(r"[/\\]", filename)[-1]
    # Category C: control and formatting characters (which can turn the direction of text), and what is unassigned.
    return "".join(char for char in base if unicodedata.category(char)[0] != "C")[:_LONGEST_FILENAME_CHARS]


@dataclass(frozen=True, slots=True)
class _PartEnd:
    pass


_Event = _PartHead | bytes | _PartEnd


class _Splitter:
    """Turns body bytes into heads, data and ends of parts, in order."""

    def __init__(self, boundary: bytes, limits: MultipartLimits) -> None:
        self._limits = limits
        self._delimiter = b"\r\n--" + boundary
        self._delimiters = 0
        self._tail = b"\n\r\n"  # as though an empty line stood before the body
        self._parts = 0
        self._ended = False
        self._headers: dict[str, str] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._events: list[_Event] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_name_comes,
                "on_header_value": self._header_value_comes,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data_comes,
                "on_part_end": self._part_ends,
                "on_end": self._body_ends,
            },
            max_header_count=limits.max_headers,
            max_header_size=limits.max_header_bytes,
        )

    def feed(self, data: bytes) -> Iterator[_Event]:
        """Take the next bytes. What came before a fault is not given any more."""
        self._check_delimiters(data)
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise self._malformed() from exc
        events, self._events = self._events, []
        return iter(events)

    def finish(self) -> None:
        """Check that the final boundary has come."""
        if not self._ended:
            raise _fault("the body ends before the final boundary")

    def _check_delimiters(self, data: bytes) -> None:
        """Refuse what no honest client sends, what programs read differently, and what takes the parser too long.

        That is white space after a boundary, and thousands of lines that only begin like one.
        """
        joined = self._tail + data
        self._tail = joined[-len(self._delimiter) :]
        if self._delimiter not in joined:
            return
        if self._delimiter + b" " in joined or self._delimiter + b"\t" in joined:
            raise _fault("white space follows a boundary")
        self._delimiters += joined.count(self._delimiter, 1)  # at 0 it was counted as the end of the last window
        if self._delimiters > self._limits.max_parts + 1:
            raise self._too_many_parts()

    def _too_many_parts(self) -> MultipartError:
        return _fault(f"more than {self._limits.max_parts} parts")

    def _malformed(self) -> MultipartError:
        if not self._parts:
            return _fault("the body does not begin with the boundary that its Content-Type names")
        return _fault("the headers of a part are malformed, too many or too long")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > self._limits.max_parts:
            raise self._too_many_parts()
        self._headers = {}

    def _header_name_comes(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_comes(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        name = self._header_name.decode("ascii").lower()
        value = self._decoded_header_value()
        self._header_name.clear()
        self._header_value.clear()
        if name in _READ_HEADERS:
            if name in self._headers:
                raise _fault(f"a part has two {name.title()} headers")
            self._headers[name] = value

    def _decoded_header_value(self) -> str:
        try:
            value = self._header_value.decode()
        except UnicodeDecodeError as exc:
            raise _fault("a part has a header that is not valid UTF-8") from exc
        if _CONTROL.search(value):
            raise _fault("a part has a header that holds control characters")
        return value

    def _headers_end(self) -> None:
        self._events.append(_read_head(self._headers))

    def _data_comes(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _part_ends(self) -> None:
        self._events.append(_PartEnd())

    def _body_ends(self) -> None:
        self._ended = True


class _FormBuilder(Generic[SinkT]):
    """Collects fields and sends files into their sinks."""

    def __init__(self, limits: MultipartLimits, open_file: Callable[[FileInfo], Awaitable[SinkT]]) -> None:
        self._limits = limits
        self._open_file = open_file
        self._fields: list[TextField] = []
        self._files: list[FormFile[SinkT]] = []
        self._total_field_bytes = 0
        self._field: _OpenField | None = None
        self._file: _OpenFile[SinkT] | None = None

    def form(self) -> Form[SinkT]:
        return Form(fields=tuple(self._fields), files=tuple(self._files))

    async def abort(self) -> None:
        if self._file is not None:
            await self._file.sink.abort()

    async def take(self, event: _Event) -> None:
        match event:
            case _PartHead():
                await self._begin(event)
            case bytes():
                await self._add(event)
            case _PartEnd():
                await self._end()
            case _:
                assert_never(event)

    async def _begin(self, head: _PartHead) -> None:
        if head.filename is None:
            self._field = _OpenField(head.name)
            return
        if len(self._files) == self._limits.max_files:
            raise _fault(f"more than {self._limits.max_files} files")
        info = FileInfo(name=head.name, filename=head.filename, content_type=head.content_type)
        self._file = _OpenFile(info, await self._open_file(info))

    async def _add(self, data: bytes) -> None:
        if self._file is not None:
            await self._file.write(data, max_bytes=self._limits.max_file_bytes)
        elif self._field is not None:
            self._field.write(data, max_bytes=self._limits.max_field_bytes)
            self._total_field_bytes += len(data)
            if self._total_field_bytes > self._limits.max_total_field_bytes:
                raise _fault(f"the text fields are larger than {self._limits.max_total_field_bytes} bytes in all")

    async def _end(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            await file.sink.close()
            self._files.append(FormFile(info=file.info, size_bytes=file.size_bytes, sink=file.sink))
        elif self._field is not None:
            self._fields.append(self._field.complete())
            self._field = None


class _OpenField:
    """A text field as it comes in."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = bytearray()

    def write(self, data: bytes, *, max_bytes: int) -> None:
        self._data += data
        if len(self._data) > max_bytes:
            raise _fault(f"the field {_shown(self._name)} is larger than {max_bytes} bytes")

    def complete(self) -> TextField:
        try:
            return TextField(name=self._name, value=self._data.decode())
        except UnicodeDecodeError as exc:
            raise _fault(f"the field {_shown(self._name)} is not valid UTF-8 text") from exc


class _OpenFile(Generic[SinkT]):
    """A file as it comes in."""

    def __init__(self, info: FileInfo, sink: SinkT) -> None:
        self.info = info
        self.sink = sink
        self.size_bytes = 0

    async def write(self, data: bytes, *, max_bytes: int) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > max_bytes:
            raise _fault(f"the file in field {_shown(self.info.name)} is larger than {max_bytes} bytes", status=413)
        await self.sink.write(data)
