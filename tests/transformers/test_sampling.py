"""How the next token is chosen, without a model."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo._core.errors import InvalidArgument
from dynamo.llm import SamplingOptions
from dynamo.transformers._sampling import Sampler, Turn, Warp, choose

warps = st.builds(
    Warp,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 100]),
    top_p=st.sampled_from([0.1, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.2]),
)


def turn(warp: Warp, seed: int = 0, *, frequency_penalty: float = 0.0, presence_penalty: float = 0.0) -> Turn:
    sampler = Sampler(warp, random.Random(seed), frequency_penalty=frequency_penalty, presence_penalty=presence_penalty)
    return Turn(sampler, [1, 2, 3])


def chosen(logits: torch.Tensor, turns: list[Turn]) -> list[int]:
    return [choice.token_id for choice in choose(logits, turns) if choice is not None]


@settings(deadline=None)
@given(st.lists(st.tuples(warps, st.integers(0, 99)), min_size=1, max_size=6))
def test_each_row_gets_what_it_gets_alone(rows: list[tuple[Warp, int]]) -> None:
    logits = torch.randn(len(rows), 40, generator=torch.Generator().manual_seed(len(rows))) * 3
    together = chosen(logits, [turn(*row) for row in rows])
    assert together == [chosen(logits[index : index + 1], [turn(*row)])[0] for index, row in enumerate(rows)]


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    sampler = turn(Warp(), seed=1)
    counts = Counter(chosen(probabilities.log()[None], [sampler])[0] for _ in range(4000))
    assert [counts[token] / 4000 for token in range(5)] == pytest.approx(probabilities.tolist(), abs=0.03)
    assert counts[4] == 0


@pytest.mark.parametrize(
    ("warp", "possible"),
    [
        (Warp(top_k=2), {0, 1}),
        (Warp(top_p=0.75), {0, 1}),
        (Warp(min_p=0.25), {0, 1, 2}),
        (Warp(temperature=0.0), {0}),
    ],
    ids=str,
)
def test_only_tokens_that_the_setting_leaves_are_chosen(warp: Warp, possible: set[int]) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    sampler = turn(warp)
    assert {chosen(logits, [sampler])[0] for _ in range(300)} == possible


def test_a_number_just_below_one_does_not_choose_what_has_no_probability() -> None:
    class AlmostOne(random.Random):
        def random(self) -> float:
            return 1 - 2**-53

    logits = torch.zeros(1, 1000)
    logits[:, 500:] = -torch.inf
    assert chosen(logits, [Turn(Sampler(Warp(), AlmostOne()), [1])]) == [499]


def test_a_frequency_penalty_counts_and_a_presence_penalty_does_not() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]])
    often = turn(Warp(0.0), frequency_penalty=0.3)
    once = turn(Warp(0.0), presence_penalty=0.3)
    assert [chosen(logits, [often])[0] for _ in range(4)] == [0, 0, 1, 0]
    assert [chosen(logits, [once])[0] for _ in range(4)] == [0, 0, 0, 0]


def test_a_banned_token_is_not_chosen() -> None:
    sampler = Sampler(Warp(0.0), random.Random(0))
    assert chosen(torch.tensor([[3.0, 2.0, 1.0]]), [Turn(sampler, [1], banned=(0, 1))]) == [2]


def test_log_probabilities_are_those_of_the_model_before_any_setting() -> None:
    sampler = Sampler(Warp(0.5, top_k=1), random.Random(0), repetition_penalty=2.0, num_top_logprobs=2)
    (choice,) = choose(torch.tensor([[0.6, 0.3, 0.1]]).log(), [Turn(sampler, [1])])
    assert choice is not None
    assert choice.log_prob == pytest.approx(torch.tensor(0.6).log().item())
    assert [token for token, _ in choice.top] == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_of_no_numbers_has_no_choice_and_does_not_harm_the_others(bad: float) -> None:
    logits = torch.tensor([[1.0, bad, 0.0], [0.0, 0.0, 9.0]])
    first, second = choose(logits, [turn(Warp()), turn(Warp(0.0))])
    assert first is None
    assert second is not None
    assert second.token_id == 2


@pytest.mark.parametrize("warp", [Warp(), Warp(0.0)], ids=str)
def test_a_row_whose_tokens_are_all_banned_has_no_choice(warp: Warp) -> None:
    sampler = Sampler(warp, random.Random(0), num_top_logprobs=1)
    (choice,) = choose(torch.tensor([[1.0, 2.0, -torch.inf]]), [Turn(sampler, [1], banned=(0, 1))])
    assert choice is None


def test_a_negative_seed_is_not_the_positive_one() -> None:
    first = [Sampler.from_options(SamplingOptions(seed=seed), SamplingOptions(), 0, None) for seed in (5, -5, -5)]
    numbers = [sampler.rng.random() for sampler in first]
    assert numbers[0] != numbers[1] == numbers[2]


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(InvalidArgument, match="min_p=2") as caught:
        Sampler.from_options(SamplingOptions(min_p=2), SamplingOptions(), 0, None)
    assert caught.value.details["param"] == "min_p"
