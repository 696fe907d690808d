"""A trace, replayed: who gets the requests, what is measured, and that it is the same each time."""

from __future__ import annotations

import msgspec
import pytest

from dynamo._core.blocks import sequence_hashes
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.virtual_clock import run_virtually
from dynamo.llm import Candidate, KvRouterConfig
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._routing import Asked
from dynamo.mocker import MockerConfig
from dynamo.replay import (
    Figures,
    Goals,
    Replay,
    ReplayConfig,
    Report,
    TracedRequest,
    read_policies,
    synthetic_trace,
)
from dynamo.replay._cluster import Cluster, open_cluster
from dynamo.replay._drive import Driver

ENGINE = MockerConfig(block_size=64, num_gpu_blocks=512, max_context_length=16_384, stream_interval=8)
CONFIG = ReplayConfig(num_workers=3, engine=ENGINE)

#: Ten times the same 40 blocks, a second apart, with a question of their own behind.
SAME = [TracedRequest(float(at), 2624, 4, [*range(40), 1000 + at], 64) for at in range(10)]


def replayed(requests: list[TracedRequest], *names: str, config: ReplayConfig = CONFIG) -> dict[str, Figures]:
    return {one.policy: one for one in Replay(requests, read_policies(names), config).run().policies}


def test_the_kv_router_sends_equal_prompts_to_one_worker_and_round_robin_to_each() -> None:
    figures = replayed(SAME, "kv", "round-robin")
    assert sorted(one.num_requests for one in figures["kv"].workers) == [0, 0, 10]
    assert sorted(one.num_requests for one in figures["round-robin"].workers) == [3, 3, 4]
    # Nine find 40 of 41 blocks, and seven do.
    assert figures["kv"].hit_rate == pytest.approx(9 * 40 / 410)
    assert figures["round-robin"].hit_rate == pytest.approx(7 * 40 / 410)
    assert figures["kv"].ttft_s.mean < figures["round-robin"].ttft_s.mean


def test_a_replay_gives_the_same_report_each_time() -> None:
    def report() -> Report:
        requests = synthetic_trace("conversation", 40)
        config = ReplayConfig(num_workers=2, engine=MockerConfig(stream_interval=32), seed=3)
        return Replay(requests, read_policies(["kv", "random", "power-of-two"]), config).run()

    assert report().to_json() == report().to_json()


def test_every_request_ends_with_as_many_tokens_as_in_the_trace() -> None:
    requests = synthetic_trace("toolagent", 30)
    driver = Driver(requests)

    async def main() -> None:
        async with open_cluster(read_policies(["kv"])[0], MockerConfig(stream_interval=32), 2) as cluster:
            await driver.run(cluster)
            for engine in cluster.engines.values():
                engine.check()
                assert (engine.num_requests_running, engine.num_requests_waiting) == (0, 0)

    run_virtually(main())
    assert [one.num_tokens for one in driver.outcomes] == [request.output_length for request in requests]
    assert [one.sent_s for one in driver.outcomes] == pytest.approx([request.arrival_s for request in requests])
    assert all(one.is_done for one in driver.outcomes)


async def seen_by_truth(cluster: Cluster, request: TracedRequest, serial: int) -> dict[WorkerKey, int]:
    asked = Asked(request=None, context=None, token_ids=request.token_ids(serial))  # type: ignore[arg-type]
    hashes = Prompt.of(asked, ENGINE.block_size).tokens_hashes
    held = {
        WorkerKey(id): sum(one in engine.block_hashes() for one in sequence_hashes(hashes))
        for id, engine in cluster.engines.items()
    }
    assert cluster.truth.find(hashes) == {key: blocks for key, blocks in held.items() if blocks}
    return held


def test_the_oracle_knows_exactly_what_the_engines_hold() -> None:
    requests = [TracedRequest(at / 10, 6400, 3, [at % 7, *range(100 * at, 100 * at + 99)], 64) for at in range(30)]

    async def main() -> None:
        async with open_cluster(read_policies(["random"])[0], ENGINE, 3) as cluster:
            await Driver(requests).run(cluster)
            held = [await seen_by_truth(cluster, request, at) for at, request in enumerate(requests)]
            # Some was thrown out, and some was not.
            assert {0, 100} <= {blocks for one in held for blocks in one.values()}
            sizes = {WorkerKey(id): len(engine.block_hashes()) for id, engine in cluster.engines.items()}
            assert cluster.truth.workers() == sizes

    run_virtually(main())


def test_the_oracle_knows_at_once_what_events_tell_later() -> None:
    # A router asks a worker that it meets for all it holds, so the first prompt is known either way.
    prefixes = [[*range(40 * at, 40 * at + 40)] for at in range(4)]
    requests = [TracedRequest(at / 2, 2624, 1, [*prefixes[at // 3], 1000 + at], 64) for at in range(12)]
    late = ReplayConfig(num_workers=3, engine=ENGINE, event_delay_s=60.0)
    figures = replayed(requests, "kv", "oracle", config=late)
    assert figures["oracle"].hit_rate == pytest.approx(8 * 40 / 492)
    assert figures["kv"].hit_rate < figures["oracle"].hit_rate


def test_a_closed_loop_keeps_so_many_running() -> None:
    requests = [TracedRequest(1000.0 * at, 640, 20, [], 64) for at in range(9)]
    config = ReplayConfig(num_workers=3, engine=ENGINE, replay_concurrency=3)
    (figures,) = replayed(requests, "least-loaded", config=config).values()
    assert figures.duration_s < 10.0
    assert [one.num_requests for one in figures.workers] == [3, 3, 3]
    assert sum(one.load for one in figures.workers) == pytest.approx(3.0, rel=0.01)


def test_requests_come_faster_if_they_are_to() -> None:
    fast = ReplayConfig(num_workers=3, engine=ENGINE, arrival_speedup_ratio=4.0)
    assert replayed(SAME, "kv")["kv"].duration_s > 9.0
    assert replayed(SAME, "kv", config=fast)["kv"].duration_s < 3.0


def test_requests_that_an_engine_refuses_are_counted_with_the_reason() -> None:
    tiny = MockerConfig(block_size=64, num_gpu_blocks=64, max_num_seqs=1, max_context_length=4096, stream_interval=8)
    requests = [TracedRequest(0.0, 640, 200, [], 64) for _ in range(40)]
    (figures,) = replayed(requests, "round-robin", config=ReplayConfig(num_workers=1, engine=tiny)).values()
    assert (figures.num_requests, figures.num_failed, figures.errors) == (40, 8, {"overloaded": 8})
    assert sum(one.num_requests for one in figures.workers) == 32


def test_goodput_counts_requests_that_keep_both_goals() -> None:
    def goodput(ttft_s: float, itl_s: float) -> float:
        config = ReplayConfig(num_workers=3, engine=ENGINE, goals=Goals(ttft_s, itl_s))
        return replayed(SAME, "kv", config=config)["kv"].goodput

    assert goodput(10.0, 10.0) == 1.0
    # The first computes all of its prompt.
    assert goodput(0.05, 10.0) == 0.9
    assert goodput(10.0, 1e-6) == 0.0


def test_a_replay_that_is_interrupted_tells_what_there_is() -> None:
    def interrupt(policy: str, count: int) -> None:
        if policy == "kv" and count == 4:
            raise KeyboardInterrupt

    replay = Replay(SAME, read_policies(["round-robin", "kv", "random"]), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        replay.run(interrupt)
    report = replay.report()
    assert not report.is_complete
    assert [(one.policy, one.num_requests) for one in report.policies] == [("round-robin", 10), ("kv", 4)]


def test_a_policy_of_your_own_is_replayed_by_its_name() -> None:
    (policy,) = read_policies([f"{__name__}:the_last_worker"])
    (figures,) = Replay(SAME, [policy], CONFIG).run().policies
    assert max(one.num_requests for one in figures.workers) == 10


def the_last_worker(candidates: list[Candidate]) -> Candidate:
    return max(candidates, key=lambda one: one.worker_id)


def test_policies_get_the_options_of_the_kv_router() -> None:
    blind = read_policies(["kv"], KvRouterConfig(overlap_score_credit=0.0))
    (figures,) = Replay(SAME, blind, CONFIG).run().policies
    assert max(one.num_requests for one in figures.workers) < 10


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["fastest"], "there is no policy 'fastest' to replay with; there are round-robin"),
        (["direct"], "there is no policy 'direct'"),
        (["round-robin", "nowhere:policy"], "there is no module 'nowhere'"),
        ([], "from 1 to 16 policies, and these are 0"),
    ],
)
def test_a_policy_that_is_unknown_is_refused(names: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Replay(SAME, read_policies(names), CONFIG).run()


@pytest.mark.parametrize(
    "setting", [{"num_workers": 0}, {"arrival_speedup_ratio": 0.0}, {"replay_concurrency": 0}, {"event_delay_s": -1.0}]
)
def test_a_cluster_that_makes_no_sense_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ReplayConfig(**setting)  # type: ignore[arg-type]


def test_the_workers_of_a_replay_listen_nowhere_whatever_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")
    report = Replay(SAME[:2], read_policies(["kv"]), CONFIG).run()
    assert report.policies[0].num_failed == 0


def test_a_request_that_is_too_long_for_the_engines_is_refused_before_it_begins() -> None:
    with pytest.raises(InvalidArgument, match="a request of 20001 tokens with its answer, and the engines take 16384"):
        Replay([TracedRequest(0.0, 20_000, 1, [])], read_policies(["kv"]), CONFIG)


def test_a_report_is_read_again_from_its_json() -> None:
    report = Replay(SAME[:2], read_policies(["kv", "random"]), CONFIG).run()
    read = msgspec.json.decode(report.to_json())
    assert [one["policy"] for one in read["policies"]] == ["kv", "random"]
    assert read["policies"][0]["hit_rate"] == report.policies[0].hit_rate
