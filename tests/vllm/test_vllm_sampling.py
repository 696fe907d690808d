"""A request in the words of vLLM's `SamplingParams`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import InvalidArgument
from dynamo.llm import OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.vllm._sampling import TOP_P_MIN, sampling_arguments

PROMPT = [5, 6, 7]
VOCAB_SIZE = 2048
I64 = st.integers(-(2**63), 2**63 - 1)


def arguments(
    *,
    token_ids: list[int] = PROMPT,
    stop: StopConditions | None = None,
    sampling: SamplingOptions | None = None,
    logprobs: int | None = None,
    eos: tuple[int, ...] = (),
    num_resumed: int = 0,
    defaults: dict[str, object] | None = None,
) -> dict[str, object]:
    request = PreprocessedRequest(
        "m",
        token_ids,
        stop or StopConditions(max_tokens=9),
        sampling or SamplingOptions(),
        OutputOptions(logprobs=logprobs),
        eos_token_ids=list(eos),
        num_resumed_tokens=num_resumed,
    )
    return sampling_arguments(request, vocab_size=VOCAB_SIZE, defaults=defaults or {})


def test_what_a_request_says_is_said_in_the_words_of_vllm() -> None:
    said = arguments(
        stop=StopConditions(max_tokens=9, min_tokens=3, stop_token_ids=[4], ignore_eos=True),
        sampling=SamplingOptions(
            temperature=0.3, top_p=0.9, top_k=7, min_p=0.1, seed=42, presence_penalty=0.5, frequency_penalty=0.25,
            repetition_penalty=1.5,
        ),
        logprobs=2,
    )  # fmt: skip
    assert said == {
        "max_tokens": 9,
        "min_tokens": 3,
        "ignore_eos": True,
        "stop_token_ids": [4],
        "logprobs": 2,
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 42,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.5,
    }


def test_what_a_request_does_not_say_the_model_says_and_nothing_else() -> None:
    said = arguments(defaults={"temperature": 0.6, "top_k": 20, "max_tokens": 5})
    assert (said["temperature"], said["top_k"], said["max_tokens"]) == (0.6, 20, 9)
    assert said.keys().isdisjoint({"seed", "top_p", "presence_penalty", "logit_bias"})


def test_greedy_is_said_although_the_model_recommends_to_sample() -> None:
    assert arguments(sampling=SamplingOptions(temperature=0.0), defaults={"temperature": 0.6})["temperature"] == 0.0


def test_the_end_of_sequence_tokens_stop_it_unless_they_are_to_be_ignored() -> None:
    stop = StopConditions(max_tokens=9, stop_token_ids=[4, 2])
    assert arguments(stop=stop, eos=(2, 3))["stop_token_ids"] == [4, 2, 3]
    ignoring = StopConditions(max_tokens=9, stop_token_ids=[4, 2], ignore_eos=True)
    assert arguments(stop=ignoring, eos=(2, 3))["stop_token_ids"] == [4, 2]


def test_a_stop_token_that_the_model_does_not_have_is_left_out() -> None:
    stop = StopConditions(max_tokens=9, stop_token_ids=[-1, 5, VOCAB_SIZE])
    assert arguments(stop=stop)["stop_token_ids"] == [5]


def test_no_more_tokens_are_asked_for_at_least_than_at_most() -> None:
    assert arguments(stop=StopConditions(max_tokens=9, min_tokens=50))["min_tokens"] == 9
    assert arguments(stop=StopConditions(min_tokens=50))["min_tokens"] == 50


def test_nothing_of_the_distribution_is_as_little_of_it_as_vllm_takes() -> None:
    assert arguments(sampling=SamplingOptions(top_p=0.0))["top_p"] == TOP_P_MIN


@pytest.mark.parametrize("logprobs", [-1, 21])
def test_log_probabilities_out_of_range_are_refused(logprobs: int) -> None:
    with pytest.raises(InvalidArgument, match=f"logprobs={logprobs}"):
        arguments(logprobs=logprobs)


def test_several_choices_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="send 2 requests"):
        arguments(sampling=SamplingOptions(n=2))


@pytest.mark.parametrize("num_resumed", [-1, 4])
def test_more_resumed_tokens_than_there_are_tokens_are_refused(num_resumed: int) -> None:
    with pytest.raises(InvalidArgument, match=f"num_resumed_tokens={num_resumed}"):
        arguments(num_resumed=num_resumed)


def test_what_the_answer_has_said_elsewhere_is_penalized_once_for_being_there_and_for_each_time() -> None:
    penalties = SamplingOptions(presence_penalty=0.5, frequency_penalty=0.25)
    said = arguments(token_ids=[5, 8, 9, 8], num_resumed=3, sampling=penalties)
    assert said["logit_bias"] == {8: -1.0, 9: -0.75}


@pytest.mark.parametrize("sampling", [SamplingOptions(), SamplingOptions(presence_penalty=0.0)])
def test_without_a_penalty_what_was_said_elsewhere_changes_nothing(sampling: SamplingOptions) -> None:
    assert "logit_bias" not in arguments(num_resumed=2, sampling=sampling)


@given(seed=I64, num_resumed=st.integers(0, 3))
def test_every_seed_is_one_that_vllm_takes_for_a_seed(seed: int, num_resumed: int) -> None:
    said = arguments(sampling=SamplingOptions(seed=seed), num_resumed=num_resumed)["seed"]
    assert isinstance(said, int)
    assert 0 <= said < 2**63


def test_an_answer_that_goes_on_here_has_other_chances_than_it_began_with() -> None:
    seeds = [arguments(sampling=SamplingOptions(seed=7), num_resumed=num)["seed"] for num in range(4)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert seeds == [arguments(sampling=SamplingOptions(seed=7), num_resumed=num)["seed"] for num in range(4)]
