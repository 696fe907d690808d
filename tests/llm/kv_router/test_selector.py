"""Weighing workers, where a request or a router asks for something extreme."""

from __future__ import annotations

import math
import random

import pytest
from tests.llm.kv_router.prompts import BLOCK_SIZE, Holdings, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo.llm._kv_router.approx import ApproxIndex
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._kv_router.decision import Decision
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.kv_config import FACTOR_MAX
from dynamo.llm._kv_router.route import Desk
from dynamo.llm._kv_router.selector import Overlaps, Selector
from dynamo.llm._routing import RouterConfigOverride

IDS = [1, 2]


@pytest.mark.parametrize("temperature", [0.0, 1e-320, FACTOR_MAX])
def test_the_highest_factors_leave_costs_that_are_numbers(temperature: float) -> None:
    config = KvRouterConfig(overlap_score_credit_decay=FACTOR_MAX, decode_active_request_weight=FACTOR_MAX)
    at = desk(FixedWorkers(IDS), {1: 8}, config=config)
    one = asked(list(range(100_000)))
    one.override = RouterConfigOverride(
        overlap_score_credit=FACTOR_MAX, prefill_load_scale=FACTOR_MAX, router_temperature=temperature
    )
    for _ in range(3):
        route = at.route(one, BLOCK_SIZE)
        assert route.choose(IDS) in IDS
        decision = route.decision
        assert decision is not None
        assert all(math.isfinite(candidate.cost) for candidate in decision.candidates)
        assert Decision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize(
    ("overlaps", "sent", "num_without_hit"), [(None, None, 0), (Holdings(), None, 3), (None, ApproxIndex(), 0)]
)
def test_where_nothing_is_known_of_caches_no_prompt_counts_as_without_a_hit(
    overlaps: Overlaps | None, sent: ApproxIndex | None, num_without_hit: int
) -> None:
    selector = Selector(Fleet(FixedWorkers(IDS)), KvRouterConfig(), random.Random(0), overlaps=overlaps, sent=sent)
    at = Desk(selector, lambda: 0.0)
    for _ in range(4):
        at.route(asked(list(range(20))), BLOCK_SIZE).choose(IDS)
    stats = selector.stats
    assert (stats.repeated_prompts, stats.repeated_prompts_without_hit) == (3, num_without_hit)
