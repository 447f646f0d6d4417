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
_SPREAD = 0.25
_LONGEST_SPREAD = timedelta(seconds=30)
"""Those who wait for one key come back spread over this share of the wait, and not all at once."""
_EMPTY_FOR = timedelta(minutes=5)
"""So long an account without money or quota is left alone: it may be filled without anybody telling us."""
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
    _out: dict[_Key | _Use, datetime | None] = field(default_factory=dict)
    """Those refused, until when; `None` where only the operator can mend it."""
    _jobs: dict[_Key, set[JobId]] = field(default_factory=dict)

    def usable(
        self, target: Target, keys: Sequence[KeyEntry], now: datetime
    ) -> tuple[tuple[str | None, ...], dict[str | None, datetime]]:
        """Name the keys that may be used for a target, in the order drawn, and those that must be waited for."""
        if self._out:
            # Where every key is refused they are tried all the same: the provider's own words reach the caller, and
            # what was mended over there works again at once.
            keys = [entry for entry in keys if not self._is_out(target, entry.key.name, now)] or keys
        if len(keys) > 1:
            keys = sorted(keys, key=self._drawn)
        waits: dict[str | None, datetime] = {}
        for entry in keys:
            if (until := self._free_at(target, entry, now)) > now:
                spread = min((until - now) * _SPREAD, _LONGEST_SPREAD)
                waits[entry.key.name] = until + spread * self.random.random()
        return tuple([entry.key.name for entry in keys]), waits

    def _is_out(self, target: Target, name: str | None, now: datetime) -> bool:
        uses: tuple[_Key | _Use, ...] = ((target.provider, name), (target.provider, name, target.model))
        return any(use in self._out and _lasts(self._out[use], now) for use in uses)

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

    def refuse(self, target: Target, name: str | None, status: int | None, now: datetime) -> None:
        """Prefer the other keys, until a restart or a reload: for all models after 401, after 403 for the one asked.

        Any other refusal of a key is an account's that is empty, for a while. Where there is no key there is none to
        take out.
        """
        if name is None or self._is_out(target, name, now):
            return
        if len(self._out) >= _MOST_REMEMBERED:
            self._out.clear()
        until = None if status in {401, 403} else now + _EMPTY_FOR
        self._out[(target.provider, name, target.model) if status == 403 else (target.provider, name)] = until
        log.error(
            "provider_key_refused",
            provider=target.provider,
            key=name,
            model=target.model if status == 403 else None,
            status=status,
            remedy="mend the key in the settings and send SIGHUP, or restart" if until is None else "fill the account",
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
        self._out = {key: until for key, until in self._out.items() if key[0] != provider}


def _lasts(until: datetime | None, now: datetime) -> bool:
    return until is None or until > now
