"""Counters, gauges and histograms: what they count, what they are called, and what they refuse."""

from __future__ import annotations

import enum
import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.metrics.reading import World

from dynamo._core.errors import ConfigError, DynamoError, InvalidArgument
from dynamo.metrics import DEFAULT_BUCKETS, Counter, Gauge, Histogram, Metrics, counter, gauge, histogram
from dynamo.metrics._checks import BUCKETS_MAX, LABELS_MAX, NAME_CHARS_MAX
from dynamo.metrics._processes import VARIABLE
from dynamo.metrics._registry import METRICS_MAX

THREADS = 4
INCREMENTS = 2_000


# What they count.


def test_a_counter_adds_ints_and_floats(world: World) -> None:
    apples = world.metrics.counter("apples", "Apples that were sold")
    apples.inc()
    apples.inc(2)
    apples.inc(0.5)
    apples.inc(0)
    assert apples.get() == world.value("apples_total") == 3.5


def test_a_gauge_goes_up_and_down(world: World) -> None:
    waiting = world.metrics.gauge("waiting", "Requests that wait")
    waiting.set(10)
    waiting.inc()
    waiting.inc(2.5)
    waiting.dec()
    waiting.dec(20)
    assert waiting.get() == world.value("waiting") == -7.5
    waiting.set(math.inf)
    assert world.value("waiting") == math.inf


def test_a_histogram_counts_by_upper_bounds(world: World) -> None:
    took = world.metrics.histogram("took_seconds", "How long it took", buckets=(0.1, 1))
    for seconds in (0.1, 0.5, 7):
        took.observe(seconds)
    assert [world.value("took_seconds_bucket", le=le) for le in ("0.1", "1.0", "+Inf")] == [1, 2, 3]
    assert (took.get_count(), took.get_sum()) == (3, 7.6)


def test_without_buckets_a_histogram_suits_durations_up_to_five_minutes(world: World) -> None:
    world.metrics.histogram("took_seconds", "How long it took").observe(299)
    assert DEFAULT_BUCKETS[-1] == 300
    assert world.value("took_seconds_bucket", le="60.0") == 0
    assert world.value("took_seconds_bucket", le="300.0") == 1


def test_labels_are_given_in_order_or_by_name_and_are_text(world: World) -> None:
    sold = world.metrics.counter("sold", "Fruit that was sold", ("kind", "size"))
    sold.labels("apple", 3).inc()
    sold.labels(size="3", kind="apple").inc()
    assert sold.labels("apple", "3") is sold.labels(kind="apple", size=3)
    assert world.value("sold_total", kind="apple", size="3") == 2


def test_a_label_value_that_no_text_can_hold_is_shown_nevertheless(world: World) -> None:
    sold = world.metrics.counter("sold", "Fruit that was sold", ("kind",))
    sold.labels("\ud800").inc()
    sold.labels('"\n\\').inc()
    sold.labels(["unhashable"]).inc()
    kinds = [labels.rpartition("kind=")[2] for name, labels in world.read() if name == "sold_total"]
    assert sorted(kinds) == sorted(["?", '"\n\\', "['unhashable']"])


def test_a_metric_with_labels_shows_nothing_before_one_is_used(world: World) -> None:
    world.metrics.counter("sold", "Fruit that was sold", ("kind",))
    assert [name for name, _ in world.read() if name.startswith("sold")] == []


def test_what_several_threads_count_is_all_there(world: World) -> None:
    sold = world.metrics.counter("sold", "Fruit that was sold", ("kind",))

    def sell(number: int) -> None:
        for _ in range(INCREMENTS):
            sold.labels(f"kind {number % 2}").inc()

    threads = [threading.Thread(target=sell, args=[number]) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sold.labels("kind 0").get() + sold.labels("kind 1").get() == THREADS * INCREMENTS


# One entry point, one name.


def test_metrics_and_the_functions_of_the_module_are_the_same() -> None:
    assert counter("test_same", "One") is Metrics.counter("test_same", "One") is Metrics().counter("test_same", "One")
    assert isinstance(counter("test_same", "One"), Counter)
    assert gauge("test_same_gauge", "One") is Metrics.gauge("test_same_gauge", "One")
    assert isinstance(gauge("test_same_gauge", "One"), Gauge)
    assert histogram("test_same_histogram", "One") is Metrics.histogram("test_same_histogram", "One")
    assert isinstance(histogram("test_same_histogram", "One"), Histogram)


def test_a_method_of_metrics_tells_what_it_does_and_takes() -> None:
    assert "only goes up" in str(Metrics.counter.__doc__)
    assert Metrics.counter.__name__ == "counter"


def test_the_same_name_with_the_same_shape_is_the_same_metric(world: World) -> None:
    metrics = world.metrics
    assert metrics.counter("sold", "Sold", ("kind",)) is metrics.counter("sold_total", "Other words", ["kind"])
    assert metrics.gauge("waiting", "Waiting") is metrics.gauge("waiting", "Waiting")
    assert metrics.histogram("took", "Took", (), (1, 2)) is metrics.histogram("took", "Took", buckets=[1.0, 2.0])


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (lambda m: m.gauge("sold", "Sold", ("kind",)), ["a counter with the labels kind", "a gauge with the labels"]),
        (lambda m: m.counter("sold", "Sold"), ["with the labels kind", "a counter with no labels"]),
        (lambda m: m.counter("sold", "Sold", ("size",)), ["with the labels kind", "with the labels size"]),
        (lambda m: m.histogram("took", "Took", buckets=(1, 3)), ["the buckets 1, 2", "the buckets 1, 3"]),
        (lambda m: m.gauge("waiting", "W", across_processes="sum"), ["across_processes='all'", "='sum'"]),
        (lambda m: m.gauge("sold_total", "Sold"), ["sold_total", "sold", "a gauge", "a counter"]),
        (lambda m: m.counter("took_sum", "Took"), ["took_sum", "took", "a histogram"]),
        (lambda m: m.histogram("other", "O").__class__ and m.gauge("other_bucket", "O"), ["other_bucket"]),
    ],
)
def test_the_same_name_with_another_shape_is_an_error_that_names_both(
    world: World, register: Callable[[Metrics], object], says: list[str]
) -> None:
    world.metrics.counter("sold", "Sold", ("kind",))
    world.metrics.histogram("took", "Took", buckets=(1, 2))
    world.metrics.gauge("waiting", "Waiting")
    with pytest.raises(InvalidArgument) as refused:
        register(world.metrics)
    assert [text for text in says if text not in refused.value.message] == []


def test_metrics_are_bounded_in_number(world: World) -> None:
    for number in range(METRICS_MAX):
        world.metrics.counter(f"c{number}", "One of many")
    world.metrics.counter("c0", "One of many")
    with pytest.raises(DynamoError, match=r"one_more is one too many, of 1024 .* label"):
        world.metrics.counter("one_more", "One too many")


# What they refuse.


@pytest.mark.parametrize("name", ["", "1st", "with-dash", "with space", "ünder", "x" * (NAME_CHARS_MAX + 1), 3, None])
def test_a_name_that_prometheus_does_not_take_is_refused(world: World, name: str) -> None:
    for register in (world.metrics.counter, world.metrics.gauge, world.metrics.histogram):
        with pytest.raises(InvalidArgument, match=r"name=.* is not allowed: a metric is called by letters"):
            register(name, "A metric")


@pytest.mark.parametrize("documentation", ["", "  ", None, 3, "half of \ud800"])
def test_documentation_says_something(world: World, documentation: str) -> None:
    with pytest.raises(InvalidArgument, match=r"documentation=.* is not allowed: say in a sentence"):
        world.metrics.counter("sold", documentation)


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        ("kind", r"labels='kind' .*\(\"kind\",\)"),
        (None, "a sequence of names"),
        ({"kind"}, "a sequence of names"),
        (["bad-label"], "'bad-label' .* letters, digits and _"),
        ([3], "labels=3 .* letters, digits and _"),
        (["dynamo_namespace"], "'dynamo_namespace' .*not for others to set"),
        (["model"], "'model' .*not for others to set"),
        (["le"], "'le' .*not for others to set"),
        (["pid"], "'pid' .*not for others to set"),
        (["__name__"], "'__name__' .*begins with __"),
        (["kind", "kind"], "each label is named once"),
        ([f"label_{number}" for number in range(LABELS_MAX + 1)], "at most 16 labels"),
    ],
)
def test_labels_that_cannot_be_are_refused(world: World, labels: list[str], allowed: str) -> None:
    with pytest.raises(InvalidArgument, match=allowed):
        world.metrics.gauge("waiting", "Waiting", labels)


@pytest.mark.parametrize(
    ("buckets", "allowed"),
    [
        ((), "1 to 64 upper bounds"),
        ((math.inf,), "1 to 64 upper bounds"),
        (tuple(range(BUCKETS_MAX + 1)), "1 to 64 upper bounds"),
        ((1, math.nan), "buckets=nan .* finite number"),
        ((1, "2"), "buckets='2' .* finite number"),
        ((1, 1), "must go up"),
        ((2**60, 2**60 + 1), "must go up"),
        (b"12", "a sequence of upper bounds"),
        ((2, 1), "must go up"),
        ("12", "a sequence of upper bounds"),
        (3, "a sequence of upper bounds"),
    ],
)
def test_buckets_that_cannot_be_are_refused(world: World, buckets: tuple[float, ...], allowed: str) -> None:
    with pytest.raises(InvalidArgument, match=allowed):
        world.metrics.histogram("took", "Took", buckets=buckets)


@pytest.mark.parametrize("amount", [-1, -0.5, math.nan, math.inf, -math.inf, "1", None, 10**400, 1j, np.ones(2)])
def test_a_counter_refuses_what_is_negative_or_no_finite_number(world: World, amount: float) -> None:
    apples = world.metrics.counter("apples", "Apples")
    apples.inc()
    with pytest.raises(InvalidArgument, match=r"^apples: amount=.* is not allowed: give a finite number that is not n"):
        apples.inc(amount)
    assert apples.get() == 1


@pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf, "1", None, 10**400])
def test_gauges_and_histograms_refuse_what_is_no_finite_number(world: World, amount: float) -> None:
    waiting = world.metrics.gauge("waiting", "Waiting")
    took = world.metrics.histogram("took", "Took")
    for use in (waiting.inc, waiting.dec, took.observe):
        with pytest.raises(InvalidArgument, match=r"amount=.* is not allowed: give a finite number"):
            use(amount)
    assert (waiting.get(), took.get_count()) == (0, 0)


@pytest.mark.parametrize("value", ["many", "1", b"1", None, 10**400, object()])
def test_a_gauge_is_set_to_a_number(world: World, value: float) -> None:
    with pytest.raises(InvalidArgument, match=r"waiting: value=.* is not allowed: give a number"):
        world.metrics.gauge("waiting", "Waiting").set(value)


def test_labels_without_values_are_refused_with_what_to_write(world: World) -> None:
    sold = world.metrics.counter("sold", "Sold", ("kind", "size"))
    with pytest.raises(InvalidArgument, match=re.escape("use sold.labels(kind=..., size=...)")):
        sold.inc()


@pytest.mark.parametrize("given", [(), ("a",), ("a", "b", "c")])
def test_as_many_label_values_are_given_as_there_are_labels(world: World, given: tuple[str, ...]) -> None:
    sold = world.metrics.counter("sold", "Sold", ("kind", "size"))
    with pytest.raises(InvalidArgument, match="its labels are kind, size, each of which has one value"):
        sold.labels(*given)


def test_labels_by_name_have_the_names_of_the_labels(world: World) -> None:
    sold = world.metrics.counter("sold", "Sold", ("kind",))
    for values in ({"size": "3"}, {"kind": "a", "size": "3"}):
        with pytest.raises(InvalidArgument, match="its labels are kind"):
            sold.labels(**values)
    with pytest.raises(InvalidArgument, match="its labels are kind"):
        sold.labels("a", kind="a")
    with pytest.raises(InvalidArgument, match="have their values already"):
        sold.labels("a").labels("b")
    with pytest.raises(InvalidArgument, match="it has no labels"):
        world.metrics.counter("plain", "Plain").labels("a")


def test_a_gauge_says_one_of_four_things_across_processes(world: World) -> None:
    with pytest.raises(InvalidArgument, match="across_processes='mean' is not allowed: give one of"):
        world.metrics.gauge("waiting", "Waiting", across_processes="mean")  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1000) | st.floats(0, 1e6))))
def test_for_all_increments_the_sum_is_what_is_read(increments: list[tuple[str, float]]) -> None:
    world = World()
    sold = world.metrics.counter("sold", "Sold", ("kind",))
    for kind, amount in increments:
        sold.labels(kind).inc(amount)
    for kind in ("a", "b"):
        expected = 0.0
        for each, amount in increments:
            expected += amount if each == kind else 0
        assert (world.value("sold_total", kind=kind) or 0) == expected


# What it costs to be there.


def test_prometheus_is_imported_with_the_first_metric_and_not_before() -> None:
    program = (
        "import sys, dynamo.metrics, dynamo.runtime, dynamo.sdk, dynamo.llm; "
        "assert 'prometheus_client' not in sys.modules; dynamo.metrics.counter"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_directory_for_several_processes_that_is_missing_is_said_when_a_metric_is_made() -> None:
    program = "from dynamo.metrics import counter; counter('sold', 'Sold')"
    environment = {"PYTHONPATH": ":".join(sys.path), VARIABLE: "/nowhere/at/all"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ConfigError.__name__ in ended.stderr
    assert f"{VARIABLE}='/nowhere/at/all' is not a directory: make it, empty" in ended.stderr


# What people have at hand.


@pytest.mark.parametrize("amount", [np.float32(2), np.int64(2), np.uint8(2), Fraction(2)])
def test_numbers_of_other_libraries_are_numbers(world: World, amount: float) -> None:
    apples, waiting = world.metrics.counter("apples", "Apples"), world.metrics.gauge("waiting", "Waiting")
    took = world.metrics.histogram("took", "Took")
    for use in (apples.inc, waiting.inc, took.observe):
        use(amount)
    assert apples.get() == waiting.get() == took.get_sum() == 2
    assert type(apples.get()) is type(took.get_sum()) is float


class Kind(str, enum.Enum):  # noqa: UP042  # as older code has it
    RED = "red"


def test_a_member_of_an_enum_of_text_is_the_same_label_value_as_its_text(world: World) -> None:
    apples = world.metrics.counter("apples", "Apples", ("kind",))
    for value in (Kind.RED, "red", Kind.RED):
        apples.labels(value).inc()
    assert world.value("apples_total", kind="red") == 3


def test_a_label_value_that_cannot_be_text_is_refused(world: World) -> None:
    apples = world.metrics.counter("apples", "Apples", ("kind",))
    with pytest.raises(InvalidArgument, match=r"labels\(<int that cannot be shown: ValueError>\) is not allowed"):
        apples.labels(10**5000)


@pytest.mark.parametrize("value", ["\ud800", "a\nb", '"', "\\", "\0", "\r\n", "\u2028", b"\xff", None, math.nan])
def test_whatever_a_label_says_the_page_can_be_read(world: World, value: object) -> None:
    world.metrics.counter("apples", "Apples", ("kind",)).labels(value).inc()
    text = str(value).encode("utf-8", "replace").decode()
    assert world.value("apples_total", kind=text) == 1
