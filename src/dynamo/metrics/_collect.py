"""What a scrape reads: callbacks are called, then every series is collected, then functions and texts are asked.

Whatever fails is left out and logged: one broken callback must not cost a scraper all other numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dynamo._core.errors import InvalidArgument
from dynamo.metrics._processes import collect_all_processes, is_shared, own_pid, with_pid
from dynamo.metrics._registry import REGISTRY, Registry
from dynamo.metrics._scope import ATTACHED_LABELS, Attached, Hooks, Scope, current_scope

#: What a text may have at a scrape.
TEXT_CHARS_MAX = 8 << 20
#: The types that the text format has; what OpenMetrics has beside them is read as a number of no type.
_TYPES = ("counter", "gauge", "histogram", "summary", "unknown")
#: The counter of what came with a label value too many.
REFUSED = "dynamo_metrics_label_values_refused"

T = TypeVar("T")

logger = logging.getLogger(__name__)


def collect(scopes: Iterable[Scope], registry: Registry = REGISTRY) -> list[Metric]:
    """Return all metrics of a registry, and what the hooks of these scopes add to them."""
    hooks = list({id(scope.hooks): scope.hooks for scope in scopes}.values())
    for each in hooks:
        for scope, callback in list(each.callbacks):
            _ask(scope, callback, None)
    metrics = _collected(registry)
    for each in hooks:
        for name, samples in _computed(each).items():
            if name in metrics:
                _override(metrics[name], samples)
    own = [_refused(registry), *_merged(metric for each in hooks for metric in _told(each))]
    return [*metrics.values(), *(map(with_pid, own) if is_shared() else own)]


def _collected(registry: Registry) -> dict[str, Metric]:
    """What was counted and set, by name."""
    if is_shared():
        known = {family.name: next(iter(family.parent.describe())) for family in registry.families()}
        return known | {metric.name: _tidied(metric) for metric in collect_all_processes()}
    return {family.name: _tidied(next(iter(family.parent.collect()))) for family in registry.families()}


def _tidied(metric: Metric) -> Metric:
    """Leave out the attached labels that have no value, and when a series was made: the page is long without that."""
    created = f"{metric.name}_created"
    metric.samples = [
        sample._replace(labels=_without_empty(sample.labels)) for sample in metric.samples if sample.name != created
    ]
    return metric


def _without_empty(labels: dict[str, str]) -> dict[str, str]:
    return {label: value for label, value in labels.items() if value or label not in ATTACHED_LABELS}


def _attach(attached: Attached, labels: dict[str, str]) -> dict[str, str]:
    return _without_empty(dict(zip(ATTACHED_LABELS, attached, strict=True))) | labels


def _computed(hooks: Hooks) -> dict[str, list[Sample]]:
    """What the functions of gauges say, by the name of the gauge."""
    samples: dict[str, list[Sample]] = {}
    pid = own_pid() if is_shared() else {}
    for (name, _, _), gauge in list(hooks.functions.items()):
        labels = _attach(gauge.scope.attached, gauge.own_labels)
        value = _ask(gauge.scope, partial(_number, gauge.function), None)
        if value is not None:
            samples.setdefault(name, []).append(Sample(name, pid | labels, value))
    return samples


def _number(function: Callable[[], float]) -> float | None:
    return float(function())


def _override(metric: Metric, samples: list[Sample]) -> None:
    """What a function says counts, and not what was set."""
    computed = {frozenset(sample.labels.items()) for sample in samples}
    metric.samples = [sample for sample in metric.samples if frozenset(sample.labels.items()) not in computed]
    metric.samples += samples


def _refused(registry: Registry) -> Metric:
    refused = CounterMetricFamily(REFUSED, "What came with a label value too many", labels=["metric"])
    for family in registry.families():
        refused.add_metric([family.name], family.refused)
    return refused


def _told(hooks: Hooks) -> Iterator[Metric]:
    """What the texts say, with the labels of their scopes."""
    for scope, text in list(hooks.texts):
        metrics: list[Metric] = _ask(scope, partial(_parsed, text), [])
        for metric in metrics:
            metric.samples = [
                sample._replace(labels=_attach(scope.attached, sample.labels)) for sample in metric.samples
            ]
            yield metric


def _parsed(tell: Callable[[], str | bytes]) -> list[Metric]:
    text = tell()
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidArgument(f"a text of {len(text)} characters is not read: at most {TEXT_CHARS_MAX} are")
    # Encoded and decoded: what UTF-8 does not have would cost a scraper the whole page.
    families: Iterable[Metric] = text_string_to_metric_families(
        (text if isinstance(text, bytes) else text.encode()).decode()
    )
    metrics = [metric for metric in families if metric.samples]
    for metric in metrics:
        if metric.type not in _TYPES:
            metric.type = "unknown"
    measured = {metric.name for metric in metrics}
    # When a series was made is a metric of its own in this format, and a clash of names in the other one.
    return [metric for metric in metrics if metric.name.removesuffix("_created") not in measured - {metric.name}]


def _merged(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Several texts may tell of one metric, each of its own series."""
    by_name: dict[str, Metric] = {}
    for metric in metrics:
        first = by_name.setdefault(metric.name, metric)
        if first is metric:
            continue
        known = {(sample.name, frozenset(sample.labels.items())) for sample in first.samples}
        new = [s for s in metric.samples if (s.name, frozenset(s.labels.items())) not in known]
        if metric.type != first.type or len(new) < len(metric.samples):
            logger.error("two texts of /metrics tell different things of %s: the first one counts", metric.name)
        if metric.type == first.type:
            first.samples = first.samples + new
    return iter(by_name.values())


def _ask(scope: Scope, function: Callable[[], T], otherwise: T) -> T:
    """Call what somebody wants to be asked, in its scope; if it fails, say so and go on."""
    token = current_scope.set(scope)
    try:
        return function()
    except Exception:
        logger.exception("what is asked for /metrics has failed, and is left out")
        return otherwise
    finally:
        current_scope.reset(token)
