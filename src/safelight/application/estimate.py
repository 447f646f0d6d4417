"""What a request is likely to cost, before it is made."""

from collections.abc import Mapping
from dataclasses import dataclass

from safelight.application.provider_entry import ProviderEntry
from safelight.domain.ids import ProviderName
from safelight.domain.image import ImageRequest
from safelight.domain.price import expected_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Reads the price lists that `Advance` books by."""

    providers: Mapping[ProviderName, ProviderEntry]

    def micros(self, request: ImageRequest) -> int | None:
        """Micro-dollars at the asked model; `None` when nobody can say before."""
        entry = self.providers.get(request.target.provider)
        if entry is None:
            return None
        price = entry.price(request.target.model)
        if price is None:
            return 0 if entry.repeatable and not entry.deduplicated else None  # it costs time, not money
        return expected_micros(price, request)
