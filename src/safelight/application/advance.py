"""Take a job one step: start, poll or settle. Every step may be repeated by another process after a crash."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar, assert_never

import structlog
from msgspec.structs import replace

from safelight.application.key_pool import KeyPool
from safelight.application.observer import Deaf, Exchange, Observer
from safelight.application.ports import (
    Accepted,
    Again,
    BlobStore,
    Call,
    CallbackAddress,
    Clock,
    Failed,
    Finished,
    JobStore,
    PictureFetcher,
    Provider,
    RemotePicture,
    Running,
    StoredPicture,
    Workspace,
)
from safelight.application.provider_entry import ProviderEntry
from safelight.application.report import CallReport, Watchers
from safelight.application.restraint import Restraint
from safelight.application.sweep import drop_images
from safelight.domain.access import allows_key
from safelight.domain.breaker import FAULTS
from safelight.domain.capability import refuse_retired
from safelight.domain.errors import (
    ErrorClass,
    InvalidRequest,
    NotFound,
    OwnerBusy,
    ProviderAbandoned,
    ProviderError,
    ProviderModelGone,
    ProviderProtocolError,
    ProviderRejected,
    ProviderUnavailable,
    ProviderUncertain,
    StorageError,
    Superseded,
    UnsupportedFeature,
)
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import ImageRequest, OutputImage, Target
from safelight.domain.job import Attempt, AttemptState, Job, JobError, JobHistory, Production
from safelight.domain.money import Charged
from safelight.domain.outcome import made, settle, without_pictures
from safelight.domain.plan import (
    Abandon,
    Complete,
    GiveUp,
    OnUnknown,
    Poll,
    Route,
    Start,
    Wait,
    decide,
    made_before,
    repeats,
)
from safelight.domain.price import cost_micros
from safelight.domain.switch import Switch
from safelight.log_context import work_for

log = structlog.get_logger(__name__)
T = TypeVar("T")

_FETCH_PAUSES_S = (0.5, 1, 2, 4, 8, 16, 30, 60)
"""Before each new try to fetch a picture that is paid for."""
_POLL_PAUSE_S = 5.0
"""After a poll that failed, where the provider did not say how long to wait."""
_STORAGE_PAUSE_S = 1.0
_OVER_BUDGET_S = (1.0, 5.0)
"""How long a retry waits that would be one too many."""
_PAUSED_S = (20.0, 40.0)
"""When to look again whether a provider is paused: not all of its jobs at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The engine."""

    store: JobStore
    providers: Mapping[ProviderName, ProviderEntry]
    workspace: Callable[[JobId], Workspace]
    fetcher: PictureFetcher
    blobs: BlobStore
    clock: Clock
    on_unknown: OnUnknown
    random: Random = field(default_factory=Random)
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    keys: KeyPool = field(default_factory=KeyPool)
    restraint: Restraint = field(default_factory=Restraint)
    watchers: Watchers = field(default_factory=Watchers)
    callback_address: Callable[[ProviderName, JobId], CallbackAddress] | None = None
    observer: Observer = field(default_factory=Deaf)
    switches: Callable[[ProviderName], Switch] = lambda _: Switch.ON

    async def step(self, job_id: JobId) -> Again | None:
        """Do what is to be done now; say when to come back, `None` when the job has ended.

        Cancelling it leaves the ledger as it is: whoever takes the job up next decides from there. Raises
        `StorageError` where nothing was bought yet: take the job up again in a moment.
        """
        history = await self.store.history(job_id)
        if history is None or history.job.status.terminal:
            self._let_go(job_id)
            return None
        work_for(job_id, history.job.request_id)
        try:
            return await self._advance(history)
        except OwnerBusy:
            self._let_go(job_id)
            return await self._move(history.job, history.job.lane, self._in(self.random.uniform(*_OVER_BUDGET_S)))
        except Superseded:
            log.info("job_superseded", job_id=job_id)
            self._let_go(job_id)
            return None
        except StorageError:
            self._let_go(job_id)
            raise

    def _let_go(self, job_id: JobId) -> None:
        """Free what a job holds in this process while an attempt is out."""
        self.keys.release(job_id)
        self.watchers.end(job_id)

    async def _advance(self, history: JobHistory) -> Again | None:
        job = history.job
        now = self.clock.now()
        routes = [self._route(job, target, now) for target in job.request.targets]
        match decide(history, routes, on_unknown=self.on_unknown, now=now):
            case Start() as start:
                return await self._begin(history, routes, start, now)
            case Poll(attempt=attempt, stop=stop):
                return await self._poll(history, routes, attempt, stop=stop)
            case Abandon(attempt=attempt):
                return await self._conclude(history, routes, self._failed(history, routes, attempt, _ABANDONED))
            case Wait(until=until, route=route):
                return await self._move(job, routes[route].target.provider, until)
            case Complete(shortfall=shortfall):
                await self._finish(history, now, error=shortfall)
            case GiveUp(error=error):
                await self._finish(history, now, error=error)
            case never:
                assert_never(never)
        return None

    def _route(self, job: Job, target: Target, now: datetime) -> Route:
        """See how a target can be used now."""
        request, allowed = job.request, job.provider_keys.get(str(target))
        entry = self.providers.get(target.provider)
        if entry is None:
            message = f"provider {target.provider!r} is not configured"
            return Route(
                target=target, refusal=JobError(status_code=400, code="provider_not_configured", message=message)
            )
        keys = [key for key in entry.keys if key.serves(target.model)]
        if allowed is not None:
            keys = [key for key in keys if allows_key(allowed, key.key.name)]
        if request.key_name is not None:
            keys = [key for key in keys if key.key.name == request.key_name]
        names, waits = self.keys.usable(target, keys, now)
        spec = entry.provider.spec(target.model)
        return Route(
            target=target,
            keys=names,
            free_at=waits,
            closed_until=self._closed_until(target),
            repeatable=entry.repeatable,
            deduplicated=entry.deduplicated,
            retry=entry.retry,
            max_n=spec.max_n if spec else entry.provider.max_n,
            refusal=self._refusal(request, target, names, entry.provider, now),
        )

    def _closed_until(self, target: Target) -> datetime | None:
        """Until when a target is left alone, because it fails or because the operator says so."""
        if self.switches(target.provider) is Switch.DRAINING:
            return self._in(self.random.uniform(*_PAUSED_S))
        return self.restraint.closed_until(target)

    def _refusal(
        self, request: ImageRequest, target: Target, names: tuple[str | None, ...], provider: Provider, now: datetime
    ) -> JobError | None:
        """Why a target cannot be used at all."""
        if not names:
            what = f"no key named {request.key_name!r}" if request.key_name else "no key"
            return JobError(
                status_code=400, code="provider_key_missing", message=f"provider {target.provider!r} has {what}"
            )
        if spec := provider.spec(target.model):
            try:
                refuse_retired(spec, request, provider.specs, now.date())
                spec.check(request)
            except UnsupportedFeature as error:
                return JobError(status_code=400, code=error.code, message=error.message, param=error.param)
        return None

    def _learn(self, attempt: Attempt, error: ProviderError, until: datetime) -> None:
        """Learn from a failure what other jobs should know."""
        match error.error_class:
            case ErrorClass.BUSY:
                self.keys.cool(attempt.target, attempt.key_name, until)
            case ErrorClass.AUTH:
                self.keys.refuse(attempt.target, attempt.key_name, error.status, self.clock.now())
            case _:
                pass

    async def _move(self, job: Job, lane: ProviderName, at: datetime) -> Again:
        await self.store.postpone(job.id, lane=lane, due_at=at)
        return Again(at=at, lane=lane)

    async def _begin(self, history: JobHistory, routes: list[Route], start: Start, now: datetime) -> Again | None:
        """Start a call, unless it is another lane's or has to wait."""
        job, target = history.job, routes[start.route].target
        if target.provider != job.lane:
            return await self._move(job, target.provider, now)
        if self.switches(target.provider) is Switch.PAUSED:
            return await self._move(job, job.lane, self._in(self.random.uniform(*_PAUSED_S)))
        if not self.restraint.allows(history, target, self.providers[target.provider].retry, now):
            return await self._move(job, job.lane, self._in(self.random.uniform(*_OVER_BUDGET_S)))
        return await self._start(history, routes, start, now)

    async def _start(self, history: JobHistory, routes: list[Route], start: Start, now: datetime) -> Again | None:
        job, target = history.job, routes[start.route].target
        attempt = Attempt(
            number=len(history.attempts) + 1,
            route=start.route,
            target=target,
            key_name=start.key_name,
            n=start.n,
            state=AttemptState.STARTED,
            started_at=now,
        )
        entry = self.providers[target.provider]
        self.restraint.probe(target, entry.breaker, now)
        self.keys.hold(job.id, target.provider, entry.entry(start.key_name))
        await self.store.start_attempt(job.id, attempt, limited=job if job.max_running is not None else None)
        self.observer.attempt_started(job, attempt, after=history.attempts[-1] if history.attempts else None)
        call = self.call_of(history, attempt)
        self._watch(job, entry.provider, call)
        answer = await self._exchange(job, attempt, Exchange.START, entry.provider.start(call))
        if isinstance(answer, Accepted):
            return await self._accepted(job, attempt, answer)
        outcome: Production | ProviderError
        if isinstance(answer, Finished):
            collected = await self._collect(answer, call.workspace)
            outcome = _lost(collected) if isinstance(collected, ProviderError) else collected
        else:
            outcome = answer
        return await self._conclude(history, routes, self._ended(history, routes, attempt, outcome))

    async def _exchange(
        self, job: Job, attempt: Attempt, exchange: Exchange, answer: Awaitable[T]
    ) -> T | ProviderError:
        tell = self.observer.exchange(job, attempt, exchange)
        try:
            outcome = await _guarded(answer)
        except BaseException as cut_off:
            tell(cut_off)
            raise
        tell(outcome if isinstance(outcome, ProviderError) else None)
        return outcome

    async def _accepted(self, job: Job, attempt: Attempt, accepted: Accepted) -> Again:
        self.restraint.answered(attempt.target)
        due_at = self._in(accepted.poll_after_s)
        attempt = replace(attempt, state=AttemptState.ACCEPTED, handle=accepted.handle)
        await self._surely(lambda: self.store.accept_attempt(job.id, attempt, due_at=due_at))
        return Again(at=due_at, lane=job.lane, at_work=True)

    async def _poll(self, history: JobHistory, routes: list[Route], attempt: Attempt, *, stop: bool) -> Again | None:
        job = history.job
        entry = self.providers.get(attempt.target.provider)
        if entry is None or attempt.handle is None:
            return await self._conclude(history, routes, self._failed(history, routes, attempt, _UNREACHABLE))
        handle = attempt.handle
        self.keys.hold(job.id, attempt.target.provider, entry.entry(attempt.key_name))
        call = self.call_of(history, attempt)
        if stop:
            attempt = await self._stopped(job, attempt, entry.provider.cancel(handle, call))
        answer = await self._exchange(job, attempt, Exchange.POLL, entry.provider.poll(handle, call))
        if isinstance(answer, Running):
            self._watch(job, entry.provider, call)
            if answer.progress is not None:
                await call.report.progress(answer.progress)
            return await self._ask_again(job, answer.poll_after_s)
        if isinstance(answer, Failed):
            ended = self._failed(history, routes, attempt, answer.error, charged=answer.charged)
            return await self._conclude(history, routes, ended)
        outcome = await self._collect(answer, call.workspace) if isinstance(answer, Finished) else answer
        if isinstance(outcome, ProviderError):
            if outcome.error_class.poll_again:
                log.log(_importance(outcome), "poll_failed", job_id=job.id, error=outcome.code)
                pause_s = outcome.retry_after_s or _POLL_PAUSE_S
                self._learn(attempt, outcome, self._in(pause_s))
                return await self._ask_again(job, pause_s)
            if not isinstance(outcome, ProviderRejected):
                outcome = _lost(outcome)
        return await self._conclude(history, routes, self._ended(history, routes, attempt, outcome))

    async def _stopped(self, job: Job, attempt: Attempt, request: Awaitable[bool]) -> Attempt:
        """Ask the provider to stop. How the work ended and what it cost, its next answer tells."""
        answer = await self._exchange(job, attempt, Exchange.CANCEL, request)
        told = answer.code if isinstance(answer, ProviderError) else answer
        log.info("stop_asked", job_id=job.id, target=str(attempt.target), answer=told)
        if isinstance(answer, ProviderError) and answer.error_class.poll_again:
            return attempt
        attempt = replace(attempt, stop_asked_at=self.clock.now())
        await self._surely(lambda: self.store.stop_asked(job.id, attempt))
        return attempt

    def _watch(self, job: Job, provider: Provider, call: Call) -> None:
        """Have somebody look at a job's work while it is out, and stop it if the caller has cancelled the job."""

        async def cancelled() -> bool:
            now = await self.store.get(job.id)
            return now is None or now.cancelled_at is not None

        self.watchers.begin(job.id, provider, call, unwanted=cancelled)

    async def _ask_again(self, job: Job, pause_s: float) -> Again:
        return replace(await self._move(job, job.lane, self._in(pause_s)), at_work=True)

    def call_of(self, history: JobHistory, attempt: Attempt) -> Call:
        """What the provider of an attempt gets for each of its exchanges."""
        job, earlier = history.job, history.attempts
        offset = made_before(history.run, attempt.number) if earlier else 0
        request = job.request
        if offset:
            request = request.further(offset)
        entry = self.providers[attempt.target.provider]
        address = self.callback_address if entry.callbacks else None
        return Call(
            request=request,
            model=attempt.target.model,
            key=entry.key(attempt.key_name),
            n=attempt.n,
            attempt=attempt.number,
            offset=offset,
            token=f"{job.id}-{repeats(earlier, attempt)}",
            workspace=self.workspace(job.id),
            callback=address(attempt.target.provider, job.id) if address else None,
            report=CallReport(
                store=self.store, clock=self.clock, job=job, attempt=attempt.number, n=attempt.n, offset=offset
            ),
        )

    async def _collect(self, finished: Finished, workspace: Workspace) -> Production | ProviderError:
        """Bring in what was bought; links are fetched now, before they rot. An error only when no picture came."""
        outputs: list[OutputImage] = []
        fault: ProviderError | None = None
        for picture in finished.pictures:
            output = await _guarded(self._picture(picture, workspace))
            if isinstance(output, ProviderError):
                fault = output
                log.warning("picture_lost", error=fault.message)
            else:
                outputs.append(output)
        if outputs:
            return _production(finished, tuple(outputs))
        return fault or ProviderProtocolError("the provider answered without a picture")

    async def _picture(self, picture: StoredPicture | RemotePicture, workspace: Workspace) -> OutputImage:
        if isinstance(picture, StoredPicture):
            return OutputImage(image=picture.image, revised_prompt=picture.revised_prompt)
        for pause_s in _FETCH_PAUSES_S:
            try:
                return await self._fetched(picture, workspace)
            except (ProviderUnavailable, StorageError) as error:
                log.warning("picture_fetch_failed", error=error.message, again_in_s=pause_s)
                await self.pause(pause_s)
        return await self._fetched(picture, workspace)

    async def _fetched(self, picture: RemotePicture, workspace: Workspace) -> OutputImage:
        sink = workspace.open_sink()
        await self.fetcher.fetch(picture, sink)
        return OutputImage(image=sink.image, revised_prompt=picture.revised_prompt)

    def _ended(
        self, history: JobHistory, routes: list[Route], attempt: Attempt, outcome: Production | ProviderError
    ) -> Attempt:
        """Book what an exchange brought."""
        if isinstance(outcome, ProviderError):
            return self._failed(history, routes, attempt, outcome)
        self.restraint.answered(attempt.target)
        return replace(
            attempt,
            state=AttemptState.SUCCEEDED,
            ended_at=self.clock.now(),
            charged=outcome.charged,
            production=self._priced(history.job.request, attempt.target, outcome),
        )

    def _priced(self, request: ImageRequest, target: Target, production: Production) -> Production:
        """Book the cost: the provider's own word, else the price list's."""
        entry = self.providers.get(target.provider)
        price = entry.price(target.model) if entry else None
        if price is None or production.cost_micros is not None:
            return production
        return replace(production, cost_micros=cost_micros(price, request, production))

    def _failed(
        self,
        history: JobHistory,
        routes: list[Route],
        attempt: Attempt,
        error: ProviderError,
        *,
        charged: Charged | None = None,
    ) -> Attempt:
        """Book an attempt that failed, with the time of its next try if it may have one."""
        now = self.clock.now()
        route = routes[attempt.route]
        failures = sum(other.route == attempt.route and other.error is not None for other in history.run)
        backoff_s = route.retry.delay_s(failures + 1, jitter=self.random.random())
        retry_at = now + timedelta(seconds=error.retry_after_s or backoff_s)
        self._learn(attempt, error, retry_at)
        if error.error_class in FAULTS:
            entry = self.providers.get(attempt.target.provider)
            if entry is not None:
                self.restraint.faulted(attempt.target, entry.breaker, now)
        elif error.error_class is not ErrorClass.ABANDONED:
            self.restraint.answered(attempt.target)
        return replace(
            attempt,
            state=AttemptState.UNKNOWN if error.error_class.may_be_charged else AttemptState.FAILED,
            ended_at=now,
            error_class=error.error_class,
            error=_job_error(error),
            retry_at=retry_at,
            charged=_charge_of(error, route, charged or error.charged),
        )

    async def _conclude(self, history: JobHistory, routes: list[Route], attempt: Attempt) -> Again | None:
        """Commit the end of an attempt together with what follows from it."""
        self._let_go(history.job.id)
        self.observer.attempt_ended(history.job, attempt)
        log.log(
            _importance(attempt),
            "attempt_ended",
            job_id=history.job.id,
            attempt=attempt.number,
            target=str(attempt.target),
            state=attempt.state.value,
            error=attempt.error.code if attempt.error else None,
        )
        earlier = tuple(other for other in history.attempts if other.number != attempt.number)
        history = replace(history, attempts=(*earlier, attempt))
        now = self.clock.now()
        match decide(history, routes, on_unknown=self.on_unknown, now=now):
            case Complete(shortfall=shortfall):
                await self._finish(history, now, error=shortfall, attempt=attempt)
                return None
            case GiveUp(error=error):
                await self._finish(history, now, error=error, attempt=attempt)
                return None
            case Start(route=route):
                again = Again(at=now, lane=routes[route].target.provider)
            case Wait(until=until, route=route):
                again = Again(at=until, lane=routes[route].target.provider)
            case Poll() | Abandon():  # pragma: no cover - as the message says
                raise AssertionError("an attempt that has ended is not open")
            case never:
                assert_never(never)
        await self._surely(lambda: self.store.end_attempt(history.job.id, attempt, lane=again.lane, due_at=again.at))
        return again

    async def _finish(
        self, history: JobHistory, now: datetime, *, error: JobError | None, attempt: Attempt | None = None
    ) -> None:
        """Settle the job; `attempt` is the one whose end led to it, already part of the history."""
        job, cancelled = history.job, history.job.cancelled_at is not None
        ending = settle(job, history.attempts, error=error, now=now)
        tries = len(history.attempts)
        ended = without_pictures(attempt) if attempt and cancelled else attempt
        if cancelled:  # nobody will be shown them, whatever comes between this and the commit
            await drop_images(self.blobs, made(history.run))
        try:
            await self._surely(lambda: self.store.finish(job.id, ending, tries=tries, attempt=ended))
        except Superseded:
            newest = await self._surely(lambda: self.store.get(job.id))
            if cancelled or newest is None or newest.cancelled_at is None:
                raise
            await self._finish(replace(history, job=newest), self.clock.now(), error=error, attempt=attempt)
            return
        begun = history.run[0].started_at if history.run else None
        self.observer.ended(replace(job, started_at=job.started_at or begun), ending)
        log.info("job_ended", job_id=job.id, status=ending.status.value, charged=ending.charged.value)

    async def _surely(self, write: Callable[[], Awaitable[T]]) -> T:
        """Commit what must not be forgotten: the money is spent. Ends only with success, or with the process."""
        while True:
            try:
                return await write()
            except StorageError as error:
                log.error("commit_failed", error=error.message, again_in_s=_STORAGE_PAUSE_S)  # noqa: TRY400 - no trace needed
                await self.pause(_STORAGE_PAUSE_S)

    def _in(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)


_ABANDONED = ProviderAbandoned("the gateway stopped while the provider was being called; it may have been charged")
_UNREACHABLE = ProviderUncertain("the provider that accepted this work is not configured any more", status=500)


async def _guarded(exchange: Awaitable[T]) -> T | ProviderError:
    """Turn what an exchange raises into a value. Our own faults after bytes were sent leave the outcome unknown."""
    try:
        return await exchange
    except ProviderError as error:
        return error
    except UnsupportedFeature as error:  # before any exchange; another target may be able to
        return ProviderModelGone(error.message, status=400, provider_code=error.code, param=error.param)
    except NotFound as error:  # the request could not be sent as a whole, so nothing was bought
        return ProviderRejected(f"internal error: {error.message}", status=500, provider_code="input_lost")
    except InvalidRequest as error:
        return ProviderProtocolError(f"the provider answered something that is no picture: {error.message}")
    except StorageError as error:
        return ProviderUncertain(f"the provider's answer could not be stored: {error.message}", status=503)
    except Exception as error:
        log.exception("provider_crashed")
        return ProviderProtocolError(f"internal error: {type(error).__name__} in the provider adapter", status=500)


def _lost(error: ProviderError) -> ProviderError:
    """The work was done, or is with a provider that cannot tell of it: it must not be bought again unasked."""
    if error.error_class.may_be_charged:
        return error
    return ProviderUncertain(
        f"the provider took the work, but it cannot be had: {error.message}",
        status=error.status,
        request_id=error.request_id,
    )


def _importance(ended: Attempt | ProviderError) -> int:
    """The log level of a failure: only the operator can mend a key. Of success `job_ended` tells."""
    if ended.error_class is None:
        return logging.DEBUG
    return logging.WARNING if ended.error_class is ErrorClass.AUTH else logging.INFO


def _job_error(error: ProviderError) -> JobError:
    status = error.status if error.status and 400 <= error.status <= 599 else error.default_status
    return JobError(
        status_code=status,
        code=error.code if error.error_class.may_be_charged else error.provider_code or error.code,
        message=error.message,
        type=error.provider_type,
        param=error.param,
        gateway_fault=error.message.startswith("internal error:"),
        request_id=error.request_id,
        cost_micros=error.cost_micros,
    )


def _charge_of(error: ProviderError, route: Route, told: Charged | None) -> Charged:
    """Take the provider's word, else judge by the class; at a repeatable provider a doubt costs nothing."""
    charged = told or (Charged.UNKNOWN if error.error_class.may_be_charged else Charged.NO)
    return Charged.NO if charged is Charged.UNKNOWN and route.repeatable and not route.deduplicated else charged


def _production(finished: Finished, outputs: tuple[OutputImage, ...]) -> Production:
    return Production(
        outputs=outputs,
        model=finished.model,
        created=finished.created,
        usage=finished.usage,
        background=finished.background,
        output_format=finished.output_format,
        quality=finished.quality,
        size=finished.size,
        cost_micros=finished.cost_micros,
        charged=finished.charged,
        via=finished.via,
    )
