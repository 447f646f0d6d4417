"""Counters and histograms as those of `prometheus_client`, but cheap to count with: a job is counted some twenty times.

Theirs take locks and check labels with every count; these become samples only when they are read. So they belong to one
thread, that of the event loop. Label values come in the order of the labels' names.
"""

import time
from abc import abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from typing import Generic, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.utils import floatToGoString

S = TypeVar("S")


class _Family(Collector, Generic[S]):
    """All series of one name: one for each combination of label values that was seen."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str], begin: Callable[[], S]
    ) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._series: defaultdict[tuple[str, ...], S] = defaultdict(begin)
        if not labels:
            self._series[()] = begin()
        registry.register(self)

    @abstractmethod
    def collect(self) -> Iterator[Metric]:
        """Give what was counted."""

    def describe(self) -> Iterator[Metric]:
        """Tell the registry which names are taken."""
        return self.collect()


@dataclass(slots=True)
class _Count:
    value: float = 0.0
    created: float = field(default_factory=time.time)


class Counter(_Family[_Count]):
    """What only grows."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]) -> None:
        super().__init__(registry, name, text, labels, _Count)

    def inc(self, *labels: str, by: float = 1.0) -> None:
        """Count one more, or several."""
        self._series[labels].value += by

    def collect(self) -> Iterator[Metric]:
        """See `_Family.collect`."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, count in self._series.items():
            family.add_metric(labels, count.value, count.created)
        yield family


@dataclass(slots=True)
class _Spread:
    buckets: list[int]
    total: float = 0.0
    created: float = field(default_factory=time.time)


class Histogram(_Family[_Spread]):
    """Sizes, by the bucket that they fall into."""

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]
    ) -> None:
        """`buckets` are their upper bounds, which belong to them; one more takes what is above them all."""
        self._bounds = (*buckets, inf)
        super().__init__(registry, name, text, labels, lambda: _Spread([0] * len(self._bounds)))

    def observe(self, size: float, *labels: str) -> None:
        """Count one of this size."""
        spread = self._series[labels]
        spread.total += size
        spread.buckets[bisect_left(self._bounds, size)] += 1

    def collect(self) -> Iterator[Metric]:
        """See `_Family.collect`. Each bucket that is shown holds the smaller ones too."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        bounds = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]  # theirs has no types
        for labels, spread in self._series.items():
            family.add_metric(labels, list(zip(bounds, accumulate(spread.buckets), strict=True)), spread.total)
            family.add_sample(f"{self.name}_created", dict(zip(self.labels, labels, strict=True)), spread.created)
        yield family
