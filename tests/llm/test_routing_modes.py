"""The simple ways to choose a worker: what each looks at, and that what it counts comes back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument, NoInstances
from dynamo.llm._kv_router.config import RouterMode
from dynamo.llm._mode_decision import ModeDecision
from dynamo.llm._routing import Asked, RouterConfigOverride, RoutingConstraints
from dynamo.llm._routing_modes import ModeRoute, ModeRouter

CHOOSING = [mode for mode in RouterMode if mode not in (RouterMode.Direct, RouterMode.KV)]


class FixedWorkers:
    """Workers that a test makes up."""

    def __init__(self, configs: Mapping[int, Mapping[str, object]]) -> None:
        self.configs = dict(configs)

    def instance_ids(self) -> list[int]:
        return sorted(self.configs)

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        return self.configs.get(instance_id, {})


class Scene:
    """A router over workers, and a clock that stands still unless it is set."""

    def __init__(
        self,
        mode: RouterMode,
        workers: int | Mapping[int, Mapping[str, object]] = 3,
        *,
        session_ttl_s: float | None = None,
    ) -> None:
        configs = {id: {} for id in range(1, workers + 1)} if isinstance(workers, int) else workers
        self.workers = FixedWorkers(configs)
        self.now = 0.0
        self.router = ModeRouter(mode, self.workers, random.Random(1), lambda: self.now, session_ttl_s=session_ttl_s)

    async def send(self, *ids: int, **asked: object) -> tuple[int, ModeRoute]:
        """Send a request, with these instances to choose from, or all."""
        route = await self.router.place(Asked(request=None, context=Context(), **asked))  # type: ignore[arg-type]
        return route.choose(list(ids) or self.workers.instance_ids()), route


def decision_of(route: ModeRoute) -> ModeDecision:
    assert route.decision is not None
    return route.decision


async def test_random_uses_every_worker() -> None:
    scene = Scene(RouterMode.Random)
    taken = Counter([(await scene.send())[0] for _ in range(300)])
    assert len(taken) == 3
    assert min(taken.values()) > 50


async def test_round_robin_takes_them_in_turn_however_they_come_and_go() -> None:
    scene = Scene(RouterMode.RoundRobin)
    assert [(await scene.send())[0] for _ in range(4)] == [1, 2, 3, 1]
    assert [(await scene.send(1, 3))[0] for _ in range(3)] == [3, 1, 3]


async def test_the_least_loaded_takes_the_next_request() -> None:
    scene = Scene(RouterMode.LeastLoaded)
    first = [await scene.send() for _ in range(3)]
    assert sorted(id for id, _ in first) == [1, 2, 3]
    freed, route = first[1]
    route.close()
    assert (await scene.send())[0] == freed


async def test_requests_that_stay_are_spread_evenly_by_the_least_loaded() -> None:
    scene = Scene(RouterMode.LeastLoaded, 7)
    counts = Counter([(await scene.send())[0] for _ in range(100)])
    assert max(counts.values()) - min(counts.values()) <= 1


async def test_power_of_two_never_takes_the_most_loaded_of_all() -> None:
    scene = Scene(RouterMode.PowerOfTwoChoices)
    for _ in range(5):
        await scene.send(2)
    assert 2 not in {(await scene.send())[0] for _ in range(8)}


async def test_power_of_two_is_much_more_even_than_chance() -> None:
    async def most(mode: RouterMode) -> int:
        scene = Scene(mode, 50)
        return max(Counter([(await scene.send())[0] for _ in range(500)]).values())

    assert await most(RouterMode.PowerOfTwoChoices) <= 13 < await most(RouterMode.Random)


async def test_a_device_that_weighs_more_gets_so_many_more_requests() -> None:
    scene = Scene(RouterMode.DeviceAwareWeighted, {1: {"device_weight": 8.0}, 2: {"device_weight": 1}, 3: {}})
    assert Counter([(await scene.send())[0] for _ in range(100)]) == {1: 80, 2: 10, 3: 10}


@pytest.mark.parametrize("weight", [0, -1.0, "8", True, None])
async def test_a_weight_that_makes_no_sense_is_1(weight: object) -> None:
    scene = Scene(RouterMode.DeviceAwareWeighted, {1: {"device_weight": weight}, 2: {}})
    assert Counter([(await scene.send())[0] for _ in range(10)]) == {1: 5, 2: 5}


async def test_direct_obeys_the_request_and_refuses_one_that_names_nobody() -> None:
    scene = Scene(RouterMode.Direct)
    assert (await scene.send(pinned_instance=2))[0] == 2
    with pytest.raises(InvalidArgument, match="each request must name its worker") as caught:
        await scene.send()
    assert caught.value.details["param"] == "nvext.backend_instance_id"


@pytest.mark.parametrize("mode", CHOOSING)
async def test_a_request_that_names_its_worker_gets_it_in_every_mode(mode: RouterMode) -> None:
    scene = Scene(mode)
    assert {(await scene.send(pinned_instance=2))[0] for _ in range(20)} == {2}
    with pytest.raises(NoInstances, match="none of the 3 workers"):
        await scene.send(pinned_instance=9)


@pytest.mark.parametrize("mode", CHOOSING)
async def test_required_taints_are_heeded_in_every_mode(mode: RouterMode) -> None:
    scene = Scene(mode, {1: {}, 2: {"taints": ["gpu", "eu"]}, 3: {"taints": ["eu"]}})
    wanted = RoutingConstraints(required_taints=frozenset(["eu"]))
    assert {(await scene.send(constraints=wanted))[0] for _ in range(40)} == {2, 3}
    with pytest.raises(NoInstances, match=r"mars: no worker has mars; the taints that there are: eu, gpu$"):
        await scene.send(constraints=RoutingConstraints(required_taints=frozenset(["mars"])))


async def test_ranks_count_as_workers_and_the_request_says_which_takes_it() -> None:
    scene = Scene(RouterMode.LeastLoaded, {1: {"data_parallel_size": 3}, 2: {}})
    routes = [await scene.send() for _ in range(4)]
    assert Counter(id for id, _ in routes) == {1: 3, 2: 1}
    assert {route.dp_rank for id, route in routes if id == 1} == {0, 1, 2}
    assert [route.dp_rank for id, route in routes if id == 2] == [None]
    assert (await scene.send(pinned_dp_rank=2))[1].dp_rank == 2


async def test_a_second_choice_takes_the_booking_along() -> None:
    scene = Scene(RouterMode.LeastLoaded, 2)
    first, route = await scene.send()
    (other,) = {1, 2} - {first}
    assert route.choose([other]) == other
    assert scene.router.num_requests() == 1
    assert {(await scene.send())[0]} == {first}


async def test_weights_of_the_kv_router_are_refused() -> None:
    scene = Scene(RouterMode.LeastLoaded)
    with pytest.raises(InvalidArgument, match="is for the router mode kv, and this one is least-loaded"):
        await scene.send(override=RouterConfigOverride(router_temperature=1.0))


@pytest.mark.parametrize("mode", CHOOSING)
async def test_a_session_stays_with_its_worker_until_it_has_been_idle(mode: RouterMode) -> None:
    scene = Scene(mode, 20, session_ttl_s=60.0)
    first, _ = await scene.send(session_id="one")
    for _ in range(30):
        scene.now += 50.0
        assert (await scene.send(session_id="one"))[0] == first
    after = set()
    for _ in range(30):
        scene.now += 61.0
        after.add((await scene.send(session_id="one"))[0])
    assert len(after) > 1


async def test_a_session_whose_worker_may_not_take_it_gets_another() -> None:
    scene = Scene(RouterMode.Random, 3, session_ttl_s=60.0)
    first, _ = await scene.send(session_id="one")
    others = [id for id in (1, 2, 3) if id != first]
    second, _ = await scene.send(*others, session_id="one")
    assert second in others
    assert (await scene.send(session_id="one"))[0] == second


async def test_a_decision_says_what_each_worker_had_and_who_was_taken() -> None:
    scene = Scene(RouterMode.LeastLoaded, 2)
    first, _ = await scene.send()
    taken, route = await scene.send()
    decision = decision_of(route)
    assert (decision.mode, decision.worker_id, decision.chosen_by) == ("least-loaded", taken, "the mode")
    assert {one.worker_id: one.active_requests for one in decision.candidates} == {first: 1, taken: 0}
    assert f"went to {taken}, chosen by the mode" in decision.render()
    assert [one.request_id for one in scene.router.decisions.recent(1)] == [decision.request_id]


async def test_a_worker_that_does_not_come_into_question_is_named_with_the_reason() -> None:
    scene = Scene(RouterMode.Random, {1: {"taints": ["eu"]}, 2: {}})
    _, route = await scene.send(constraints=RoutingConstraints(required_taints=frozenset(["eu"])))
    assert "2 did not come into question: the request requires the taint eu" in decision_of(route).render()


async def test_only_so_many_decisions_are_kept() -> None:
    scene = Scene(RouterMode.Random)
    for _ in range(600):
        await scene.send()
    assert len(scene.router.decisions.recent(10_000)) == 512
    assert scene.router.decisions.get("unknown") is None


async def test_what_is_booked_with_a_worker_that_is_gone_for_good_counts_no_more() -> None:
    scene = Scene(RouterMode.LeastLoaded, 2)
    for _ in range(10):
        await scene.send(1)
    gone = scene.workers.configs.pop(1)
    for _ in range(100):
        scene.now += 1.0
        await scene.send(2)
    scene.workers.configs[1] = gone
    assert {(await scene.send())[0] for _ in range(100)} == {1}


@given(
    mode=st.sampled_from(CHOOSING),
    seed=st.integers(0, 1000),
    steps=st.lists(
        st.tuples(st.sampled_from(["send", "again", "close", "close twice", "come", "go"]), st.integers(0, 9))
    ),
)
async def test_counts_return_to_zero_whatever_happens(
    mode: RouterMode, seed: int, steps: list[tuple[str, int]]
) -> None:
    scene = Scene(mode, 4)
    routes: list[ModeRoute] = []
    for what, number in steps:
        scene.now += number
        if what == "send" and scene.workers.configs:
            routes.append((await scene.send())[1])
        elif what == "come":
            scene.workers.configs[number] = {"data_parallel_size": 1 + number % 3}
        elif what == "go":
            scene.workers.configs.pop(number, None)
        elif routes:
            route = routes[number % len(routes)]
            if what == "again" and (ids := scene.workers.instance_ids()):
                route.choose(ids)
            elif what.startswith("close"):
                route.close()
                if what == "close twice":
                    route.close()
    for route in routes:
        route.close()
    assert scene.router.num_requests() == 0
