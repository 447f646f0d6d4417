"""Who comes next when several have jobs waiting: start-time fair queueing, with a handicap for bulk work.

Each job gets a number when it lines up, its rank; the lowest goes first. An owner's jobs are ranked one behind the other,
each by as much as the one before it is long (its stride: pictures, divided by the owner's weight). Whoever has nothing in
line begins where the line is now, so that one job of theirs waits for no more than one job of every other owner, however
many those have. Ranks never change: what waits is passed by less and less, and nothing starves.

Source: Goyal, Vin, Cheng, "Start-time fair queueing", SIGCOMM 1996.
"""

from safelight.domain.job import Job

STRIDE = 1_000
"""Of one picture of an owner of weight 1."""
HANDICAP = 100 * STRIDE
"""How far a bulk job stands behind where it would stand: each other owner may start so many pictures before it."""


def stride(pictures: int, weight: int) -> int:
    """How far a job takes its owner back."""
    return max(1, STRIDE * pictures // weight)


def stride_of(job: Job) -> int:
    """The same for a stored job; those of nobody have none of their own."""
    return job.stride or STRIDE * job.request.count
