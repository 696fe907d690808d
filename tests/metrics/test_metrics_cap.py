"""Label values without end: bounded, counted, told of once a minute, and never an error."""

from __future__ import annotations

import pytest
from tests.metrics.reading import World

from dynamo.metrics import scope
from dynamo.metrics._family import LABEL_VALUE_CHARS_MAX, LABEL_VALUES_MAX, OTHER, REFUSALS_LOGGED_EVERY_S

REFUSED = "dynamo_metrics_label_values_refused_total"
TOO_MANY = 7


def refused(world: World, metric: str) -> float:
    return world.read()[REFUSED, f"metric={metric}"]


def other(world: World, name: str, **labels: str) -> float | None:
    """The sample that stands for all that were too many."""
    written = [f"{label}={value}" for label, value in sorted({"user": OTHER, **labels}.items())]
    return world.read().get((name, ",".join(written)))


def test_what_is_too_many_is_counted_together_so_that_the_sum_stays_right(world: World) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    for number in range(LABEL_VALUES_MAX + TOO_MANY):
        asked.labels(f"user {number}").inc(2)
    values = [value for (name, _), value in world.read().items() if name == "asked_total"]
    assert len(values) == LABEL_VALUES_MAX + 1
    assert sum(values) == 2 * (LABEL_VALUES_MAX + TOO_MANY)
    assert other(world, "asked_total") == 2 * TOO_MANY
    assert refused(world, "asked") == TOO_MANY


def test_what_was_there_before_goes_on(world: World) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    first = asked.labels("first")
    for number in range(LABEL_VALUES_MAX + TOO_MANY):
        asked.labels(f"user {number}").inc()
    before = refused(world, "asked")
    first.inc()
    asked.labels("user 3").inc()
    assert world.value("asked_total", user="user 3") == 2
    assert refused(world, "asked") == before + 1  # the first one was never used before


def test_a_part_that_is_kept_counts_each_time_that_it_is_too_many(world: World) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    for number in range(LABEL_VALUES_MAX):
        asked.labels(f"user {number}").inc()
    late = asked.labels("late")
    for _ in range(3):
        late.inc()
    assert refused(world, "asked") == other(world, "asked_total") == 3


def test_histograms_are_counted_together_and_gauges_left_out(world: World) -> None:
    took = world.metrics.histogram("took", "How long it took", ("user",), (1,))
    waiting = world.metrics.gauge("waiting", "Who waits", ("user",))
    for number in range(LABEL_VALUES_MAX + TOO_MANY):
        took.labels(number).observe(0.5)
        waiting.labels(number).set(1)
        waiting.labels(number).inc()
    assert other(world, "took_count") == other(world, "took_bucket", le="1.0") == TOO_MANY
    assert other(world, "waiting") is None
    assert waiting.labels(LABEL_VALUES_MAX).get() == 0
    assert refused(world, "took") == TOO_MANY
    assert refused(world, "waiting") == 2 * TOO_MANY + 1


def test_the_functions_of_a_gauge_are_bounded_as_well(world: World) -> None:
    size = world.metrics.gauge("size", "How much there is", ("user",))
    for number in range(LABEL_VALUES_MAX + TOO_MANY):
        size.labels(number).set_function(lambda: 1)
    assert len([name for name, _ in world.read() if name == "size"]) == LABEL_VALUES_MAX
    assert refused(world, "size") == TOO_MANY


def test_a_value_that_is_too_long_is_one_too_many(world: World) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    asked.labels("x" * LABEL_VALUE_CHARS_MAX).inc()
    asked.labels("x" * (LABEL_VALUE_CHARS_MAX + 1)).inc()
    assert other(world, "asked_total") == refused(world, "asked") == 1


def test_attached_labels_count_as_well(world: World) -> None:
    asked = world.anywhere.counter("asked", "Requests")
    for number in range(LABEL_VALUES_MAX + TOO_MANY):
        with scope(model=f"model {number}"):
            asked.inc()
    assert world.read()["asked_total", ""] == refused(world, "asked") == TOO_MANY


def test_nothing_is_kept_for_what_is_too_many(world: World) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    for number in range(LABEL_VALUES_MAX):
        asked.labels(number).inc()
    assert asked.labels("late") is not asked.labels("late")
    remembered = len(world.scope.found)
    asked.labels("late").inc()
    assert len(world.scope.found) == remembered


def test_parts_that_were_asked_for_and_never_used_let_nothing_grow(world: World) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    for number in range(LABEL_VALUES_MAX):
        asked.labels(number)
    for _ in range(TOO_MANY):
        asked.labels("late").inc()  # there is room for its series
    assert world.value("asked_total", user="late") == TOO_MANY
    assert len(world.scope.found) == 0


def test_it_is_logged_once_a_minute(world: World, caplog: pytest.LogCaptureFixture) -> None:
    asked = world.metrics.counter("asked", "Requests of users", ("user",))
    for number in range(LABEL_VALUES_MAX):
        asked.labels(number).inc()
    assert caplog.messages == []
    for _ in range(3):
        asked.labels("late").inc()
    (told,) = caplog.messages
    assert told.startswith("the metric asked has been given more than 1000 combinations of label values")
    world.now_s += REFUSALS_LOGGED_EVERY_S - 1
    asked.labels("late").inc()
    assert len(caplog.messages) == 1
    world.now_s += 1
    asked.labels("late").inc()
    assert "(5 times)" in caplog.messages[1]


def test_a_metric_that_is_well_says_zero(world: World) -> None:
    world.metrics.counter("asked", "Requests")
    assert refused(world, "asked") == 0
