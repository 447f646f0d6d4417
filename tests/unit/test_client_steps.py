"""What the client does between requests: when it asks again, and when it gives up. No socket is opened, nothing sleeps."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest

from safelight.client import (
    AsyncSafelight,
    AuthenticationFailed,
    BudgetExceeded,
    Conflict,
    GatewayUnreachable,
    IdempotencyConflict,
    InvalidRequest,
    NotAGateway,
    NotFound,
    RateLimited,
    Retries,
    Safelight,
    SafelightError,
    Unavailable,
    WaitTimeout,
    _calls,
)
from safelight.client._calls import Call
from safelight.client._steps import (
    Answer,
    BatchResults,
    BatchWait,
    Deadline,
    EventCursor,
    Faults,
    Gateway,
    JobWait,
    Send,
    Steps,
    exchange,
)
from safelight.client.models import JobState

URL = "http://gateway"
GATEWAY = Gateway(url=URL, retries=Retries(most=3, patience_s=60))
RUNNING = {"id": "j", "status": "processing", "created_at": "2026-11-25T10:00:00Z"}
UNSENT = GatewayUnreachable("nobody there", sent=False)
SENT = GatewayUnreachable("broke off", sent=True)
GET = Call(method="GET", path="/")


def answer(body: Any = None, status: int = 200, took_s: float = 0.0, **headers: str) -> Answer:
    return Answer(status=status, headers=headers, content=json.dumps(body).encode(), took_s=took_s)


def refused(status: int, code: str = "c", **headers: str) -> SafelightError:
    body = {"error": {"message": "no", "code": code, "param": "size"}}
    return GATEWAY.refusal(status, headers, json.dumps(body).encode())


class Driven:
    """Takes steps and answers each as the test says."""

    def __init__(self, steps: Steps[Any]) -> None:
        self._steps = steps
        self.sent = [next(steps)]
        self.value: Any = None
        self.over = False

    def gets(self, what: Answer | Exception) -> Send | None:
        """Answer what was sent last; what is sent next."""
        try:
            send = self._steps.throw(what) if isinstance(what, Exception) else self._steps.send(what)
        except StopIteration as end:
            self.value, self.over = end.value, True
            return None
        self.sent.append(send)
        return send


@pytest.mark.parametrize("fault", [UNSENT, SENT, refused(429), refused(502), refused(503), refused(504)])
def test_asks_again_after_faults_that_pass_and_gives_up_in_the_end(fault: SafelightError) -> None:
    driven = Driven(exchange(GET, Faults(most=3)))
    pauses = []
    for _ in range(3):
        again = driven.gets(fault)
        assert again is not None
        assert again.call is GET
        pauses.append(again.after_s)
    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 1
    with pytest.raises(type(fault)):
        driven.gets(fault)


@pytest.mark.parametrize("fault", [refused(400), refused(404), refused(500), NotAGateway("html", sent=True)])
def test_does_not_ask_again_what_would_be_answered_alike(fault: SafelightError) -> None:
    with pytest.raises(type(fault)):
        Driven(exchange(GET, Faults(most=3))).gets(fault)


@pytest.mark.parametrize("status", [429, 503])
def test_waits_as_long_as_it_is_told(status: int) -> None:
    again = Driven(exchange(GET, Faults(most=1))).gets(refused(status, **{"retry-after": "7"}))
    assert again is not None
    assert again.after_s == 7


def test_reads_a_date_in_retry_after() -> None:
    error = refused(429, **{"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert isinstance(error, RateLimited)
    assert error.retry_after_s == 0
    error = refused(429, **{"retry-after": "soon"})
    assert isinstance(error, RateLimited)
    assert error.retry_after_s is None


def test_what_may_cost_twice_is_sent_once() -> None:
    call = _calls.retry_job("j")
    for fault in (SENT, refused(503)):
        with pytest.raises(type(fault)):
            Driven(exchange(call, Faults(most=3))).gets(fault)
    for fault in (UNSENT, refused(429)):
        assert Driven(exchange(call, Faults(most=3))).gets(fault)


def test_patience_is_counted_from_the_first_fault_in_a_row() -> None:
    now = 0.0
    faults = Faults(patience_s=10, now=lambda: now)
    for now in (0, 3, 6, 9):  # noqa: B007 - the clock reads it
        assert faults.pause_s(UNSENT) < 10
        faults.none()
    now = 20
    assert faults.pause_s(UNSENT)
    now = 25
    assert faults.pause_s(UNSENT)
    now = 31
    with pytest.raises(GatewayUnreachable):
        faults.pause_s(UNSENT)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, AuthenticationFailed),
        (402, BudgetExceeded),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (422, IdempotencyConflict),
        (429, RateLimited),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_refusals_have_their_class_and_say_why(status: int, kind: type[Exception]) -> None:
    error = refused(status, "idempotency_conflict")
    assert type(error) is kind
    assert str(error) == "no (idempotency_conflict)"
    assert (getattr(error, "code", None), getattr(error, "param", None)) == ("idempotency_conflict", "size")


@pytest.mark.parametrize(("status", "kind"), [(502, GatewayUnreachable), (404, NotAGateway), (200, NotAGateway)])
def test_pages_of_proxies_and_of_strangers_are_told_apart(status: int, kind: type[Exception]) -> None:
    if status == 200:
        driven = Driven(GATEWAY.ask(GET, JobState))
        with pytest.raises(kind):
            driven.gets(Answer(status=200, headers={}, content=b"<html>", took_s=0))
    else:
        assert type(GATEWAY.refusal(status, {}, b"<html>")) is kind


# Waiting


def look(waiting: JobWait) -> Driven:
    return Driven(waiting.look())


def test_a_wait_is_held_by_the_gateway_and_asked_again_at_once() -> None:
    waiting = JobWait(GATEWAY, "j", timeout_s=None, told=False)
    driven = look(waiting)
    assert driven.sent[0].call.params == {"wait": "30.000"}
    driven.gets(answer(RUNNING, 202, took_s=30))
    assert driven.value.status == "processing"
    assert look(waiting).sent[0].after_s == 0


def test_a_wait_that_was_cut_short_is_not_repeated_in_a_hurry() -> None:
    """By a gateway that stops, or one that does not hold."""
    waiting = JobWait(GATEWAY, "j", timeout_s=None, told=True)
    look(waiting).gets(answer(RUNNING, 202, took_s=0.01, **{"retry-after": "2"}))
    assert look(waiting).sent[0].after_s == 2


def test_a_wait_outlives_a_restart() -> None:
    driven = look(JobWait(GATEWAY, "j", timeout_s=None, told=False))
    for fault in [SENT, *[UNSENT] * 20, refused(503)]:
        assert driven.gets(fault)
    driven.gets(answer({**RUNNING, "status": "completed"}))
    assert driven.value.ended


def test_a_wait_ends_in_time() -> None:
    waiting = JobWait(GATEWAY, "j", timeout_s=0, told=False)
    with pytest.raises(TimeoutError, match="job j has not ended within 0 seconds; it goes on"):
        next(waiting.look())
    with pytest.raises(WaitTimeout):
        next(BatchWait(GATEWAY, "b", timeout_s=0).look())
    now = 0.0
    deadline = Deadline(timeout_s=5, now=lambda: now)
    now = 4
    assert deadline.left_s("it") == 1


def test_results_of_a_batch_are_asked_for_from_where_they_ended() -> None:
    results = BatchResults(GATEWAY, "b", limit=2)

    def page(data: list[int], cursor: str | None) -> list[int]:
        driven = Driven(results.page())
        self_cursor.append(driven.sent[0].call.params.get("cursor"))
        pauses.append(driven.sent[0].after_s)
        driven.gets(answer({"data": [{"line": line} for line in data], "next_cursor": cursor}))
        return [line.line for line in driven.value]

    self_cursor: list[str | None] = []
    pauses: list[float] = []
    assert page([1, 2], "2") == [1, 2]
    assert page([], "2") == []
    assert results.caught_up
    assert page([3], None) == [3]
    assert results.over
    assert self_cursor == [None, "2", "2"]
    assert pauses[:2] == [0, 0]
    assert pauses[2] > 0


# Events


def sent(number: int, name: str, **data: Any) -> httpx2.ServerSentEvent:
    return httpx2.ServerSentEvent(event=name, data=json.dumps(data), id=str(number))


def test_an_event_stream_goes_on_behind_the_last_event() -> None:
    cursor = EventCursor(GATEWAY, "j", None)
    assert "Last-Event-ID" not in cursor.call().headers
    event = cursor.take(sent(7, "job", status="pending"))
    assert event is not None
    assert (event.id, event.name, event.status) == ("7", "job", "pending")
    assert cursor.take(httpx2.ServerSentEvent(event="message", data="", id="")) is None
    assert cursor.pause_s(None) > 0
    assert cursor.call().headers["Last-Event-ID"] == "7"
    assert cursor.take(httpx2.ServerSentEvent(event="message", data="", id="8")) is None
    assert cursor.call().headers["Last-Event-ID"] == "8", "a mark on the way"
    cursor.take(sent(9, "progress", status="completed"))
    assert not cursor.over
    cursor.take(sent(10, "job", status="failed", completed_at="2026-11-25T10:00:00Z"))
    assert cursor.over


def test_an_end_that_was_followed_by_a_retry_is_not_the_end() -> None:
    cursor = EventCursor(GATEWAY, "j", None)
    cursor.take(sent(1, "job", status="failed"))
    assert not cursor.over
    cursor.take(sent(2, "job", status="pending"))
    assert cursor.pause_s(None) > 0, "closed too early"
    cursor.take(sent(3, "job", status="failed"))
    cursor.pause_s(None)
    assert cursor.over, "closed by the gateway after the end of a job that is gone"


def test_the_stream_of_all_jobs_has_no_end() -> None:
    cursor = EventCursor(GATEWAY, None, "3")
    assert cursor.call().headers["Last-Event-ID"] == "3"
    cursor.take(sent(4, "job", status="completed"))
    assert not cursor.over


# Requests


def test_every_submit_has_a_key_of_its_own() -> None:
    calls: list[Callable[[], Call]] = [
        lambda: _calls.generation("a fox", "builtin/sketch", {}),
        lambda: _calls.edit(b"png", "red", "builtin/sketch", {}),
        lambda: _calls.variation(b"png", "builtin/sketch", {}),
        lambda: _calls.create_batch([{}], {}),
    ]
    keys = [call().headers["Idempotency-Key"] for call in calls * 2]
    assert len(set(keys)) == 8
    assert _calls.generation("a fox", "m", {"idempotency_key": "mine"}).headers["Idempotency-Key"] == "mine"


def test_options_go_where_the_gateway_looks_for_them() -> None:
    call = _calls.generation(
        "a fox",
        "builtin/sketch",
        {"n": 2, "metadata": {"a": "b"}, "extra": {"cfg": 7}, "result_ttl_s": 60, "webhook": "orders"},
    )
    assert call.json == {
        "model": "builtin/sketch",
        "prompt": "a fox",
        "n": 2,
        "metadata": {"a": "b"},
        "cfg": 7,
        "response_format": "url",
    }
    assert call.headers["x-bf-async-job-result-ttl"] == "60"
    assert call.headers["x-bf-async-webhook"] == "orders"
    assert call.headers["x-bf-passthrough-extra-params"] == "true"
    form = _calls.edit([b"1", b"2"], "red", "m", {"mask": b"3", "seed": 7, "fallbacks": ["a/b", "c/d"]})
    assert form.form == {
        "model": "m",
        "prompt": "red",
        "response_format": "url",
        "seed": "7",
        "fallbacks": ["a/b", "c/d"],
    }
    assert [file.name for file in form.files] == ["image[]", "image[]", "mask"]


def test_a_name_that_is_no_option_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="unknown option colour; what only the provider knows goes into extra="):
        _calls.generation("a fox", "m", {"colour": "red"})  # type: ignore[typeddict-unknown-key]  # so it is
    with pytest.raises(TypeError, match="sort"):
        _calls.list_jobs({"sort": "no"}, {}, 1)  # type: ignore[typeddict-unknown-key]  # as above
    with pytest.raises(TypeError, match="colour"):
        _calls.create_batch([], {"colour": "red"})  # type: ignore[typeddict-unknown-key]  # as above


@pytest.mark.parametrize("url", ["gateway", "ftp://gateway", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a gateway"):
        _calls.gateway_url(url)


def test_links_are_opened_at_the_address_that_we_talk_to() -> None:
    assert _calls.download("https://public/pics/v1/files/a/b.png?x=1").path == "/v1/files/a/b.png?x=1"
    assert _calls.download("https://elsewhere/b.png").path == "https://elsewhere/b.png"
    assert _calls.gateway_url("http://gateway/v1/") == "http://gateway"


# The stream as a whole, cut anywhere

EVENTS = [
    (1, "job", {"id": "j", "status": "pending"}),
    (4, "job", {"id": "j", "status": "processing"}),
    (5, "progress", {"progress": 0.5}),
    (9, "job", {"id": "j", "status": "completed", "completed_at": "2026-11-25T10:00:00Z"}),
]


def block(number: int, name: str, data: Any) -> bytes:
    return f": still here\n\nid: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


class CutOnce:
    """A gateway whose first event stream breaks off, or is closed, at a byte; what follows it, follows the last event."""

    def __init__(self, at: int, *, in_order: bool) -> None:
        self._at = at
        self._in_order = in_order
        self._cut = False

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/events"):
            return httpx2.Response(200, json=RUNNING)
        after = int(request.headers.get("Last-Event-ID", "0"))
        content = b"".join(block(*event) for event in EVENTS if event[0] > after)
        whole, self._cut = self._cut, True
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(
            200, headers=headers, stream=_Stream(content if whole else content[: self._at], self, whole)
        )

    def end(self, *, whole: bool) -> None:
        if not whole and not self._in_order:
            raise httpx2.ReadError("cut")


class _Stream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, content: bytes, gateway: CutOnce, whole: bool) -> None:  # noqa: FBT001 - a test's own
        self._content = content
        self._gateway = gateway
        self._whole = whole

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        self._gateway.end(whole=self._whole)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
        self._gateway.end(whole=self._whole)


@pytest.mark.parametrize("in_order", [False, True], ids=["cut", "closed"])
async def test_a_stream_that_is_cut_at_any_byte_is_whole(monkeypatch: pytest.MonkeyPatch, *, in_order: bool) -> None:
    async def no_pause(_: float) -> None: ...

    monkeypatch.setattr("safelight.client.sync.time.sleep", lambda _: None)
    monkeypatch.setattr("safelight.client.aio.asyncio.sleep", no_pause)
    length = sum(len(block(*event)) for event in EVENTS)
    expected = [(str(number), name) for number, name, _ in EVENTS]
    for at in range(length):
        with httpx2.Client(transport=httpx2.MockTransport(CutOnce(at, in_order=in_order))) as http:
            job = Safelight(URL, http=http).jobs.get("j")
            assert [(event.id, event.name) for event in job.events()] == expected, at
        async with httpx2.AsyncClient(transport=httpx2.MockTransport(CutOnce(at, in_order=in_order))) as ahttp:
            ajob = await AsyncSafelight(URL, http=ahttp).jobs.get("j")
            assert [(event.id, event.name) async for event in ajob.events()] == expected, at
