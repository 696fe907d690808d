"""Policies of one's own."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

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
    assert not route.decision.cost_formula  # it is the policy's own
    assert [one.cost for one in route.decision.candidates] == [-1, -2, -3]


@pytest.mark.parametrize("number", [2, Fraction(1, 2), Decimal("0.5"), True])
def test_a_cost_is_any_finite_number(number: float) -> None:
    assert chosen(lambda candidate: number if candidate.worker_id == 2 else 10.0) == 2


def test_a_policy_is_imported_by_its_name_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "routing_policy_of_a_test.py").write_text(
        "class Mine:\n    def cost(self, candidate):\n        return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert CustomPolicy.load("routing_policy_of_a_test:Mine").name == "routing_policy_of_a_test:Mine"
