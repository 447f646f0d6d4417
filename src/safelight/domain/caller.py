"""Who asks, and which jobs and batches are theirs."""

from dataclasses import dataclass
from typing import Protocol


class Owned(Protocol):
    """What may belong to somebody: a job, a batch."""

    @property
    def owner(self) -> str | None:
        """The id of the virtual key that it was submitted with."""
        ...

    @property
    def team(self) -> str | None:
        """That key's team."""
        ...


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

    def may_see(self, it: Owned) -> bool:
        """Whether it is theirs to read, wait for and cancel. What has no owner is everybody's (contract R4.2)."""
        if self.admin or it.owner is None or it.owner == self.owner:
            return True
        return self.team_wide and self.team is not None and it.team == self.team

    def lists(self, it: Owned) -> bool:
        """Whether it is among those that are listed for them, and followed: what is everybody's, only for who has no key."""
        return self.admin or it.owner == self.owner or (it.owner is not None and self.may_see(it))


ANYBODY = Caller()
"""A caller who showed no key."""

ADMINISTRATOR = Caller(admin=True)

LINK_HOLDER = Caller(admin=True)
"""Whoever shows a link that the gateway signed: they were given it by somebody who may see the job."""
