"""Who hears what happens to jobs, to count it, to trace it or to write it down. Told from the few places where jobs move."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from safelight.domain.job import Attempt, Ending, Job
from safelight.domain.webhook import Delivery, Outcome


class Exchange(StrEnum):
    """What a provider is called for."""

    START = "start"
    POLL = "poll"
    CANCEL = "cancel"


Told = Callable[[BaseException | None], None]
"""Takes how an exchange ended: with an answer, which is `None` here, with a `ProviderError`, or cut off by something else."""


class Observer(Protocol):
    """Hears, and changes nothing. It must be quick and must not fail."""

    def submitted(self, job: Job) -> None:
        """A job was accepted, and is on disk."""
        ...

    def attempt_started(self, job: Job, attempt: Attempt, *, after: Attempt | None) -> None:
        """An attempt is written down; `after` is the one before it."""
        ...

    def exchange(self, job: Job, attempt: Attempt, exchange: Exchange) -> Told:
        """A provider is called, until what this gives is told how that ended; by the same task."""
        ...

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        """An attempt came to its end; the commit follows."""
        ...

    def ended(self, job: Job, ending: Ending) -> None:
        """A job has ended, and its end is on disk."""
        ...

    def sending(self, delivery: Delivery, job: Job | None) -> AbstractContextManager[None]:
        """A webhook is sent, as long as the context lasts; the job may be gone."""
        ...

    def delivered(self, delivery: Delivery, outcome: Outcome, at: datetime) -> None:
        """An attempt at a webhook has ended."""
        ...


def _forget(_: BaseException | None) -> None: ...


class Deaf:
    """Hears nothing; what others derive from that hear a part."""

    def submitted(self, job: Job) -> None:
        """See `Observer.submitted`."""

    def attempt_started(self, job: Job, attempt: Attempt, *, after: Attempt | None) -> None:
        """See `Observer.attempt_started`."""

    def exchange(self, job: Job, attempt: Attempt, exchange: Exchange) -> Told:
        """See `Observer.exchange`."""
        del job, attempt, exchange
        return _forget

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        """See `Observer.attempt_ended`."""

    def ended(self, job: Job, ending: Ending) -> None:
        """See `Observer.ended`."""

    def sending(self, delivery: Delivery, job: Job | None) -> AbstractContextManager[None]:
        """See `Observer.sending`."""
        del delivery, job
        return nullcontext()

    def delivered(self, delivery: Delivery, outcome: Outcome, at: datetime) -> None:
        """See `Observer.delivered`."""


@dataclass(frozen=True, slots=True)
class Observers:
    """Several that hear the same."""

    members: Sequence[Observer]

    def submitted(self, job: Job) -> None:
        """See `Observer.submitted`."""
        for member in self.members:
            member.submitted(job)

    def attempt_started(self, job: Job, attempt: Attempt, *, after: Attempt | None) -> None:
        """See `Observer.attempt_started`."""
        for member in self.members:
            member.attempt_started(job, attempt, after=after)

    def exchange(self, job: Job, attempt: Attempt, exchange: Exchange) -> Told:
        """See `Observer.exchange`."""
        told = [member.exchange(job, attempt, exchange) for member in self.members]

        def tell(error: BaseException | None) -> None:
            for each in told:
                each(error)

        return tell

    def attempt_ended(self, job: Job, attempt: Attempt) -> None:
        """See `Observer.attempt_ended`."""
        for member in self.members:
            member.attempt_ended(job, attempt)

    def ended(self, job: Job, ending: Ending) -> None:
        """See `Observer.ended`."""
        for member in self.members:
            member.ended(job, ending)

    @contextmanager
    def sending(self, delivery: Delivery, job: Job | None) -> Iterator[None]:
        """See `Observer.sending`."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member.sending(delivery, job))
            yield

    def delivered(self, delivery: Delivery, outcome: Outcome, at: datetime) -> None:
        """See `Observer.delivered`."""
        for member in self.members:
            member.delivered(delivery, outcome, at)
