"""How answers are written: whole ones in one piece, and none before it is checked."""

import asyncio
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from safelight.http_protocol import HttpProtocol, _Lingering

GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def answered(app: ASGIApp, message: bytes = GET) -> list[bytes]:
    """What is written in answer to a message, piece by piece."""
    wire, state = Wire(), ServerState()
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    protocol = HttpProtocol(config, state, {})
    protocol.connection_made(wire)
    protocol.data_received(message)
    while state.tasks:
        await asyncio.wait(set(state.tasks))
    protocol.connection_lost(None)
    return wire.sent


async def test_a_whole_answer_is_one_piece() -> None:
    (piece,) = await answered(Response(b"body", headers={"X-Own": "said"}))

    assert piece == b"HTTP/1.1 200 OK\r\nx-own: said\r\ncontent-length: 4\r\n\r\nbody"


async def test_answers_keep_the_order_of_their_requests() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        await asyncio.sleep(0 if "late" in request.url.path else 0.01)
        await Response(f"{scope['path']} {request.query_params}")(scope, receive, send)

    sent = await answered(app, GET + GET.replace(b"a%20b", b"late"))

    assert [piece.partition(b"\r\n\r\n")[2] for piece in sent] == [b"/a b c=d", b"/late c=d"]


async def test_the_head_of_events_does_not_wait_for_the_first() -> None:
    first = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def telling(message: Any) -> None:
            await send(message)
            first.set()

        async def events() -> Any:
            await first.wait()
            yield b"event"

        await StreamingResponse(events())(scope, receive, telling)

    assert b"".join(await answered(app)).endswith(b"\r\n\r\n5\r\nevent\r\n0\r\n\r\n")


async def test_an_answer_in_parts_is_whole_in_the_end() -> None:
    async def parts() -> Any:
        yield b"one "
        yield b"two"

    sent = b"".join(await answered(StreamingResponse(parts(), headers={"Content-Length": "7"})))
    assert sent.endswith(b"content-length: 7\r\n\r\none two")


async def test_an_answer_to_head_has_no_body() -> None:
    sent = b"".join(await answered(Response(b"body"), GET.replace(b"GET", b"HEAD")))
    assert sent.endswith(b"content-length: 4\r\n\r\n")


async def test_an_old_client_is_told_that_the_connection_ends() -> None:
    sent = b"".join(await answered(Response(b"body"), GET.replace(b"HTTP/1.1", b"HTTP/1.0")))
    assert b"\r\nconnection: close\r\n" in sent


async def test_a_header_that_would_be_two_is_never_sent() -> None:
    for wrong in ("a\r\nx-other: b", "a\nb", "a\x00b"):
        assert await answered(Response(b"body", headers={"X-Said": wrong})) == []


async def test_a_body_of_another_length_is_never_sent() -> None:
    sent = b"".join(await answered(Response(b"body", headers={"Content-Length": "3"})))
    assert b"body" not in sent


class Protocol(HttpProtocol):
    def __init__(self) -> None:  # none of uvicorn's state is needed here
        self.loop = asyncio.get_running_loop()

    @property
    def coming_in(self) -> bool:
        return False


async def connected() -> tuple[Wire, Any]:
    wire = Wire()
    return wire, _Lingering(wire, Protocol())


async def test_what_is_written_in_one_turn_goes_out_in_one_piece() -> None:
    wire, transport = await connected()
    transport.write(b"head ")
    transport.write(b"body")
    assert wire.sent == []
    await asyncio.sleep(0)
    assert wire.sent == [b"head body"]
    transport.write(b"more")
    await asyncio.sleep(0)
    assert wire.sent == [b"head body", b"more"]


async def test_large_pieces_are_not_copied_and_keep_their_order() -> None:
    wire, transport = await connected()
    large = b"x" * 100_000
    transport.write(large)
    assert wire.sent == [large]
    transport.write(b"head")
    transport.write(large)
    await asyncio.sleep(0)
    assert b"".join(wire.sent) == large + b"head" + large


async def test_what_waits_is_sent_before_the_end() -> None:
    wire, transport = await connected()
    transport.write(b"last words")
    transport.close()
    assert wire.sent == [b"last words"]
    assert wire.closed


async def test_nothing_is_written_once_the_client_has_gone() -> None:
    wire, transport = await connected()
    transport.write(b"too late")
    wire.closed = True
    await asyncio.sleep(0)
    assert wire.sent == []
