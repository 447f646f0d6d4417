"""What happens between requests, for both transports alike: when to ask again, what an answer means, when to stop.

A use of the gateway is a generator that yields what is to be sent and is sent back the answer; it opens no socket and
never sleeps. `sync` and `aio` do both for it.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from random import random
from typing import Any, Protocol, TypeVar

import httpx2
import msgspec

from safelight.client import _calls
from safelight.client._calls import Call
from safelight.client.errors import (
    GatewayUnreachable,
    NotAGateway,
    RateLimited,
    Refused,
    SafelightError,
    WaitTimeout,
    not_a_gateway,
    refusal,
)
from safelight.client.models import ENDED, BatchLine, BatchState, Event, JobState, ResultPage

T = TypeVar("T")

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_AGAIN = frozenset({429, 502, 503, 504})
_HELD_S = 30.0
"""How long the gateway is asked to hold an answer; the end of a job cuts it short."""
_FIRST_UPDATE_S, _LATER_UPDATE_S = 0.1, 1.0
"""The same where somebody wants to hear of changes on the way: more seldom as time goes by."""
_HONOURED = 0.9
"""The share of that time after which an answer counts as held."""
_LONGEST_BATCH_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How a client bears a gateway that is busy, away or being restarted."""

    most: int = 5
    """How often one call is sent again."""
    patience_s: float = 60.0
    """How long the gateway may be away while a job or its events are waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send this, after so many seconds."""

    call: Call
    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer of the gateway, below 400."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    took_s: float

    def read(self, kind: type[T], url: str) -> T:
        """Read its JSON. Raises `NotAGateway`."""
        try:
            return msgspec.json.decode(self.content, type=kind)
        except msgspec.DecodeError as error:
            raise not_a_gateway(url, self.status) from error


Steps = Generator[Send, Answer, T]


class Clock(Protocol):
    """Seconds that only ever grow."""

    def __call__(self) -> float:
        """Now."""
        ...


@dataclass(slots=True, kw_only=True)
class Faults:
    """Counts faults in a row, and decides whether and when to try again. Bounded by number, or by time."""

    most: int | None = None
    patience_s: float = 0.0
    now: Clock = time.monotonic
    _count: int = 0
    _since: float = 0.0

    def none(self) -> None:
        """An answer came: the next fault is the first."""
        self._count = 0

    def pause_s(self, error: SafelightError, *, repeatable: bool = True) -> float:
        """How long to wait before the next try. Raises the error where there is to be none."""
        if not _worth_another(error, repeatable=repeatable):
            raise error
        if self._count == 0:
            self._since = self.now()
        told_s = error.retry_after_s if isinstance(error, Refused) else None
        backoff_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._count) * (0.5 + random() / 2)
        pause_s = backoff_s if told_s is None else told_s
        self._count += 1
        late = self.now() + pause_s - self._since > self.patience_s
        if late if self.most is None else self._count > self.most:
            raise error
        return pause_s


def _worth_another(error: SafelightError, *, repeatable: bool) -> bool:
    match error:
        case NotAGateway():
            return False
        case GatewayUnreachable(sent=sent):
            return repeatable or not sent
        case RateLimited():
            return True
        case Refused(status=status):
            return repeatable and status in _AGAIN
        case _:
            return False


def exchange(call: Call, faults: Faults, *, after_s: float = 0.0) -> Steps[Answer]:
    """Send until there is an answer; see `Faults`."""
    pause_s = after_s
    while True:
        try:
            answer = yield Send(call=call, after_s=pause_s)
        except SafelightError as error:
            pause_s = faults.pause_s(error, repeatable=call.repeatable)
        else:
            faults.none()
            return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway: where it is, and how it is borne with."""

    url: str
    key: str | None = None
    """The virtual key."""
    retries: Retries = Retries()

    def ask(self, call: Call, kind: type[T]) -> Steps[T]:
        """Send a call and read its answer."""
        answer = yield from exchange(call, Faults(most=self.retries.most))
        return answer.read(kind, self.url)

    def tell(self, call: Call) -> Steps[None]:
        """Send a call whose answer holds nothing."""
        yield from exchange(call, Faults(most=self.retries.most))

    def waiting(self) -> Faults:
        """Faults of something that is waited for."""
        return Faults(patience_s=self.retries.patience_s)

    def request(self, http: httpx2.Client | httpx2.AsyncClient, call: Call, opened: ExitStack) -> httpx2.Request:
        """Make the request of a call; its files are closed with `opened`."""
        content = dict(call.content(opened))
        ours = call.path.startswith("/")
        key = {"x-bf-vk": self.key} if self.key and ours else {}
        return http.build_request(
            call.method,
            f"{self.url}{call.path}" if ours else call.path,
            params=call.params or None,
            headers={**key, **call.headers, **content.pop("headers", {})},
            timeout=httpx2.Timeout(call.answer_s, connect=_calls.CONNECT_S),
            **content,
        )

    def fault(self, error: Exception, call: Call) -> GatewayUnreachable:
        """Translate the HTTP library's fault. A connection that never came about has sent nothing."""
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
            return GatewayUnreachable(f"no gateway answers at {self.url}", sent=False)
        reason = str(error) or type(error).__name__
        return GatewayUnreachable(f"the gateway at {self.url} broke off: {reason}", sent=call.method != "GET")

    def refusal(self, status: int, headers: Mapping[str, str], content: bytes) -> SafelightError:
        """The error of an answer from 400 up."""
        return refusal(status, content, url=self.url, retry_after_s=_retry_after_s(headers))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, said as a number or as a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


@dataclass(slots=True, kw_only=True)
class Deadline:
    """When a wait is over, if ever."""

    timeout_s: float | None
    now: Clock = time.monotonic
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin to count."""
        self._start = self.now()

    def left_s(self, what: str) -> float:
        """Seconds that are left. Raises `WaitTimeout`."""
        if self.timeout_s is None:
            return float("inf")
        left_s = self._start + self.timeout_s - self.now()
        if left_s <= 0:
            raise WaitTimeout(f"{what} has not ended within {self.timeout_s:g} seconds; it goes on")
        return left_s


class JobWait:
    """Waits for a job's end, through restarts of the gateway. `look` is one look at it."""

    def __init__(self, gateway: Gateway, job_id: str, *, timeout_s: float | None, told: bool) -> None:
        """`told`: somebody wants to hear of changes on the way."""
        self._gateway = gateway
        self._job_id = job_id
        self._held_s, self._longest_s = (_FIRST_UPDATE_S, _LATER_UPDATE_S) if told else (_HELD_S, _HELD_S)
        self._faults = gateway.waiting()
        self._deadline = Deadline(timeout_s=timeout_s)
        self._pause_s = 0.0

    def look(self) -> Steps[JobState]:
        """Ask once; the answer is held until the end, or for a while. Raises `WaitTimeout`."""
        left_s = self._deadline.left_s(f"job {self._job_id}")
        held_s = min(self._held_s, left_s)
        self._held_s = min(self._longest_s, self._held_s * 1.5)
        call = _calls.read_job(self._job_id, wait_s=held_s)
        answer = yield from exchange(call, self._faults, after_s=min(self._pause_s, left_s))
        cut_short = answer.took_s < _HONOURED * held_s
        self._pause_s = _retry_after_s(answer.headers) or _FIRST_PAUSE_S if cut_short else 0.0
        return answer.read(JobState, self._gateway.url)


class BatchWait:
    """Waits until no line of a batch waits or runs. `look` is one look at it."""

    def __init__(self, gateway: Gateway, batch_id: str, *, timeout_s: float | None) -> None:
        """Begin to count the time."""
        self._gateway = gateway
        self._batch_id = batch_id
        self._faults = gateway.waiting()
        self._deadline = Deadline(timeout_s=timeout_s)
        self._pause_s = 0.0

    def look(self) -> Steps[BatchState]:
        """Ask once, after a pause that grows. Raises `WaitTimeout`."""
        left_s = self._deadline.left_s(f"batch {self._batch_id}")
        call = _calls.read_batch(self._batch_id)
        answer = yield from exchange(call, self._faults, after_s=min(self._pause_s, left_s))
        self._pause_s = min(_LONGEST_BATCH_PAUSE_S, self._pause_s * 1.5 or _FIRST_PAUSE_S)
        return answer.read(BatchState, self._gateway.url)


class BatchResults:
    """Goes through a batch's results in the order of its lines. `page` is one page of them."""

    def __init__(self, gateway: Gateway, batch_id: str, *, limit: int) -> None:
        """Begin with the first line."""
        self._gateway = gateway
        self._batch_id = batch_id
        self._limit = limit
        self._faults = gateway.waiting()
        self._cursor: str | None = None
        self._pause_s = 0.0
        self.over = False
        """Whether every line has been told."""
        self.caught_up = False
        """Whether the next line has not ended yet."""

    def page(self) -> Steps[Sequence[BatchLine]]:
        """Ask for what follows; after a pause where there was nothing new."""
        call = _calls.batch_results(self._batch_id, self._cursor, self._limit)
        answer = yield from exchange(call, self._faults, after_s=self._pause_s)
        page = answer.read(ResultPage, self._gateway.url)
        self.over = page.next_cursor is None
        self.caught_up = not page.data
        self._pause_s = min(_LONGEST_BATCH_PAUSE_S, self._pause_s * 1.5 or _FIRST_PAUSE_S) if self.caught_up else 0.0
        self._cursor = page.next_cursor
        return page.data


class EventCursor:
    """Goes through an event stream, however often it is cut: no event is missed or told twice."""

    def __init__(self, gateway: Gateway, job_id: str | None, after: str | None) -> None:
        """`after` is the id of the last event that is known already."""
        self._job_id = job_id
        self._after = after
        self._faults = gateway.waiting()
        self._ended = False
        self.over = False
        """Whether the job's end has been told."""

    def call(self) -> Call:
        """Open the stream, where it was left."""
        return _calls.events(self._job_id, self._after)

    def take(self, sent: httpx2.ServerSentEvent) -> Event | None:
        """Read an event; `None` for one that only says how far the stream is."""
        self._faults.none()
        self._after = sent.id or self._after
        if not sent.data:
            return None
        event = Event(id=sent.id, name=sent.event, data=msgspec.json.decode(sent.data, type=dict[str, Any]))
        if event.name == "job" and self._job_id is not None:
            self._ended = event.status in ENDED
            self.over = self._ended and "completed_at" in event.data  # else it has been run again since
        return event

    def pause_s(self, error: SafelightError | None) -> float:
        """How long to wait before the stream is opened again; it was cut, or closed before the end."""
        if error is None and self._ended:
            self.over = True
            return 0.0
        return self._faults.pause_s(error or GatewayUnreachable("the event stream was closed", sent=False))
