"""Who is this caller: from what was shown in a header to the virtual key behind it."""

import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256

from safelight.application.access_ports import AccessStore, KeySecret
from safelight.application.ports import Clock
from safelight.domain.access import Grant
from safelight.domain.budget import Meter
from safelight.domain.errors import KeyRequired, KeyUnknown

_LOOK_AGAIN = timedelta(seconds=1)
"""A change that another process made holds here after so long at the latest."""
_MOST_REMEMBERED = 10_000

Digest = Callable[[str], bytes]


def keyed_hash(key: bytes) -> Digest:
    """Hash virtual keys as the record has them: who reads it cannot try keys without `key`."""
    return lambda shown: hmac.new(key, shown.encode(errors="surrogateescape"), sha256).digest()


class Callers:
    """Remembers the keys that were shown lately, until anything about access changes."""

    def __init__(self, store: AccessStore, *, digest: Digest, clock: Clock, required: bool) -> None:
        """`required`: nobody submits without a virtual key."""
        self._store = store
        self.digest = digest
        self._clock = clock
        self.required = required
        self._version = -1
        self._look_at: datetime | None = None
        self._grants: OrderedDict[bytes, tuple[Grant, KeySecret]] = OrderedDict()
        self._providers: Mapping[str, tuple[Meter, ...]] | None = None

    async def grant(self, shown: str) -> Grant:
        """The virtual key that reads so. Raises `KeyUnknown`, `AccessBlocked`, `StorageError`."""
        now = self._clock.now()
        await self._keep_up(now)
        digest = self.digest(shown)
        found = self._grants.get(digest) or await self._store.grant(digest)
        if found is None:
            raise KeyUnknown("virtual key not found")
        grant, secret = found
        if not hmac.compare_digest(secret.digest, digest) or (secret.valid_until and now >= secret.valid_until):
            raise KeyUnknown("virtual key not found")
        self._remember(digest, found)
        grant.key.refuse_unusable(now)
        return grant

    async def grant_of(self, key_id: str) -> Grant | None:
        """The virtual key of that id, usable or not; `None` when it is gone."""
        return await self._store.grant_of(key_id)

    def refuse_anybody(self) -> None:
        """Raise `KeyRequired` where nobody submits without a key."""
        if self.required:
            raise KeyRequired("virtual key is required. Provide a virtual key via the x-bf-vk header.")

    async def provider_meters(self) -> Mapping[str, tuple[Meter, ...]]:
        """What is counted for provider entries, whoever calls them."""
        await self._keep_up(self._clock.now())
        if self._providers is None:
            self._providers = await self._store.provider_meters()
        return self._providers

    def forget(self) -> None:
        """Read everything anew: something has changed."""
        self._look_at = None

    async def _keep_up(self, now: datetime) -> None:
        if self._look_at is not None and now < self._look_at:
            return
        version = await self._store.version()
        if version != self._version:
            self._grants.clear()
            self._providers = None
            self._version = version
        self._look_at = now + _LOOK_AGAIN

    def _remember(self, digest: bytes, found: tuple[Grant, KeySecret]) -> None:
        self._grants[digest] = found
        self._grants.move_to_end(digest)
        if len(self._grants) > _MOST_REMEMBERED:
            self._grants.popitem(last=False)
