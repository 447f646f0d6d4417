"""Who asks, and which jobs are theirs."""

from dataclasses import dataclass

from safelight.domain.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whoever sent a request, as far as the gateway was told."""

    owner: str | None = None
    """The id of the virtual key; `None` where none was shown."""
    team: str | None = None
    """The team that the key belongs to."""
    team_wide: bool = False
    """Whether the key sees all jobs of its team."""
    admin: bool = False

    def may_see(self, job: Job) -> bool:
        """Whether the job is theirs to read, wait for and cancel. One without an owner is everybody's (contract R4.2)."""
        if self.admin or job.owner is None or job.owner == self.owner:
            return True
        return self.team_wide and self.team is not None and job.team == self.team


ANYBODY = Caller()
"""A caller who showed no key."""

LINK_HOLDER = Caller(admin=True)
"""Whoever shows a link that the gateway signed: they were given it by somebody who may see the job."""
