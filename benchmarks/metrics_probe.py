"""Report what it costs to count, with `dynamo.metrics` and with `prometheus_client`."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import prometheus_client

from dynamo.metrics import Metrics, counter, gauge, histogram, scope
from dynamo.metrics._scope import ATTACHED_LABELS, Scope

NAMES = ("docs", "Orchard", "sell", "llama")
BATCH = 2_000

Call = Callable[[], None]


def calls() -> dict[str, tuple[Call, Call]]:
    """Ours and theirs, by what is measured."""
    labels = (*ATTACHED_LABELS, "kind")
    of_endpoint = Metrics(Scope(*NAMES))
    sold = counter("sold", "Fruit that was sold", ("kind",))
    sold_here = of_endpoint.counter("sold", "Fruit that was sold", ("kind",))
    theirs = prometheus_client.Counter("sold", "Fruit that was sold", labels, registry=None)
    plain, plain_here = counter("asked", "Requests"), of_endpoint.counter("asked", "Requests")
    their_plain = prometheus_client.Counter("asked", "Requests", ATTACHED_LABELS, registry=None)
    waiting = gauge("waiting", "Requests that wait")
    their_waiting = prometheus_client.Gauge("waiting", "Requests that wait", ATTACHED_LABELS, registry=None)
    took = histogram("took", "How long it took")
    bounds = of_endpoint.histogram("took", "How long it took")._family.shape.buckets
    their_took = prometheus_client.Histogram("took", "It took", ATTACHED_LABELS, registry=None, buckets=bounds)
    their_gauge, their_histogram = their_waiting.labels(*NAMES), their_took.labels(*NAMES)
    unbound = lambda: theirs.labels(*NAMES, "red").inc()  # noqa: E731
    bound = theirs.labels(*NAMES, "red").inc
    return {
        "counter, bound, in a scope": (sold.labels("red").inc, bound),
        "counter, bound, of an endpoint": (sold_here.labels("red").inc, bound),
        "counter, no labels, in a scope": (plain.inc, their_plain.labels(*NAMES).inc),
        "counter, no labels, of an endpoint": (plain_here.inc, their_plain.labels(*NAMES).inc),
        "counter, unbound, in a scope": (lambda: sold.labels("red").inc(), unbound),
        "counter, unbound, of an endpoint": (lambda: sold_here.labels("red").inc(), unbound),
        "gauge, set": (lambda: waiting.set(3), lambda: their_gauge.set(3)),
        "histogram, observe": (lambda: took.observe(0.3), lambda: their_histogram.observe(0.3)),
    }


def measure(ours: Call, theirs: Call, window_s: float) -> dict[str, float]:
    """Call both in turn; return the median CPU time of a call of each, in nanoseconds."""
    times_ns: dict[str, list[float]] = {"ours": [], "prometheus_client": []}
    ends = time.perf_counter() + window_s
    while time.perf_counter() < ends:
        for name, call in zip(times_ns, (ours, theirs), strict=True):
            began_ns = time.thread_time_ns()
            for _ in range(BATCH):
                call()
            times_ns[name].append((time.thread_time_ns() - began_ns) / BATCH)
    return {name: statistics.median(values) for name, values in times_ns.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--window-s", type=float, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    namespace, component, endpoint, model = NAMES
    with scope(namespace=namespace, component=component, endpoint=endpoint, model=model):
        found = {name: measure(*pair, options.window_s) for name, pair in calls().items()}
    options.report.write_text(json.dumps(found))
