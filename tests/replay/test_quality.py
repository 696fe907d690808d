"""What KV-aware routing must reach, on traces that are short enough to be replayed here: see `docs/replay.md`.

The clock is virtual, so these figures are the same on every machine. Longer traces: `scripts/bench replay`.
"""

from __future__ import annotations

from functools import cache

import pytest

from dynamo.llm import KvRouterConfig
from dynamo.replay import Figures, Replay, ReplayConfig, read_policies, synthetic_trace

#: For prompts that are much longer than answers: a block to compute costs more than one to hold, a cache that is used
#: where it is need not be filled again elsewhere, and each request costs time in every step.
FOR_LONG_PROMPTS = KvRouterConfig(prefill_load_scale=4.0, overlap_score_credit=2.0, decode_active_request_weight=10.0)


@cache
def figures(
    name: str, num_requests: int, speedup_ratio: float, policy: str, kv_config: KvRouterConfig, num_workers: int = 4
) -> Figures:
    config = ReplayConfig(num_workers=num_workers, arrival_speedup_ratio=speedup_ratio)
    replay = Replay(synthetic_trace(name, num_requests), read_policies([policy], kv_config), config)
    (found,) = replay.run().policies
    assert found.num_failed == 0
    return found


def conversations(policy: str) -> Figures:
    """As fast as round robin can just about bear."""
    return figures("conversation", 500, 1.4, policy, FOR_LONG_PROMPTS)


def no_reuse(policy: str) -> Figures:
    return figures("no-reuse", 400, 1.2, policy, FOR_LONG_PROMPTS)


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
    ("num_workers", "kv_config"),
    [(4, KvRouterConfig()), (4, FOR_LONG_PROMPTS), (8, FOR_LONG_PROMPTS)],
    ids=["defaults", "for long prompts", "eight workers"],
)
def test_a_system_prompt_that_all_share_does_not_draw_them_to_one_worker(
    num_workers: int, kv_config: KvRouterConfig
) -> None:
    found = figures("shared-system-prompt", 100 * num_workers, 0.3 * num_workers, "kv", kv_config, num_workers)
    assert found.hit_rate > 0.7
    assert found.load_max_over_mean < 1.3
    assert found.requests_max_over_mean < 1.3
