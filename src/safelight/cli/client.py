"""Talks to a gateway over HTTP, as any client would: the one way, also to the gateway inside this process."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from safelight.cli.faults import GatewayUnreachable, UsageError
from safelight.domain.image import Operation

PATHS: Mapping[Operation, str] = {
    Operation.GENERATION: "/v1/async/images/generations",
    Operation.EDIT: "/v1/async/images/edits",
    Operation.VARIATION: "/v1/async/images/variations",
}
_FILES = "/v1/files/"
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
_SUBMIT_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600)
"""Longer: it also runs while large images go up."""
_PIECE_BYTES = 256 * 1024
_TRY_AGAIN = frozenset({502, 503, 504})

Body = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be drawn. `fields` are those of the wire, `extra` those that only the provider knows."""

    operation: Operation
    fields: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[Path, ...] = ()
    mask: Path | None = None


class Refused(Exception):
    """The gateway said no; `body` is its answer."""

    def __init__(self, status: int, body: Body) -> None:
        """Keep what it said."""
        super().__init__(message_of(body))
        self.status = status
        self.body = body


def message_of(error: Body) -> str:
    """The sentence in an error of the gateway, with its code."""
    said = error.get("error", {})
    message = said.get("message") or "no reason was given"
    return f"{message} ({said['code']})" if said.get("code") else str(message)


@dataclass(frozen=True, slots=True)
class Picture:
    """An answer that holds a picture."""

    content_type: str
    _answer: aiohttp.ClientResponse

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, as they come. Raises `GatewayUnreachable`."""
        with _reached(str(self._answer.url), sent=True):
            async for piece in self._answer.content.iter_chunked(_PIECE_BYTES):
                yield piece


class GatewayClient:
    """One gateway. Every method raises `GatewayUnreachable` and `Refused`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """Take an address with or without the `/v1` that OpenAI's clients want."""
        self.url = _checked(url)
        self._session = session

    async def submit(self, order: Order) -> Body:
        """Hand in an order and get its job."""
        headers = {"x-bf-passthrough-extra-params": "true"} if order.extra else {}
        with contextlib.ExitStack() as files:
            if order.operation is Operation.GENERATION:
                content: dict[str, Any] = {"json": {**order.fields, **order.extra}}
            else:
                content = {"data": _form(order, files)}
            path = PATHS[order.operation]
            return await self._json("POST", path, sent=True, headers=headers, timeout=_SUBMIT_TIMEOUT, **content)

    async def job(self, operation: Operation, job_id: str) -> Body:
        """Ask how a job fares."""
        return await self._json("GET", f"{PATHS[operation]}/{job_id}", sent=False)

    async def any_job(self, job_id: str) -> Body:
        """Ask for a job of which only the id is known."""
        *others, last = Operation
        for operation in others:
            try:
                return await self.job(operation, job_id)
            except Refused as error:
                if error.status != 404:
                    raise
        return await self.job(last, job_id)

    async def formats(self, model: str) -> frozenset[str]:
        """The output formats that a model is known to offer."""
        models = await self._json("GET", "/v1/models", sent=False)
        offered = (entry["safelight"].get("formats", ()) for entry in models.get("data", ()) if entry["id"] == model)
        return frozenset(next(offered, ()))

    @contextlib.asynccontextmanager
    async def picture(self, link: str) -> AsyncIterator[Picture]:
        """Open a result's link: at the address we talk to, whatever the gateway calls itself."""
        parts = urlsplit(link)
        _, found, name = parts.path.partition(_FILES)
        target = f"{self.url}{_FILES}{name}?{parts.query}" if found else link
        with _reached(self.url, sent=True):
            answer = await self._session.get(target)
        async with answer:
            if answer.status != 200:
                raise Refused(answer.status, await self._body(answer))
            yield Picture(answer.content_type, answer)

    async def _json(self, method: str, path: str, *, sent: bool, **content: Any) -> Body:
        with _reached(self.url, sent=sent):
            async with self._session.request(method, f"{self.url}{path}", **content) as answer:
                body = await self._body(answer)
        if answer.status in _TRY_AGAIN:
            raise GatewayUnreachable(f"the gateway at {self.url} cannot serve now: {message_of(body)}", sent=False)
        if answer.status >= 400:
            raise Refused(answer.status, body)
        return body

    async def _body(self, answer: aiohttp.ClientResponse) -> Body:
        try:
            body = msgspec.json.decode(await answer.read(), type=Body)
        except msgspec.DecodeError as error:
            message = f"{self.url} answers, but not as a Safelight gateway does (HTTP {answer.status})"
            raise GatewayUnreachable(message, sent=False) from error
        return body


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[GatewayClient]:
    """Talk to the gateway at an address. Raises `UsageError` for what is no address."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT, headers={"User-Agent": "safelight-cli"}) as session:
        yield GatewayClient(session, url)


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise UsageError(f"{url!r} is no address of a gateway; one looks like http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1")


@contextlib.contextmanager
def _reached(url: str, *, sent: bool) -> Iterator[None]:
    """Translate the client library's faults. A connection that never came about has sent nothing."""
    try:
        yield
    except aiohttp.InvalidURL as error:
        raise UsageError(f"{url!r} is no address of a gateway; one looks like http://127.0.0.1:8080") from error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        message = f"no gateway answers at {url}: start one with `safelight serve`, or give its address with --url"
        raise GatewayUnreachable(message, sent=False) from error
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise GatewayUnreachable(f"the gateway at {url} broke off: {reason}", sent=sent) from error


def _form(order: Order, files: contextlib.ExitStack) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in {**order.fields, **order.extra}.items():
        for one in value if isinstance(value, list) else [value]:
            form.add_field(name, one if isinstance(one, str) else msgspec.json.encode(one).decode())
    for path in order.images:
        form.add_field("image", files.enter_context(path.open("rb")), filename=path.name)
    if order.mask is not None:
        form.add_field("mask", files.enter_context(order.mask.open("rb")), filename=order.mask.name)
    return form
