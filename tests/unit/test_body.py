import asyncio
import contextlib
import gzip
import os
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from safelight.api.body import (
    BodyTimeout,
    BodyTooLarge,
    ClientDisconnected,
    InvalidCompressedBody,
    UnsupportedEncoding,
    body_chunks,
)
from tests.sinks import split

Headers = list[tuple[str, str]]
Message = dict[str, Any]


def request(receive: Callable[[], Awaitable[Message]], headers: Headers | None = None) -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers or []]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def messages_of(chunks: list[bytes], *, ended: bool = True) -> list[Message]:
    last = len(chunks) - 1 if ended else len(chunks)
    return [{"type": "http.request", "body": chunk, "more_body": n < last} for n, chunk in enumerate(chunks)]


def sender(messages: list[Message]) -> Callable[[], Awaitable[Message]]:
    """Give the messages one by one; whoever asks for more than there are fails."""
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting)

    return receive


async def read(
    *chunks: bytes, headers: Headers | None = None, limit_bytes: int = 1000, messages: list[Message] | None = None
) -> bytes:
    sent = request(sender(messages_of(list(chunks)) if messages is None else messages), headers)
    received = [chunk async for chunk in body_chunks(sent, limit_bytes=limit_bytes, idle_timeout_s=60)]
    assert all(received)
    return b"".join(received)


def encoded(name: str) -> Headers:
    return [("Content-Encoding", name)]


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "identity": bytes,
    "identity, gzip": gzip.compress,
    "": bytes,
}


@settings(deadline=None)
@given(
    data=st.binary(max_size=900),
    name=st.sampled_from(sorted(ENCODERS)),
    cuts=st.lists(st.integers(0, 1000), max_size=20),
)
def test_gives_the_body_however_it_is_cut_and_encoded(data: bytes, name: str, cuts: list[int]) -> None:
    chunks = split(ENCODERS[name](data), cuts)
    assert asyncio.run(read(*chunks, headers=encoded(name))) == data


async def test_a_body_of_exactly_the_limit() -> None:
    assert await read(b"x" * 600, b"x" * 400, headers=[("Content-Length", "1000")]) == b"x" * 1000
    compressible = bytes(1000)
    assert await read(gzip.compress(compressible, mtime=0), headers=encoded("gzip")) == compressible


async def test_an_empty_body() -> None:
    assert await read(b"") == b""
    assert await read(messages=[{"type": "http.request"}]) == b""


@pytest.mark.parametrize("length", ["1001", "9" * 18, "9" * 5000])
async def test_an_announced_length_over_the_limit_is_refused_unread(length: str) -> None:
    with pytest.raises(BodyTooLarge, match=r"^request body exceeds max allowed size of 1000 bytes$") as caught:
        await read(messages=[], headers=[("Content-Length", length)])
    assert caught.value.status == 413


@pytest.mark.parametrize("length", [None, "5", "-1", "abc", "", "1e9", "\xb2"])
async def test_the_bytes_that_come_are_counted_whatever_was_announced(length: str | None) -> None:
    headers = [] if length is None else [("Content-Length", length)]
    with pytest.raises(BodyTooLarge, match=r"^request body exceeds max allowed size of 1000 bytes$"):
        await read(b"x" * 600, b"x" * 401, headers=headers)


async def test_compressed_bytes_over_the_limit() -> None:
    with pytest.raises(BodyTooLarge, match=r"^request body exceeds max allowed size of 1000 bytes$"):
        await read(gzip.compress(os.urandom(2000))[:1001], headers=encoded("gzip"))


@pytest.mark.parametrize("name", ["gzip", "deflate", "Deflate"])
async def test_inflated_bytes_over_the_limit(name: str) -> None:
    with pytest.raises(
        BodyTooLarge, match=r"^decompressed request body exceeds max allowed size of 1000 bytes$"
    ) as caught:
        await read(ENCODERS[name](bytes(1001)), headers=encoded(name))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "it ends too early"),
        (b"\x1f", "it ends too early"),
        (gzip.compress(b"a fox", mtime=0)[:-1], "it ends too early"),
        (gzip.compress(b"a fox", mtime=0)[:4], "it ends too early"),
        (b"a fox in the snow", "the data is corrupt"),
        (gzip.compress(b"a fox", mtime=0)[:-8] + bytes(8), "the data is corrupt"),
        (gzip.compress(b"a fox", mtime=0) + b"\x00", "data follows its end"),
        (gzip.compress(b"a fox", mtime=0) + gzip.compress(b"a fox", mtime=0), "data follows its end"),
    ],
)
@pytest.mark.parametrize("cuts", [[], [1], [15, 25]])
async def test_broken_compression(body: bytes, why: str, cuts: list[int]) -> None:
    with pytest.raises(InvalidCompressedBody) as caught:
        await read(*split(body, cuts), headers=encoded("gzip"))
    assert (caught.value.message, caught.value.status) == (f"invalid compressed request body: {why}", 400)


@pytest.mark.parametrize("body", [b"\x07", b"\xff\xff\xff", zlib.compress(b"a fox")[:-1], raw_deflate(b"a fox")[:-1]])
async def test_broken_deflate(body: bytes) -> None:
    with pytest.raises(InvalidCompressedBody, match=r"^invalid compressed request body: "):
        await read(body, headers=encoded("deflate"))


@settings(deadline=None)
@given(body=st.binary(max_size=200), name=st.sampled_from(["gzip", "deflate"]))
def test_any_compressed_bytes_give_a_body_or_a_body_error(body: bytes, name: str) -> None:
    with contextlib.suppress(InvalidCompressedBody, BodyTooLarge):
        asyncio.run(read(body, headers=encoded(name)))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (encoded("br"), "unsupported content encoding: only gzip and deflate are accepted"),
        (encoded("gzip;q=1"), "unsupported content encoding: only gzip and deflate are accepted"),
        (encoded("gzip, gzip"), "unsupported content encoding: only one encoding may be applied"),
        (encoded("deflate") + encoded("gzip"), "unsupported content encoding: only one encoding may be applied"),
    ],
)
async def test_an_unsupported_encoding_is_refused_unread(headers: Headers, message: str) -> None:
    with pytest.raises(UnsupportedEncoding) as caught:
        await read(messages=[], headers=headers)
    assert (caught.value.message, caught.value.status) == (message, 415)


async def test_a_client_that_leaves() -> None:
    messages = [*messages_of([b"half"], ended=False), {"type": "http.disconnect"}]
    with pytest.raises(ClientDisconnected, match=r"^the client left before the end of the request body$"):
        await read(messages=messages)


async def test_a_client_that_falls_silent() -> None:
    first = messages_of([b"half"], ended=False)

    async def receive() -> Message:
        if not first:
            await asyncio.Event().wait()
        return first.pop()

    chunks = body_chunks(request(receive), limit_bytes=1000, idle_timeout_s=0.01)
    assert await anext(chunks) == b"half"
    with pytest.raises(BodyTimeout, match=r"^no part of the request body came for 0.01 seconds$") as caught:
        await anext(chunks)
    assert caught.value.status == 408


async def test_a_bomb_goes_off_in_small_pieces_and_lets_others_run() -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    limit_bytes = 32 * 1024 * 1024
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def drain() -> None:
        sent = request(sender(messages_of([bomb])), encoded("gzip"))
        async for chunk in body_chunks(sent, limit_bytes=limit_bytes, idle_timeout_s=60):
            assert len(chunk) <= 64 * 1024

    other = asyncio.create_task(count_turns())
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge, match=r"^decompressed request body exceeds"):
            await drain()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        other.cancel()
    assert peak_bytes < 512 * 1024
    assert turns > 100
