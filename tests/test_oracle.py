"""The oracle keeps its word, or no test that asks it means anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.oracle import FIRST_TOKEN_ID, VOCABULARY, OracleEngine, tokens

from dynamo._core.context import Context
from dynamo.llm import PreprocessedRequest, SamplingOptions, StopConditions

PROMPTS = st.lists(st.integers(0, 3000), min_size=1, max_size=20)


@given(prompt=PROMPTS, at=st.integers(0, 30), seed=st.integers(0, 3) | st.none())
def test_a_prompt_with_the_first_tokens_goes_on_with_the_rest(prompt: list[int], at: int, seed: int | None) -> None:
    sampling = SamplingOptions(seed=seed)
    whole = tokens(prompt, 31, sampling)
    assert tokens(prompt + whole[:at], 31 - at, sampling) == whole[at:]
    assert all(FIRST_TOKEN_ID <= token < FIRST_TOKEN_ID + VOCABULARY for token in whole)


@given(prompt=PROMPTS, at=st.integers(0, 15))
def test_one_token_more_or_less_changes_everything_after_it(prompt: list[int], at: int) -> None:
    whole = tokens(prompt, 40)
    lost, doubled = whole[:at] + whole[at + 1 : 20], whole[:at] + whole[at : at + 1] * 2 + whole[at + 1 : 20]
    for wrong in (lost, doubled):
        assert tokens(prompt + wrong, 20) != whole[len(wrong) : len(wrong) + 20]


def test_another_seed_is_another_answer() -> None:
    assert tokens([1, 2], 20, SamplingOptions(seed=1)) != tokens([1, 2], 20, SamplingOptions(seed=2))


async def test_the_engine_gives_what_the_oracle_says_one_by_one() -> None:
    request = PreprocessedRequest("m", [5, 6], StopConditions(max_tokens=9))
    outputs = [output async for output in OracleEngine().generate(request, Context())]
    assert [output.token_ids for output in outputs] == [[token] for token in tokens([5, 6], 9)]
    assert [output.finish_reason for output in outputs] == [None] * 8 + ["length"]
