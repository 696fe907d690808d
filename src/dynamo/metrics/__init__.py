"""Metrics with Dynamo's labels attached: count in one line, and `/metrics` of the process shows it.

```python
from dynamo.metrics import counter

apples = counter("shop_apples", "Apples that were sold", ("kind",))

apples.labels("red").inc(3)
```

Namespace, component, endpoint and model are attached as labels by themselves, as far as there are any: those of the
request in which a metric is used. `prometheus_client` does the counting; it is imported with the first metric.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names
from dynamo._core.stability import Stability, Tier

if TYPE_CHECKING:
    from dynamo.metrics._compat import CounterVec as CounterVec
    from dynamo.metrics._compat import GaugeVec as GaugeVec
    from dynamo.metrics._compat import RuntimeMetrics as RuntimeMetrics
    from dynamo.metrics._metric import Counter, Gauge, Histogram
    from dynamo.metrics._metrics import DEFAULT_BUCKETS, Metrics, counter, gauge, histogram
    from dynamo.metrics._scope import scope

    IntCounter = Counter
    IntCounterVec = CounterVec
    IntGauge = Gauge
    IntGaugeVec = GaugeVec

__all__ = [
    "DEFAULT_BUCKETS",
    "Counter",
    "Gauge",
    "Histogram",
    "Metrics",
    "counter",
    "gauge",
    "histogram",
    "scope",
]
#: The marks of what can carry none.
__stability__: dict[str, Stability] = {"DEFAULT_BUCKETS": Stability(Tier.STABLE, "0.1")}

#: Where each name is, which is imported when it is asked for.
_LAZY = {
    "DEFAULT_BUCKETS": "._metrics",
    "Counter": "._metric",
    "Gauge": "._metric",
    "Histogram": "._metric",
    "Metrics": "._metrics",
    "counter": "._metrics",
    "gauge": "._metrics",
    "histogram": "._metrics",
    "scope": "._scope",
}
#: Older names, which `import *` does not ask for: where each is, and what to use instead.
__former__: dict[str, tuple[str, str]] = {
    "CounterVec": ("._compat", "Counter"),
    "GaugeVec": ("._compat", "Gauge"),
    "IntCounter": ("._metric:Counter", "Counter"),
    "IntCounterVec": ("._compat:CounterVec", "Counter"),
    "IntGauge": ("._metric:Gauge", "Gauge"),
    "IntGaugeVec": ("._compat:GaugeVec", "Gauge"),
    "RuntimeMetrics": ("._compat", "Metrics"),
}

if not TYPE_CHECKING:  # checkers take it for "any name is there"
    _lazy = lazy_names(__name__, _LAZY | {name: place for name, (place, _) in __former__.items()})

    def __getattr__(name: str) -> object:
        if name in __former__:
            _, successor = __former__[name]
            warnings.warn(
                f"dynamo.metrics.{name} is dynamo.metrics.{successor} now, and goes with version 1.0",
                DeprecationWarning,
                stacklevel=2,
            )
        return _lazy(name)
