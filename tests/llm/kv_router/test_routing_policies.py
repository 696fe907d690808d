"""Policies of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.errors import ConfigError, HandlerError
from dynamo.llm._kv_router.decision import ChosenBy
from dynamo.llm._kv_router.policy import Candidate, CustomPolicy, Policy

WORKERS = FixedWorkers([1, 2, 3], {3: {"total_kv_blocks": 99, "taints": ["big"]}})
CACHED = {1: 4, 2: 1}


def highest_id(candidate: Candidate) -> float:
    return -candidate.worker_id


def least_cached(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: candidate.overlap_blocks)


class Biggest:
    def cost(self, candidate: Candidate) -> float:
        return candidate.cost - 1000 * (candidate.total_kv_blocks or 0) - 1000 * ("big" in candidate.taints)


class Second:
    def choose(self, candidates: list[Candidate]) -> Candidate:
        return candidates[1]


def chosen(policy: Policy | None) -> int:
    return desk(WORKERS, CACHED, policy=policy).route(asked(list(range(40))), BLOCK_SIZE).choose([1, 2, 3])


def test_without_a_policy_the_cost_decides() -> None:
    assert chosen(None) == 1


@pytest.mark.parametrize(("policy", "worker_id"), [(highest_id, 3), (least_cached, 3), (Biggest(), 3), (Second(), 2)])
def test_a_policy_decides(policy: Policy, worker_id: int) -> None:
    assert chosen(policy) == worker_id


def test_a_policy_in_a_line_decides() -> None:
    assert chosen(lambda candidate: -candidate.worker_id) == 3


def test_a_decision_says_that_a_policy_made_it() -> None:
    route = desk(WORKERS, CACHED, policy=highest_id).route(asked(list(range(40))), BLOCK_SIZE)
    route.choose([1, 2, 3])
    assert route.decision is not None
    assert route.decision.chosen_by is ChosenBy.POLICY
    assert [one.cost for one in route.decision.candidates] == [-1, -2, -3]


@pytest.mark.parametrize("policy", [lambda worker: 1.0, lambda: 1.0, lambda a, b: 1.0, 7, "x:y"])
def test_what_is_no_policy_is_refused_with_what_would_be_one(policy: object) -> None:
    with pytest.raises(ConfigError, match="a function of `candidate`"):
        CustomPolicy(policy)  # type: ignore[arg-type]


def fails(candidate: Candidate) -> float:
    raise RuntimeError("no idea")


def not_finite(candidate: Candidate) -> float:
    return float("nan")


def somebody_else(candidates: list[Candidate]) -> Candidate:
    return Candidate(9, 0, 0, 0, 0, 0, 0, 0, 0, None, frozenset(), 0.0)


@pytest.mark.parametrize(
    ("policy", "why"), [(fails, "no idea"), (not_finite, "not finite"), (somebody_else, "none of the candidates")]
)
def test_a_policy_that_fails_fails_the_request_and_is_named(policy: Policy, why: str) -> None:
    at = desk(WORKERS, CACHED, policy=policy)
    with pytest.raises(HandlerError, match=f"{getattr(policy, '__name__')} failed: .*{why}"):  # noqa: B009
        at.route(asked(list(range(40))), BLOCK_SIZE).choose([1, 2, 3])
    assert all(load.num_requests == 0 for load in at.selector.fleet.loads([1, 2, 3]))


def test_a_policy_is_imported_by_its_name_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "routing_policy_of_a_test.py").write_text(
        "class Mine:\n    def cost(self, candidate):\n        return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert CustomPolicy.load("routing_policy_of_a_test:Mine").name == "Mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mine", "module:function"),
        ("no_such_module_here:x", "No module named"),
        ("json:no_such_name", "no attribute"),
        ("json:loads", "no routing policy"),
    ],
)
def test_a_name_that_is_of_no_policy_is_refused_with_the_reason(
    name: str, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why):
        CustomPolicy.load(name)
