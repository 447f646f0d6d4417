"""What nobody means well by. Never a 500, always the contract's shape, and the gateway serves on."""

import asyncio
import base64
import gzip
import io
import itertools
import json
import random
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from PIL import Image

from safelight import http_protocol
from safelight.api.docs import openapi_document
from tests.api.client import SMALL, Client, File, Reply, check_shape, mask, parts_of, png
from tests.api.serving import ServedGateway
from tests.api.wire import EDITS, GENERATIONS, RawReply, connected, exchange, head, multipart, read_reply
from tests.simulators.openai_compatible import OpenAICompatibleSimulator

JSON = {"content-type": "application/json"}
SCHEMAS = openapi_document()["components"]["schemas"]
MODEL = ("model", "builtin/sketch")
PASSES = {"x-bf-passthrough-extra-params": "true"}


@pytest.fixture(autouse=True)
async def _still_serves(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    gateways = [request.getfixturevalue(name) for name in ("served", "own") if name in request.fixturenames]
    yield
    for gateway in gateways:
        async with Client(gateway.url) as client:
            assert (await client.get("/health")).status == 200


def refused(reply: Reply | RawReply | None, *statuses: int) -> Any:
    """Hold an answer to be one of the refusals, in the contract's shape."""
    assert reply is not None
    assert reply.status in (statuses or (400,)), reply.body[:300]
    assert reply.headers["content-type"] == "application/json"
    check_shape("HandlerError", reply.json)
    assert reply.json["status_code"] == reply.status
    assert len(reply.body) < 2000
    return reply.json


def taken_or_refused(reply: Reply) -> None:
    if reply.status == 202:
        check_shape("AsyncJobSubmitted", reply.json)
    else:
        refused(reply)


async def refused_form(client: Client, *parts: tuple[str, bytes], kind: str = "edits") -> None:
    headers = {"content-type": "multipart/form-data; boundary=cut"}
    refused(await client.ask("POST", f"/v1/async/images/{kind}", data=multipart(*parts), headers=headers))


async def raw_json(client: Client, body: bytes, **headers: str) -> Reply:
    return await client.ask("POST", GENERATIONS, data=body, headers={**JSON, **PASSES, **headers})


# --------------------------------------------------------------------------------------------------------- many, long


@pytest.mark.parametrize("nested", [False, True])
async def test_ten_thousand_fields_of_json(client: Client, nested: bool) -> None:  # noqa: FBT001 - a parameter of the test
    many = {f"field{index}": index for index in range(10_000)}

    reply = await client.send("generations", {**SMALL, **({"deep": many} if nested else many)}, headers=PASSES)

    if nested:
        taken_or_refused(reply)
    else:
        refused(reply)


@pytest.mark.parametrize("count", [10_000, 1_001])
async def test_ten_thousand_fields_of_a_form(client: Client, count: int) -> None:
    await refused_form(client, *((f'name="field{index}"', b"x") for index in range(count)))


async def test_a_thousand_files(client: Client) -> None:
    refused(await client.send("edits", [MODEL, *[File("image[]", png())] * 1_000]))


async def test_a_million_small_objects(client: Client) -> None:
    body = b'{"model": "builtin/sketch", "prompt": "x", "own": [' + b"{}," * 1_000_000 + b"{}]}"

    taken_or_refused(await raw_json(client, body))


@pytest.mark.parametrize("text", ["x", "words ", "ä", "\U0001f98a", '\\"', "AAAA"])
async def test_prompt_of_ten_megabytes(client: Client, text: str) -> None:
    body = b'{"model": "builtin/sketch", "prompt": "' + text.encode() * (10_000_000 // len(text.encode())) + b'"}'

    assert "prompt must be at most" in refused(await raw_json(client, body))["error"]["message"]


async def test_prompt_of_ten_megabytes_in_a_form(client: Client) -> None:
    await refused_form(client, ('name="model"', b"builtin/sketch"), ('name="prompt"', b"x" * 10_000_000))


@pytest.mark.parametrize("kind", ["edits", "variations"])
async def test_field_name_of_a_megabyte(client: Client, kind: str) -> None:
    await refused_form(client, ('name="model"', b"builtin/sketch"), (f'name="{"x" * 1_000_000}"', b"y"), kind=kind)
    refused(await client.send("generations", {**SMALL, "x" * 1_000_000: 1}), 400)


async def test_filename_with_everything_in_it(client: Client) -> None:
    for filename in ("../../etc/passwd", "a" * 3000, "fox\u202egnp.exe", "a\\b\\c.png", ".", "", "nul\ufffd.png"):
        reply = await client.send("edits", [*parts_of("edits"), File("mask", mask(), filename)])
        taken_or_refused(reply)


# -------------------------------------------------------------------------------------------------------- wrong types

WRONG: list[Any] = [
    0, -1, 1.5, 1e308, 2**63, -(2**63) - 1, True, False, "", "x", "x" * 3000, [], ["x"], [[]], {}, {"x": 1}, [None],
    "\x00", "\u202e", "../../etc/passwd", "'; DROP TABLE jobs; --", "{{7*7}}", "%s%n",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(SCHEMAS["ImageGenerationRequest"]["properties"]))
async def test_wrong_types_in_every_field_of_a_generation(client: Client, name: str) -> None:
    replies = await asyncio.gather(*(client.send("generations", {**SMALL, name: value}) for value in WRONG))

    for reply in replies:
        taken_or_refused(reply)
    assert any(reply.status == 400 for reply in replies)


@pytest.mark.parametrize("kind", ["edits", "variations"])
@pytest.mark.parametrize("name", sorted(SCHEMAS["ImageEditForm"]["properties"]))
async def test_wrong_types_in_every_part_of_a_form(client: Client, kind: str, name: str) -> None:
    base = [part for part in parts_of(kind) if isinstance(part, File) or part[0] != name]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in WRONG]
    replies = await asyncio.gather(
        *(client.send(kind, [*base, (name, text)]) for text in texts),
        *(client.send(kind, [*base, File(name, content)]) for content in (b"", b"x", png())),
    )

    for reply in replies:
        taken_or_refused(reply)


# --------------------------------------------------------------------------------------------------------- JSON tricks


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b"[[],"])
@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("whole", [True, False])
async def test_deep_nesting(client: Client, opening: bytes, depth: int, whole: bool) -> None:  # noqa: FBT001 - a parameter of the test
    closing = opening.translate(None, b',"a:').translate(bytes.maketrans(b"[{", b"]}"))[::-1]
    closing = b"]" if opening == b"[[]," else closing
    deep = opening * depth + b"1" + (closing * depth if whole else b"")

    taken_or_refused(await raw_json(client, b'{"model": "builtin/sketch", "prompt": "x", "own": ' + deep + b"}"))
    refused(await raw_json(client, deep))


@pytest.mark.parametrize(
    "value",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"1" * 400,
        b"1" * 10_000,
        b"0." + b"0" * 10_000 + b"1",
        b"1e-999999999",
        b"01",
        b"0x1",
        b"+1",
        b"'x'",
        b"undefined",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc3"',
        b'"\xf8\x88\x80\x80\x80"',
        b'"\\x41"',
        b'"\\u00"',
        b'"a\nb"',
        b'"\\u0000"',
        b"/**/1",
        b"1 //",
        b'{"a":1,"a":2}',
        b'{"":{"":""}}',
        b"[1,]",
        b"nul",
        b"",
    ],
)
@pytest.mark.parametrize("name", ["own", "n", "user", "prompt", "input_images"])
async def test_values_that_parsers_differ_about(client: Client, name: str, value: bytes) -> None:
    fields = {"model": b'"builtin/sketch"', "prompt": b'"x"', "size": b'"16x16"', name: value}
    body = b"{" + b",".join(b'"%b":%b' % (key.encode(), text) for key, text in fields.items()) + b"}"

    taken_or_refused(await raw_json(client, body))


async def test_duplicate_keys(client: Client) -> None:
    for first, second in itertools.product((b'"x"', b"7", b"true"), repeat=2):
        body = b'{"model":"builtin/sketch","prompt":%b,"prompt":%b,"stream":false,"stream":%b}' % (
            first,
            b'"y"',
            second,
        )
        taken_or_refused(await raw_json(client, body))


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x1f\x8b", b"//\n", b" \t\r\n", b"\x0b"])
async def test_what_stands_before_the_json(client: Client, prefix: bytes) -> None:
    reply = await raw_json(client, prefix + json.dumps(SMALL).encode())

    if prefix.strip(b" \t\r\n"):
        refused(reply)
    else:
        assert reply.status == 202


async def test_other_encodings_of_json(client: Client) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-7"):
        reply = await raw_json(client, json.dumps(SMALL).encode(encoding))
        if encoding != "utf-7":
            refused(reply)
        refused(await raw_json(client, json.dumps({"prompt": "ä"}, ensure_ascii=False).encode("latin-1")))


async def test_placeholders_of_our_own_cannot_be_guessed(client: Client) -> None:
    text = "A" * 200_000
    guess = "lifted:0:0000000000000000"

    refused(await client.send("generations", {**SMALL, "input_images": [guess]}))
    refused(await client.send("generations", {**SMALL, "input_images": [text, guess]}))
    reply = await client.send("generations", {**SMALL, "prompt": guess})
    assert reply.status == 202


async def test_random_bytes(client: Client) -> None:
    source = random.Random(7)
    good = json.dumps({**SMALL, "input_images": [base64.b64encode(png()).decode()], "own": {"a": [1, "é"]}}).encode()
    for _ in range(100):
        body = bytearray(good)
        for _ in range(source.randrange(1, 6)):
            body[source.randrange(len(body))] = source.randrange(256)
        taken_or_refused(await raw_json(client, bytes(body)))


# ------------------------------------------------------------------------------------------------------------- images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_head(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def claims_to_be(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    return png_head(width, height) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A PNG of 7000 by 7000, which is allowed, in 150 KB: 147 MB once decoded."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(7000 * 3 + 1)) for _ in range(7000)) + packer.flush()
    return png_head(7000, 7000) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A PNG whose text inflates to 100 MB before the picture has come."""
    text = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    return png_head(16, 16) + chunk(b"zTXt", text) + png()[33:]


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
POLYGLOTS = {
    "words": b"this is a text file, whatever its name says",
    "empty": b"",
    "one byte": b"\x89",
    "svg": SVG,
    "html": b"<!doctype html><script>alert(1)</script>",
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj",
    "zip": b"PK\x03\x04" + bytes(100),
    "bmp": b"BM" + bytes(100),
    "tiff": b"II*\x00" + bytes(100),
    "ico": b"\x00\x00\x01\x00\x01\x00" + bytes(100),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n",
    "postscript": b"%!PS\nsystemdict /showpage get exec",
    "heic": b"\x00\x00\x00\x18ftypheic" + bytes(100),
    "avif": b"\x00\x00\x00\x18ftypavif" + bytes(100),
    "text before a PNG": b"GIF" + png(),
    "PNG signature alone": png()[:8],
    "PNG up to its size": png()[:20],
    "GIF signature alone": b"GIF89a",
    "JPEG marker alone": b"\xff\xd8\xff",
    "WebP head alone": b"RIFF\x00\x00\x00\x00WEBP",
    "PNG of 50000 by 50000": claims_to_be(50_000, 50_000),
    "PNG of 2^31-1 by 2^31-1": claims_to_be(2**31 - 1, 2**31 - 1),
    "PNG of 0 by 0": claims_to_be(0, 0),
    "PNG of 2^32-1 by 1": claims_to_be(2**32 - 1, 1),
    "GIF of 65535 by 65535": b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
    "WebP of 16383 by 16383": b"RIFF\x1e\x00\x00\x00WEBPVP8L\x11\x00\x00\x00/\xfe\xbf\xff\x0f" + bytes(12),
}


@pytest.mark.parametrize("what", POLYGLOTS)
@pytest.mark.parametrize("kind", ["edits", "variations"])
async def test_file_that_is_no_picture(client: Client, kind: str, what: str) -> None:
    body = refused(await client.send(kind, [MODEL, ("prompt", "x"), File("image", POLYGLOTS[what], "fox.png")]))

    assert body["error"]["param"] == "image"
    assert body["error"]["message"].startswith("image: the file 'fox.png' is ")


@pytest.mark.parametrize("what", POLYGLOTS)
async def test_mask_and_base64_that_are_no_picture(client: Client, what: str) -> None:
    text = base64.b64encode(POLYGLOTS[what]).decode()

    refused(await client.send("edits", [*parts_of("edits"), File("mask", POLYGLOTS[what])]))
    refused(await client.send("generations", {**SMALL, "input_images": [text]}))


@pytest.mark.parametrize("make", [bomb, text_bomb])
@pytest.mark.parametrize("kind", ["edits", "variations"])
async def test_bomb_goes_off_nowhere(client: Client, kind: str, make: Any) -> None:
    """Taken (its size is allowed) or refused; where it is decoded, that fails the job and nothing else."""
    reply = await client.send(kind, [MODEL, ("prompt", "x"), File("image", make())])

    taken_or_refused(reply)
    if reply.status == 202:
        job = await client.end(kind, reply.json["id"])
        assert job["status_code"] in {200, 400}


def truncated() -> Iterator[bytes]:
    noise = Image.effect_noise((64, 64), 100)
    for form in ("PNG", "JPEG", "WEBP", "GIF"):
        buffer = io.BytesIO()
        noise.save(buffer, form)
        whole = buffer.getvalue()
        yield from (whole[: len(whole) * part // 8] for part in range(1, 8))


async def test_truncated_picture_is_refused_or_fails_the_job(client: Client) -> None:
    for content in truncated():
        reply = await client.send("edits", [MODEL, ("prompt", "x"), File("image", content)])
        taken_or_refused(reply)
        if reply.status == 202:
            job = await client.end("edits", reply.json["id"])
            assert job["status_code"] in {200, 400}, job


async def test_picture_with_something_behind_it(client: Client) -> None:
    """A ZIP, a script, whatever: it is stored as it came and given to nobody but the provider."""
    for tail in (b"PK\x03\x04" + bytes(100), SVG, b"<?php system($_GET[0]);", bytes(100_000)):
        await client.submit("edits", [MODEL, ("prompt", "x"), File("image", png() + tail, "fox.php", "text/html")])


# ---------------------------------------------------------------------------------------------------------- cut short

FORM = multipart(
    ('name="model"', b"builtin/sketch"), ('name="prompt"', b"x"), ('name="image"; filename="fox.png"', png())
)
FORM_HEAD = "Content-Type: multipart/form-data; boundary=cut"


def cuts() -> list[int]:
    """After each line, within each line, and within the picture."""
    ends = [index + 1 for index, byte in enumerate(FORM) if byte in b"\r\n"]
    return sorted(
        {0, 1, 5, *ends, *(end - 1 for end in ends), len(FORM) - 3, len(FORM) - 4}
        - {len(FORM), len(FORM) - 1, len(FORM) - 2}
    )


async def test_form_cut_off_at_every_place(own: ServedGateway) -> None:
    """With a length that fits what comes, so that the body ends there."""

    async def cut(at: int) -> None:
        reply = await exchange(own.port, head(EDITS, FORM_HEAD, f"Content-Length: {at}"), FORM[:at])
        refused(reply)

    assert len(cuts()) > 30
    await asyncio.gather(*map(cut, cuts()))
    assert own.blobs == []
    assert own.job_count() == 0


async def test_client_that_leaves_within_a_form(own: ServedGateway) -> None:
    """With a length that promises more, and then the end of the connection."""

    async def leave(at: int) -> None:
        async with connected(own.port) as (_, writer):
            writer.write(head(EDITS, FORM_HEAD, f"Content-Length: {len(FORM)}") + FORM[:at])
            await writer.drain()

    await asyncio.gather(*map(leave, cuts()))
    await asyncio.to_thread(own.wait_until_idle)
    assert own.blobs == []
    assert own.job_count() == 0


async def test_whole_form_in_single_bytes(served: ServedGateway) -> None:
    pieces = [FORM[index : index + 1] for index in range(len(FORM))]

    reply = await exchange(served.port, head(EDITS, FORM_HEAD, f"Content-Length: {len(FORM)}"), *pieces)

    assert reply is not None
    assert reply.status == 202


# --------------------------------------------------------------------------------------------------- lengths that lie

BODY = json.dumps(SMALL).encode()
JSON_HEAD = "Content-Type: application/json"


async def test_length_longer_than_the_body(own: ServedGateway) -> None:
    """The client waits for an answer, the gateway for the rest: the gateway loses patience."""
    reply = await exchange(own.port, head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(BODY) + 10}"), BODY)

    refused(reply, 408)
    assert own.job_count() == 0


async def test_length_shorter_than_the_body(own: ServedGateway) -> None:
    refused(await exchange(own.port, head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(BODY) - 5}"), BODY))


async def test_what_follows_a_whole_request_does_not_spoil_its_answer(own: ServedGateway) -> None:
    reply = await exchange(own.port, head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(BODY)}") + BODY + b"\x00more")

    assert reply is not None
    assert reply.status == 202


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: -1"],
        ["Content-Length: 1e3"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 0x10"],
        ["Content-Length: 5, 5"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked, identity"],
    ],
)
async def test_lengths_that_contradict(own: ServedGateway, lines: list[str]) -> None:
    reply = await exchange(own.port, head(GENERATIONS, JSON_HEAD, *lines), BODY, end=True)

    if reply is not None:
        refused(reply, 400, 408, 413, 501)
    assert own.job_count() == 0


async def test_length_that_announces_too_much_is_refused_at_once(own: ServedGateway) -> None:
    refused(await exchange(own.port, head(GENERATIONS, JSON_HEAD, "Content-Length: 999999999999")), 413)


async def test_refused_client_that_goes_on_sending_reads_the_answer(own: ServedGateway) -> None:
    pieces = [b"x" * 65_536] * 300

    async def send(*lines: str, pieces: list[bytes]) -> RawReply | None:
        return await exchange(own.port, head(GENERATIONS, JSON_HEAD, *lines), *pieces)

    refused(await send("Content-Length: 19660800", pieces=pieces), 413)
    refused(await send("Transfer-Encoding: chunked", pieces=[b"10000\r\n%b\r\n" % piece for piece in pieces]), 413)


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2{}\r\n",
        b"FFFFFFFFFFFFFFFFF\r\n{}",
        b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"2\r\n{}\r\n" + b"0\r\n" + b"Trailer: x\r\n" * 20_000 + b"\r\n",
    ],
)
async def test_garbage_in_chunks(own: ServedGateway, chunks: bytes) -> None:
    reply = await exchange(own.port, head(GENERATIONS, JSON_HEAD, "Transfer-Encoding: chunked"), chunks, end=True)

    if reply is not None:
        refused(reply, 400, 408, 413, 431)
    assert own.job_count() == 0


async def test_body_in_small_chunks_is_taken(served: ServedGateway) -> None:
    pieces = [b"1;name=value\r\n%b\r\n" % BODY[index : index + 1] for index in range(len(BODY))]

    reply = await exchange(
        served.port, head(GENERATIONS, JSON_HEAD, "Transfer-Encoding: chunked"), *pieces, b"0\r\n\r\n"
    )

    assert reply is not None
    assert reply.status == 202


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_gzip_bomb(client: Client, encoding: str) -> None:
    """200 MB of blanks in 200 KB; and the same within the quotes of a prompt."""
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    packed = packer.compress(b'{"prompt": "') + b"".join(packer.compress(b" " * 1_000_000) for _ in range(200))

    reply = await raw_json(client, packed + packer.flush(), **{"content-encoding": encoding})

    refused(reply, 413)


async def test_gzip_within_gzip(client: Client) -> None:
    twice = gzip.compress(gzip.compress(bytes(50_000_000)))

    refused(await raw_json(client, twice, **{"content-encoding": "gzip"}))


# --------------------------------------------------------------------------------------------------- heads of requests


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\r\nnonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\n\nX",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_heads_that_are_no_http(served: ServedGateway, sent: bytes) -> None:
    reply = await exchange(served.port, sent, end=True)

    if reply is not None:
        refused(reply, 400, 404, 405)


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100, b"GET / HTTP/1.1\r\n"]
)
async def test_head_without_an_end(served: ServedGateway, start: bytes) -> None:
    pieces = [b"X: y\r\n" * 1000 if start.endswith(b"\n") else b"x" * 6000] * 100

    refused(await exchange(served.port, start, *pieces), 431, 400)


async def test_large_requests_one_after_another(served: ServedGateway) -> None:
    """More than a head may have, in as few reads as the socket brings: none of it is taken for a head."""
    body = json.dumps({**SMALL, "own": "words " * 15_000}).encode()
    request = head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(body)}") + body
    async with connected(served.port) as (reader, writer):
        for _ in range(10):
            writer.write(request)
            reply = await read_reply(reader)
            assert reply is not None
            assert reply.status == 202


async def test_nothing_at_all_is_waited_for_and_then_dropped(
    served: ServedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "_HEAD_TIMEOUT_S", 0.2)
    async with connected(served.port) as (reader, _):
        assert await reader.read() == b""
    refused(await exchange(served.port, b"GET / HTTP/1.1\r\nX: y\r\n"), 408)


@pytest.mark.parametrize("path", ["/nope", "/v1/models", GENERATIONS])
async def test_answer_before_the_end_of_a_body_ends_the_connection(served: ServedGateway, path: str) -> None:
    async with connected(served.port) as (reader, writer):
        writer.write(head(path, "Content-Type: text/plain", "Content-Length: 1000") + b"x")
        refused(await read_reply(reader), 404, 405, 415)
        assert await reader.read() == b""


async def test_several_requests_at_once_are_answered_in_turn(served: ServedGateway) -> None:
    wanted = [f"pipelined-{index}" for index in range(20)]
    requests = [
        head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(BODY)}", f"x-request-id: {name}") + BODY for name in wanted
    ]
    async with connected(served.port) as (reader, writer):
        writer.write(b"".join(requests))
        replies = [await read_reply(reader) for _ in wanted]

    assert [reply.headers["x-request-id"] for reply in replies if reply] == wanted


@pytest.mark.parametrize(
    "host",
    [
        "[",
        "[::1",
        "a]b",
        "a/../b",
        "evil.example/path?",
        "evil.example#",
        "user:secret@evil.example",
        "a\tb",
        "ä.example",
        "a:99999999",
        "a:b",
        "",
        "x" * 5000,
        "<script>",
        '"',
        None,
    ],
)
async def test_host_that_is_none_does_not_get_into_links(served: ServedGateway, host: str | None) -> None:
    values = json.dumps({**SMALL, "response_format": "url"}).encode()

    reply = await exchange(
        served.port, head("/v1/images/generations", JSON_HEAD, f"Content-Length: {len(values)}", host=host), values
    )

    assert reply is not None
    if reply.status != 200:
        refused(reply)
        return
    url = reply.json["data"][0]["url"]
    scheme, _, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    assert (scheme, slash) == ("http", "/")
    assert path.startswith("v1/files/")
    assert all(char.isalnum() or char in ".-:[]" for char in netloc), url
    assert "@" not in url
    unknown = await exchange(served.port, head("/nope", method="GET", host=host))
    refused(unknown, 400, 404)


@pytest.mark.parametrize(
    "value", ["a\tb", "caf\xe9", "x" * 10_000, "\x7f", 'a"b', "a;b", "%0d%0aSet-Cookie: x", "\\r\\nX: y"]
)
async def test_request_id_cannot_split_the_answer(served: ServedGateway, value: str) -> None:
    reply = await exchange(
        served.port,
        head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(BODY)}", f"x-request-id: {value}"),
        BODY,
    )

    assert reply is not None
    if reply.status == 202:
        assert set(reply.headers) <= {
            "date",
            "location",
            "retry-after",
            "x-request-id",
            "content-length",
            "content-type",
            "referrer-policy",
            "x-content-type-options",
            "x-frame-options",
        }
        assert reply.headers["x-request-id"] == reply.json["request_id"]
        assert reply.headers["x-request-id"].isascii()
    else:
        refused(reply)


@pytest.mark.parametrize("bare", ["\r", "\n", "\r\nX-Evil: y"])
async def test_line_breaks_in_headers(served: ServedGateway, bare: str) -> None:
    reply = await exchange(
        served.port,
        head(GENERATIONS, JSON_HEAD, f"Content-Length: {len(BODY)}", f"x-request-id: a{bare}b"),
        BODY,
    )

    if reply is not None and reply.status == 202:
        assert "x-evil" not in reply.headers
        assert "\n" not in reply.json["request_id"]
    elif reply is not None:
        refused(reply)


async def test_headers_for_the_provider_that_no_client_could_send_on(client: Client) -> None:
    """A job with them ends like any other."""
    values = {"model": "openai/gpt-image-2", "prompt": "x"}
    for name, value in {"x-bf-eh-x": "a\tb", "x-bf-eh-y": "é", "x-bf-eh-": "z", "x-bf-eh-x-bf-eh-z": "1"}.items():
        job = await client.run(values=values, headers={name: value})
        assert job["status"] == "completed", job


async def test_hundreds_of_headers_for_the_provider(client: Client) -> None:
    await client.submit(headers={f"x-bf-eh-own-{index}": "x" * 50 for index in range(500)})


ODD_NAMES = ("ß", 'a"b', "a\\b", "a\tb", "\u2028", "\x7f", "\U0001f98a", "a;filename=x", "n" * 300, "__proto__", " ")


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_of_extra_parts_reach_the_provider(
    client: Client, gpu_box: OpenAICompatibleSimulator, name: str
) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    body = multipart(
        ('name="model"', b"gpu-box/any"),
        ('name="prompt"', b"x"),
        (f'name="{quoted}"', "välue\r\n".encode()),
        ('name="image"; filename="fox.png"', png()),
    )
    headers = {"content-type": "multipart/form-data; boundary=cut"}

    reply = await client.ask("POST", "/v1/images/edits", data=body, headers=headers)

    if name == "\x7f":
        refused(reply)
        return
    assert reply.status == 200, reply.body
    sent = next(exchange for exchange in reversed(gpu_box.exchanges) if exchange.method == "POST")
    assert sent.fields.get(name.replace("\t", "%09")) == "välue\r\n"


# ---------------------------------------------------------------------------------------------------- paths of files


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/../../../../etc/passwd",
        "/v1/files/..%2f..%2f..%2fetc/passwd",
        "/v1/files/%2e%2e/%2e%2e/safelight.db",
        "/v1/files/%2e%2e/safelight.db?expires=9999999999&signature=x",
        "/v1/files/a/%00?expires=9999999999&signature=x",
        "/v1/files/a/..?expires=9999999999&signature=",
        "/v1/files//x",
        "/v1/files/a/b/c",
        "/v1/files/a/b?expires=1&expires=2&signature=x&signature=y",
        "/v1/files/%ff/%fe?expires=9999999999&signature=%ff",
        "/v1/files/a/b?expires=%d9%a1&signature=x",
        "//v1/models",
        "///",
        "/docs/../openapi.json",
        "/docs/%2e%2e/openapi.yaml",
        "/docs/..%5copenapi.yaml",
    ],
)
async def test_paths_that_lead_elsewhere(served: ServedGateway, path: str) -> None:
    refused(await exchange(served.port, head(path, method="GET")), 403, 404)


# -------------------------------------------------------------------------------------------------------- slow clients


async def test_two_hundred_slow_clients_do_not_hold_up_others(own: ServedGateway) -> None:
    """Each has sent a part of a head, a body or a form, and says nothing more."""
    beginnings = (
        b"POST /v1/async/images/gen",
        head(GENERATIONS, JSON_HEAD, "Content-Length: 1000") + b'{"prompt": "',
        head(EDITS, FORM_HEAD, "Content-Length: 100000") + FORM[:-20],
        head(GENERATIONS, JSON_HEAD, "Transfer-Encoding: chunked"),
    )

    async def dawdle(beginning: bytes, *, all_here: asyncio.Barrier, done: asyncio.Event) -> None:
        async with connected(own.port) as (reader, writer):
            writer.write(beginning)
            await writer.drain()
            await all_here.wait()
            await done.wait()
            if beginning.endswith(b"gen"):
                return
            reply = await read_reply(reader)
            refused(reply, 408)

    all_here, done = asyncio.Barrier(201), asyncio.Event()
    async with asyncio.TaskGroup() as slow, Client(own.url) as client:
        for beginning in beginnings * 50:
            slow.create_task(dawdle(beginning, all_here=all_here, done=done))
        await all_here.wait()
        jobs = await asyncio.gather(*(client.run() for _ in range(10)))
        done.set()

    assert {job["status"] for job in jobs} == {"completed"}
    assert own.job_count() == 10
    assert len(own.blobs) == 10
