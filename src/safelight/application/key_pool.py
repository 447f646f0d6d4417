"""Which keys of a provider may be used now. This process alone knows it: after a restart every key is tried anew."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from random import Random

import structlog

from safelight.application.ports import ProviderKey
from safelight.domain.ids import JobId, ProviderName
from safelight.domain.image import Target

log = structlog.get_logger(__name__)

_LOOK_AGAIN = timedelta(seconds=0.5)
"""When to see whether a key has a place again."""
_MOST_REMEMBERED = 10_000
"""Models are named by callers; what is remembered of them must not grow without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A key, and the models that it may be used for (`*` stands for any characters)."""

    key: ProviderKey
    models: tuple[str, ...] = ("*",)
    weight: float = 1.0
    """How often it is taken, beside the others. One of weight 0 is taken when no other can be."""
    concurrency: int | None = None
    """How many jobs may be at work with it at a time."""

    def serves(self, model: str) -> bool:
        """Whether it may be used for a model."""
        return "*" in self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


_Key = tuple[ProviderName, str | None]
_Use = tuple[ProviderName, str | None, str]


@dataclass(slots=True, kw_only=True)
class KeyPool:
    """What has come of the keys so far. A limit is often one model's alone, so a key cools for that model."""

    random: Random = field(default_factory=Random)
    _cooling: dict[_Use, datetime] = field(default_factory=dict)
    _out: set[_Key | _Use] = field(default_factory=set)
    _jobs: dict[_Key, set[JobId]] = field(default_factory=dict)

    def usable(
        self, target: Target, keys: Sequence[KeyEntry], now: datetime
    ) -> tuple[tuple[str | None, ...], dict[str | None, datetime]]:
        """Name the keys that may be used for a target, in the order drawn, and those that must be waited for."""
        if self._out:
            # Where every key is refused they are tried all the same: the provider's own words reach the caller, and
            # what was mended over there works again at once.
            keys = [entry for entry in keys if not self._is_out(target, entry.key.name)] or keys
        if len(keys) > 1:
            keys = sorted(keys, key=self._drawn)
        waits: dict[str | None, datetime] = {}
        for entry in keys:
            if (until := self._free_at(target, entry, now)) > now:
                waits[entry.key.name] = until
        return tuple([entry.key.name for entry in keys]), waits

    def _is_out(self, target: Target, name: str | None) -> bool:
        return (target.provider, name) in self._out or (target.provider, name, target.model) in self._out

    def _drawn(self, entry: KeyEntry) -> float:
        """Draw without putting back, by weight: the least of exponential waiting times comes first."""
        return self.random.expovariate(entry.weight) if entry.weight else float("inf")

    def _free_at(self, target: Target, entry: KeyEntry, now: datetime) -> datetime:
        until = self._cooling.get((target.provider, entry.key.name, target.model), now)
        jobs = self._jobs.get((target.provider, entry.key.name), ()) if entry.concurrency else ()
        return max(until, now + _LOOK_AGAIN) if entry.concurrency and len(jobs) >= entry.concurrency else until

    def cool(self, target: Target, name: str | None, until: datetime) -> None:
        """Leave a key alone for a target until then."""
        if len(self._cooling) >= _MOST_REMEMBERED:
            self._cooling.clear()
        self._cooling[target.provider, name, target.model] = until

    def refuse(self, target: Target, name: str | None, status: int | None) -> None:
        """Prefer the other keys until a restart or a reload: for all models after 401, after 403 for the one asked.

        Where there is no key there is none to take out.
        """
        if name is None or status not in {401, 403} or self._is_out(target, name):
            return
        if len(self._out) >= _MOST_REMEMBERED:
            self._out.clear()
        self._out.add((target.provider, name) if status == 401 else (target.provider, name, target.model))
        log.error(
            "provider_key_refused",
            provider=target.provider,
            key=name,
            model=None if status == 401 else target.model,
            status=status,
            remedy="mend the key in the settings and send SIGHUP, or restart",
        )

    def cooling(self, provider: ProviderName, name: str | None, now: datetime) -> dict[str, datetime]:
        """Until when a key is left alone, by model."""
        return {
            model: until
            for (of, key, model), until in self._cooling.items()
            if (of, key) == (provider, name) and until > now
        }

    def refused(self, provider: ProviderName, name: str | None) -> bool:
        """Whether a key is out for all models."""
        return (provider, name) in self._out

    def hold(self, job_id: JobId, provider: ProviderName, entry: KeyEntry | None) -> None:
        """Take a place at a key that has a number of them."""
        if entry is not None and entry.concurrency:
            self._jobs.setdefault((provider, entry.key.name), set()).add(job_id)

    def release(self, job_id: JobId) -> None:
        """Give back whatever place a job has."""
        for jobs in self._jobs.values():
            jobs.discard(job_id)

    def renew(self, provider: ProviderName) -> None:
        """Give the keys of a provider a new chance: the operator has seen to them."""
        self._cooling = {use: until for use, until in self._cooling.items() if use[0] != provider}
        self._out = {key for key in self._out if key[0] != provider}
