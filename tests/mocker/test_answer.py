"""What a simulated engine says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import InvalidArgument
from dynamo.llm import PreprocessedRequest, SamplingOptions
from dynamo.mocker._answer import VOCABULARY, answer_to, log_prob, vocabulary_of

PROMPTS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20)


def tokens(asked: PreprocessedRequest, count: int = 20, vocabulary: range = VOCABULARY) -> list[int]:
    answer = answer_to(asked, vocabulary)
    return [answer[index] for index in range(count)]


def test_the_answer_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert tokens(PreprocessedRequest("m", [1, 2, 3]), 5) == [1843, 24425, 18803, 4405, 19196]


@given(prompt=PROMPTS, seed=st.integers(0, 3) | st.none())
def test_another_prompt_or_another_seed_is_another_answer(prompt: list[int], seed: int | None) -> None:
    asked = PreprocessedRequest("m", prompt, sampling_options=SamplingOptions(seed=seed))
    assert tokens(asked) == tokens(asked)
    assert tokens(asked) != tokens(PreprocessedRequest("m", [*prompt, 0], sampling_options=asked.sampling_options))
    assert tokens(asked) != tokens(PreprocessedRequest("m", prompt, sampling_options=SamplingOptions(seed=4)))


@given(prompt=PROMPTS)
def test_it_says_ordinary_tokens(prompt: list[int]) -> None:
    assert all(token in VOCABULARY and log_prob(token) < 0 for token in tokens(PreprocessedRequest("m", prompt)))


@given(prompt=PROMPTS, eos=st.sets(st.integers(0, 7), max_size=7))
def test_a_token_that_ends_a_sequence_is_never_said(prompt: list[int], eos: set[int]) -> None:
    asked = PreprocessedRequest("m", prompt, eos_token_ids=sorted(eos))
    assert eos.isdisjoint(tokens(asked, vocabulary=range(8)))


def test_a_vocabulary_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="leave none"):
        answer_to(PreprocessedRequest("m", [1], eos_token_ids=[0, 1]), range(2))


@pytest.mark.parametrize("token", [-1, 2**32])
def test_what_is_no_token_id_is_refused(token: int) -> None:
    with pytest.raises(InvalidArgument, match="token ids must be"):
        answer_to(PreprocessedRequest("m", [token]))


@pytest.mark.parametrize(("size", "expected"), [(2, range(2)), (2048, range(1000, 2048)), (2**18, VOCABULARY)])
def test_a_small_vocabulary_is_used_whole_and_of_a_large_one_the_words(size: int, expected: range) -> None:
    assert vocabulary_of(size) == expected
