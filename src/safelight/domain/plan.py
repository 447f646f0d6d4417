"""What to do next with a job: a pure function of its ledger, its routes and the time.

The ledger is the only memory. Whoever takes a job up, in whichever process and after whichever crash, reads the
attempts and comes to the same decision.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec import Struct, field

from safelight.domain.errors import ErrorClass
from safelight.domain.image import Target
from safelight.domain.job import Attempt, AttemptState, JobError, JobHistory
from safelight.domain.money import Charged
from safelight.domain.schedule import RetryPolicy

PATIENCE = timedelta(minutes=2)
"""A longer wait than this, told by a busy provider, makes a fallback the better choice."""

CANCELLED = JobError(status_code=499, code="job_cancelled", message="the job was cancelled")

MOST_ABANDONED = 10
"""So often one target may be tried again because the gateway stopped. A job that makes it stop must end, too."""


class OnUnknown(StrEnum):
    """What to do when an attempt may have been charged and its answer was never seen."""

    FAIL = "fail"
    RETRY = "retry"
    FALLBACK = "fallback"


class Route(Struct, frozen=True, kw_only=True):
    """One target as it can be used now. `refusal` says why it cannot be used at all."""

    target: Target
    keys: tuple[str | None, ...] = (None,)
    """Those that may be used, the one to take first before the others."""
    free_at: Mapping[str | None, datetime] = {}
    """Keys that are to be left alone until then."""
    closed_until: datetime | None = None
    """It has failed so often that nobody calls it before then."""
    repeatable: bool = False
    deduplicated: bool = False
    """It is repeatable because the provider knows a repeat by its token, at the same key: a new call is paid anew."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_n: int | None = None
    refusal: JobError | None = None


class Start(Struct, frozen=True, kw_only=True):
    """Call the provider."""

    route: int
    key_name: str | None
    n: int


class Poll(Struct, frozen=True, kw_only=True):
    """Ask the provider about work that it accepted. `stop`: first ask it to stop."""

    attempt: Attempt
    stop: bool = False


class Abandon(Struct, frozen=True, kw_only=True):
    """Book an attempt, left behind by a process that died, as unknown."""

    attempt: Attempt


class Wait(Struct, frozen=True, kw_only=True):
    """Nothing to do before `until`."""

    until: datetime
    route: int


class Complete(Struct, frozen=True, kw_only=True):
    """All pictures that can be had are in. `shortfall` says why there are fewer than were asked for."""

    shortfall: JobError | None = None


class GiveUp(Struct, frozen=True, kw_only=True):
    """Nothing may be tried any more."""

    error: JobError


Step = Start | Poll | Abandon | Wait | Complete | GiveUp


def decide(history: JobHistory, routes: Sequence[Route], *, on_unknown: OnUnknown, now: datetime) -> Step:
    """Choose the next step of a job that has not ended."""
    cancelled = history.job.cancelled_at is not None
    if (out := history.open_attempt) is not None:
        if out.state is AttemptState.STARTED:
            return Abandon(attempt=out)
        return Poll(attempt=out, stop=cancelled and out.stop_asked_at is None)
    if cancelled:
        return GiveUp(error=CANCELLED)
    attempts = history.run
    done = [attempt for attempt in attempts if attempt.state is AttemptState.SUCCEEDED]
    missing = history.job.request.count - sum(attempt.n for attempt in done)
    if done and missing <= 0:
        return Complete(shortfall=_fewer(done, history.job.request.count))
    step = _Planner(routes=routes, tries=_tries(attempts), missing=missing, on_unknown=on_unknown, now=now).next(
        first_route=done[-1].route if done else 0
    )
    return Complete(shortfall=step.error) if done and isinstance(step, GiveUp) else step


def _paid(attempt: Attempt) -> bool:
    """Whether the provider took money, or may have, although it said clearly that nothing came of it."""
    return attempt.charged in {Charged.YES, Charged.UNKNOWN}


def _fewer(done: Sequence[Attempt], wanted: int) -> JobError | None:
    """A provider may send fewer pictures than it was asked for; asking again could be paid twice."""
    came = sum(len(attempt.production.outputs) for attempt in done if attempt.production)
    if came >= wanted:
        return None
    return JobError(status_code=502, code="fewer_images", message=f"{came} of {wanted} images came from the provider")


def _tries(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Keep the attempts since the last success: those that count for the call to make now."""
    tries: list[Attempt] = []
    for attempt in attempts:
        tries = [] if attempt.state is AttemptState.SUCCEEDED else [*tries, attempt]
    return tries


def made_before(attempts: Sequence[Attempt], number: int) -> int:
    """How many pictures of the job earlier calls were for."""
    done = (other for other in attempts if other.number < number and other.state is AttemptState.SUCCEEDED)
    return sum(attempt.n for attempt in done)


def repeats(attempts: Sequence[Attempt], attempt: Attempt) -> int:
    """Which earlier attempt this one is a repeat of, by number; its own where it is none.

    The outcome of that one is unknown: the same token at the same key lets a provider see that it is the same work.
    Work that the provider took and that clearly failed is over, and what follows is new work.
    """
    number = attempt.number
    for earlier in reversed([other for other in attempts if other.number < attempt.number]):
        if earlier.state is AttemptState.SUCCEEDED:
            break
        if (earlier.route, earlier.key_name, earlier.n) != (attempt.route, attempt.key_name, attempt.n):
            continue
        if _over(earlier):
            break
        if earlier.state is AttemptState.UNKNOWN:
            number = earlier.number
    return number


def _over(attempt: Attempt) -> bool:
    return attempt.state is AttemptState.FAILED and attempt.handle is not None


class _Planner(Struct, frozen=True, kw_only=True):
    routes: Sequence[Route]
    tries: list[Attempt]
    missing: int
    on_unknown: OnUnknown
    now: datetime

    def next(self, *, first_route: int) -> Step:
        if not self.tries:
            return self._take(first_route)
        last = self.tries[-1]
        doubt = self._doubt(last)
        if doubt is not None and last.error_class is not ErrorClass.REJECTED:
            return self._repeat(doubt, last)
        if last.state is AttemptState.UNKNOWN or (_paid(last) and last.error_class is not ErrorClass.REJECTED):
            return self._after_unknown(last)
        match last.error_class:
            case ErrorClass.AUTH | ErrorClass.BUSY:
                return self._other_key(last) or self._again(last)
            case ErrorClass.UNAVAILABLE:
                return self._again(last)
            case ErrorClass.MODEL_GONE:
                return self._fall_back(last)
            case _:
                return GiveUp(error=_error_of(last))

    def _after_unknown(self, last: Attempt) -> Step:
        if self.routes[last.route].repeatable or self.on_unknown is OnUnknown.RETRY:
            return self._again(last)
        if self.on_unknown is OnUnknown.FALLBACK:
            return self._fall_back(last)
        return GiveUp(error=_error_of(last))

    def _doubt(self, last: Attempt) -> Attempt | None:
        """The attempt that a repeat would bring to light, and that any other call might pay a second time."""
        route = self.routes[last.route]
        if not (route.repeatable and route.deduplicated) or self.on_unknown is OnUnknown.RETRY:
            return None
        found: Attempt | None = None
        for attempt in self._here(last):
            if attempt.state is AttemptState.UNKNOWN:
                found = found or attempt
            elif _over(attempt):
                found = None
        return found

    def _repeat(self, doubt: Attempt, last: Attempt) -> Step:
        route = self.routes[doubt.route]
        refused = route.refusal is not None or last.error_class in {ErrorClass.AUTH, ErrorClass.MODEL_GONE}
        if not refused and doubt.key_name in route.keys and not self._spent(route, self._here(last)):
            return self._at(self._due(route, doubt.key_name, last), doubt.route, doubt.key_name)
        if self.on_unknown is OnUnknown.FALLBACK:
            return self._fall_back(doubt)
        return GiveUp(error=_error_of(doubt))

    def _at(self, due: datetime, route: int, key_name: str | None) -> Step:
        return Wait(until=due, route=route) if due > self.now else self._start(route, key_name)

    def _due(self, route: Route, key_name: str | None, last: Attempt | None = None) -> datetime:
        """When a key may be used at a route."""
        told = (route.free_at.get(key_name), route.closed_until, last.retry_at if last else None)
        return max((moment for moment in told if moment is not None), default=self.now)

    def _closed(self, route: Route) -> bool:
        return route.closed_until is not None and route.closed_until > self.now

    def _take(self, route: int, *, error: JobError | None = None) -> Step:
        """Start at the first usable route from `route` on; where all must be waited for, at the first that is free."""
        waits: list[Wait] = []
        for index in range(route, len(self.routes)):
            candidate = self.routes[index]
            if candidate.refusal is not None:
                error = error or candidate.refusal
                continue
            due, key = self._first_free(candidate)
            if due <= self.now:
                return self._start(index, key)
            waits.append(Wait(until=due, route=index))
            if due - self.now <= PATIENCE and not self._closed(candidate):
                break
        return min(waits, key=lambda wait: wait.until) if waits else GiveUp(error=error or _NOWHERE)

    def _first_free(self, route: Route) -> tuple[datetime, str | None]:
        """The key to take, and when it can be; of those that are free the first."""
        dues = [(max(self.now, self._due(route, name)), name) for name in route.keys]
        return min(dues, key=lambda due: due[0])

    def _start(self, route: int, key_name: str | None) -> Start:
        limit = self.routes[route].max_n or self.missing
        return Start(route=route, key_name=key_name, n=min(self.missing, limit))

    def _fall_back(self, last: Attempt) -> Step:
        return self._take(last.route + 1, error=_error_of(last))

    def _here(self, last: Attempt) -> list[Attempt]:
        return [attempt for attempt in self.tries if attempt.route == last.route]

    def _other_key(self, last: Attempt) -> Step | None:
        """Take a key that has not been tried at this route."""
        route = self.routes[last.route]
        if route.refusal is not None:
            return None
        used = {attempt.key_name for attempt in self._here(last)}
        unused = [name for name in route.keys if name not in used and self._due(route, name) <= self.now]
        return self._start(last.route, unused[0]) if unused else None

    def _again(self, last: Attempt) -> Step:
        """Try the same target once more, when its time has come and its tries are not spent."""
        route = self.routes[last.route]
        here = self._here(last)
        key = self._key_again(route, last, here)
        if key is None:
            return self._other_key(last) or self._fall_back(last)
        if route.refusal is not None or self._spent(route, here):
            return self._fall_back(last)
        due = self._due(route, key.key_name, key)
        if (due - self.now > PATIENCE or self._closed(route)) and self._usable_after(last.route):
            return self._fall_back(last)
        return self._at(due, last.route, key.key_name)

    @staticmethod
    def _spent(route: Route, here: list[Attempt]) -> bool:
        """Whether a target has had its tries. Our own crashes are not the provider's fault where a repeat is free."""
        counted = [
            attempt for attempt in here if not (route.repeatable and attempt.error_class is ErrorClass.ABANDONED)
        ]
        retries = len(counted) - len({attempt.key_name for attempt in counted})
        return (bool(counted) and retries >= route.retry.max) or len(here) - len(counted) > MOST_ABANDONED

    @staticmethod
    def _key_again(route: Route, last: Attempt, here: list[Attempt]) -> Attempt | None:
        """The last try with the key to take: the same again, or where that one is busy or refused, the first free.

        A key that was refused is left alone, and one may be gone from the settings. `None` when no key is left.
        """
        latest = {attempt.key_name: attempt for attempt in here}
        usable = [
            latest[name] for name in route.keys if name in latest and latest[name].error_class is not ErrorClass.AUTH
        ]
        if last in usable and last.error_class is not ErrorClass.BUSY:
            return last
        return min(usable, key=lambda attempt: attempt.retry_at or attempt.started_at, default=None)

    def _usable_after(self, route: int) -> bool:
        return any(candidate.refusal is None and not self._closed(candidate) for candidate in self.routes[route + 1 :])


_NOWHERE = JobError(status_code=500, code="no_route", message="there is no provider to try", gateway_fault=True)


def _error_of(attempt: Attempt) -> JobError:
    return attempt.error or _NOWHERE
