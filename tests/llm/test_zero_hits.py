"""The KV router works, and does not help: that is said."""

from __future__ import annotations

import logging

import pytest
from tests.llm.test_routed_requests import NotedRouter

from dynamo.llm._kv_router.stats import RouterStats
from dynamo.llm._zero_hits import LOOK_S, REPEATS_MIN, ZeroHits


class Counting(NotedRouter):
    """A router with counts that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = RouterStats()

    def queue_lengths(self) -> dict[str, int]:
        return {}

    def index_stats(self) -> None:
        return None

    def num_sent_blocks(self) -> None:
        return None

    def repeat(self, times: int, hits: int) -> None:
        self.stats.repeated_prompts += times
        self.stats.repeated_prompts_without_hit += times - hits

    def expect(self, times: int, hits: int) -> None:
        self.stats.expected_hits += times
        self.stats.expected_hits_missed += times - hits


def test_prompts_that_repeat_without_any_hit_are_a_warning_for_as_long_as_it_is_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    router, watch = Counting(), ZeroHits()
    for _ in range(3):
        router.repeat(REPEATS_MIN, hits=0)
        watch.look({"m": router})
        assert [f"{REPEATS_MIN} prompts began as earlier ones did" in warning for warning in watch.warnings] == [True]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    watch.look({"m": router})
    assert watch.warnings == []


def test_the_warning_says_over_which_time_it_was_counted() -> None:
    router, watch = Counting(), ZeroHits()
    router.repeat(REPEATS_MIN, hits=0)
    watch.look({"m": router})
    (warning,) = watch.warnings
    assert f"'m': lately, within {LOOK_S:.0f} s, {REPEATS_MIN} prompts began" in warning


def test_one_hit_is_enough() -> None:
    router, watch = Counting(), ZeroHits()
    router.repeat(1000, hits=1)
    watch.look({"m": router})
    assert watch.warnings == []


def test_what_is_expected_to_be_cached_and_never_is_there_is_a_warning_too() -> None:
    router, watch = Counting(), ZeroHits()
    router.repeat(REPEATS_MIN, hits=REPEATS_MIN)
    router.expect(REPEATS_MIN, hits=0)
    watch.look({"m": router})
    (warning,) = watch.warnings
    assert "expects what is not there for the model 'm'" in warning
    router.expect(1000, hits=1)
    watch.look({"m": router})
    assert watch.warnings == []


def test_few_repeats_say_nothing() -> None:
    router, watch = Counting(), ZeroHits()
    router.repeat(REPEATS_MIN - 1, hits=0)
    watch.look({"m": router})
    assert watch.warnings == []


def test_a_router_that_was_made_anew_is_seen_from_its_beginning() -> None:
    watch = ZeroHits()
    for _ in range(2):
        router = Counting()
        router.repeat(REPEATS_MIN, hits=0)
        watch.look({"m": router})
        assert len(watch.warnings) == 1


def test_routers_that_count_nothing_are_left_out() -> None:
    watch = ZeroHits()
    watch.look({"m": NotedRouter()})
    assert watch.warnings == []
