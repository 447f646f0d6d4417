import asyncio
import base64
import binascii
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safelight.base64_json import (
    Insert,
    JsonTooLarge,
    KeyTooLong,
    Lifted,
    LiftedValue,
    MalformedJson,
    Placeholders,
    SizeMismatch,
    lift,
    render,
)
from tests.sinks import RecordingSink, split, stream

THRESHOLD = 20
NOT_BASE64 = object()


@dataclass
class Opener:
    """Makes recording sinks and remembers them by placeholder."""

    keep: bool = True
    sinks: dict[str, RecordingSink] = field(default_factory=dict)

    async def __call__(self, placeholder: str) -> RecordingSink:
        assert placeholder not in self.sinks
        self.sinks[placeholder] = RecordingSink(keep=self.keep)
        return self.sinks[placeholder]

    @property
    def endings(self) -> list[str | None]:
        return [sink.ending for sink in self.sinks.values()]


async def lift_all(*chunks: bytes, threshold: int = THRESHOLD, max_json_bytes: int = 1000) -> tuple[Lifted, Opener]:
    opener = Opener()
    return await lift(stream(chunks), opener, threshold=threshold, max_json_bytes=max_json_bytes), opener


async def lift_one(text: bytes, *, threshold: int = THRESHOLD) -> tuple[LiftedValue, bytes | None]:
    """Lift a text that is one long string; gives the value and what its sink got, if it was closed."""
    lifted, opener = await lift_all(b'"' + text + b'"', threshold=threshold)
    (value,) = lifted.values.values()
    assert json.loads(lifted.json) == value.placeholder
    sink = opener.sinks.get(value.placeholder)
    assert value.is_base64 == (sink is not None and sink.ending == "closed")
    return value, bytes(sink.data) if sink is not None and value.is_base64 else None


# --- against an independent implementation -----------------------------------------------------------------------


def reference_decode(text: str) -> bytes | object:
    """What a lifted string should become, by the standard library."""
    text = text.lstrip(" \t\r\n")
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().replace(" ", "").endswith(";base64") or len(header) >= 256:
            return NOT_BASE64
    digits = text.translate({ord(" "): None, ord("\t"): None, ord("\r"): None, ord("\n"): None, 45: "+", 95: "/"})
    if "=" not in digits:
        digits += "=" * (-len(digits) % 4)
    try:
        decoded = base64.b64decode(digits, validate=True)
    except ValueError:
        return NOT_BASE64
    # Python takes "AAAA=" and the like; a strict reader does not.
    return decoded if len(digits) == (len(decoded) + 2) // 3 * 4 else NOT_BASE64


def expected(value: Any, encode: Callable[[Any], str]) -> Any:
    match value:
        case dict():
            return {key: expected(member, encode) for key, member in value.items()}
        case list():
            return [expected(member, encode) for member in value]
        case str() if len(encode(value).encode()) - 2 > THRESHOLD:
            return reference_decode(value)
        case _:
            return value


def filled_in(value: Any, lifted: Lifted, opener: Opener) -> Any:
    match value:
        case dict():
            return {key: filled_in(member, lifted, opener) for key, member in value.items()}
        case list():
            return [filled_in(member, lifted, opener) for member in value]
        case str() if value in lifted.values:
            if not lifted.values[value].is_base64:
                return NOT_BASE64
            sink = opener.sinks[value]
            assert (sink.ending, sink.size_bytes) == ("closed", lifted.values[value].size_bytes)
            return bytes(sink.data)
        case _:
            return value


@st.composite
def base64_texts(draw: st.DrawFn) -> str:
    text = base64.b64encode(draw(st.binary(max_size=120))).decode()
    if draw(st.booleans()):
        text = text.replace("+", "-").replace("/", "_")
    if draw(st.booleans()):
        text = text.rstrip("=")
    for place in draw(st.lists(st.integers(0, len(text)), max_size=3)):
        text = (
            text[:place]
            + draw(st.sampled_from([" ", "\n", "\r\n", "\t", "=", "é", "\\", '"', "A", "😀"]))
            + text[place:]
        )
    return (
        draw(st.sampled_from(["", "", "data:image/png;base64,", "DATA:;Base64,", "data:text/plain,", "data:"])) + text
    )


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | base64_texts(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="xyé", max_size=3), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def encoders(draw: st.DrawFn) -> Callable[[Any], str]:
    ascii_only = draw(st.booleans())
    indent = draw(st.sampled_from([None, 1]))
    escapes = draw(
        st.sampled_from([{}, {"/": "\\/"}, {"+": "\\u002b", "=": "\\u003D"}, {"A": "\\u0041", "B": "\\u0042"}])
    )

    def encode(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        for char, escape in escapes.items():
            text = text.replace(char, escape)
        return text

    return encode


@settings(deadline=None, max_examples=400)
@given(document=documents, encode=encoders(), cuts=st.lists(st.integers(0, 5000), max_size=12))
def test_agrees_with_the_standard_library_wherever_the_text_is_cut(
    document: Any, encode: Callable[[Any], str], cuts: list[int]
) -> None:
    text = encode(document).encode()
    lifted, opener = asyncio.run(lift_all(*split(text, cuts), max_json_bytes=len(text) + 1000))
    assert filled_in(json.loads(lifted.json), lifted, opener) == expected(document, encode)


@settings(deadline=None)
@given(text=st.binary(max_size=200) | st.text(alphabet='"\\u0041{}[]:,= ', max_size=200).map(str.encode))
def test_any_bytes_give_a_result_or_a_lift_error(text: bytes) -> None:
    def outcome(chunks: list[bytes]) -> str:
        try:
            asyncio.run(lift_all(*chunks))
        except (MalformedJson, KeyTooLong) as exc:
            return type(exc).__name__
        return "taken"

    outcome([text])
    outcome([text[index : index + 1] for index in range(len(text))])


@pytest.mark.parametrize("threshold", [0, 1, 5, 1000])
async def test_cut_byte_by_byte_at_any_threshold(threshold: int) -> None:
    data = bytes(range(256))
    text = json.dumps(['\\ud83d\\"', base64.b64encode(data).decode(), ["", 1]]).encode()
    lifted, opener = await lift_all(*(bytes([byte]) for byte in text), threshold=threshold)
    document = filled_in(json.loads(lifted.json), lifted, opener)
    assert document[1] == (data if threshold < 1000 else base64.b64encode(data).decode())


# --- what is base64 and what is not ------------------------------------------------------------------------------

LONG = b"QUJD" * 10  # b"ABC" * 10


@pytest.mark.parametrize(
    ("text", "decoded", "media_type"),
    [
        (LONG, b"ABC" * 10, None),
        (LONG + b"QQ==", b"ABC" * 10 + b"A", None),
        (LONG + b"QQ", b"ABC" * 10 + b"A", None),
        (LONG + b"QUI=", b"ABC" * 10 + b"AB", None),
        (LONG + b" \\n Q Q\\t=\\r\\n= ", b"ABC" * 10 + b"A", None),
        (LONG + b"-_-_\\/\\u002b\\u002F\\u002B", b"ABC" * 10 + b"\xfb\xff\xbf\xff\xef\xfe", None),
        (b"data:image/png;base64," + LONG, b"ABC" * 10, "image/png"),
        (b" \\nDATA:Image\\/PNG;name=fox.png;BASE64,\\n" + LONG, b"ABC" * 10, "image/png"),
        (b"data:;base64," + LONG, b"ABC" * 10, None),
        (b"data:<b>;base64," + LONG, b"ABC" * 10, None),
        (b"data:image/png;base64," + b" " * 30, b"", "image/png"),
        (b" " * 30, b"", None),
    ],
)
async def test_base64(text: bytes, decoded: bytes, media_type: str | None) -> None:
    value, data = await lift_one(text)
    assert (value.is_base64, value.media_type, value.size_bytes) == (True, media_type, len(decoded))
    assert data == decoded


@pytest.mark.parametrize(
    "text",
    [
        b"a fox in the snow, painted in oil",
        LONG + b"Q",
        LONG + b"=",
        LONG + b"QQ=",
        LONG + b"QQ===",
        LONG + b"QUI==",
        LONG + b"Q===",
        LONG + b"QQ==QQ==",
        LONG + b"QQ=Q",
        LONG + b"!",
        LONG + "é".encode(),
        LONG + b"\\u00e9",
        LONG + b'\\"',
        LONG + b"\\\\n",
        LONG + b"\\b",
        LONG + b"\\x",
        LONG + b"\\ud83d",
        LONG + b"\n",
        LONG + b"\x00",
        LONG + b"\xff",
        b"data:image/png," + LONG,
        b"data:image/png;base64" + LONG,
        b"data:image/png;base64;base32," + LONG,
        b"data:" + b"x" * 300 + b";base64," + LONG,
        b"data:" + LONG,
        b"data:base64," + LONG,
    ],
)
async def test_not_base64(text: bytes) -> None:
    value, data = await lift_one(text)
    assert (value.is_base64, data) == (False, None)


async def test_a_fault_after_the_first_piece_aborts_the_sink_and_skips_the_rest() -> None:
    text = b'{"a":"' + b"AAAA" * 100_000 + b'!\\"' + b"AAAA" * 100_000 + b'","b":"kept"}'
    lifted, opener = await lift_all(text)
    (value,) = lifted.values.values()
    assert not value.is_base64
    assert opener.endings == ["aborted"]
    assert json.loads(lifted.json) == {"a": value.placeholder, "b": "kept"}


async def test_no_sink_is_opened_for_a_long_text() -> None:
    _, opener = await lift_all(b'"' + b"a fox! " * 100_000 + b'"')
    assert opener.sinks == {}


async def test_a_string_of_exactly_the_threshold_stays() -> None:
    kept = b"A" * THRESHOLD
    lifted, _ = await lift_all(b'["%b","%bAAAA"]' % (kept, kept))
    assert json.loads(lifted.json) == [kept.decode(), *lifted.values]


async def test_placeholders_come_in_order_and_differ_between_calls() -> None:
    text = b'["%b","%b"]' % (LONG, LONG)
    first, second = (await lift_all(text))[0], (await lift_all(text))[0]
    assert json.loads(first.json) == list(first.values)
    assert [name.split(":")[:2] for name in first.values] == [["lifted", "0"], ["lifted", "1"]]
    assert not set(first.values) & set(second.values)


async def test_a_forged_placeholder_is_just_text() -> None:
    lifted, _ = await lift_all(b'["lifted:0:00000000","%b"]' % LONG, threshold=30)
    forged, real = json.loads(lifted.json)
    assert forged not in lifted.values
    assert real in lifted.values


# --- hostile texts and faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b'{"%b":1}', b'{"a":1,"%b" \n :1}', b'{"a":{"b":[1]},"%b":1}'])
@pytest.mark.parametrize("size", [21, 1_000_000])
async def test_a_long_key_is_refused(text: bytes, size: int) -> None:
    opener = Opener()
    with pytest.raises(KeyTooLong, match=r"^the name of a member is longer than 20 bytes$"):
        await lift(stream([text % (b"A" * size)]), opener, threshold=THRESHOLD, max_json_bytes=1000)
    assert set(opener.endings) <= {"aborted"}


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1001,
        b'["a"' + b',"a"' * 300,
        b'"' + b"A" * 21 + b'"' + b" " * 1000,
        b'["' + LONG + b'"' + b" " * 1000 + b"]",
    ],
)
async def test_json_over_the_limit(text: bytes) -> None:
    with pytest.raises(JsonTooLarge, match=r"^the JSON text, apart from base64 values, exceeds 1000 bytes$"):
        await lift_all(text)


async def test_many_long_values_count_only_as_placeholders() -> None:
    lifted, _ = await lift_all(b"[" + b",".join([b'"%b"' % (LONG * 100)] * 20) + b"]")
    assert len(lifted.values) == 20


@pytest.mark.parametrize(
    "text", [b'{"a":"', b'{"a":"b', b'{"a":"' + LONG * 5000, b'{"a":"' + LONG + b'\\"', b'{"a":"\\']
)
async def test_a_text_that_ends_inside_a_string(text: bytes) -> None:
    opener = Opener()
    with pytest.raises(MalformedJson, match=r"^the JSON text ends inside a string$"):
        await lift(stream([text]), opener, threshold=THRESHOLD, max_json_bytes=1000)
    assert set(opener.endings) <= {"aborted"}


@pytest.mark.parametrize("chunks", [[b'["abc\\u0","d"]'], [b'["abc\\u0', b'","d"]'], [b'["abc\\', b'u0","d"]']])
async def test_a_broken_escape_before_a_quote(chunks: list[bytes]) -> None:
    with pytest.raises(MalformedJson, match=r"^the JSON text holds a string with a broken escape$"):
        await lift_all(*chunks, threshold=2)


async def test_a_source_that_fails_aborts_the_open_sink_and_leaves_the_closed_one() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'["%b","%b' % (LONG, b"AAAA" * 20_000)
        raise ConnectionResetError

    opener = Opener()
    with pytest.raises(ConnectionResetError):
        await lift(chunks(), opener, threshold=THRESHOLD, max_json_bytes=1000)
    assert opener.endings == ["closed", "aborted"]


async def test_cancelling_aborts_the_open_sink() -> None:
    waiting = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b'"' + b"AAAA" * 20_000
        waiting.set()
        await asyncio.Event().wait()

    opener = Opener()
    task = asyncio.create_task(lift(chunks(), opener, threshold=THRESHOLD, max_json_bytes=1000))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opener.endings == ["aborted"]


async def test_a_sink_that_cannot_write_is_aborted() -> None:
    class FullSink(RecordingSink):
        async def write(self, chunk: bytes) -> None:
            raise OSError(len(chunk))

    sink = FullSink()

    async def open_sink(_placeholder: str) -> FullSink:
        return sink

    with pytest.raises(OSError, match="30"):
        await lift(stream([b'"%b"' % LONG]), open_sink, threshold=THRESHOLD, max_json_bytes=1000)
    assert sink.ending == "aborted"


async def test_a_sink_that_refuses_on_close_is_not_aborted_as_well() -> None:
    class PickySink(RecordingSink):
        async def close(self) -> None:
            await super().close()
            raise ValueError("no picture")

    sink = PickySink()

    async def open_sink(_placeholder: str) -> PickySink:
        return sink

    with pytest.raises(ValueError, match="no picture"):
        await lift(stream([b'["%b"]' % LONG]), open_sink, threshold=THRESHOLD, max_json_bytes=1000)
    assert sink.ending == "closed"


@pytest.mark.parametrize("chunk_bytes", [1400, 64 * 1024, 4 * 1024 * 1024])
async def test_lifting_64_mb_holds_next_to_nothing(chunk_bytes: int) -> None:
    chunk = b"A" * (chunk_bytes // 4 * 4)
    repeats = (64 * 1024 * 1024) // len(chunk) if chunk_bytes > 1400 else 4000

    def chunks() -> Iterator[bytes]:
        yield b'{"image":"'
        for _ in range(repeats):
            yield chunk
        yield b'"}'

    opener = Opener(keep=False)
    tracemalloc.start()
    try:
        await lift(stream(chunks()), opener, max_json_bytes=1000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (sink,) = opener.sinks.values()
    assert sink.size_bytes == repeats * len(chunk) // 4 * 3
    assert sink.largest_chunk_bytes <= 64 * 1024
    assert peak_bytes < 512 * 1024


# --- rendering ---------------------------------------------------------------------------------------------------


def insert(*chunks: bytes, size_bytes: int | None = None) -> Insert:
    total = sum(len(chunk) for chunk in chunks)
    return Insert(size_bytes=total if size_bytes is None else size_bytes, read=lambda: stream(chunks))


async def rendered(template: bytes, inserts: dict[str, Insert]) -> bytes:
    result = render(template, inserts)
    text = b"".join([chunk async for chunk in result.chunks])
    assert len(text) == result.content_length
    return text


@settings(deadline=None)
@given(
    pictures=st.lists(st.binary(max_size=100), max_size=12),
    cuts=st.lists(st.integers(0, 100), max_size=6),
    prompt=st.text(max_size=20),
)
def test_rendering_agrees_with_the_standard_library(pictures: list[bytes], cuts: list[int], prompt: str) -> None:
    placeholders = Placeholders()
    names = [placeholders.next() for _ in pictures]
    template = json.dumps({"prompt": prompt, "data": [f"data:image/png;base64,{name}" for name in names]}).encode()
    inserts = {name: insert(*split(picture, cuts)) for name, picture in zip(names, pictures, strict=True)}
    document = json.loads(asyncio.run(rendered(template, inserts)))
    urls = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
    assert document == {"prompt": prompt, "data": urls}


async def test_what_was_rendered_can_be_lifted_again() -> None:
    data = os.urandom(300_001)
    name = Placeholders().next()
    text = await rendered(b'{"b64_json":"%b"}' % name.encode(), {name: insert(data[:100_000], data[100_000:])})
    lifted, opener = await lift_all(text)
    assert [bytes(sink.data) for sink in opener.sinks.values()] == [data]
    assert list(json.loads(lifted.json)) == ["b64_json"]


@pytest.mark.parametrize("announced", [0, 9, 11, 1000])
async def test_a_source_of_another_size_breaks_the_answer(announced: int) -> None:
    name = Placeholders().next()
    result = render(b'"%b"' % name.encode(), {name: insert(b"0123456789", size_bytes=announced)})
    sent: list[bytes] = []

    async def send() -> None:
        sent.extend([chunk async for chunk in result.chunks])

    with pytest.raises(SizeMismatch, match="a source gave"):
        await send()


@pytest.mark.parametrize("template", [b'"nothing"', b'["%(name)b","%(name)b"]'])
async def test_every_placeholder_stands_in_the_template_once(template: bytes) -> None:
    name = Placeholders().next()
    with pytest.raises(ValueError, match="every placeholder must stand in the JSON text once"):
        render(template.replace(b"%(name)b", name.encode()), {name: insert(b"abc")})


async def test_text_that_looks_like_a_placeholder_is_left_alone() -> None:
    assert await rendered(b'"lifted:0:0123456789abcdef"', {}) == b'"lifted:0:0123456789abcdef"'


async def test_a_reader_that_leaves_halfway_closes_the_source() -> None:
    closed: list[bool] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"abc"
            yield b"def"
        finally:
            closed.append(True)

    name = Placeholders().next()
    chunks = render(b'"%b"' % name.encode(), {name: Insert(size_bytes=6, read=source)}).chunks
    assert await anext(chunks) == b'"'
    assert await anext(chunks) == b"YWJj"
    await chunks.aclose()  # type: ignore[attr-defined]  # an iterator by its type, a generator in truth
    assert closed == [True]


async def test_a_source_need_not_be_a_generator() -> None:
    class Source:
        def __init__(self) -> None:
            self._chunks = iter([b"abc", b"d"])

        def __aiter__(self) -> "Source":
            return self

        async def __anext__(self) -> bytes:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise StopAsyncIteration
            return chunk

    name = Placeholders().next()
    assert await rendered(name.encode(), {name: Insert(size_bytes=4, read=Source)}) == b"YWJjZA=="


async def test_rendering_64_mb_holds_next_to_nothing() -> None:
    chunk = bytes(256 * 1024)
    name = Placeholders().next()
    picture = Insert(size_bytes=256 * len(chunk), read=lambda: stream(chunk for _ in range(256)))
    tracemalloc.start()
    try:
        result = render(b'"%b"' % name.encode(), {name: picture})
        sent_bytes = largest_bytes = 0
        async for piece in result.chunks:
            sent_bytes += len(piece)
            largest_bytes = max(largest_bytes, len(piece))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent_bytes == result.content_length
    assert largest_bytes <= 64 * 1024
    assert peak_bytes < 512 * 1024


def test_the_reference_is_strict() -> None:
    with pytest.raises(binascii.Error):
        base64.b64decode("QQ=", validate=True)
    assert reference_decode("QUJD=") is NOT_BASE64
