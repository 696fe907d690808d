"""What vLLM produces, as the outputs of an engine."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dynamo._core.errors import DynamoError, EngineShutdown
from dynamo.llm import (
    CompletionUsage,
    OutputOptions,
    PreprocessedRequest,
    PromptTokensDetails,
    TopLogprob,
)
from dynamo.vllm._answer import Answer
from dynamo.vllm._core import Produced


@dataclass
class Logprob:
    logprob: float
    rank: int | None


def answer(num_prompt: int = 10, num_resumed: int = 0, logprobs: int | None = None) -> Answer:
    tokens = list(range(num_prompt + num_resumed))
    return Answer(
        PreprocessedRequest("m", tokens, output_options=OutputOptions(logprobs), num_resumed_tokens=num_resumed)
    )


def test_the_first_output_and_the_last_have_the_usage() -> None:
    one = answer()
    outputs = [
        one.output(Produced([5], None, 8), is_stopped=False),
        one.output(Produced([6, 7], None, 8), is_stopped=False),
        one.output(Produced([8], "length", 8), is_stopped=False),
    ]
    details = PromptTokensDetails(cached_tokens=8)
    assert [output.completion_usage for output in outputs] == [
        CompletionUsage(10, 1, 11, details),
        None,
        CompletionUsage(10, 4, 14, details),
    ]
    assert [output.finish_reason for output in outputs] == [None, None, "length"]


def test_what_another_worker_has_said_counts_for_the_answer_and_not_for_the_prompt() -> None:
    usage = answer(num_prompt=10, num_resumed=4).output(Produced([5], None, 12), is_stopped=False).completion_usage
    assert usage == CompletionUsage(10, 5, 15, PromptTokensDetails(cached_tokens=10))


def test_an_engine_that_does_not_say_what_was_cached_is_not_believed_to_have_said_nothing() -> None:
    usage = answer().output(Produced([5]), is_stopped=False).completion_usage
    assert usage is not None
    assert usage.prompt_tokens_details is None


@pytest.mark.parametrize(("said", "reason"), [("stop", "stop"), ("length", "length"), ("repetition", "stop")])
def test_the_reasons_of_vllm_are_ours(said: str, reason: str) -> None:
    assert answer().output(Produced([5], said), is_stopped=False).finish_reason == reason


def test_an_abort_that_was_asked_for_is_a_cancellation() -> None:
    assert answer().output(Produced([], "abort"), is_stopped=True).finish_reason == "cancelled"


def test_an_abort_that_nobody_asked_for_is_the_end_of_the_engine_for_this_request() -> None:
    with pytest.raises(EngineShutdown):
        answer().output(Produced([], "abort"), is_stopped=False)


def test_a_failure_within_vllm_is_an_error_and_not_an_answer() -> None:
    with pytest.raises(DynamoError, match="'error'"):
        answer().output(Produced([], "error"), is_stopped=False)


def test_log_probabilities_are_those_of_the_chosen_tokens_and_of_the_likeliest_ones() -> None:
    found = [{5: Logprob(-3.0, 40), 8: Logprob(-0.1, 1), 9: Logprob(-2.0, 2)}, {9: Logprob(-0.5, 1), 8: Logprob(-1, 2)}]
    output = answer(logprobs=2).output(Produced([5, 9], None, None, found), is_stopped=False)
    assert output.log_probs == [-3.0, -0.5]
    assert output.top_logprobs == [
        [TopLogprob(1, 8, -0.1), TopLogprob(2, 9, -2.0)],
        [TopLogprob(1, 9, -0.5), TopLogprob(2, 8, -1)],
    ]


def test_with_no_likeliest_tokens_asked_for_there_are_only_the_chosen_ones() -> None:
    output = answer(logprobs=0).output(Produced([5], None, None, [{5: Logprob(-3.0, 40)}]), is_stopped=False)
    assert (output.log_probs, output.top_logprobs) == ([-3.0], None)
