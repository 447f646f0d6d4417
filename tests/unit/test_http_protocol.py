"""The transport under an answer: one piece to the client, whatever uvicorn writes."""

import asyncio
from typing import Any

from safelight.http_protocol import HttpProtocol, _Lingering


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


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
