"""Take a job one step: start, poll or settle. Every step may be repeated by another process after a crash."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from random import Random
from typing import TypeVar, assert_never

import structlog

from safelight.application.ports import (
    Accepted,
    Again,
    Bell,
    Call,
    Clock,
    Finished,
    JobStore,
    PictureFetcher,
    Provider,
    ProviderKey,
    RemotePicture,
    Running,
    StoredPicture,
    Workspace,
)
from safelight.domain.errors import (
    ErrorClass,
    InvalidRequest,
    ProviderError,
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
from safelight.domain.job import (
    Attempt,
    AttemptState,
    Charged,
    Ending,
    Job,
    JobError,
    JobHistory,
    JobResult,
    Production,
)
from safelight.domain.outcome import combine, heaviest_charge, total_cost
from safelight.domain.plan import Abandon, Complete, GiveUp, OnUnknown, Poll, Route, Start, Wait, decide
from safelight.domain.schedule import RetryPolicy

log = structlog.get_logger(__name__)
T = TypeVar("T")

_FETCH_TRIES = 4
_FETCH_PAUSE_S = 0.5
_STORAGE_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A key, and the models that it may be used for (`*` stands for any characters)."""

    key: ProviderKey
    models: tuple[str, ...] = ("*",)

    def serves(self, model: str) -> bool:
        """Whether it may be used for a model."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """A provider as the settings describe it. Its keys are tried in their order."""

    provider: Provider
    keys: tuple[KeyEntry, ...]
    repeatable: bool
    retry: RetryPolicy
    concurrency: int

    def key(self, name: str | None) -> ProviderKey:
        """The key of that name; without a value if it is gone."""
        found = (entry.key for entry in self.keys if entry.key.name == name)
        return next(found, ProviderKey(name=name, value=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The engine."""

    store: JobStore
    providers: Mapping[ProviderName, ProviderEntry]
    workspace: Callable[[JobId], Workspace]
    fetcher: PictureFetcher
    bell: Bell
    clock: Clock
    on_unknown: OnUnknown
    random: Random = field(default_factory=Random)

    async def step(self, job_id: JobId) -> Again | None:
        """Do what is to be done now; say when to come back, `None` when the job has ended.

        Cancelling it leaves the ledger as it is: whoever takes the job up next decides from there.
        """
        history = await self.store.history(job_id)
        if history is None or history.job.status.terminal:
            return None
        try:
            return await self._advance(history)
        except Superseded:
            log.info("job_superseded", job_id=job_id)
            return None
        except StorageError as error:
            log.warning("step_postponed", job_id=job_id, error=error.message)
            return Again(at=self._in(_STORAGE_PAUSE_S), lane=history.job.lane)

    async def _advance(self, history: JobHistory) -> Again | None:
        job = history.job
        routes = [self._route(job.request, target) for target in job.request.targets]
        match decide(history, routes, on_unknown=self.on_unknown, now=self.clock.now()):
            case Start() as start if routes[start.route].target.provider != job.lane:
                return await self._move(job, routes[start.route].target.provider, self.clock.now())
            case Start() as start:
                return await self._start(history, routes, start)
            case Poll(attempt=attempt):
                return await self._poll(history, routes, attempt)
            case Abandon(attempt=attempt):
                return await self._conclude(history, routes, self._failed(attempt, _ABANDONED, routes))
            case Wait(until=until, route=route):
                return await self._move(job, routes[route].target.provider, until)
            case Complete(shortfall=shortfall):
                await self._finish(history, self._completed(history, shortfall))
            case GiveUp(error=error):
                await self._finish(history, self._given_up(history, error))
            case never:
                assert_never(never)
        return None

    def _route(self, request: ImageRequest, target: Target) -> Route:
        """See how a target can be used now."""
        entry = self.providers.get(target.provider)
        if entry is None:
            message = f"provider {target.provider!r} is not configured"
            return Route(
                target=target, refusal=JobError(status_code=400, code="provider_not_configured", message=message)
            )
        names = tuple(key.key.name for key in entry.keys if key.serves(target.model))
        if request.key_name is not None:
            names = tuple(name for name in names if name == request.key_name)
        spec = entry.provider.spec(target.model)
        return Route(
            target=target,
            keys=names,
            repeatable=entry.repeatable,
            retry=entry.retry,
            max_n=spec.max_n if spec else None,
            refusal=_refusal(request, target, names, entry.provider),
        )

    async def _move(self, job: Job, lane: ProviderName, at: datetime) -> Again:
        await self.store.postpone(job.id, lane=lane, due_at=at)
        return Again(at=at, lane=lane)

    async def _start(self, history: JobHistory, routes: list[Route], start: Start) -> Again | None:
        job, target = history.job, routes[start.route].target
        attempt = Attempt(
            number=len(history.attempts) + 1,
            route=start.route,
            target=target,
            key_name=start.key_name,
            n=start.n,
            state=AttemptState.STARTED,
            started_at=self.clock.now(),
        )
        await self.store.start_attempt(job.id, attempt)
        call = self._call(job, attempt)
        outcome = await _guarded(self.providers[target.provider].provider.start(call))
        if isinstance(outcome, Accepted):
            return await self._accepted(job, attempt, outcome)
        return await self._conclude(history, routes, await self._ended(attempt, outcome, call, routes))

    async def _accepted(self, job: Job, attempt: Attempt, accepted: Accepted) -> Again:
        due_at = self._in(accepted.poll_after_s)
        attempt = replace(attempt, state=AttemptState.ACCEPTED, handle=accepted.handle)
        await self._surely(lambda: self.store.accept_attempt(job.id, attempt, due_at=due_at))
        return Again(at=due_at, lane=job.lane)

    async def _poll(self, history: JobHistory, routes: list[Route], attempt: Attempt) -> Again | None:
        job = history.job
        entry = self.providers.get(attempt.target.provider)
        if entry is None or attempt.handle is None:
            return await self._conclude(history, routes, self._failed(attempt, _UNREACHABLE, routes))
        call = self._call(job, attempt)
        outcome = await _guarded(entry.provider.poll(attempt.handle, call))
        if isinstance(outcome, Running):
            return await self._move(job, job.lane, self._in(outcome.poll_after_s))
        if isinstance(outcome, ProviderError) and outcome.error_class.poll_again:
            return await self._move(job, job.lane, self._in(outcome.retry_after_s or entry.retry.max_delay_s / 4))
        return await self._conclude(history, routes, await self._ended(attempt, outcome, call, routes))

    def _call(self, job: Job, attempt: Attempt) -> Call:
        return Call(
            request=job.request,
            model=attempt.target.model,
            key=self.providers[attempt.target.provider].key(attempt.key_name),
            n=attempt.n,
            attempt=attempt.number,
            token=f"{job.id}-{attempt.number}",
            workspace=self.workspace(job.id),
        )

    async def _ended(
        self, attempt: Attempt, outcome: Finished | ProviderError, call: Call, routes: list[Route]
    ) -> Attempt:
        """Book what an exchange brought; links are fetched now, before they rot."""
        if isinstance(outcome, Finished):
            collected = await _guarded(self._collect(outcome, call.workspace))
            if isinstance(collected, tuple):
                production = _production(outcome, collected)
                return replace(
                    attempt,
                    state=AttemptState.SUCCEEDED,
                    ended_at=self.clock.now(),
                    charged=production.charged,
                    production=production,
                )
            outcome = collected
        return self._failed(attempt, outcome, routes)

    async def _collect(self, finished: Finished, workspace: Workspace) -> tuple[OutputImage, ...]:
        outputs = [await self._picture(picture, workspace) for picture in finished.pictures]
        if not outputs:
            raise ProviderProtocolError("the provider answered without a picture")
        return tuple(outputs)

    async def _picture(self, picture: StoredPicture | RemotePicture, workspace: Workspace) -> OutputImage:
        if isinstance(picture, StoredPicture):
            return OutputImage(image=picture.image, revised_prompt=picture.revised_prompt)
        for again in range(1, _FETCH_TRIES):
            sink = workspace.open_sink()
            try:
                await self.fetcher.fetch(picture, sink)
                return OutputImage(image=sink.image, revised_prompt=picture.revised_prompt)
            except (ProviderUnavailable, StorageError) as error:
                log.warning("picture_fetch_failed", error=error.message, again=again)
                await asyncio.sleep(_FETCH_PAUSE_S * 2**again)
        sink = workspace.open_sink()
        await self.fetcher.fetch(picture, sink)
        return OutputImage(image=sink.image, revised_prompt=picture.revised_prompt)

    def _failed(self, attempt: Attempt, error: ProviderError, routes: list[Route]) -> Attempt:
        """Book an attempt that failed, with the time of its next try if it may have one."""
        now = self.clock.now()
        route = routes[attempt.route]
        wait_s = error.retry_after_s
        if wait_s is None:
            retry = max(1, attempt.number)
            wait_s = route.retry.delay_s(retry, jitter=0.5 + self.random.random() / 2)
        return replace(
            attempt,
            state=AttemptState.UNKNOWN if error.error_class.may_be_charged else AttemptState.FAILED,
            ended_at=now,
            error_class=error.error_class,
            error=_job_error(error),
            retry_at=now + timedelta(seconds=wait_s),
            charged=_charge_of(error, route),
        )

    async def _conclude(self, history: JobHistory, routes: list[Route], attempt: Attempt) -> Again | None:
        """Commit the end of an attempt together with what follows from it."""
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
                await self._finish(history, self._completed(history, shortfall), attempt)
                return None
            case GiveUp(error=error):
                await self._finish(history, self._given_up(history, error), attempt)
                return None
            case Start(route=route):
                again = Again(at=now, lane=routes[route].target.provider)
            case Wait(until=until, route=route):
                again = Again(at=until, lane=routes[route].target.provider)
            case Poll() | Abandon():
                raise AssertionError("an attempt that has ended is not open")
            case never:
                assert_never(never)
        await self._surely(lambda: self.store.end_attempt(history.job.id, attempt, lane=again.lane, due_at=again.at))
        return again

    async def _finish(self, history: JobHistory, ending: Ending, attempt: Attempt | None = None) -> None:
        await self._surely(lambda: self.store.finish(history.job.id, ending, attempt=attempt))
        self.bell.ring(history.job.id)
        log.info("job_ended", job_id=history.job.id, status=ending.status.value, charged=ending.charged.value)

    def _completed(self, history: JobHistory, shortfall: JobError | None) -> Ending:
        now = self.clock.now()
        done = [attempt for attempt in history.attempts if attempt.production is not None]
        return Ending(
            completed_at=now,
            charged=heaviest_charge(history.attempts),
            cost_micros=total_cost(history.attempts),
            result=JobResult(
                production=combine([attempt.production for attempt in done if attempt.production]),
                target=done[-1].target,
                latency_ms=(now - (history.job.started_at or done[0].started_at)) // timedelta(milliseconds=1),
                shortfall=shortfall,
            ),
        )

    def _given_up(self, history: JobHistory, error: JobError) -> Ending:
        return Ending(
            completed_at=self.clock.now(),
            charged=heaviest_charge(history.attempts),
            cost_micros=total_cost(history.attempts),
            error=error,
        )

    async def _surely(self, write: Callable[[], Awaitable[None]]) -> None:
        """Commit what must not be forgotten: the money is spent. Ends only with success, or with the process."""
        while True:
            try:
                return await write()
            except StorageError as error:
                log.error("commit_failed", error=error.message, again_in_s=_STORAGE_PAUSE_S)  # noqa: TRY400 - no trace needed
                await asyncio.sleep(_STORAGE_PAUSE_S)

    def _in(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)


_ABANDONED = ProviderUncertain(
    "the gateway stopped while the provider was being called; the call may have been charged", status=500
)
_UNREACHABLE = ProviderUncertain("the provider that accepted this work is not configured any more", status=500)


async def _guarded(exchange: Awaitable[T]) -> T | ProviderError:
    """Turn what an exchange raises into a value. Our own faults after bytes were sent leave the outcome unknown."""
    try:
        return await exchange
    except ProviderError as error:
        return error
    except UnsupportedFeature as error:
        return ProviderRejected(error.message, provider_code=error.code, param=error.param)
    except InvalidRequest as error:
        return ProviderProtocolError(f"the provider answered something that is no picture: {error.message}")
    except StorageError as error:
        return ProviderUncertain(f"the provider's answer could not be stored: {error.message}", status=503)
    except Exception as error:
        log.exception("provider_crashed")
        return ProviderProtocolError(f"internal error: {type(error).__name__} in the provider adapter", status=500)


def _importance(attempt: Attempt) -> int:
    """The log level of an attempt's end: `job_ended` tells of success, and only the operator can mend a key."""
    if attempt.error is None:
        return logging.DEBUG
    return logging.WARNING if attempt.error_class is ErrorClass.AUTH else logging.INFO


def _refusal(
    request: ImageRequest, target: Target, names: tuple[str | None, ...], provider: Provider
) -> JobError | None:
    if not names:
        what = f"no key named {request.key_name!r}" if request.key_name else "no key"
        return JobError(
            status_code=400, code="provider_key_missing", message=f"provider {target.provider!r} has {what}"
        )
    if spec := provider.spec(target.model):
        try:
            spec.check(request)
        except UnsupportedFeature as error:
            return JobError(status_code=400, code=error.code, message=error.message, param=error.param)
    return None


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
    )


def _charge_of(error: ProviderError, route: Route) -> Charged:
    if not error.error_class.may_be_charged or route.repeatable:
        return Charged.NO
    return Charged.UNKNOWN


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
