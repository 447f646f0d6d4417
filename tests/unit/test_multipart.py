import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart

import aiohttp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from urllib3.filepost import encode_multipart_formdata

from safelight.api.multipart import FileInfo, Form, MultipartError, MultipartLimits, TextField, read_form
from tests.sinks import RecordingSink, split, stream

CONTENT_TYPE = "multipart/form-data; boundary=XYZ"
PROMPT = b'--XYZ\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na fox\r\n'
IMAGE = b'--XYZ\r\nContent-Disposition: form-data; name="image"; filename="fox.png"\r\nContent-Type: image/png\r\n\r\n'
END = b"\r\n--XYZ--\r\n"


@dataclass
class Opener:
    """Makes recording sinks and remembers them."""

    keep: bool = True
    sinks: list[RecordingSink] = field(default_factory=list)

    async def __call__(self, info: FileInfo) -> RecordingSink:
        assert info.name
        self.sinks.append(RecordingSink(keep=self.keep))
        return self.sinks[-1]

    @property
    def endings(self) -> list[str | None]:
        return [sink.ending for sink in self.sinks]


async def read(
    *chunks: bytes,
    content_type: str | None = CONTENT_TYPE,
    limits: MultipartLimits | None = None,
    opener: Opener | None = None,
) -> Form[RecordingSink]:
    return await read_form(
        stream(chunks), content_type, limits=limits or MultipartLimits(), open_file=opener or Opener()
    )


def part(headers: bytes, body: bytes = b"x") -> bytes:
    return b"--XYZ\r\n" + headers + b"\r\n\r\n" + body + b"\r\n"


def disposition(parameters: bytes) -> bytes:
    return part(b"Content-Disposition: form-data" + parameters) + b"--XYZ--\r\n"


async def fault_of(
    *chunks: bytes, content_type: str | None = CONTENT_TYPE, limits: MultipartLimits | None = None, status: int = 400
) -> str:
    """Give what follows the contract's prefix; nothing opened may be left open."""
    opener = Opener()
    with pytest.raises(MultipartError) as caught:
        await read(*chunks, content_type=content_type, limits=limits, opener=opener)
    assert caught.value.status == status
    assert None not in opener.endings
    prefix = "failed to parse multipart form: "
    assert caught.value.message.startswith(prefix)
    return caught.value.message.removeprefix(prefix)


# --- against independent implementations -------------------------------------------------------------------------

NAMES = st.text(alphabet='abcé"[]; =中', min_size=1, max_size=8)
FILES = st.tuples(st.text(alphabet="fox .png;=é", max_size=12), st.binary(max_size=200), st.just("image/png"))
TRICKY = st.lists(st.sampled_from([b"\r", b"\n", b"-", b"--", b"XYZ", b"--XYZ", b"\r\n--XY", b"\r\n"])).map(b"".join)


@settings(deadline=None, max_examples=200)
@given(
    parts=st.lists(st.tuples(NAMES, st.text(max_size=40) | FILES), max_size=6),
    cuts=st.lists(st.integers(0, 3000), max_size=20),
)
def test_reads_what_urllib3_writes(parts: list[tuple[str, str | tuple[str, bytes, str]]], cuts: list[int]) -> None:
    body, content_type = encode_multipart_formdata(parts)
    form = asyncio.run(read(*split(body, cuts), content_type=content_type))
    # urllib3 writes names as browsers do, with %22 for a quote.
    fields = [(name.replace('"', "%22"), value) for name, value in parts if isinstance(value, str)]
    files = [(name.replace('"', "%22"), *value) for name, value in parts if not isinstance(value, str)]
    assert [(text.name, text.value) for text in form.fields] == fields
    assert [
        (file.info.name, file.info.filename, bytes(file.sink.data), file.info.content_type) for file in form.files
    ] == files
    assert all(file.size_bytes == file.sink.size_bytes and file.sink.ending == "closed" for file in form.files)


@settings(deadline=None)
@given(data=TRICKY, cuts=st.lists(st.integers(0, 400), max_size=20))
def test_data_that_looks_like_boundaries(data: bytes, cuts: list[int]) -> None:
    parts: list[tuple[str, tuple[str, bytes]]] = [("image", ("a", data)), ("mask", ("b", b"\r\n" + data))]
    assume(b"\r\n--XYZ-XYZ" not in b"\r\n" + data)  # no client would choose this boundary then
    body, content_type = encode_multipart_formdata(parts, boundary="XYZ-XYZ")
    form = asyncio.run(read(*split(body, cuts), content_type=content_type))
    assert [bytes(file.sink.data) for file in form.files] == [data, b"\r\n" + data]


async def test_reads_what_aiohttp_writes() -> None:
    data = aiohttp.FormData(default_to_multipart=True)
    data.add_field("prompt", "ein Fuchs, grün")
    data.add_field("image[]", b"\x89PNG", filename='fü"x.png', content_type="image/png")
    writer = data()

    class Collected(bytearray):
        async def write(self, chunk: bytes) -> None:
            self.extend(chunk)

    body = Collected()
    await writer.write(body)  # type: ignore[arg-type]  # all that a payload needs of a stream writer
    form = await read(bytes(body), content_type=writer.headers["Content-Type"])
    assert form.fields == (TextField(name="prompt", value="ein Fuchs, grün"),)
    assert [(file.info.name, bytes(file.sink.data)) for file in form.files] == [("image[]", b"\x89PNG")]


async def test_reads_what_the_email_package_writes() -> None:
    form = MIMEMultipart("form-data", boundary="== odd / boundary =")
    text = EmailMessage()
    text.add_header("Content-Disposition", "form-data", name="prompt")
    text.set_payload("a fox")
    picture = MIMEApplication(b"PNG", "png", lambda _message: None)
    picture.add_header("Content-Disposition", "form-data", name="image", filename="a; b.png")
    form.attach(text)
    form.attach(picture)
    content_type = form["Content-Type"]
    body = form.as_bytes().replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[2]
    result = await read(body, content_type=f"{content_type}")
    assert [text.value for text in result.fields] == ["a fox"]
    assert [(file.info.filename, file.info.content_type) for file in result.files] == [("a; b.png", "application/png")]


@settings(deadline=None)
@given(
    body=st.lists(
        st.sampled_from(
            [b"--XYZ", b"\r\n", b"--", b"Content-Disposition: form-data", b'; name="a"', b'; filename="', b":", b'"']
        )
        | st.binary(max_size=3),
        max_size=20,
    )
)
def test_any_bytes_give_a_form_or_a_multipart_error(body: list[bytes]) -> None:
    opener = Opener()
    with contextlib.suppress(MultipartError):
        asyncio.run(read(*body, opener=opener))
    assert None not in opener.endings


# --- what is understood ------------------------------------------------------------------------------------------


async def test_fields_and_files_keep_their_order_and_repeat() -> None:
    body = PROMPT + IMAGE + b"1\r\n" + PROMPT.replace(b"fox", b"cat") + IMAGE + b"2" + END
    form = await read(body)
    assert [text.value for text in form.fields] == ["a fox", "a cat"]
    assert [bytes(file.sink.data) for file in form.files] == [b"1", b"2"]
    assert form.files[0].info == FileInfo(name="image", filename="fox.png", content_type="image/png")


@pytest.mark.parametrize(
    "body",
    [b"--XYZ--", b"--XYZ--\r\n", b"\r\n--XYZ--\r\n", PROMPT + b"--XYZ--epilogue", PROMPT + b"--XYZ--\r\n" + PROMPT],
)
async def test_bodies_with_next_to_nothing_around_them(body: bytes) -> None:
    assert len((await read(body)).fields) == body.startswith(PROMPT)


async def test_an_empty_file_with_an_empty_name_is_a_file() -> None:
    (file,) = (await read(disposition(b'; name="image"; filename=""').replace(b"\r\n\r\nx", b"\r\n\r\n"))).files
    assert (file.info.filename, file.info.content_type, file.size_bytes, file.sink.ending) == ("", None, 0, "closed")


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/form-data; boundary="XYZ"',
        "Multipart/Form-Data;charset=utf-8;BOUNDARY=XYZ;",
        'multipart/form-data ; x="a;b\\"c"; boundary=XYZ ',
    ],
)
async def test_content_types(content_type: str) -> None:
    assert len((await read(PROMPT + b"--XYZ--", content_type=content_type)).fields) == 1


@pytest.mark.parametrize("boundary", ["=" * 70, "a b'()+_,-./:=?c", "----WebKitFormBoundary7MA4YWxkTrZu0gW"])
async def test_boundaries(boundary: str) -> None:
    body = PROMPT.replace(b"XYZ", boundary.encode()) + b"--" + boundary.encode() + b"--"
    assert len((await read(body, content_type=f'multipart/form-data; boundary="{boundary}"')).fields) == 1


@pytest.mark.parametrize(
    ("parameters", "filename"),
    [
        (b'filename="a;b.png"', "a;b.png"),
        (b'filename="a\\"b\\\\c.png"', "c.png"),
        (b'filename="say \\"fox\\".png"', 'say "fox".png'),
        (b"filename=fox.png", "fox.png"),
        (b'filename="C:\\pictures\\fox.png"', "fox.png"),
        (b'filename="../../etc/passwd"', "passwd"),
        (b'filename="fox/"', ""),
        (b'filename="a\tb.png"', "ab.png"),
        ('filename="Fuchs ü 狐.png"'.encode(), "Fuchs ü 狐.png"),
        ('filename="gnp.\u202exof"'.encode(), "gnp.xof"),
        (b'filename="' + b"a" * 300 + b'"', "a" * 255),
        (b"filename*=UTF-8''f%C3%BCchs.png", "füchs.png"),
        (b"filename*=utf-8'de'..%2F%00%0Dx%FF.png", "x\ufffd.png"),
        (b"filename=\"plain.png\"; filename*=UTF-8''better.png", "better.png"),
    ],
)
async def test_file_names_are_for_display_only(parameters: bytes, filename: str) -> None:
    (file,) = (await read(disposition(b'; name="image"; ' + parameters))).files
    assert file.info.filename == filename


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b';name="a\\"b"', 'a"b'),
        (b' ; NAME = "x"'.replace(b" = ", b"="), "x"),
        (b'; name="a;b=c"', "a;b=c"),
        (b"; name=image[]", "image[]"),
        ('; name="größe"'.encode(), "größe"),
        (b'; name="a\\b"', "a\\b"),
    ],
)
async def test_names(parameters: bytes, name: str) -> None:
    assert (await read(disposition(parameters))).fields == (TextField(name=name, value="x"),)


@pytest.mark.parametrize("encoding", [b"7bit", b"8BIT", b" binary "])
async def test_plain_transfer_encodings(encoding: bytes) -> None:
    headers = b'content-disposition:form-data; name="a"\r\nContent-Transfer-Encoding: ' + encoding + b"\r\nX-Other: 1"
    assert len((await read(part(headers) + b"--XYZ--")).fields) == 1


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "why"),
    [
        (None, "the request has no Content-Type; multipart/form-data is needed"),
        ("", "the request's Content-Type is not multipart/form-data"),
        ("application/json", "the request's Content-Type is not multipart/form-data"),
        ("multipart/mixed; boundary=XYZ", "the request's Content-Type is not multipart/form-data"),
        ("multipart/form-data", "the request's Content-Type has no boundary"),
        ('multipart/form-data; boundary=""', "the request's Content-Type has no boundary"),
        ("multipart/form-data; boundary=", "the request's Content-Type is malformed"),
        ("multipart/form-data; boundary", "the request's Content-Type is malformed"),
        ('multipart/form-data; boundary="XYZ', "the request's Content-Type is malformed"),
        ("multipart/form-data; boundary=XYZ, text/plain", "the request's Content-Type is malformed"),
        ("multipart/form-data; boundary=XYZ; boundary=ABC", "the request's Content-Type says boundary twice"),
        ("multipart/form-data; boundary=" + "x" * 71, "the boundary is longer than 70 characters"),
        ('multipart/form-data; boundary="XYZ "', "the boundary holds characters that it may not hold"),
        ('multipart/form-data; boundary="X\\"Z"', "the boundary holds characters that it may not hold"),
        ("multipart/form-data; boundary=XÿZ", "the boundary holds characters that it may not hold"),
        ('multipart/form-data; boundary="X\rZ"', "the request's Content-Type holds control characters"),
    ],
)
async def test_faults_of_the_content_type(content_type: str | None, why: str) -> None:
    assert await fault_of(PROMPT + b"--XYZ--", content_type=content_type) == why


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"--XY",
        b"--XYZ\r\n",
        PROMPT,
        PROMPT + b"--XYZ-",
        PROMPT + b"--XYZ\r\nContent-Dis",
        PROMPT + IMAGE,
        PROMPT + IMAGE + b"\x89PNG" * 100,
        PROMPT + IMAGE + b"\x89PNG\r\n--XYZ",
    ],
)
async def test_a_body_that_was_cut_off(body: bytes) -> None:
    assert await fault_of(body) == "the body ends before the final boundary"


@pytest.mark.parametrize(
    "body", [b'{"prompt":"a fox"}', b"--ABC\r\n", b"preamble\r\n" + PROMPT, b"--XYZ-x", b"--XYZ\n"]
)
async def test_a_body_without_its_boundary(body: bytes) -> None:
    assert await fault_of(body) == "the body does not begin with the boundary that its Content-Type names"


@pytest.mark.parametrize(
    "headers",
    [
        b"no colon",
        b": x",
        b"Na me: x",
        b"Name : x",
        b"N\x00: x",
        b"\xff: x",
        b"A: x\r\n folded",
        b"A: x\rB: y",
        b"\n\n",
        b"\r\n".join([b"A: x"] * 9),
        b"A: " + b"x" * 4097,
        b"A: " + b" " * 5000,
        b"A" * 5000,
    ],
)
async def test_broken_headers(headers: bytes) -> None:
    why = "the headers of a part are malformed, too many or too long"
    assert await fault_of(part(headers) + b"--XYZ--") == why


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (b"Content-Type: image/png", "a part has no Content-Disposition"),
        (b"", "a part has no Content-Disposition"),
        (b"Content-Disposition: attachment; name=a", "a part's Content-Disposition is not form-data"),
        (b"Content-Disposition: form-data", "a part has no name"),
        (b'Content-Disposition: form-data; filename="a"', "a part has no name"),
        (b'Content-Disposition: form-data; name=""', "a part has no name"),
        (b'Content-Disposition: form-data; name="a', "a part's Content-Disposition is malformed"),
        (b'Content-Disposition: form-data; name="a"b', "a part's Content-Disposition is malformed"),
        (b'Content-Disposition: form-data; name="a\\"', "a part's Content-Disposition is malformed"),
        (b'Content-Disposition: form-data; name = "a"', "a part's Content-Disposition is malformed"),
        (b'Content-Disposition: form-data, name="a"', "a part's Content-Disposition is not form-data"),
        (b"Content-Disposition: form-data; name=a; name=b", "a part's Content-Disposition says name twice"),
        (
            b"Content-Disposition: form-data; name=a; filename=x; FILENAME=y",
            "a part's Content-Disposition says filename twice",
        ),
        (
            b"Content-Disposition: form-data; name=a\r\ncontent-disposition: form-data; name=b",
            "a part has two Content-Disposition headers",
        ),
        (
            b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Disposition: form-data; name=a",
            "a part has two Content-Type headers",
        ),
        (b'Content-Disposition: form-data; name="a\nb"', "a part has a header that holds control characters"),
        (b'Content-Disposition: form-data; name="a\x00b"', "a part has a header that holds control characters"),
        (b"X-Other: \x7f", "a part has a header that holds control characters"),
        (b'Content-Disposition: form-data; name="\xff"', "a part has a header that is not valid UTF-8"),
        (
            b"Content-Disposition: form-data; name=a; name*=UTF-8''b",
            'the part "a" has a parameter of a kind that forms may not use',
        ),
        (
            b"Content-Disposition: form-data; name=a; filename*0=x; filename*1=y",
            'the part "a" has a parameter of a kind that forms may not use',
        ),
        (
            b"Content-Disposition: form-data; name=a; filename*=latin-1''x",
            'the part "a" has a malformed filename*',
        ),
        (b'Content-Disposition: form-data; name=a; filename*="x"', 'the part "a" has a malformed filename*'),
        (
            b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: Base64",
            'the part "a" has a Content-Transfer-Encoding, which is not accepted',
        ),
        (
            b"Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: quoted-printable",
            'the part "a" has a Content-Transfer-Encoding, which is not accepted',
        ),
    ],
)
async def test_faults_of_a_part(headers: bytes, why: str) -> None:
    body = PROMPT + part(headers) + b"--XYZ--"
    assert await fault_of(body) == why
    assert await fault_of(*(body[index : index + 1] for index in range(len(body)))) == why


async def test_a_line_break_in_a_name_makes_a_header_not_a_name() -> None:
    injected = b'; name="a\r\nContent-Disposition: form-data; name="b"'
    assert await fault_of(disposition(injected)) == "a part has two Content-Disposition headers"


async def test_text_that_is_not_utf_8() -> None:
    body = PROMPT.replace(b"a fox", b"a \xff fox") + b"--XYZ--"
    assert await fault_of(body) == 'the field "prompt" is not valid UTF-8 text'


async def test_a_long_name_is_cut_in_the_message() -> None:
    body = part(b"Content-Disposition: form-data; name=" + b"a" * 3000, b"\xff") + b"--XYZ--"
    assert await fault_of(body) == f'the field "{"a" * 100}…" is not valid UTF-8 text'


# --- limits ------------------------------------------------------------------------------------------------------


async def test_ten_thousand_fields() -> None:
    assert await fault_of(PROMPT * 10_000 + b"--XYZ--") == "more than 1000 parts"
    assert len((await read(PROMPT * 1000 + b"--XYZ--")).fields) == 1000


async def test_one_part_too_many() -> None:
    limits = MultipartLimits(max_parts=2)
    assert len((await read(PROMPT * 2 + b"--XYZ--", limits=limits)).fields) == 2
    assert await fault_of(PROMPT * 3 + b"--XYZ--", limits=limits) == "more than 2 parts"
    assert await fault_of(PROMPT * 2 + b"--XYZ\r\n", limits=limits) == "more than 2 parts"


async def test_boundaries_and_nothing_else() -> None:
    assert await fault_of(b"--XYZ\r\n\r\n" * 900) == "a part has no Content-Disposition"


@pytest.mark.parametrize("space", [b" ", b"\t", b" " * 10_000_000])
@pytest.mark.parametrize("before", [b"", PROMPT])
async def test_white_space_after_a_boundary(before: bytes, space: bytes) -> None:
    body = before + b"--XYZ" + space + b"\r\n"
    assert await fault_of(body) == "white space follows a boundary"
    assert await fault_of(*split(body, range(200))) == "white space follows a boundary"


async def test_ten_thousand_delimiters_that_are_none() -> None:
    body = IMAGE + b"\r\n--XYZ-?" * 10_000 + END
    assert await fault_of(body) == "more than 1000 parts"
    assert await fault_of(*split(body, range(0, len(body), 7))) == "more than 1000 parts"
    (file,) = (await read(IMAGE + b"\r\n--XYZ-?" * 999 + END)).files
    assert file.size_bytes == 999 * 9


@pytest.mark.parametrize("whole", [True, False])
async def test_a_10_mb_prompt(*, whole: bool) -> None:
    body = PROMPT.replace(b"fox", b"fox " * 2_500_000) + b"--XYZ--"
    chunks = [body] if whole else split(body, range(0, len(body), 50_000))
    assert await fault_of(*chunks) == 'the field "prompt" is larger than 1048576 bytes'


async def test_text_fields_in_all() -> None:
    limits = MultipartLimits(max_field_bytes=6, max_total_field_bytes=12)
    assert await fault_of(PROMPT * 3 + b"--XYZ--", limits=limits) == "the text fields are larger than 12 bytes in all"


async def test_too_many_files() -> None:
    limits = MultipartLimits(max_files=2)
    assert await fault_of((IMAGE + b"x\r\n") * 3 + b"--XYZ--", limits=limits) == "more than 2 files"


async def test_a_file_over_the_limit() -> None:
    limits = MultipartLimits(max_file_bytes=10)
    why = 'the file in field "image" is larger than 10 bytes'
    assert len((await read(IMAGE + b"x" * 10 + END, limits=limits)).files) == 1
    assert await fault_of(IMAGE + b"x" * 11 + END, limits=limits, status=413) == why


async def test_a_fault_leaves_the_files_before_it_closed() -> None:
    opener = Opener()
    with pytest.raises(MultipartError):
        await read(IMAGE + b"1\r\n" + IMAGE + b"2", opener=opener)
    assert opener.endings == ["closed", "aborted"]


async def test_a_source_that_fails_aborts_the_open_file() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield IMAGE + b"\x89PNG"
        raise ConnectionResetError

    opener = Opener()
    with pytest.raises(ConnectionResetError):
        await read_form(chunks(), CONTENT_TYPE, limits=MultipartLimits(), open_file=opener)
    assert opener.endings == ["aborted"]


async def test_a_sink_that_refuses_on_close_is_not_aborted_as_well() -> None:
    class PickySink(RecordingSink):
        async def close(self) -> None:
            await super().close()
            raise ValueError("no picture")

    sink = PickySink()

    async def open_file(_info: FileInfo) -> PickySink:
        return sink

    with pytest.raises(ValueError, match="no picture"):
        await read_form(stream([IMAGE + END]), CONTENT_TYPE, limits=MultipartLimits(), open_file=open_file)
    assert sink.ending == "closed"


@pytest.mark.parametrize("filler", [b"\x00", b"\r", b"\r\n--XY", b"-"])
async def test_a_64_mb_file_holds_next_to_nothing(filler: bytes) -> None:
    chunk = (filler * 65536)[:65536]

    def chunks() -> Iterator[bytes]:
        yield IMAGE
        yield from (chunk for _ in range(1024))
        yield END

    opener = Opener(keep=False)
    tracemalloc.start()
    try:
        form = await read_form(stream(chunks()), CONTENT_TYPE, limits=MultipartLimits(), open_file=opener)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert form.files[0].size_bytes == 64 * 1024 * 1024
    assert opener.sinks[0].largest_chunk_bytes <= 64 * 1024
    assert peak_bytes < 512 * 1024
