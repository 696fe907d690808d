"""What KV-aware routing must reach, on traces that are short enough to be replayed here: see `docs/replay.md`.

The clock is virtual, so these figures are the same on every machine. Longer traces: `scripts/bench replay`.
"""

from __future__ import annotations

from functools import cache

import pytest

from dynamo.mocker import MockerConfig
from dynamo.replay import STREAM_INTERVAL, Figures, Replay, ReplayConfig, read_policies, synthetic_trace


@cache
def figures(
    name: str, num_requests: int, speedup_ratio: float, policy: str, *, num_workers: int = 4, block_size: int = 64
) -> Figures:
    engine = MockerConfig(block_size=block_size, num_gpu_blocks=2**20 // block_size, stream_interval=STREAM_INTERVAL)
    config = ReplayConfig(num_workers=num_workers, arrival_speedup_ratio=speedup_ratio, engine=engine)
    replay = Replay(synthetic_trace(name, num_requests), read_policies([policy]), config)
    (found,) = replay.run().policies
    assert found.num_failed == 0
    return found


def conversations(policy: str) -> Figures:
    """As fast as round robin can just about bear."""
    return figures("conversation", 500, 1.4, policy)


def no_reuse(policy: str) -> Figures:
    return figures("no-reuse", 400, 1.2, policy)


def test_where_prompts_repeat_the_mean_ttft_is_at_most_a_third_of_that_of_round_robin() -> None:
    assert conversations("kv").ttft_s.mean <= conversations("round-robin").ttft_s.mean / 3


@pytest.mark.parametrize("oracle", ["oracle", "most-cached"])
def test_the_hit_rate_is_within_5_percent_of_that_of_an_oracle_that_sees_all_caches(oracle: str) -> None:
    assert conversations("kv").hit_rate >= 0.95 * conversations(oracle).hit_rate


def test_answers_do_not_come_slower_for_it() -> None:
    kv, other = conversations("kv"), conversations("round-robin")
    assert kv.itl_s.mean <= other.itl_s.mean
    assert kv.itl_s.p99 <= other.itl_s.p99
    assert kv.latency_s.p99 <= other.latency_s.p99


def test_where_nothing_repeats_it_is_never_more_than_5_percent_worse_than_least_loaded() -> None:
    kv, other = no_reuse("kv"), no_reuse("least-loaded")
    assert kv.hit_rate == other.hit_rate == 0.0
    assert kv.ttft_s.p99 <= 1.05 * other.ttft_s.p99
    assert kv.itl_s.p99 <= 1.05 * other.itl_s.p99
    assert kv.latency_s.p99 <= 1.05 * other.latency_s.p99


@pytest.mark.parametrize(
    ("num_workers", "block_size", "rate"),
    [(2, 64, 0.3), (4, 64, 0.3), (8, 64, 0.3), (8, 64, 0.15), (4, 16, 0.3)],
    ids=["two workers", "four workers", "eight workers", "with little to do", "small blocks"],
)
def test_a_system_prompt_that_all_share_does_not_draw_them_to_one_worker(
    num_workers: int, block_size: int, rate: float
) -> None:
    found = figures(
        "shared-system-prompt", 100 * num_workers, rate * num_workers, "kv",
        num_workers=num_workers, block_size=block_size,
    )  # fmt: skip
    assert found.hit_rate > 0.7
    assert found.load_max_over_mean < 1.3
    assert found.requests_max_over_mean < 1.3
