"""What is asked at a scrape: callbacks, functions of gauges, and the texts of engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as EngineCounter
from tests.metrics.reading import World

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.metrics import Metrics, scope
from dynamo.metrics._collect import TEXT_CHARS_MAX, collect
from dynamo.metrics._metrics import CALLBACKS_MAX
from dynamo.metrics._scope import PROCESS, Scope


def fails() -> float:
    raise LookupError("no numbers")


async def coroutine() -> float:
    return 1.0


class Coroutine:
    async def __call__(self) -> float:
        return 1.0


# Functions.


def test_a_gauge_is_what_its_function_returns_at_each_scrape(world: World) -> None:
    jobs = [1, 2, 3]
    world.metrics.gauge("jobs", "Jobs that wait", function=lambda: len(jobs))
    assert world.value("jobs") == 3
    jobs.clear()
    assert world.value("jobs") == 0


def test_a_function_counts_and_not_what_was_set(world: World) -> None:
    used = world.metrics.gauge("used", "Memory that is used", ("gpu",))
    used.labels(0).set(5)
    used.labels(1).set(6)
    used.labels(1).set_function(lambda: 0.5)
    assert (world.value("used", gpu="0"), world.value("used", gpu="1")) == (5, 0.5)


def test_a_later_function_takes_the_place_of_an_earlier_one(world: World) -> None:
    size = world.metrics.gauge("size", "A size", function=lambda: 1)
    size.set_function(lambda: 2)
    assert world.value("size") == 2


def test_a_function_that_fails_costs_nobody_else_anything(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.metrics.gauge("broken", "No number", function=fails)
    world.metrics.gauge("text", "No number", function=lambda: "many")  # type: ignore[arg-type, return-value]
    world.metrics.gauge("nan", "Nothing to say", function=lambda: math.nan)
    world.metrics.counter("apples", "Apples").inc()
    assert world.value("apples_total") == 1
    assert world.value("broken") is world.value("text") is None
    assert math.isnan(world.value("nan") or 0)
    assert "no numbers" in caplog.text


def test_a_gauge_with_labels_has_a_function_for_each_value(world: World) -> None:
    with pytest.raises(InvalidArgument, match=r"use size.labels\(kind=...\)"):
        world.metrics.gauge("size", "A size", ("kind",), function=lambda: 1)


# Callbacks.


def test_a_callback_is_called_before_anything_is_collected(world: World) -> None:
    used = world.metrics.gauge("used", "Memory that is used")
    sizes = iter((1, 2))
    world.metrics.on_scrape(lambda: used.set(next(sizes)))
    assert [world.value("used"), world.value("used")] == [1, 2]


def test_what_a_callback_sets_has_the_labels_of_its_scope(world: World) -> None:
    used = world.anywhere.gauge("used", "Memory that is used")
    world.metrics.on_scrape(lambda: used.set(1))
    assert world.value("used") == 1


def test_a_callback_is_not_called_after_its_end(world: World) -> None:
    calls = world.metrics.counter("calls", "Calls")
    end = world.metrics.on_scrape(calls.inc)
    world.read()
    for _ in range(2):
        end()
    assert world.value("calls_total") == 1


def test_a_callback_that_fails_costs_nobody_else_anything(world: World, caplog: pytest.LogCaptureFixture) -> None:
    called = world.metrics.counter("called", "Calls")
    world.metrics.on_scrape(fails)  # type: ignore[arg-type]
    world.metrics.on_scrape(called.inc)
    assert world.value("called_total") == 1
    assert "no numbers" in caplog.text


def test_the_callbacks_of_a_scope_are_bounded(world: World) -> None:
    for _ in range(CALLBACKS_MAX):
        world.metrics.on_scrape(lambda: None)
    with pytest.raises(DynamoError, match="a scope may have 256 callbacks"):
        world.metrics.on_scrape(lambda: None)


def test_callbacks_of_another_scope_are_not_called(world: World) -> None:
    elsewhere = Metrics(Scope("shop", "Stock", "count"), world.registry)
    calls = world.metrics.counter("calls", "Calls")
    elsewhere.on_scrape(calls.inc)
    world.read()
    assert calls.get() == 0


def test_a_callback_that_was_added_within_a_scope_is_called_in_it(world: World) -> None:
    used = world.anywhere.gauge("used", "Memory that is used")
    world.metrics.name_model("llama")
    world.metrics.on_scrape(lambda: used.set(1))
    assert world.value("used", model="llama") == 1


# Texts.


def engine_text() -> bytes:
    """What an engine with a registry of its own says."""
    registry = CollectorRegistry()
    EngineCounter("engine_steps", "Steps", ["rank"], registry=registry).labels("0").inc(7)
    Histogram("engine_step_seconds", "How long a step took", buckets=(1,), registry=registry).observe(0.5)
    return generate_latest(registry)


def test_the_text_of_an_engine_is_shown_with_the_labels_of_the_scope(world: World) -> None:
    world.metrics.name_model("llama")
    world.metrics.add_text(engine_text)
    assert world.value("engine_steps_total", rank="0", model="llama") == 7
    assert world.value("engine_step_seconds_bucket", le="1.0", model="llama") == 1
    assert not [name for name, _ in world.read() if "created" in name]


def test_labels_that_a_text_has_itself_are_kept(world: World) -> None:
    world.metrics.add_text(lambda: 'x{model="own",dynamo_endpoint="mine"} 1\n')
    assert world.value("x", model="own", dynamo_endpoint="mine") == 1


def test_several_texts_may_tell_of_one_metric(world: World) -> None:
    other = Scope("shop", "Stock", "count")
    for scoped in (world.metrics, Metrics(other, world.registry)):
        scoped.add_text(lambda: "# TYPE x gauge\nx 1\n")
    metrics = {metric.name: metric for metric in collect([world.scope, other], world.registry)}
    assert [sample.labels["dynamo_component"] for sample in metrics["x"].samples] == ["Till", "Stock"]


def test_of_two_texts_that_tell_the_same_the_first_counts(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        world.metrics.add_text(lambda number=number: f"# TYPE x gauge\nx {number}\n")  # type: ignore[misc]
    world.metrics.add_text(lambda: "# TYPE x_total counter\nx_total 3\n")
    assert world.value("x") == 1
    assert caplog.text.count("two texts of /metrics tell different things of x") == 2


@pytest.mark.parametrize(
    "text",
    [
        lambda: "this is {no metric",
        lambda: b"\xff\xfe",
        lambda: 'x{a="\ud800"} 1\n',
        lambda: "# HELP x \ud800\nx 1\n",
        lambda: "x" * (TEXT_CHARS_MAX + 1),
        lambda: None,
        fails,
    ],
)
def test_a_text_that_cannot_be_read_is_left_out_with_a_line_in_the_log(
    world: World, text: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    world.metrics.add_text(text)
    world.metrics.add_text(lambda: "good 1\n")
    assert world.value("good") == 1
    assert "what is asked for /metrics has failed, and is left out" in caplog.text


@pytest.mark.parametrize("kind", ["info", "stateset", "gaugehistogram"])
def test_a_type_that_the_text_format_does_not_have_is_read_as_none(world: World, kind: str) -> None:
    world.metrics.add_text(lambda: f"# TYPE x {kind}\nx 1\n")
    assert world.value("x") == 1


def test_a_text_with_the_names_of_openmetrics_is_read(world: World) -> None:
    world.metrics.add_text(lambda: "# TYPE x counter\nx_total 2\n")
    assert world.value("x_total") == 2


def test_a_text_is_not_shown_after_its_end(world: World) -> None:
    world.metrics.add_text(lambda: "good 1\n")()
    assert world.value("good") is None


@pytest.mark.parametrize("function", [None, 3, coroutine, Coroutine(), partial(coroutine), lambda number: number])
def test_what_cannot_be_asked_at_a_scrape_is_refused(world: World, function: Callable[[], float]) -> None:
    with pytest.raises(InvalidArgument, match=r"callback=.* is not allowed: give a function without arguments"):
        world.metrics.on_scrape(function)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"text=.* is not allowed: give a function without arguments"):
        world.metrics.add_text(function)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"function=.* is not allowed: give a function without arguments"):
        world.metrics.gauge("size", "A size").set_function(function)


def test_what_is_asked_for_in_a_scope_of_its_own_is_asked_with_that_around_it(world: World) -> None:
    size = world.anywhere.gauge("size", "A size")
    with scope(namespace="shop", component="Till", endpoint="sell", model="llama"):
        size.set_function(lambda: 4)
    read = [sample for metric in collect([PROCESS], world.registry) for sample in metric.samples]
    assert [sample.labels["model"] for sample in read if sample.name == "size"] == ["llama"]
