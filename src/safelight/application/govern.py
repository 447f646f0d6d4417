"""What a submit must find free, and holds: budgets, limits, and its place in line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from safelight.application.callers import Callers
from safelight.application.estimate import Estimate
from safelight.domain.access import Grant, VirtualKey
from safelight.domain.budget import Draw, HolderKind, Meter, Unit
from safelight.domain.errors import BudgetExceeded
from safelight.domain.fairness import stride
from safelight.domain.image import ImageRequest
from safelight.domain.job import Job, Priority
from safelight.domain.ledger import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What becomes of a request that may be taken; see the members of `Job`."""

    terms: Terms | None = None
    estimates: Mapping[str, int] = field(default_factory=dict)
    priority: Priority = Priority.INTERACTIVE
    stride: int = 0
    provider_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NOTHING_SAID = Agreement()


@dataclass(frozen=True, slots=True, kw_only=True)
class Govern:
    """Reads what is remembered of keys and prices; the store has the last word, in the commit that writes the job."""

    callers: Callers
    estimate: Estimate

    async def agree(self, grant: Grant | None, request: ImageRequest) -> Agreement:
        """Work out what a request must find free. Raises `PolicyRefusal` for what no counting can allow, `StorageError`."""
        key = grant.key if grant else None
        if key is not None:
            key.refuse_unlisted(request)
        meters = await self._meters(grant, request)
        if key is None and not meters:
            return NOTHING_SAID
        estimates = self._estimates(key, request) if any(meter.unit is Unit.USD for meter in meters) else {}
        draws = tuple(Draw(meter=meter, amount=_amount(meter, request, estimates)) for meter in meters)
        most = key.max_waiting if key else None
        return Agreement(
            terms=Terms(draws=draws, max_waiting=most) if draws or most is not None else None,
            estimates=estimates,
            priority=key.priority if key else Priority.INTERACTIVE,
            stride=stride(request.count, key.weight) if key else 0,
            provider_keys=key.provider_key_limits(request) if key else {},
        )

    async def agree_again(self, job: Job) -> Agreement:
        """The same for a job that is run again, whoever asks for it: it is its own key that pays."""
        return await self.agree(await self.grant_of(job.owner), job.request)

    async def grant_of(self, owner: str | None) -> Grant | None:
        """The virtual key of that id; `None` where there is none, or none any more."""
        return await self.callers.grant_of(owner) if owner is not None else None

    async def _meters(self, grant: Grant | None, request: ImageRequest) -> Sequence[Meter]:
        """All that count this request, in the order of their numbers."""
        of_providers = await self.callers.provider_meters()
        found = list(grant.meters) if grant else []
        for provider in {target.provider for target in request.targets} if of_providers else ():
            found += of_providers.get(provider, ())
        return sorted(found, key=lambda meter: meter.id)

    def _estimates(self, key: VirtualKey | None, request: ImageRequest) -> Mapping[str, int]:
        """What one picture is taken to cost at each target: the price list, else the key's ceiling."""
        ceiling = key.max_cost_per_image_micros if key else None
        found = {}
        for target in request.targets:
            known = target.provider in self.estimate.providers  # else it will never be called
            micros = self.estimate.micros(replace(request, target=target, fallbacks=())) if known else 0
            each = ceiling if micros is None else -(-micros // request.count)
            if each is None:
                raise BudgetExceeded(
                    f"nobody knows what {str(target)!r} costs, so it cannot be paid from a budget: "
                    "the operator may set its price, or max_cost_per_image_usd of the virtual key",
                    reason="price_unknown",
                )
            found[str(target)] = each
        return found


def _amount(meter: Meter, request: ImageRequest, estimates: Mapping[str, int]) -> int:
    match meter.unit:
        case Unit.REQUESTS:
            return 1
        case Unit.IMAGES:
            return request.count
        case Unit.USD:
            targets = [
                t for t in request.targets if meter.kind is not HolderKind.PROVIDER or t.provider == meter.holder
            ]
            return request.count * max(estimates[str(target)] for target in targets)
