"""What all provider simulators share: a real HTTP server on loopback, its record of calls, and faults on demand.

A simulator is steered from the same process (`simulator.faults`, `simulator.release()`) or, started by hand or in
another process, over HTTP:

    POST /_control/faults     {"push": [Fault, …], "always": Fault or null}
    POST /_control/release    let every held request go on
    POST /_control/reset      forget calls and faults, let held requests go
    GET  /_control/exchanges  ?submissions=N waits until N submissions have arrived
"""

import argparse
import asyncio
import contextlib
import fnmatch
import hashlib
import itertools
import os
import signal
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self

import aiohttp
import msgspec
from aiohttp import BodyPartReader, web
from yarl import URL

CONTROL = "/_control/"
LARGEST_BODY_BYTES = 2**30
WAIT_S = 30.0
CHUNK_BYTES = 64 * 1024

FaultKind = Literal[
    "answer",  # the right answer; with `hold` or `delay_s`, late
    "status",  # `status` with `body` (an object, or text sent as it is) or the provider's own error body
    "html",  # `status` with a proxy's HTML page
    "reset_before_read",  # RST once the headers are in, the body unread
    "reset_after_read",  # RST once the whole request is in: the work may be done
    "truncated",  # the head promises the whole answer, half of it comes, then the end of the stream
    "stalled",  # half of the answer, the rest after `release`
    "drip",  # the answer in pieces of `size_bytes`, `delay_s` apart
    "wrong_json",  # 200 and JSON that breaks off
    "empty",  # 200 and an answer without any output
    "huge",  # 200 and an answer of more than `size_bytes`
]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong with one request. `hold` and `delay_s` come first, whatever the kind (but for a reset unread)."""

    kind: FaultKind = "answer"
    status: int = 500
    body: dict[str, Any] | str | None = None
    headers: dict[str, str] = {}
    hold: bool = False
    delay_s: float = 0.0
    size_bytes: int = 1024
    method: str = "*"
    path: str = "*"
    """Shell patterns: the fault waits for a request that matches both."""

    def matches(self, method: str, path: str) -> bool:
        return fnmatch.fnmatchcase(method, self.method) and fnmatch.fnmatchcase(path, self.path)


class Faults:
    """The plan: pushed faults go first, one for one request, in order; then the standing one, if any."""

    def __init__(self) -> None:
        self._pushed: list[Fault] = []
        self._standing: Fault | None = None

    def push(self, *faults: Fault) -> None:
        self._pushed.extend(faults)

    def always(self, fault: Fault | None) -> None:
        self._standing = fault

    def clear(self) -> None:
        self._pushed.clear()
        self._standing = None

    def take(self, method: str, path: str) -> Fault:
        for index, fault in enumerate(self._pushed):
            if fault.matches(method, path):
                return self._pushed.pop(index)
        standing = self._standing
        return standing if standing and standing.matches(method, path) else Fault()


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePart:
    """One file of a multipart request, without its bytes."""

    name: str
    filename: str | None
    content_type: str | None
    size_bytes: int
    sha256: str


@dataclass(kw_only=True, slots=True)
class Exchange:
    """One request in the order of arrival and what became of it."""

    number: int
    arrived_at: float
    """Seconds on the monotonic clock, at the end of the request's headers."""
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    submission: bool
    """It asked for work (whatever came of it)."""
    fault: str
    body_read: bool = False
    fields: dict[str, Any] = field(default_factory=dict)
    files: tuple[FilePart, ...] = ()
    charged: bool = False
    """The work was accepted: a real provider would bill it, even if its answer never arrives."""
    status: int | None = None
    """None: no answer was sent."""
    outputs_sha256: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that was read: its record, and what the record leaves out."""

    exchange: Exchange
    content_type: str
    contents: tuple[bytes, ...]
    """The bytes of `exchange.files`, in the same order."""

    @property
    def method(self) -> str:
        return self.exchange.method

    @property
    def path(self) -> str:
        return self.exchange.path

    @property
    def fields(self) -> dict[str, Any]:
        return self.exchange.fields


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a simulator answers; `outputs` are the media in it, decoded, for the record."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[bytes, ...] = ()


def is_callback(url: Any) -> bool:
    """Whether a provider would take this address: HTTPS, or a server of the tests."""
    return isinstance(url, str) and url.startswith(("https://", "http://127.0.0.1:"))


class Refusal(Exception):
    """The provider says no; carries the answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body.decode(errors="replace"))
        self.reply = reply


def json_reply(body: object, *, status: int = 200, outputs: tuple[bytes, ...] = ()) -> Reply:
    return Reply(
        status=status, body=msgspec.json.encode(body), headers={"Content-Type": "application/json"}, outputs=outputs
    )


class Simulator(ABC):
    """One provider as a server on loopback; an async context manager."""

    prefix: ClassVar[str] = ""
    """The path of the provider's base URL."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self._numbers = itertools.count(1)
        self._released = asyncio.Event()
        self._arrival = asyncio.Condition()
        self.faults = Faults()
        self.exchanges: list[Exchange] = []

    @abstractmethod
    async def answer(self, call: Call) -> Reply:
        """Check the call and do its work. Raises `Refusal`."""

    @abstractmethod
    def is_submission(self, method: str, path: str) -> bool:
        """Tell whether this route asks for work that costs."""

    @abstractmethod
    def error_body(self, status: int) -> dict[str, Any]:
        """The provider's own error body for a fault of this status."""

    def empty_body(self) -> dict[str, Any]:
        """The provider's answer without any output."""
        return {}

    def unreadable(self, message: str) -> Refusal:
        """The provider's refusal of a body that cannot be parsed."""
        return Refusal(json_reply(self.error_body(400) | {"detail": message}, status=400))

    @property
    def root_url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def base_url(self) -> str:
        return self.root_url + self.prefix

    @property
    def submissions(self) -> int:
        return sum(exchange.submission for exchange in self.exchanges)

    @property
    def charged(self) -> int:
        return sum(exchange.charged for exchange in self.exchanges)

    async def start(self) -> None:
        application = web.Application(client_max_size=LARGEST_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.release()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.stop()

    def release(self) -> None:
        """Let the requests that are held now go on; later ones are held again."""
        self._released.set()
        self._released = asyncio.Event()

    def reset(self) -> None:
        self.release()
        self.faults.clear()
        self.exchanges.clear()

    async def call_back(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Call an address that came with a submission; the status of its answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                URL(url, encoded=True), data=body, headers={"Content-Type": "application/json", **headers}
            ) as response,
        ):
            return response.status

    async def wait_for_submissions(self, count: int, *, timeout_s: float = WAIT_S) -> None:
        """Wait until so many submissions were read (or reset). Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s), self._arrival:
            await self._arrival.wait_for(lambda: self._settled_submissions() >= count)

    def _settled_submissions(self) -> int:
        return sum(each.submission and (each.body_read or "before" in each.fault) for each in self.exchanges)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(CONTROL):
            return await self._control(request)
        fault = self.faults.take(request.method, request.path)
        exchange = self._record(request, fault)
        if fault.kind == "reset_before_read":
            return await self._reset(request)
        try:
            call = await self._read(request, exchange)
        except Refusal as refusal:
            return await self._send(request, exchange, refusal.reply)
        finally:
            await self._announce()
        await self._hold(fault)
        return await self._fulfil(request, call, fault)

    def _record(self, request: web.Request, fault: Fault) -> Exchange:
        exchange = Exchange(
            number=next(self._numbers),
            arrived_at=time.monotonic(),
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            submission=self.is_submission(request.method, request.path),
            fault=fault.kind,
        )
        self.exchanges.append(exchange)
        return exchange

    async def _announce(self) -> None:
        async with self._arrival:
            self._arrival.notify_all()

    async def _hold(self, fault: Fault) -> None:
        if fault.hold:
            await self._released.wait()
        if fault.delay_s and fault.kind != "drip":
            await asyncio.sleep(fault.delay_s)

    async def _read(self, request: web.Request, exchange: Exchange) -> Call:
        contents: tuple[bytes, ...] = ()
        if request.content_type == "multipart/form-data":
            contents = await self._read_form(request, exchange)
            exchange.body_read = True
        else:
            body = await request.read()
            exchange.body_read = True
            if request.content_type == "application/json":
                exchange.fields = self._json_object(body)
        return Call(exchange=exchange, content_type=request.content_type, contents=contents)

    def _json_object(self, body: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise self.unreadable(f"the body is not a JSON object: {error}") from error

    async def _read_form(self, request: web.Request, exchange: Exchange) -> tuple[bytes, ...]:
        """Fill the exchange's fields and files. A name that comes again makes a list of its values."""
        files: list[FilePart] = []
        contents: list[bytes] = []
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader) or part.name is None:
                    raise self.unreadable("a part of the form has no name")
                content = bytes(await part.read())
                if part.filename is None:
                    _add(exchange.fields, part.name, content.decode())
                else:
                    files.append(_file_part(part, content))
                    contents.append(content)
        except ValueError as error:
            raise self.unreadable(f"the form cannot be read: {error}") from error
        exchange.files = tuple(files)
        return tuple(contents)

    async def _fulfil(self, request: web.Request, call: Call, fault: Fault) -> web.StreamResponse:
        exchange = call.exchange
        if fault.kind in {"status", "html"}:
            return await self._send(request, exchange, self._refused(fault))
        reply = await self._work(call)
        exchange.charged = exchange.submission and reply.status < 300
        match fault.kind:
            case "reset_after_read":
                return await self._reset(request)
            case "wrong_json":
                reply = json_reply(msgspec.Raw(msgspec.json.encode(self.empty_body())[:-1] + b',"cut": "of'))
            case "empty":
                reply = json_reply(self.empty_body())
            case "huge":
                return await self._send_huge(request, exchange, fault.size_bytes)
            case "truncated" | "stalled" | "drip":
                return await self._send_slowly(request, exchange, reply, fault)
            case _:
                pass
        return await self._send(request, exchange, reply)

    def _refused(self, fault: Fault) -> Reply:
        if fault.kind == "html":
            page = f"<html><head><title>{fault.status}</title></head><body><h1>{fault.status}</h1></body></html>"
            return Reply(status=fault.status, body=page.encode(), headers={"Content-Type": "text/html"} | fault.headers)
        if isinstance(fault.body, str):
            return Reply(status=fault.status, body=fault.body.encode(), headers=fault.headers)
        body = self.error_body(fault.status) if fault.body is None else fault.body
        reply = json_reply(body, status=fault.status)
        return Reply(status=reply.status, body=reply.body, headers={**reply.headers, **fault.headers})

    async def _work(self, call: Call) -> Reply:
        try:
            return await self.answer(call)
        except Refusal as refusal:
            return refusal.reply

    def reply_headers(self, exchange: Exchange) -> dict[str, str]:
        """Headers that every answer of this provider carries."""
        return {"x-request-id": f"req_{exchange.number:08d}"}

    async def _send(self, request: web.Request, exchange: Exchange, reply: Reply) -> web.StreamResponse:
        response = self._response(exchange, reply)
        await response.prepare(request)
        await response.write(reply.body)
        await response.write_eof()
        return response

    def _response(self, exchange: Exchange, reply: Reply) -> web.StreamResponse:
        exchange.status = reply.status
        exchange.outputs_sha256 = tuple(hashlib.sha256(output).hexdigest() for output in reply.outputs)
        response = web.StreamResponse(status=reply.status, headers={**reply.headers, **self.reply_headers(exchange)})
        response.content_length = len(reply.body)
        return response

    async def _send_slowly(
        self, request: web.Request, exchange: Exchange, reply: Reply, fault: Fault
    ) -> web.StreamResponse:
        response = self._response(exchange, reply)
        await response.prepare(request)
        half = len(reply.body) // 2
        if fault.kind == "drip":
            for start in range(0, len(reply.body), fault.size_bytes):
                await response.write(reply.body[start : start + fault.size_bytes])
                await asyncio.sleep(fault.delay_s)
        else:
            await response.write(reply.body[:half])
        if fault.kind == "truncated":
            _transport(request).close()
            return response
        if fault.kind == "stalled":
            await self._released.wait()
            await response.write(reply.body[half:])
        await response.write_eof()
        return response

    async def _send_huge(self, request: web.Request, exchange: Exchange, size_bytes: int) -> web.StreamResponse:
        exchange.status = 200
        response = web.StreamResponse(headers={"Content-Type": "application/json", **self.reply_headers(exchange)})
        await response.prepare(request)
        await response.write(msgspec.json.encode(self.empty_body())[:-1] + b',"padding": "')
        for _ in range(size_bytes // CHUNK_BYTES + 1):
            await response.write(b"A" * CHUNK_BYTES)
        await response.write_eof(b'"}')
        return response

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        """Close with RST, so that the client cannot take it for an orderly end."""
        transport = _transport(request)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
        await self._announce()
        return web.StreamResponse()

    async def _control(self, request: web.Request) -> web.Response:
        match request.method, request.path.removeprefix(CONTROL):
            case "POST", "faults":
                try:
                    self._plan(msgspec.json.decode(await request.read(), type=_Plan))
                except msgspec.DecodeError as error:
                    return web.Response(status=400, text=str(error))
            case "POST", "release":
                self.release()
            case "POST", "reset":
                self.reset()
            case "GET", "exchanges":
                await self.wait_for_submissions(int(request.query.get("submissions", "0")))
            case _:
                return web.Response(status=404, text="no such control route")
        return web.Response(body=self._state(), content_type="application/json")

    def _plan(self, plan: "_Plan") -> None:
        self.faults.push(*plan.push)
        if plan.always is not msgspec.UNSET:
            self.faults.always(plan.always)

    def _state(self) -> bytes:
        exchanges = [asdict(exchange) for exchange in self.exchanges]
        return msgspec.json.encode({"submissions": self.submissions, "charged": self.charged, "exchanges": exchanges})


class _Plan(msgspec.Struct, forbid_unknown_fields=True):
    push: list[Fault] = []
    always: Fault | msgspec.UnsetType | None = msgspec.UNSET


def _add(fields: dict[str, Any], name: str, value: str) -> None:
    if name in fields:
        earlier = fields[name]
        fields[name] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
    else:
        fields[name] = value


def _file_part(part: BodyPartReader, content: bytes) -> FilePart:
    return FilePart(
        name=part.name or "",
        filename=part.filename,
        content_type=part.headers.get("Content-Type"),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if not isinstance(transport, asyncio.Transport):
        raise ConnectionResetError("the client has gone")
    return transport


def argument_parser(description: str | None, *, port: int) -> argparse.ArgumentParser:
    """Options that every simulator takes when run by hand."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port, help=f"default {port}; 0 takes a free one")
    parser.add_argument("--key", help="the one API key that is accepted (default: any)")
    return parser


def run_by_hand(make: Callable[[], Simulator], settings: Callable[[str], str]) -> None:
    """Serve until Ctrl-C; `settings` makes the gateway's settings from the base URL."""

    async def serve() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with make() as simulator:
            print(f"{type(simulator).__name__} (process {os.getpid()}) on {simulator.base_url}")  # noqa: T201
            print(f"In the gateway's settings:\n\n{settings(simulator.base_url)}", flush=True)  # noqa: T201
            await stopped.wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
