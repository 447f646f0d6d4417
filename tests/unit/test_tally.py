"""What is counted reads as if `prometheus_client` had counted it."""

import re

import prometheus_client as theirs
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from safelight.adapters import tally

BUCKETS = (0.01, 0.5, 1, 10)


def page(registry: CollectorRegistry) -> str:
    """As it is served, without the moments of making."""
    return re.sub(r"(_created(?:{.*})?) [\d.e+]+\n", r"\1 MOMENT\n", generate_latest(registry).decode())


def test_the_page_is_that_of_prometheus_client() -> None:
    expected, registry = CollectorRegistry(), CollectorRegistry()
    counter = theirs.Counter("jobs", "Jobs.", ("provider", "model"), registry=expected)
    histogram = theirs.Histogram("call_seconds", "Calls.", ("call",), buckets=BUCKETS, registry=expected)
    theirs.Counter("faults", "Faults.", registry=expected)
    theirs.Histogram("lag_seconds", "Lag.", buckets=BUCKETS, registry=expected)
    own_counter = tally.Counter(registry, "jobs", "Jobs.", ("provider", "model"))
    own_histogram = tally.Histogram(registry, "call_seconds", "Calls.", ("call",), BUCKETS)
    tally.Counter(registry, "faults", "Faults.", ())
    tally.Histogram(registry, "lag_seconds", "Lag.", (), BUCKETS)

    for labels in (("fal", "flux"), ('q"\\', "m\n"), ("fal", "flux")):
        counter.labels(*labels).inc()
        counter.labels(*labels).inc(0.25)
        own_counter.inc(*labels)
        own_counter.inc(*labels, by=0.25)
    for size in (0, 0.005, 0.01, 0.3, 1, 1.5, 10, 11, 1000):
        for call in ("start", "poll"):
            histogram.labels(call).observe(size)
            own_histogram.observe(size, call)

    assert page(registry) == page(expected)
    assert registry._names_to_collectors.keys() == expected._names_to_collectors.keys()
