"""The one HTTP client behind all providers: one exchange, streamed both ways, its failures in our error tree.

Two questions decide what a failure means: was this call a purchase, and can the provider have had the whole request?
Only where both are so is the outcome unknown. Nothing here waits, retries, or follows a redirect.
"""

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NoReturn

import aiohttp
from yarl import URL

from safelight.adapters.providers._answer import Answer, LiftedPicture, Lifts, read_lifted, read_picture
from safelight.adapters.providers._body import Body
from safelight.adapters.providers._errors import ErrorTable, Refusal, classify
from safelight.adapters.providers._events import read_events
from safelight.application.ports import Call, ProviderKey, Workspace
from safelight.domain.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderUnavailable,
    ProviderUncertain,
    SafelightError,
)
from safelight.log_context import current_trace

MAX_REFUSAL_BYTES = 64 * 1024
_READ_BUFFER_BYTES = 32 * 1024
"""Small, as is the memory that a picture on its way needs: with aiohttp's own 64 KiB it is two to three times as much."""
_PIECE_BYTES = 64 * 1024
SMALL_ANSWER_BYTES = 64 * 1024
"""An answer of up to this length is read in one go: cheaper, and small enough to hold."""

_HEARTBEAT_S = 30.0
"""So often a WebSocket is tried, so that a peer that vanished is found out."""

_BASE_HEADERS = {
    "User-Agent": "safelight",
    "Accept": "application/json",
    # Base64 of a picture hardly compresses: not worth the time on either side.
    "Accept-Encoding": "identity",
}
_DENIED_HEADERS = frozenset(
    {
        # The contract's list (section 6.1) …
        "connection",
        "content-length",
        "cookie",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
        "x-bf-api-key",
        "x-bf-vk",
        "x-goog-api-key",
        # … and what else belongs to the connection, not to the caller.
        "expect",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
    }
)
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
)
_WIRE_FAULTS = (aiohttp.ClientError, TimeoutError, ConnectionError)
_NOTHING_LIFTED: Lifts = {}
_FAULTS_IN_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "its host name was not found"),
    (aiohttp.ClientSSLError, "its TLS certificate or handshake was not accepted"),
    (TimeoutError, "no connection in time"),
    (aiohttp.ClientPayloadError, "the answer ended too early"),
    (aiohttp.ServerDisconnectedError, "the provider closed it"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSessions:
    """The process's connections to providers; `open_sessions` makes them, who made them closes them.

    A pooled connection may have been closed by the other side a moment ago. A POST written into it is then reset, and
    nobody can tell whether the provider saw it: for a paid call that is an unknown outcome, a job that fails for
    nothing. So paid calls get a connection of their own (`fresh`); a handshake is small beside the drawing of a
    picture. Calls that may be repeated, and reads, share `pooled` ones.
    """

    pooled: aiohttp.ClientSession
    fresh: aiohttp.ClientSession

    async def close(self) -> None:
        """Close all connections."""
        await self.pooled.close()
        await self.fresh.close()


def open_sessions() -> HttpSessions:
    """Make the sessions; needs a running loop. How many calls run at once is the engine's to limit."""
    return HttpSessions(
        pooled=_session(aiohttp.TCPConnector(limit=0, keepalive_timeout=30)),
        fresh=_session(aiohttp.TCPConnector(limit=0, force_close=True)),
    )


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=_READ_BUFFER_BYTES
    )


def bearer(key: ProviderKey) -> Mapping[str, str]:
    """Show a key as `Authorization: Bearer …`; nothing where there is none."""
    return {"Authorization": f"Bearer {key.value}"} if key.value else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one provider is addressed: how a key is shown, and what its refusals mean."""

    authorise: Callable[[ProviderKey], Mapping[str, str]] = bearer
    errors: ErrorTable = field(default_factory=ErrorTable)
    request_id_headers: tuple[str, ...] = ("x-request-id",)


class ProviderHttp:
    """One provider entry's way to its server."""

    def __init__(
        self,
        *,
        base_url: str,
        sessions: HttpSessions,
        repeatable: bool,
        timeout_s: float,
        connect_timeout_s: float,
        dialect: Dialect,
    ) -> None:
        """Prepare what all exchanges share."""
        self.base_url = URL(base_url.rstrip("/") + "/")
        self._pooled = sessions.pooled
        self._purchases = sessions.pooled if repeatable else sessions.fresh
        self._dialect = dialect
        # `connect` covers the look-up of the name too, `sock_connect` alone would not. It must strike before `total`:
        # only then we know that nothing was sent.
        connect_s = min(connect_timeout_s, 0.9 * timeout_s)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=connect_s, sock_connect=connect_s)

    def url(self, path: str) -> URL:
        """Complete a path; `path` is percent-encoded already. Do it once for a path that never changes."""
        return URL(f"{self.base_url}{path}", encoded=True)

    async def buy(self, call: Call, url: URL, body: Body, *, headers: Mapping[str, str] | None = None) -> Answer:
        """POST what may cost money. Raises a `ProviderError`, or `StorageError` of the blobs."""
        sent = self._headers(call, body, headers)
        try:
            async with self._sent(self._purchases, "POST", url, data=body.data, headers=sent) as response:
                await self._raise_refusal(response, call)
                return await self._read_answer(response, call.workspace)
        except _WIRE_FAULTS as exc:
            _raise_of_purchase(exc, body)

    async def buy_events(
        self, call: Call, url: URL, body: Body, *, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Answer]:
        """POST what may cost money, and give each event of the answer; one that is no stream comes as a whole.

        Raises as `buy` does, also between two events. Whoever does not read to the end closes it.
        """
        sent = self._headers(call, body, headers)
        try:
            async with self._sent(self._purchases, "POST", url, data=body.data, headers=sent) as response:
                await self._raise_refusal(response, call)
                if response.content_type != "text/event-stream":
                    yield await self._read_answer(response, call.workspace)
                    return
                async for text, lifted in read_events(response.content.iter_any(), call.workspace):
                    yield self._answer(response, call.workspace, text, lifted=lifted)
        except _WIRE_FAULTS as exc:
            _raise_of_purchase(exc, body)

    async def ask(
        self,
        call: Call,
        url: URL,
        *,
        method: str = "GET",
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send what costs nothing, however often: every lost answer is a `ProviderUnavailable`."""
        sent = self._headers(call, body, headers)
        data = body.data if body else None
        try:
            async with self._sent(self._pooled, method, url, data=data, headers=sent) as response:
                await self._raise_refusal(response, call)
                return await self._read_answer(response, call.workspace)
        except _WIRE_FAULTS as exc:
            _raise_if_ours(exc)
            raise _unavailable(exc) from exc

    async def listen(self, call: Call, url: URL) -> AsyncGenerator[str | bytes]:
        """Open a WebSocket and give what comes, until the other side closes it. It costs nothing."""
        sent = self._headers(call, None, None)
        try:
            async with self._pooled.ws_connect(url, headers=sent, heartbeat=_HEARTBEAT_S) as socket:
                async for message in socket:
                    if message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                        yield message.data
        except aiohttp.WSServerHandshakeError as exc:
            refusal = Refusal(status=exc.status, headers=exc.headers or {}, body=b"")
            raise classify(refusal, self._dialect.errors, secret=call.key.value) from exc
        except _WIRE_FAULTS as exc:
            raise _unavailable(exc) from exc

    def refusal_in(self, answer: Answer, call: Call, *, status: int) -> ProviderError:
        """Make the error of a refusal that came within an answer, as if it had come with `status`."""
        refusal = Refusal(status=status, headers=answer.headers, body=answer.text, request_id=answer.request_id)
        return classify(refusal, self._dialect.errors, secret=call.key.value)

    def _sent(
        self, session: aiohttp.ClientSession, method: str, url: URL, *, data: object, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send, and wait for the head of the answer."""
        return session.request(method, url, data=data, headers=headers, timeout=self._timeout, allow_redirects=False)

    async def _raise_refusal(self, response: aiohttp.ClientResponse, call: Call) -> None:
        """Raise what an answer means that is no success."""
        if 200 <= response.status < 300:
            return
        refusal = Refusal(
            status=response.status,
            headers=response.headers,
            body=await _read_beginning(response),
            request_id=self._request_id(response),
        )
        raise classify(refusal, self._dialect.errors, secret=call.key.value)

    def _headers(self, call: Call, body: Body | None, headers: Mapping[str, str] | None) -> dict[str, str]:
        """Ours win over the caller's, whatever the letter case."""
        ours = {**_BASE_HEADERS, **self._dialect.authorise(call.key), **(headers or {})}
        if body is not None:
            ours["Content-Type"] = body.content_type
        if (trace := current_trace.get()) is not None:
            ours["traceparent"] = trace
        if call.request.extra_headers:
            taken = _DENIED_HEADERS | {name.lower() for name in ours}
            theirs = call.request.extra_headers.items()
            ours.update({name: value for name, value in theirs if name.lower() not in taken})
        return ours

    async def _read_answer(self, response: aiohttp.ClientResponse, workspace: Workspace) -> Answer:
        length, whole, lifted = response.content_length, None, _NOTHING_LIFTED
        if response.content_type.startswith("image/"):
            text, whole = b"", await read_picture(response.content.iter_chunked(_PIECE_BYTES), workspace)
        elif length is not None and length <= SMALL_ANSWER_BYTES and "Content-Encoding" not in response.headers:
            text = await response.read()
        else:
            text, lifted = await read_lifted(response.content.iter_any(), workspace)
        return self._answer(response, workspace, text, lifted=lifted, whole=whole)

    def _answer(
        self,
        response: aiohttp.ClientResponse,
        workspace: Workspace,
        text: bytes,
        *,
        lifted: Lifts = _NOTHING_LIFTED,
        whole: LiftedPicture | None = None,
    ) -> Answer:
        return Answer(
            status=response.status,
            headers=response.headers,
            text=text,
            workspace=workspace,
            request_id=self._request_id(response),
            lifted=lifted,
            whole=whole,
        )

    def _request_id(self, response: aiohttp.ClientResponse) -> str | None:
        for name in self._dialect.request_id_headers:
            if value := response.headers.get(name):
                return value
        return None


async def _read_beginning(response: aiohttp.ClientResponse) -> bytes:
    """Read what there is of a refusal: its status counts even if its body breaks off."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) >= MAX_REFUSAL_BYTES:
                break
    except _WIRE_FAULTS:
        pass
    return bytes(body[:MAX_REFUSAL_BYTES])


def _raise_if_ours(exc: Exception) -> None:
    """Bring out a fault of the blob store while we were sending: aiohttp wraps it."""
    if isinstance(exc.__cause__, SafelightError):
        raise exc.__cause__


def _raise_of_purchase(exc: Exception, body: Body) -> NoReturn:
    _raise_if_ours(exc)
    if isinstance(exc, _NEVER_CONNECTED) or not body.may_have_arrived:
        raise _unavailable(exc) from exc
    _raise_unknown(exc)


def _unavailable(exc: Exception) -> ProviderUnavailable:
    if isinstance(exc, _NEVER_CONNECTED):
        return ProviderUnavailable(f"could not connect to the provider: {_in_words(exc)}")
    if isinstance(exc, TimeoutError):
        return ProviderUnavailable("the provider did not answer in time", status=504)
    return ProviderUnavailable(f"the exchange with the provider broke off: {_in_words(exc)}", status=502)


def _raise_unknown(exc: Exception) -> NoReturn:
    if isinstance(exc, aiohttp.ClientResponseError):
        raise ProviderProtocolError("the provider's answer is not HTTP that we can read") from exc
    timed_out = isinstance(exc, TimeoutError)
    said = "no answer came in time" if timed_out else f"the exchange broke off: {_in_words(exc)}"
    raise ProviderUncertain(
        f"the request was sent, but {said}; it may have been charged", status=504 if timed_out else 502
    ) from exc


def _in_words(exc: Exception) -> str:
    """Name a fault without any address, header or body."""
    for kind, words in _FAULTS_IN_WORDS:
        if isinstance(exc, kind):
            return words
    return os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else type(exc).__name__
