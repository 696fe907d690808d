"""The older names work over the metrics there are, and each says what it is called now."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
from tests.metrics.reading import World

import dynamo.metrics
from dynamo.metrics import Counter, Gauge, Metrics

FORMER = {
    "CounterVec": "Counter",
    "GaugeVec": "Gauge",
    "IntCounter": "Counter",
    "IntCounterVec": "Counter",
    "IntGauge": "Gauge",
    "IntGaugeVec": "Gauge",
    "RuntimeMetrics": "Metrics",
}


@pytest.mark.parametrize(("name", "successor"), FORMER.items())
def test_an_older_name_warns_with_its_successor_and_the_version(name: str, successor: str) -> None:
    says = f"dynamo.metrics.{name} is dynamo.metrics.{successor} now, and goes with version 1.0"
    with pytest.warns(DeprecationWarning, match=says) as caught:
        getattr(dynamo.metrics, name)
    assert caught[0].filename == __file__


def test_the_other_names_do_not_warn_one_by_one_or_all_at_once() -> None:
    found: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec("from dynamo.metrics import *", found)  # noqa: S102
    assert set(dynamo.metrics.__all__) <= set(found)
    assert not set(FORMER) & set(found)


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'dynamo.metrics' has no attribute 'Summary'"):
        dynamo.metrics.Summary  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_integers_need_no_types_of_their_own() -> None:
    assert dynamo.metrics.IntCounter is Counter
    assert dynamo.metrics.IntGauge is Gauge
    assert issubclass(Metrics, dynamo.metrics.RuntimeMetrics)


@pytest.mark.parametrize(
    ("use", "name", "successor"),
    [
        (lambda m: m.create_counter("a", "A"), "create_counter", "Metrics.counter"),
        (lambda m: m.create_intcounter("a", "A"), "create_intcounter", "Metrics.counter"),
        (lambda m: m.create_countervec("a", "A", ["x"]), "create_countervec", "Metrics.counter"),
        (lambda m: m.create_intcountervec("a", "A", ["x"]), "create_intcountervec", "Metrics.counter"),
        (lambda m: m.create_gauge("a", "A"), "create_gauge", "Metrics.gauge"),
        (lambda m: m.create_intgauge("a", "A"), "create_intgauge", "Metrics.gauge"),
        (lambda m: m.create_gaugevec("a", "A", ["x"]), "create_gaugevec", "Metrics.gauge"),
        (lambda m: m.create_intgaugevec("a", "A", ["x"]), "create_intgaugevec", "Metrics.gauge"),
        (lambda m: m.create_histogram("a", "A"), "create_histogram", "Metrics.histogram"),
        (lambda m: m.register_callback(lambda: None), "register_callback", "Metrics.on_scrape"),
        (lambda m: m.register_prometheus_expfmt_callback(str), "register_prometheus_expfmt_callback", "Metrics.add"),
        (lambda m: m.counter("a", "A").inc_by(1), "inc_by", "inc"),
        (lambda m: m.gauge("a", "A").inc_by(1), "inc_by", "inc"),
        (lambda m: m.gauge("a", "A").dec_by(1), "dec_by", "dec"),
    ],
)
def test_an_older_method_warns_with_its_successor(
    world: World, use: Callable[[Metrics], object], name: str, successor: str
) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^{name} is {successor}.* now, and goes with version 1.0") as caught:
        use(world.metrics)
    assert (len(caught), caught[0].filename) == (1, __file__)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_that_was_written_with_the_older_names_counts(world: World) -> None:
    metrics = world.metrics
    requests = metrics.create_intcounter("requests_done", "Requests", [("kind", "chat")])
    requests.inc()
    requests.inc_by(2)
    slots = metrics.create_intgauge("slots", "Slots")
    slots.set(3)
    slots.inc_by(2)
    slots.dec_by(1)
    errors = metrics.create_intcountervec("faults", "Faults", ["code"], [("kind", "chat")])
    errors.inc({"code": "500"})
    errors.inc_by({"code": "500"}, 2)
    used = metrics.create_gaugevec("used", "Used", ["gpu"])
    used.set(0.5, {"gpu": "0"})
    used.inc({"gpu": "0"})
    used.dec_by({"gpu": "0"}, 0.25)
    used.inc_by({"gpu": "0"}, 1)
    used.dec({"gpu": "0"})
    took = metrics.create_histogram("took", "Took", [1.0, 2.0])
    metrics.register_callback(lambda: took.observe(1.5))
    metrics.register_prometheus_expfmt_callback(lambda: "engine_up 1\n")
    prefix = "dynamo_component_"
    assert world.value(f"{prefix}requests_done_total", kind="chat") == requests.get() == 3
    assert world.value(f"{prefix}slots") == slots.get() == 4
    assert world.value(f"{prefix}faults_total", code="500", kind="chat") == errors.get({"code": "500"}) == 3
    assert world.value(f"{prefix}used", gpu="0") == used.get({"gpu": "0"}) == 1.25
    assert world.value("engine_up") == 1
    assert took.get_count() == 5  # once at each scrape
