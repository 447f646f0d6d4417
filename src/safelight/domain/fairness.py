"""Who comes next when several have jobs waiting: start-time fair queueing, with a handicap for bulk work.

Each job gets a number when it lines up, its rank; the lowest goes first. An owner's jobs are ranked one behind the other,
each by as much as the one before it is long (its stride: pictures, divided by the owner's weight). Whoever has nothing in
line begins where the line is now, so that one job of theirs waits for no more than one job of every other owner, however
many those have. Ranks never change: what waits is passed by less and less, and nothing starves.

Source: Goyal, Vin, Cheng, "Start-time fair queueing", SIGCOMM 1996.
"""

from dataclasses import dataclass, field

from safelight.domain.job import Job, Priority

STRIDE = 1_000
"""Of one picture of an owner of weight 1."""
HANDICAP = 100 * STRIDE
"""How far a bulk job stands behind where it would stand: each other owner may start so many pictures before it."""


def stride(pictures: int, weight: int) -> int:
    """How far a job takes its owner back."""
    return max(1, STRIDE * pictures // weight)


@dataclass(frozen=True, slots=True)
class Turn:
    """What decides when a job comes next."""

    owner: str | None = None
    priority: Priority = Priority.INTERACTIVE
    stride: int = STRIDE
    most_running: int | None = None
    """How many jobs of its owner may be at work at a time."""


NOBODYS = Turn()
"""Jobs without an owner stand in line as if one owner had them all."""


def turn_of(job: Job) -> Turn:
    """When a job comes next."""
    if job.owner is None and not job.stride:
        return NOBODYS
    return Turn(job.owner, job.priority, job.stride or STRIDE, job.max_running)


@dataclass(slots=True)
class FairOrder:
    """Gives the ranks of one line."""

    now: int = 0
    """Where the line is: the rank of the last job that was taken."""
    _ahead: dict[tuple[str | None, Priority], int] = field(default_factory=dict)
    """Where the next job begins of an owner who is ahead of the line. Bulk work does not put back an owner's other jobs."""
    _forget_at: int = 1_000

    def rank(self, turn: Turn, *, again: bool) -> int:
        """The rank of a job that lines up now; one that does so `again` has been counted before."""
        who = (turn.owner, turn.priority)
        begin = max(self.now, self._ahead.get(who, 0))
        if not again:
            self._ahead[who] = begin + turn.stride
        return begin + (HANDICAP if turn.priority is Priority.BULK else 0)

    def take(self, rank: int) -> None:
        """Tell that the job of this rank is taken."""
        self.now = max(self.now, rank)
        if len(self._ahead) > self._forget_at:
            self._ahead = {who: begin for who, begin in self._ahead.items() if begin > self.now}
            self._forget_at = max(1_000, 2 * len(self._ahead))
