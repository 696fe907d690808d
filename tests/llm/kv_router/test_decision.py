"""Why a request went where it went, and where none could go."""

from __future__ import annotations

import pytest
from tests.llm.kv_router.prompts import BLOCK_SIZE, book, desk, prompt
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.errors import InvalidArgument, NoInstances, Overloaded
from dynamo.llm._kv_router.config import KvRouterConfig, LoadThresholdConfig
from dynamo.llm._kv_router.decision import ChosenBy, Decision, Decisions
from dynamo.llm._kv_router.load import Tracking
from dynamo.llm._kv_router.route import Desk, KvRoute
from dynamo.llm._routing import Asked, RouterConfigOverride, RoutingConstraints

TOKENS = list(range(40))


def routed(at: Desk, ids: list[int], one: Asked | None = None) -> KvRoute:
    route = at.route(one or asked(TOKENS), BLOCK_SIZE)
    route.choose(ids)
    return route


def decision(at: Desk, ids: list[int], one: Asked | None = None) -> Decision:
    found = routed(at, ids, one).decision
    assert found is not None
    return found


def reasons(found: Decision) -> dict[int, str | None]:
    return {one.worker_id: one.why_it_lost for one in found.candidates}


def test_a_decision_names_the_terms_of_every_candidate() -> None:
    at = desk(FixedWorkers([1, 2]), {1: 4})
    book(at.selector.fleet, at.selector.fleet.loads([1, 2])[1], prompt(8, first=500))

    one, two = decision(at, [1, 2]).candidates

    assert (one.overlap_blocks, one.active_prefill_tokens, one.prefill_blocks, one.decode_blocks) == (4, 0, 6.0, 10)
    assert (two.overlap_blocks, two.active_prefill_tokens, two.prefill_blocks, two.decode_blocks) == (0, 8, 20.0, 12)
    assert (one.cost, two.cost, two.active_requests) == (4 * 6.0 + 10, 4 * 20.0 + 12 + 50, 1)


def test_predicted_tokens_are_never_the_whole_prompt() -> None:
    found = decision(desk(FixedWorkers([1]), {1: 10}), [1])
    assert (found.num_tokens, found.predicted_cached_tokens) == (40, 36)


def test_the_last_token_of_a_partial_block_is_computed_anyway() -> None:
    found = decision(desk(FixedWorkers([1]), {1: 10}), [1], asked(list(range(42))))
    assert found.predicted_cached_tokens == 40


def test_a_worker_with_less_cached_lost_for_that() -> None:
    found = decision(desk(FixedWorkers([1, 2]), {1: 8, 2: 3}), [1, 2])
    assert reasons(found) == {1: None, 2: "it has 3 of 10 blocks cached, not 8"}


def test_a_worker_with_more_to_compute_lost_for_that() -> None:
    at = desk(FixedWorkers([1, 2]), {1: 2})
    fleet = at.selector.fleet
    book(fleet, fleet.loads([1, 2])[0], prompt(100, first=500), tracking=Tracking(active_blocks=False))
    assert reasons(decision(at, [1, 2]))[1] == "it has 100 tokens to compute before this request, not 0"


def test_a_worker_that_holds_more_lost_for_that() -> None:
    at = desk(FixedWorkers([1, 2]))
    book(at.selector.fleet, at.selector.fleet.loads([1, 2])[0], prompt(400, first=500)).complete_prefill()
    assert reasons(decision(at, [1, 2]))[1] == "it would hold 110 blocks, not 10"


def test_a_worker_with_more_requests_lost_for_that() -> None:
    at = desk(FixedWorkers([1, 2]))
    book(at.selector.fleet, at.selector.fleet.loads([1, 2])[0], prompt(100, first=500)).complete_prefill()
    assert reasons(decision(at, [1, 2]))[1] == "it has 1 requests, not 0"


def test_a_worker_that_costs_as_much_lost_the_draw() -> None:
    found = decision(desk(FixedWorkers([1, 2])), [1, 2])
    assert sorted(reasons(found).values(), key=str) == [None, "it costs as much: another was drawn"]


def test_or_has_more_requests() -> None:
    at = desk(FixedWorkers([1, 2]), config=KvRouterConfig(decode_active_request_weight=0.0))
    book(at.selector.fleet, at.selector.fleet.loads([1, 2])[0], prompt(0))
    assert reasons(decision(at, [1, 2]))[1] == "it costs as much, and has 1 requests more"


def test_with_a_temperature_a_cheaper_worker_may_lose_the_draw() -> None:
    config = KvRouterConfig(router_temperature=100.0)
    found = [decision(desk(FixedWorkers([1, 2]), {1: 8}, config=config, seed=seed), [1, 2]) for seed in range(20)]
    assert {one.chosen_by for one in found} == {ChosenBy.TEMPERATURE}
    assert "it is not dearer, but the draw or the policy fell on another one" in {reasons(one)[1] for one in found}


def test_round_robin_would_have_gone_elsewhere() -> None:
    at = desk(FixedWorkers([1, 2, 3]), {2: 5})
    others = [decision(at, [1, 2, 3]).round_robin for _ in range(3)]
    assert [(one.worker_id, one.cached_tokens) for one in others if one] == [(1, 0), (2, 20), (3, 0)]


def test_a_decision_is_the_same_after_a_trip_through_json() -> None:
    found = decision(desk(FixedWorkers([1, 2]), {1: 8}), [1, 2])
    assert Decision.from_json(found.to_json()) == found


def test_a_decision_is_readable_in_a_terminal() -> None:
    one = asked(TOKENS)
    one.context.request_id = "r1"
    one.constraints = RoutingConstraints(required_taints=frozenset({"fast"}))
    cards = {1: {"taints": ["fast"]}, 2: {"taints": ["fast"]}}

    text = decision(desk(FixedWorkers([1, 2, 3], cards), {1: 8}), [1, 2, 3], one).render()

    assert text.splitlines() == [
        "request r1: 40 tokens, 10 blocks of 4",
        "  went to 1, chosen by cost; 32 tokens expected in its cache; waited 0.0 ms",
        "  round robin: 1, with 32 tokens in its cache",
        "",
        "worker  cached  to compute  to hold  requests   cost",
        "1            8         2.0       10         0   18.0  taken",
        "2            0        26.0       10         0  114.0  it has 0 of 10 blocks cached, not 8",
        "cost: 4 * to compute + to hold + 50 * requests; "
        "to compute what others have cached counts 3 times, divided by how many have it",
        "3 did not come into question: the request requires the taint fast",
    ]


@pytest.mark.parametrize(
    ("config", "overlaps", "formula"),
    [
        (KvRouterConfig(), {}, "4 * to compute + to hold + 50 * requests"),
        (
            KvRouterConfig(
                prefill_load_scale=1.0, decode_active_request_weight=0.0, share_overlap_score_credit=False,
                overlap_score_credit=1.0,
            ),
            {1: 4},
            "1 * to compute + to hold; 1 * cached is taken off what is to compute",
        ),
        (KvRouterConfig(overlap_score_credit_decay=0.5), {1: 4},
         "4 * to compute + to hold + 50 * requests; "
         "to compute what others have cached counts up to 3 times, divided by how many have it"),
        (KvRouterConfig(router_track_prefill_tokens=False), {}, "to hold + 50 * requests"),
        (KvRouterConfig(router_track_prefill_tokens=False), {1: 4},
         "to hold + 50 * requests; to hold what it has cached does not count, and what others have cached counts "
         "3 times, divided by how many have it"),
        (KvRouterConfig(router_track_prefill_tokens=False, share_overlap_score_credit=False), {1: 4},
         "max(to hold - 3 * cached, 0) + 50 * requests"),
    ],
)  # fmt: skip
def test_a_decision_says_how_its_costs_are_made(config: KvRouterConfig, overlaps: dict[int, int], formula: str) -> None:
    assert decision(desk(FixedWorkers([1, 2]), overlaps, config=config), [1, 2]).cost_formula == formula


def test_and_that_what_the_request_prefers_multiplies_them() -> None:
    one = asked(TOKENS)
    one.constraints = RoutingConstraints(preferred_taints={"fast": 1.0})
    found = decision(desk(FixedWorkers([1, 2], {1: {"taints": ["fast"]}})), [1, 2], one)
    assert found.cost_formula == (
        "4 * to compute + to hold + 50 * requests; times the factor beside it, for what the request or its session "
        "prefers"
    )
    assert f"{found.candidates[0].cost:.1f} (times 0.47)  taken" in found.render()


def test_only_the_most_recent_decisions_are_kept() -> None:
    at, recent = desk(FixedWorkers([1])), Decisions(2)
    for request_id in ("a", "b", "a", "c"):
        one = asked(TOKENS)
        one.context.request_id = request_id
        weighed = routed(at, [1], one).weighed
        assert weighed is not None
        recent.add(weighed)
    assert [one.request_id for one in recent.recent()] == ["c", "a"]
    assert recent.get("b") is None
    assert recent.get("a") is not None


def test_a_worker_that_is_named_takes_the_request_whatever_it_costs() -> None:
    found = decision(desk(FixedWorkers([1, 2]), {1: 8}), [1, 2], asked(TOKENS, pinned=2))
    assert (found.worker_id, found.chosen_by) == (2, ChosenBy.PINNED)
    assert [(one.worker_id, one.why) for one in found.excluded] == [(1, "the request names instance 2")]


def test_a_rank_that_is_named_takes_the_request() -> None:
    at = desk(FixedWorkers([1], {1: {"data_parallel_size": 3}}))
    one = asked(TOKENS)
    one.pinned_dp_rank = 2
    assert routed(at, [1], one).dp_rank == 2


def test_a_worker_of_one_rank_is_told_of_none() -> None:
    assert routed(desk(FixedWorkers([1])), [1]).dp_rank is None


@pytest.mark.parametrize(
    ("pinned", "rank", "required", "said"),
    [
        (0x7A, None, {"fast"}, "none of the 3 workers that could take the request is instance 7a, which it names"),
        (None, 5, set(), "none of the 3 workers that could take the request has the data parallel rank 5, which"),
        (1, 1, {"fast"}, "instance 1, which the request names, does not have the data parallel rank 1, which"),
        (1, None, {"fast"}, "instance 1, which the request names, does not have all the taints that the request "),
        (1, None, {"fast", "eu"}, "requires, eu, fast: it lacks fast; the taints that there are: eu"),
        (None, 1, {"eu"}, "workers that could take the request has all the taints that the request requires, eu: no"),
        (None, None, {"moon", "mars", "eu"}, "requires, eu, mars, moon: no worker has mars, moon; the taints"),
        (None, None, {"eu", "fast"}, "requires, eu, fast: they are at different workers; the taints that there are: "),
    ],
)
def test_where_the_requests_wishes_leave_nobody_it_is_said_which_of_them(
    pinned: int | None, rank: int | None, required: set[str], said: str
) -> None:
    cards: dict[int, dict[str, object]] = {
        1: {"taints": ["eu"]},
        2: {"taints": ["fast"]},
        3: {"data_parallel_size": 3, "taints": []},
    }
    one = asked(TOKENS, pinned=pinned)
    one.pinned_dp_rank = rank
    one.constraints = RoutingConstraints(required_taints=frozenset(required))
    with pytest.raises(NoInstances) as caught:
        routed(desk(FixedWorkers([1, 2, 3], cards)), [1, 2, 3], one)
    assert said in str(caught.value)


def test_so_many_taints_are_named_that_the_message_stays_short() -> None:
    taints = [f"taint-{number:02}" for number in range(40)]
    one = asked(TOKENS)
    one.constraints = RoutingConstraints(required_taints=frozenset({"mars"}))
    with pytest.raises(NoInstances, match=r"taint-00, .*, taint-15, \.\.\.$"):
        routed(desk(FixedWorkers([1], {1: {"taints": taints}})), [1], one)


@pytest.mark.parametrize(
    ("thresholds", "why"),
    [
        (LoadThresholdConfig(0.5), "holds 25 of 40 blocks"),
        (LoadThresholdConfig(None, 99), "has 100 tokens to compute, over 99"),
        (LoadThresholdConfig(None, None, 1.5), "over 1.5 times 64"),
    ],
)
def test_a_busy_worker_gets_nothing_while_another_one_is_not(thresholds: LoadThresholdConfig, why: str) -> None:
    cards = {id: {"total_kv_blocks": 40, "max_num_batched_tokens": 64} for id in (1, 2)}
    at = desk(FixedWorkers([1, 2], cards), {1: 10}, thresholds=thresholds)
    fleet = at.selector.fleet
    book(fleet, fleet.loads([1, 2])[0], prompt(100, first=500))

    found = decision(at, [1, 2])

    assert found.worker_id == 2
    assert why in found.excluded[0].why


def test_where_all_are_busy_the_request_is_refused() -> None:
    at = desk(FixedWorkers([1, 2]), thresholds=LoadThresholdConfig(None, 99))
    fleet = at.selector.fleet
    for load in fleet.loads([1, 2]):
        book(fleet, load, prompt(100, first=500))
    with pytest.raises(
        Overloaded, match=r"all 2 workers .* are busy; .* has 100 tokens to compute, over 99"
    ) as refused:
        routed(at, [1, 2])
    assert refused.value.details["code"] == "all_workers_busy"


def test_a_request_may_want_to_be_weighed_otherwise() -> None:
    one = asked(TOKENS)
    one.override = RouterConfigOverride(overlap_score_credit=0.0)
    at = desk(FixedWorkers([1, 2]), {1: 8})
    assert {term.cost for term in decision(at, [1, 2], one).candidates} == {50.0}
    assert {term.cost for term in decision(desk(FixedWorkers([1, 2]), {1: 8}), [1, 2]).candidates} == {18.0, 114.0}


def test_an_override_that_makes_no_sense_is_the_requests_fault() -> None:
    one = asked(TOKENS)
    one.override = RouterConfigOverride(router_temperature=-1.0)
    with pytest.raises(InvalidArgument, match="router_temperature is -1"):
        routed(desk(FixedWorkers([1])), [1], one)


def test_a_request_that_is_tried_again_is_booked_where_it_is_tried_last_and_counted_once() -> None:
    at = desk(FixedWorkers([1, 2]), {1: 8})
    route = routed(at, [1, 2])

    assert route.choose([2]) == 2

    assert [load.num_requests for load in at.selector.fleet.loads([1, 2])] == [0, 1]
    assert (at.selector.stats.decisions, at.selector.stats.predicted_cached_blocks) == (1, 8)
    route.close()
    assert [load.num_requests for load in at.selector.fleet.loads([1, 2])] == [0, 0]


def test_a_route_that_nobody_could_take_leaves_nothing() -> None:
    at = desk(FixedWorkers([1]))
    route = routed(at, [1])
    with pytest.raises(NoInstances):
        route.choose([])
    route.close()
    assert at.selector.fleet.loads([1])[0].num_requests == 0


def test_prompts_that_repeat_without_a_hit_are_counted() -> None:
    at = desk(FixedWorkers([1]))
    for _ in range(3):
        routed(at, [1]).close()
    stats = at.selector.stats
    assert (stats.prompt_blocks, stats.repeated_prompts, stats.repeated_prompts_without_hit) == (30, 2, 2)


def test_a_prompt_that_is_not_told_goes_to_the_worker_with_the_fewest_requests() -> None:
    at = desk(FixedWorkers([1, 2]))
    unknown = asked([])
    unknown.token_ids = None
    taken = [routed(at, [1, 2], unknown).choose([1, 2]) for _ in range(4)]
    assert sorted(taken) == [1, 1, 2, 2]
