"""What the use cases need of the world. Adapters implement these; each store call is one atomic commit."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from safelight.domain.batch import Batch, BatchEntry, BatchProgress, NewLine
from safelight.domain.caller import ADMINISTRATOR, Caller
from safelight.domain.capability import ModelSpec
from safelight.domain.errors import ProviderError
from safelight.domain.event import JobEvent, LoggedEvent
from safelight.domain.fairness import Turn
from safelight.domain.ids import BatchId, BlobKey, DeliveryId, EndpointId, JobId, ProviderName
from safelight.domain.image import ImageRequest, Operation, StoredImage, Usage
from safelight.domain.job import Attempt, Ending, Job, JobHistory, JobStatus
from safelight.domain.ledger import NO_TERMS, Terms
from safelight.domain.money import Charged
from safelight.domain.webhook import (
    Delivery,
    EndpointSettings,
    Outcome,
    Reply,
    SigningSecret,
    Verdict,
    WebhookEndpoint,
    WebhookEvent,
)


class Clock(Protocol):
    """The time, so that tests can set it."""

    def now(self) -> datetime:
        """Aware UTC."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which of the jobs that are the caller's a listing shows, newest first. What is `None` is not asked for."""

    caller: Caller = ADMINISTRATOR
    status: JobStatus | None = None
    operation: Operation | None = None
    model: str | None = None
    """As it was asked for, `provider/model`."""
    provider: ProviderName | None = None
    """Now at work, or the one that ended the job."""
    created_after: datetime | None = None
    """This moment or later."""
    created_before: datetime | None = None
    error_code: str | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    alive_at: datetime | None = None
    """Leave out what has expired by then."""
    cursor: str | None = None
    """`next_cursor` of the page before."""
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """One page of a listing and where the next one begins, if there is one."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


Place = tuple[int, int]
"""Where a job stands among all: when it was created, in microseconds since 1970, and its number."""

Mark = tuple[int, int]
"""A place in the log of all jobs: the era of the event, and its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """An event in the log of all jobs, and whose it is."""

    mark: Mark
    event: JobEvent
    owner: str | None
    team: str | None


class JobStore(Protocol):
    """The record. Every method raises `StorageError` when the database fails.

    Methods that move a job on raise `Superseded` when the job, or the attempt they end, is no longer in the state
    that the caller saw: the ledger is the fence.
    """

    async def submit(
        self, job: Job, terms: Terms | None = None, *, wake: Callable[[], None] = lambda: None
    ) -> Job | None:
        """Write an accepted job, and take what `terms` say, or raise the `PolicyRefusal` that says why not.

        It is durable when this returns. `wake` is called once, as soon as the job may be taken up: that can be before it is
        durable, where what is written of it next is never durable without it.
        Where its owner has used its idempotency key before, nothing is written, and this is the job of then.
        """
        ...

    async def submitted(self, owner: str | None, idempotency_key: str, *, now: datetime) -> Job | None:
        """Read the job that an owner has submitted under a key, and that has not expired."""
        ...

    async def get(self, job_id: JobId) -> Job | None:
        """Read one job."""
        ...

    async def history(self, job_id: JobId) -> JobHistory | None:
        """Read one job with its ledger."""
        ...

    async def due(self, *, limit: int, after: Place) -> Sequence[tuple[Place, JobId, ProviderName, datetime, Turn]]:
        """List jobs that have not ended in the order of their creation: (place, id, lane, due)."""
        ...

    async def start_attempt(self, job_id: JobId, attempt: Attempt, *, limited: Job | None = None) -> None:
        """Write the attempt before any byte goes upstream; the job is processing from here on. Raises `OwnerBusy` where it is `limited` and would be one too many."""
        ...

    async def accept_attempt(self, job_id: JobId, attempt: Attempt, *, due_at: datetime) -> None:
        """Keep the provider's handle, and when to poll it first."""
        ...

    async def end_attempt(self, job_id: JobId, attempt: Attempt, *, lane: ProviderName, due_at: datetime) -> None:
        """Book an attempt that ended; the job goes on at `due_at`."""
        ...

    async def postpone(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """Take the job up again later, perhaps in another lane."""
        ...

    async def bring_forward(self, job_id: JobId, *, lane: ProviderName, due_at: datetime) -> None:
        """Take the job up sooner, by the word of somebody else than the worker that has it."""
        ...

    async def finish(self, job_id: JobId, ending: Ending, *, tries: int, attempt: Attempt | None = None) -> None:
        """Settle: the terminal state, with the end of the attempt that led to it, in one commit.

        `tries` is the length of the ledger that the ending was made from. The ending of a cancelled job must know of it.
        """
        ...

    async def progress(self, job_id: JobId, share: float, *, attempt: int, at: datetime) -> None:
        """Write how far a job is, from 0 to 1, while its attempt of that number is the last one."""
        ...

    async def cancel(self, job_id: JobId, at: datetime, *, lane: ProviderName, tries: int) -> None:
        """Book that the caller wants the end of a job whose attempt number `tries` is out: no other will start.

        The job is due at once.
        """
        ...

    async def stop_asked(self, job_id: JobId, attempt: Attempt) -> None:
        """Book that the provider was asked to stop accepted work."""
        ...

    async def retry(self, job: Job, terms: Terms | None = None) -> None:
        """Put a failed job back to its beginning, as `Job.renewed` makes it; its ledger and its log go on.

        What `terms` say is taken as at the submit.
        """
        ...

    async def log_event(self, event: JobEvent) -> None:
        """Write an event that changes nothing about the job."""
        ...

    async def events(self, job_id: JobId, *, after: int, limit: int) -> Sequence[LoggedEvent]:
        """Read a job's log from behind number `after`, in order."""
        ...

    async def log(self, *, after: Mark, limit: int) -> Sequence[LogEntry]:
        """Read the log of all jobs from behind a place, in order.

        What another transaction may still get in front of is left for later: so nothing comes behind one's back.
        """
        ...

    async def log_end(self) -> Mark:
        """Where the log of all jobs ends now."""
        ...

    async def previews(self, job_ids: Sequence[JobId]) -> Sequence[StoredImage]:
        """List the previews of jobs."""
        ...

    async def overdue(self, *, created_before: datetime, limit: int) -> Sequence[JobId]:
        """List jobs that should long have ended."""
        ...

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Job]:
        """List jobs whose time is over."""
        ...

    async def delete(self, job_ids: Sequence[JobId]) -> None:
        """Remove jobs that have ended, with their ledgers and logs; one that runs (again) stays."""
        ...

    async def existing(self, job_ids: Sequence[JobId]) -> set[JobId]:
        """Which of these jobs (or batches, which own blobs too) there are."""
        ...

    async def list_jobs(self, wanted: JobFilter) -> JobPage:
        """One page of jobs, newest first. Raises `InvalidRequest` for a cursor that is none."""
        ...

    async def count_jobs(self, wanted: JobFilter) -> Mapping[JobStatus, int]:
        """How many jobs there are of each status."""
        ...


class BatchStore(Protocol):
    """The record of batches. Every method raises `StorageError` when the database fails."""

    async def submit(self, batch: Batch, terms: Terms = NO_TERMS) -> Batch:
        """Write an accepted batch; it is durable when this returns. Gives the earlier one of the same idempotency key.

        `terms` must be free as a whole; each line takes its share when it becomes a job. Raises `IdempotencyConflict`
        where the key came with another request, and `PolicyRefusal`.
        """
        ...

    async def get(self, batch_id: BatchId) -> Batch | None:
        """Read one batch."""
        ...

    async def progress(self, batch_id: BatchId) -> BatchProgress | None:
        """Read one batch and count its jobs."""
        ...

    async def list_batches(self, *, before: int | None, limit: int) -> Sequence[tuple[int, Batch]]:
        """List batches with their sequence numbers, newest first."""
        ...

    async def open_batches(self, *, limit: int) -> Sequence[Batch]:
        """List the batches that are not complete, oldest first."""
        ...

    async def open_lines(self) -> Mapping[ProviderName, int]:
        """Count the jobs of all batches that have not ended, by lane."""
        ...

    async def feed(self, batch: Batch, lines: Sequence[NewLine]) -> Sequence[Job]:
        """Make jobs of the next lines and move the cursor behind them, in one commit; gives those that wait to run.

        Raises the `PolicyRefusal` of the first line whose terms cannot be met; then none is fed.

        A line whose idempotency key has a job already shares it; where the key belongs to another request, the line's
        job has failed from the beginning. Raises `Superseded` when the cursor is elsewhere or the batch is cancelled.
        """
        ...

    async def results(self, batch_id: BatchId, *, after: int, up_to: int) -> Mapping[int, Job]:
        """Read the jobs of the lines `after` (exclusive) to `up_to`, by line."""
        ...

    async def cancel(self, batch_id: BatchId, *, at: datetime) -> None:
        """Feed no line any more."""
        ...

    async def open_jobs(self, batch_id: BatchId, *, limit: int) -> Sequence[JobId]:
        """List jobs of its own that have not ended."""
        ...

    async def retry_failed(self, batch_id: BatchId, *, before: datetime) -> None:
        """Go on: lines that failed until `before` are to run again, lines that a cancel kept back are to be fed."""
        ...

    async def failed_jobs(
        self, batch_id: BatchId, *, before: datetime, after: int, limit: int
    ) -> Sequence[tuple[int, JobId, ProviderName]]:
        """List lines behind `after` whose jobs failed until `before`, in their order: (line, job, lane)."""
        ...

    async def retried_all(self, batch_id: BatchId, *, before: datetime) -> None:
        """Note that none of those is left."""
        ...

    async def complete(self, batch_id: BatchId, *, at: datetime) -> None:
        """Note that every line has ended; nothing happens where one has not been fed, or is to run again."""
        ...

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Batch]:
        """List batches whose time is over."""
        ...

    async def delete(self, batch_ids: Sequence[BatchId]) -> None:
        """Remove batches; their jobs have a life of their own."""
        ...


class BatchWriter(Protocol):
    """The lines of one batch as they are checked. Exactly one of `close` and `abort` ends it."""

    async def add(self, entry: BatchEntry) -> None:
        """Append a line."""
        ...

    async def close(self) -> BlobKey:
        """Make them durable; gives where they lie."""
        ...

    async def abort(self) -> None:
        """Drop them."""
        ...


class BatchLines(Protocol):
    """The lines of batches. Every method raises `StorageError` when the store fails."""

    def writer(self, batch_id: BatchId) -> BatchWriter:
        """Begin the lines of a batch."""
        ...

    def read(self, lines: BlobKey, *, start: int) -> AsyncGenerator[tuple[BatchEntry, int], None]:
        """Read lines from byte `start`, each with where the next one begins."""
        ...


class Again(Struct, frozen=True, kw_only=True):
    """Take the job up again at `at`, in `lane`. `at_work`: the provider has it meanwhile, so it keeps its slot."""

    at: datetime
    lane: ProviderName
    at_work: bool = False


StepHandler = Callable[[JobId], Awaitable[Again | None]]
"""Takes a job one step. After a `StorageError` the id is to be handed out again in a moment."""


class Queue(Protocol):
    """Wakes the engine. The jobs table is the record: an id may come twice, and is then harmless."""

    def wake(self, job_id: JobId, *, lane: ProviderName, at: datetime, turn: Turn | None = None) -> None:
        """Tell of a job whose entry has been committed, and of a new one what decides when it comes next. One that was to be taken up later is brought forward."""
        ...

    async def position(self, job: Job) -> int | None:
        """How many jobs of its lane are handed out before it; `None` when it does not wait, or is not in sight."""
        ...

    async def run(self, handler: StepHandler) -> None:
        """Hand out ids until `stop` was called and the last handler has returned."""
        ...

    def stop(self) -> None:
        """Start nothing any more."""
        ...


class BlobWriter(Protocol):
    """One blob as it is written. Exactly one of `close` and `abort` ends it."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        ...

    async def close(self) -> None:
        """Make it durable and visible."""
        ...

    async def abort(self) -> None:
        """Drop what was written."""
        ...


class BlobStore(Protocol):
    """Image bytes. Every method raises `StorageError` when the store fails."""

    def writer(self, key: BlobKey, *, patient: bool = False) -> BlobWriter:
        """Begin a new blob. A patient writer waits some time for a store that takes nothing: the bytes are paid for."""
        ...

    def read(self, key: BlobKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Stream bytes `start` to `end` (exclusive); raises `NotFound` when there is no such blob."""
        ...

    async def link(self, key: BlobKey, *, lifetime_s: float) -> str | None:
        """An address at which anybody can fetch a blob for so long; `None` where the store has none to give."""
        ...

    async def delete(self, keys: Sequence[BlobKey]) -> None:
        """Remove blobs; those that are gone already are no fault."""
        ...

    def written_before(self, moment: datetime) -> AsyncIterator[Sequence[BlobKey]]:
        """List the blobs of all hours that ended before `moment`, some at a time."""
        ...

    async def check(self) -> None:
        """Raise `StorageError` when the store cannot be used."""
        ...


class ImageSink(Protocol):
    """One image on its way into the blob store."""

    async def write(self, chunk: bytes) -> None:
        """Append bytes."""
        ...

    async def close(self) -> None:
        """Finish; raises `InvalidRequest` when it is no image."""
        ...

    async def abort(self) -> None:
        """Drop it."""
        ...

    @property
    def image(self) -> StoredImage:
        """What was stored; only after `close`."""
        ...


class Workspace(Protocol):
    """A job's images, for those who read its inputs and write its outputs."""

    @property
    def keys(self) -> Sequence[BlobKey]:
        """All images that were begun here, whether they were finished or not."""
        ...

    def open_sink(self) -> ImageSink:
        """Begin a new image under a random name."""
        ...

    def read(self, image: StoredImage) -> AsyncIterator[bytes]:
        """Stream an image."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKey:
    """A provider's secret. It never prints."""

    name: str | None
    value: str | None

    def __repr__(self) -> str:
        """Show the name alone."""
        return f"ProviderKey(name={self.name!r})"


class Report(Protocol):
    """Tells how a call comes on while it is out. It never raises: no paid call may end for it."""

    @property
    def wants_preview(self) -> bool:
        """Whether a picture of the work is worth having, now that it is as far as was told last."""
        ...

    async def progress(self, share: float) -> None:
        """Tell how far the call is, from 0 to 1, as often as one likes."""
        ...

    async def preview(self, image: StoredImage, *, index: int = 0) -> None:
        """Show how the picture `index` of the call looks by now; `image` is in the call's workspace."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackAddress:
    """Where a provider may tell that a job's work is over, and a secret that both know. Neither prints."""

    url: str = field(repr=False)
    secret: str = field(repr=False)


class Call(Struct, frozen=True, kw_only=True):
    """What a provider gets for one exchange."""

    request: ImageRequest
    model: str
    key: ProviderKey
    n: int
    token: str
    """The same for each repeat of one attempt: for providers that take an idempotency key or a task's id."""
    workspace: Workspace
    report: Report
    attempt: int = 1
    """Counts the tries of the job, from 1."""
    offset: int = 0
    """How many pictures of the job were made before; the request's seed is already so much further."""
    callback: CallbackAddress | None = None
    """Where the provider is to call back; `None` where it is not."""


class StoredPicture(Struct, frozen=True, kw_only=True):
    """A picture whose bytes came with the answer and are in the blob store already."""

    image: StoredImage
    revised_prompt: str | None = None


class RemotePicture(Struct, frozen=True, kw_only=True):
    """A picture behind a link, to be fetched now. `trusted_host`: the operator's own server."""

    url: str
    revised_prompt: str | None = None
    trusted_host: str | None = None


class Accepted(Struct, frozen=True, kw_only=True):
    """The provider took the work and gave a handle."""

    handle: str
    poll_after_s: float


class Running(Struct, frozen=True, kw_only=True):
    """Not finished: a value, not an error."""

    poll_after_s: float
    progress: float | None = None


class Finished(Struct, frozen=True, kw_only=True):
    """The provider is done."""

    pictures: tuple[StoredPicture | RemotePicture, ...]
    model: str | None = None
    created: int | None = None
    usage: Usage | None = None
    background: str | None = None
    output_format: str | None = None
    quality: str | None = None
    size: str | None = None
    cost_micros: int | None = None
    charged: Charged = Charged.YES
    via: str | None = None


class Failed(Struct, frozen=True, kw_only=True):
    """The work itself ended badly: a value, since an error that is *raised* says only that the question failed.

    The ledger goes on by the error's class, as if the call that bought the work had failed so.
    """

    error: ProviderError
    charged: Charged


class Provider(Protocol):
    """One provider entry of the settings. One call is one exchange: no waiting, retrying or storing of state."""

    @property
    def specs(self) -> Sequence[ModelSpec]:
        """The models it is known to offer."""
        ...

    @property
    def max_n(self) -> int | None:
        """The most pictures of one call, for models of which nothing is known; `None` when that is unknown too."""
        ...

    def spec(self, model: str) -> ModelSpec | None:
        """What is known of a model, `None` when nothing is."""
        ...

    async def start(self, call: Call) -> Accepted | Finished:
        """Buy the work. Raises a `ProviderError`."""
        ...

    async def poll(self, handle: str, call: Call) -> Running | Finished | Failed:
        """Ask for accepted work. Raises a `ProviderError`: where its class lets it, the engine asks again."""
        ...

    @property
    def watchable(self) -> bool:
        """Whether `watch` has something to tell."""
        ...

    async def watch(self, call: Call) -> float | None:
        """Tell `call.report` how work comes on, beside the exchange that waits for it; one exchange.

        In how many seconds to look again, `None` for never. Raises a `ProviderError`.
        """
        ...

    async def read_callback(self, headers: Mapping[str, str], body: bytes, call: Call) -> None:
        """Check a call back about accepted work on its raw body; one exchange at most.

        Raises `InvalidRequest` for a signature that is wrong or old, and a `ProviderError` where what is needed to check
        it cannot be had now.
        """
        ...

    async def cancel(self, handle: str | None, call: Call) -> bool:
        """Ask for accepted work to be stopped, or without a handle for a call that is out; whether it was heard.

        What the work has cost by then, it tells itself. Raises a `ProviderError`.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class PictureFetcher(Protocol):
    """Fetches result links, with address and size checks."""

    async def fetch(self, picture: RemotePicture, sink: ImageSink) -> None:
        """Stream the link's bytes into `sink` and close it; raises a `ProviderError`."""
        ...


class SecretBox(Protocol):
    """Encrypts secrets for the record. What it gives names its key, so that keys can be changed one after another."""

    def seal(self, secret: str) -> bytes:
        """Encrypt, with the newest key."""
        ...

    def open(self, sealed: bytes) -> str:
        """Decrypt; raises `StorageError` when none of the keys fits, or the bytes were tampered with."""
        ...


EVERY_JOB = "*"
"""The topic of those who want to hear of all jobs."""

OUTBOX = "outbox"
"""The topic of those who deliver webhooks."""


class Bell(Protocol):
    """Tells those who wait, in any process, that something was committed. A topic is a job's id, `EVERY_JOB` or `OUTBOX`."""

    @property
    def silent(self) -> bool:
        """Whether this process ends, so that nothing will be heard any more."""
        ...

    def ring(self, *topics: str) -> None:
        """Wake whoever listens for these topics."""
        ...

    def listen(self, topic: str) -> "asyncio.Future[None]":
        """Be told of the next ring. Listen first, then read: nothing falls between. Cancel it to leave.

        Once the bell is silent, the future is done from the beginning.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFilter:
    """Which webhook endpoints a listing shows, by name."""

    search: str = ""
    """Part of the name or the address."""
    events: tuple[WebhookEvent, ...] = ()
    """Any of these."""
    disabled: bool | None = None
    owner: str | None = None
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """A line in the history of an endpoint."""

    id: str
    delivery_id: DeliveryId
    endpoint_id: EndpointId
    job_id: JobId
    request_id: str
    event: WebhookEvent
    number: int
    outcome: Outcome
    status_code: int | None
    error: str | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """An attempt at a delivery that has been made, to be written down."""

    delivery: Delivery
    reply: Reply
    verdict: Verdict
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DueEndpoint:
    """An endpoint that is owed something, and when."""

    id: EndpointId
    due_at: datetime
    most_at_once: int
    lease: timedelta
    """How long a claim holds."""
    failing: bool


class WebhookStore(Protocol):
    """Endpoints and what they are owed. Every method raises `StorageError` when the database fails."""

    async def add(self, endpoint: WebhookEndpoint) -> None:
        """Write a new endpoint; raises `Conflict` when its name is taken."""
        ...

    async def replace(
        self, endpoint_id: EndpointId, settings: EndpointSettings, *, config_hash: str, at: datetime
    ) -> None:
        """Write other settings; raises `Conflict` when the name is taken."""
        ...

    async def put_secrets(self, endpoint_id: EndpointId, secrets: tuple[SigningSecret, ...], *, at: datetime) -> None:
        """Write other secrets."""
        ...

    async def remove(self, endpoint_id: EndpointId) -> None:
        """Remove an endpoint; what it is owed is given up."""
        ...

    async def resume(self, endpoint_id: EndpointId) -> None:
        """End a pause and forget the failures that led to it."""
        ...

    async def get(self, endpoint_id: EndpointId) -> WebhookEndpoint | None:
        """Read one endpoint."""
        ...

    async def named(self, name: str, *, owner: str | None) -> WebhookEndpoint | None:
        """Read the endpoint of that name among the owner's own, else among everybody's."""
        ...

    async def configured(self) -> Sequence[WebhookEndpoint]:
        """List the endpoints that came from the settings."""
        ...

    async def endpoints(self, wanted: EndpointFilter) -> tuple[Sequence[WebhookEndpoint], int]:
        """One page of endpoints, and how many there are in all."""
        ...

    async def attempts(
        self, endpoint_id: EndpointId, *, limit: int, offset: int
    ) -> tuple[Sequence[DeliveryAttempt], int]:
        """One page of an endpoint's history, newest first, and how long that is."""
        ...

    async def delivery(self, some_id: str) -> tuple[Delivery, bool] | None:
        """Find a delivery by its id or that of one of its attempts, and whether it is on its way."""
        ...

    async def queue_again(self, delivery_id: DeliveryId, *, at: datetime) -> bool:
        """Make a delivery anew, with all its retries; false when it is on its way already."""
        ...

    async def queue_range(self, endpoint_id: EndpointId, *, since: datetime, until: datetime, at: datetime) -> int:
        """Make all deliveries of events from `since` to before `until` anew that are not on their way; how many."""
        ...

    async def due(self) -> Sequence[DueEndpoint]:
        """List the endpoints that are owed something and are neither disabled nor paused, the longest due first."""
        ...

    async def claim(
        self, endpoint_id: EndpointId, *, limit: int, now: datetime, until: datetime, lease: str
    ) -> tuple[WebhookEndpoint, Sequence[Delivery]] | None:
        """Take up what is due to an endpoint, the oldest first. Others leave it alone `until` then."""
        ...

    async def book(self, booking: Booking, *, lease: str) -> str | None:
        """Write an attempt down, with what follows for delivery and endpoint; why the endpoint is paused now, if so.

        Raises `Superseded` when the lease has lapsed and somebody else has taken the delivery up.
        """
        ...

    async def drop_leases(self) -> None:
        """Make everything due that is leased: after a start, where no other process can be at work on it."""
        ...

    async def forget(self, *, before: datetime, limit: int) -> int:
        """Remove deliveries of events before a time, with their attempts; how many."""
        ...


class WebhookSender(Protocol):
    """Calls receivers."""

    def check(self, settings: EndpointSettings) -> None:
        """Raise `InvalidRequest` for an address that would never be called."""
        ...

    async def send(self, endpoint: WebhookEndpoint, message_id: str, event: WebhookEvent, body: bytes) -> Reply:
        """Sign and post; any fault of the receiver is a `Reply`."""
        ...
