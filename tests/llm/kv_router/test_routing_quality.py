"""What routing by cache is worth, on a model of workers: much where prompts repeat, and nothing is lost where not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from tests.llm.kv_router.worker_model import (
    Cluster,
    Job,
    Outcome,
    kv_sender,
    least_loaded_sender,
    round_robin_sender,
    tokens,
    trace,
)

from dynamo.llm._kv_router.config import KvRouterConfig

NUM_WORKERS = 8


def by_kv(jobs: Sequence[Job], *, seed: int, num_routers: int = 1, are_joined: bool = False) -> Outcome:
    cluster = Cluster(NUM_WORKERS)
    desks = [cluster.kv_desk(random.Random(seed + number)) for number in range(num_routers)]
    if are_joined:
        cluster.join(desks)
    return cluster.run(jobs, kv_sender(cluster, desks, random.Random(seed)))


def by_least_loaded(jobs: Sequence[Job], *, seed: int) -> Outcome:
    cluster = Cluster(NUM_WORKERS)
    return cluster.run(jobs, least_loaded_sender(cluster, random.Random(seed)))


def by_round_robin(jobs: Sequence[Job]) -> Outcome:
    cluster = Cluster(NUM_WORKERS)
    return cluster.run(jobs, round_robin_sender(cluster))


def unlike_prompts(rng: random.Random) -> Callable[[], list[int]]:
    return lambda: tokens(rng, 64 + int(rng.expovariate(1 / 1200)))


def prompts_behind_one_system_prompt(rng: random.Random) -> Callable[[], list[int]]:
    system = tokens(rng, 2048)
    return lambda: system + tokens(rng, 16 + int(rng.expovariate(1 / 400)))


def conversations(rng: random.Random) -> Callable[[], list[int]]:
    histories: dict[int, list[int]] = {}

    def prompt() -> list[int]:
        number = rng.randrange(120)
        history = histories.get(number) or tokens(rng, 1000)
        histories[number] = tokens(rng, 1000) if len(history) > 8000 else history + tokens(rng, 300)
        return histories[number]

    return prompt


@pytest.mark.parametrize("per_s", [20.0, 60.0, 90.0])
def test_where_nothing_repeats_nobody_waits_longer_than_with_least_loaded(per_s: float) -> None:
    rng = random.Random(5)
    jobs = trace(rng, 1200, per_s, unlike_prompts(rng))

    kv = by_kv(jobs, seed=1)
    least_loaded = by_least_loaded(jobs, seed=1)

    assert kv.ttft_quantile_s(0.99) <= 1.05 * least_loaded.ttft_quantile_s(0.99)
    assert kv.mean_ttft_s <= 1.05 * least_loaded.mean_ttft_s


@pytest.mark.parametrize("num_routers", [1, 4])
@pytest.mark.parametrize("per_s", [30.0, 120.0])
def test_a_system_prompt_that_all_share_does_not_send_all_to_one(per_s: float, num_routers: int) -> None:
    rng = random.Random(6)
    jobs = trace(rng, 1600, per_s, prompts_behind_one_system_prompt(rng))

    kv = by_kv(jobs, seed=2, num_routers=num_routers, are_joined=True)

    assert kv.imbalance < 1.3
    assert kv.mean_ttft_s <= 1.05 * by_least_loaded(jobs, seed=2).mean_ttft_s


def test_routers_that_see_the_same_and_not_each_other_do_not_choose_the_same() -> None:
    rng = random.Random(7)
    at_once = [Job(0.0, tokens(rng, 1024), 100) for _ in range(256)]

    assert by_kv(at_once, seed=3, num_routers=64).imbalance < 1.6


def test_routers_that_do_not_hear_of_each_other_still_spread_a_system_prompt_that_all_share() -> None:
    rng = random.Random(6)
    jobs = trace(rng, 1600, 60.0, prompts_behind_one_system_prompt(rng))

    assert by_kv(jobs, seed=2, num_routers=4).imbalance < 1.5


def test_conversations_stay_where_they_are_cached_and_are_answered_sooner() -> None:
    rng = random.Random(8)
    jobs = trace(rng, 2000, 40.0, conversations(rng))

    kv = by_kv(jobs, seed=4)
    round_robin = by_round_robin(jobs)

    assert kv.hit_rate > 1.5 * round_robin.hit_rate
    assert kv.mean_ttft_s < round_robin.mean_ttft_s / 3
    assert kv.imbalance < 1.3


def test_all_that_was_booked_is_given_back() -> None:
    rng = random.Random(9)
    cluster = Cluster(4)
    desk = cluster.kv_desk(random.Random(1), KvRouterConfig(router_track_output_blocks=True))

    cluster.run(trace(rng, 300, 50.0, conversations(rng)), kv_sender(cluster, [desk], rng))

    loads = desk.selector.fleet.loads(list(cluster.workers))
    assert {(load.num_requests, load.prefill_tokens, load.decode_blocks) for load in loads} == {(0, 0, 0)}
    assert len(desk.selector.fleet.active) == 0
