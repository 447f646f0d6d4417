"""The client that blocks. `aio` is the same with `await`."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack

import httpx2

from safelight.client import _calls
from safelight.client._calls import (
    BatchOptions,
    Call,
    EditOptions,
    GenerateOptions,
    ImageFile,
    JobQuery,
    VaryOptions,
)
from safelight.client._steps import (
    Answer,
    BatchResults,
    BatchWait,
    EventCursor,
    Gateway,
    JobWait,
    Retries,
    Send,
    Steps,
)
from safelight.client._view import BatchView, JobView, picture_content, picture_path, whole_file
from safelight.client.errors import SafelightError
from safelight.client.models import BatchLine, BatchPage, BatchState, Event, JobPage, JobState, Model, ModelList

T = TypeVar("T")
_PIECE_BYTES = 256 * 1024


class _Page(Protocol):
    @property
    def next_cursor(self) -> str | None: ...


PageT = TypeVar("PageT", bound=_Page)


@dataclass(frozen=True, slots=True)
class Download:
    """A picture on its way."""

    content_type: str
    pieces: Iterator[bytes]


class Transport:
    """Sends what the steps say, and sleeps when they say so."""

    def __init__(self, gateway: Gateway, http: httpx2.Client) -> None:
        """Whoever made `http` closes it."""
        self.gateway = gateway
        self._http = http

    def run(self, steps: Steps[T]) -> T:
        """Take steps to their end."""
        try:
            send = next(steps)
            while True:
                try:
                    answer = self._answer(send)
                except SafelightError as error:
                    send = steps.throw(error)
                else:
                    send = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    def ask(self, call: Call, kind: type[T]) -> T:
        """Send a call and read its answer."""
        return self.run(self.gateway.ask(call, kind))

    def pages(self, call: Call, kind: type[PageT]) -> Iterator[PageT]:
        """Ask for page after page."""
        while True:
            page = self.ask(call, kind)
            yield page
            if page.next_cursor is None:
                return
            call = _calls.next_page(call, page.next_cursor)

    def _answer(self, send: Send) -> Answer:
        time.sleep(send.after_s)
        start = time.monotonic()
        with self.stream(send.call) as response:
            content = response.read()
        return Answer(
            status=response.status_code, headers=response.headers, content=content, took_s=time.monotonic() - start
        )

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx2.Response]:
        """Send a call and read the answer bit by bit. Raises a `SafelightError`."""
        with ExitStack() as opened:
            try:
                response = self._http.send(self.gateway.request(self._http, call, opened), stream=True)
                opened.callback(response.close)
                if response.status_code >= 400:
                    raise self.gateway.refusal(response.status_code, response.headers, response.read())
                yield response
            except httpx2.RequestError as error:
                raise self.gateway.fault(error, call) from error

    def events(self, job_id: str | None, after: str | None) -> Iterator[Event]:
        """Follow a stream of events; cut off, it goes on where it was."""
        cursor = EventCursor(self.gateway, job_id, after)
        while True:
            fault: SafelightError | None = None
            try:
                with self.stream(cursor.call()) as response:
                    for sent in httpx2.EventSource(response):
                        if (event := cursor.take(sent)) is not None:
                            yield event
                        if cursor.over:
                            return
            except SafelightError as error:
                fault = error
            pause_s = cursor.pause_s(fault)
            if cursor.over:
                return
            time.sleep(pause_s)


class Job(JobView):
    """One job. What it tells is what the last answer told; `refresh` and `wait` ask again."""

    def __init__(self, transport: Transport, state: JobState) -> None:
        """See `Safelight.images` and `Safelight.jobs`, which make them."""
        super().__init__(state)
        self._transport = transport

    def refresh(self) -> Self:
        """Ask how it fares."""
        self.state = self._transport.ask(_calls.read_job(self.id), JobState)
        return self

    def wait(self, *, timeout: float | None = None, on_update: Callable[[Self], object] | None = None) -> Self:
        """Wait until it has ended, well or badly, at most `timeout` seconds; also through a restart of the gateway.

        `on_update` is called with the job whenever something about it has changed. Raises `WaitTimeout`.
        """
        waiting = JobWait(self._transport.gateway, self.id, timeout_s=timeout, told=on_update is not None)
        while not self.ended:
            before, self.state = self.state, self._transport.run(waiting.look())
            if on_update is not None and self.state != before:
                on_update(self)
        return self

    def events(self, *, after: str | None = None) -> Iterator[Event]:
        """Follow what happens to it, from its submit (or the event `after`) to its end; cut off, it goes on by itself."""
        return self._transport.events(self.id, after)

    @contextmanager
    def open(self, index: int = 0) -> Iterator[Download]:
        """Fetch one picture bit by bit."""
        picture = self.images[index]
        if found := picture_content(self.state, picture):
            content_type, content = found
            yield Download(content_type, iter([content]))
            return
        with self._transport.stream(_calls.download(picture.url or "")) as response:
            yield Download(response.headers.get("content-type", ""), response.iter_bytes(_PIECE_BYTES))

    def content(self, index: int = 0) -> bytes:
        """One picture as a whole."""
        with self.open(index) as picture:
            return b"".join(picture.pieces)

    def preview(self, event: Event) -> bytes:
        """The picture so far that a `partial_image` event tells of."""
        with self._transport.stream(_calls.download(event.data["url"])) as response:
            return response.read()

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Wait for its end and write its pictures: one to a file of that name, several into a folder of that name.

        A file is whole or not there. Raises `JobFailed`.
        """
        self.wait()
        self.raise_for_failure()
        count = len(self.images)
        return [
            self.download(index, partial(picture_path, Path(path), self.id, index, count)) for index in range(count)
        ]

    def download(self, index: int, name: Callable[[str], Path]) -> Path:
        """Write one picture to the path that `name` gives for its content type; a file is whole or not there."""
        faults = self._transport.gateway.waiting()
        while True:
            try:
                with self.open(index) as picture:
                    target = name(picture.content_type)
                    with whole_file(target) as file:
                        for piece in picture.pieces:
                            file.write(piece)
            except SafelightError as error:
                time.sleep(faults.pause_s(error))
            else:
                return target

    def cancel(self) -> Self:
        """End it, if it has not ended: waiting, it never starts; running, its result is dropped."""
        self.state = self._transport.ask(_calls.cancel_job(self.id), JobState)
        return self

    def retry(self) -> Self:
        """Run it again after it has failed, under the same id; the consent to pay again where that may be."""
        self.state = self._transport.ask(_calls.retry_job(self.id), JobState)
        return self

    def delete(self) -> None:
        """Remove it, with its pictures, now."""
        self._transport.run(self._transport.gateway.tell(_calls.delete_job(self.id)))


class Batch(BatchView):
    """One batch. What it tells is what the last answer told; `refresh` and `wait` ask again."""

    def __init__(self, transport: Transport, state: BatchState) -> None:
        """See `Safelight.batches`, which makes them."""
        super().__init__(state)
        self._transport = transport

    def refresh(self) -> Self:
        """Ask how it fares."""
        self.state = self._transport.ask(_calls.read_batch(self.id), BatchState)
        return self

    def wait(self, *, timeout: float | None = None, on_update: Callable[[Self], object] | None = None) -> Self:
        """Wait until no line waits or runs, at most `timeout` seconds; also through a restart of the gateway.

        `on_update` is called with the batch whenever something about it has changed. Raises `WaitTimeout`.
        """
        waiting = BatchWait(self._transport.gateway, self.id, timeout_s=timeout)
        while not self.ended:
            before, self.state = self.state, self._transport.run(waiting.look())
            if on_update is not None and self.state != before:
                on_update(self)
        return self

    def results(self, *, follow: bool = False, page_size: int = 100) -> Iterator[BatchLine]:
        """What became of each line, in their order, up to the first that has not ended; `follow` waits for the rest."""
        results = BatchResults(self._transport.gateway, self.id, limit=page_size)
        while not results.over:
            yield from self._transport.run(results.page())
            if results.caught_up and not follow:
                return

    def job(self, line: BatchLine) -> Job | None:
        """The job of a line, to save its pictures."""
        return Job(self._transport, line.job) if line.job else None

    def cancel(self) -> Self:
        """Start no line any more, and end those that run."""
        self.state = self._transport.ask(_calls.cancel_batch(self.id), BatchState)
        return self

    def retry_failed(self) -> Self:
        """Run the lines again that have failed, or that a cancel kept from starting."""
        self.state = self._transport.ask(_calls.retry_batch(self.id), BatchState)
        return self


class Images:
    """Orders pictures. Each call makes an idempotency key of its own, so that it can be repeated safely."""

    def __init__(self, transport: Transport) -> None:
        """See `Safelight.images`."""
        self._transport = transport

    def generate(self, prompt: str, *, model: str, **options: Unpack[GenerateOptions]) -> Job:
        """Order a picture from a prompt. Raises `Refused`."""
        return self._submit(_calls.generation(prompt, model, options))

    def edit(
        self, image: ImageFile | Sequence[ImageFile], prompt: str, *, model: str, **options: Unpack[EditOptions]
    ) -> Job:
        """Order a change of an image, inside a mask if one is given; further images are there to draw upon."""
        return self._submit(_calls.edit(image, prompt, model, options))

    def vary(self, image: ImageFile, *, model: str, **options: Unpack[VaryOptions]) -> Job:
        """Order variations of an image."""
        return self._submit(_calls.variation(image, model, options))

    def _submit(self, call: Call) -> Job:
        return Job(self._transport, self._transport.ask(call, JobState))


class Jobs:
    """Finds jobs again."""

    def __init__(self, transport: Transport) -> None:
        """See `Safelight.jobs`."""
        self._transport = transport

    def get(self, job_id: str) -> Job:
        """One job, of whatever type. Raises `NotFound`."""
        return Job(self._transport, self._transport.ask(_calls.read_job(job_id), JobState))

    def list(
        self, *, metadata: Mapping[str, str] | None = None, page_size: int = 100, **wanted: Unpack[JobQuery]
    ) -> Iterator[Job]:
        """All jobs that match, newest first; pages are asked for as they are needed."""
        call = _calls.list_jobs(wanted, metadata or {}, page_size)
        for page in self._transport.pages(call, JobPage):
            yield from (Job(self._transport, state) for state in page.data)


class Batches:
    """Orders pictures by the thousand."""

    def __init__(self, transport: Transport) -> None:
        """See `Safelight.batches`."""
        self._transport = transport

    def create(
        self, lines: Iterable[Mapping[str, Any]] | str | os.PathLike[str], **options: Unpack[BatchOptions]
    ) -> Batch:
        """Hand in generations, as objects or as a file of JSON lines. One bad line refuses them all."""
        return Batch(self._transport, self._transport.ask(_calls.create_batch(lines, options), BatchState))

    def get(self, batch_id: str) -> Batch:
        """One batch. Raises `NotFound`."""
        return Batch(self._transport, self._transport.ask(_calls.read_batch(batch_id), BatchState))

    def list(self, *, page_size: int = 100) -> Iterator[Batch]:
        """All batches, newest first."""
        for page in self._transport.pages(_calls.list_batches(page_size), BatchPage):
            yield from (Batch(self._transport, state) for state in page.data)


class Safelight:
    """A client of one gateway. Close it, or use it as a context manager."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        retries: Retries | None = None,
        http: httpx2.Client | None = None,
    ) -> None:
        """Take the address with or without `/v1`. `api_key` is a virtual key.

        `http` brings settings of its own (proxies, certificates); whoever made it closes it. Raises `ValueError`.
        """
        gateway = Gateway(url=_calls.gateway_url(url), key=api_key, retries=retries or Retries())
        self._owns_http = http is None
        self._http = http or httpx2.Client()
        self._transport = Transport(gateway, self._http)
        self.images = Images(self._transport)
        self.jobs = Jobs(self._transport)
        self.batches = Batches(self._transport)

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self._transport.gateway.url

    def models(self) -> Sequence[Model]:
        """The models that the gateway is set up for, and what each can do."""
        return (self._transport.ask(_calls.list_models(), ModelList)).data

    def events(self, *, after: str | None = None) -> Iterator[Event]:
        """Follow what happens to all jobs of this key, without end."""
        return self._transport.events(None, after)

    def close(self) -> None:
        """Let go of connections."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of connections."""
        self.close()
