"""Requests whose answers vLLM alone gives too: in our words, and in those of vLLM's `SamplingParams`.

Their prompts have nothing in common, so that no answer depends on what was cached before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dynamo.llm import OutputOptions, PreprocessedRequest, SamplingOptions, StopConditions

MODEL_NAME = "tiny"
VOCABULARY = range(20, 2000)
#: Of the tiny model.
EOS_TOKEN_IDS = [3, 1]


def prompt(seed: int, length: int) -> list[int]:
    """Token ids that are like those of no other seed."""
    rng = random.Random(seed)
    return [rng.choice(VOCABULARY) for _ in range(length)]


def ask(
    token_ids: list[int],
    max_tokens: int,
    sampling: SamplingOptions | None = None,
    *,
    logprobs: int | None = None,
    **stop: object,
) -> PreprocessedRequest:
    """A request that is greedy and goes on to `max_tokens` unless it says otherwise."""
    conditions = StopConditions(max_tokens=max_tokens, **{"ignore_eos": True, **stop})  # type: ignore[arg-type]
    return PreprocessedRequest(
        MODEL_NAME,
        token_ids,
        conditions,
        sampling or SamplingOptions(temperature=0.0),
        OutputOptions(logprobs),
        eos_token_ids=EOS_TOKEN_IDS,
    )


@dataclass(frozen=True)
class Case:
    """One request, said twice."""

    name: str
    ours: PreprocessedRequest
    vllms: dict[str, object] = field(default_factory=dict)


#: A model with random weights says the same token over and over, unless that is penalized.
GREEDY = SamplingOptions(temperature=0.0, repetition_penalty=1.5)
_VARIED = {"temperature": 0.0, "repetition_penalty": 1.5}
_SEEDED = {"temperature": 0.9, "top_p": 0.8, "top_k": 50, "seed": 1234}

CASES = [
    Case("greedy", ask(prompt(1, 70), 40, GREEDY), {**_VARIED, "max_tokens": 40, "ignore_eos": True}),
    Case(
        "seeded",
        ask(prompt(2, 50), 40, SamplingOptions(temperature=0.9, top_p=0.8, top_k=50, seed=1234)),
        {**_SEEDED, "max_tokens": 40, "ignore_eos": True},
    ),
    Case(
        "seeded, with penalties and min_p",
        ask(
            prompt(3, 50),
            40,
            SamplingOptions(temperature=1.2, min_p=0.01, seed=7, presence_penalty=0.7, frequency_penalty=0.4),
        ),
        {
            "temperature": 1.2,
            "min_p": 0.01,
            "seed": 7,
            "presence_penalty": 0.7,
            "frequency_penalty": 0.4,
            "max_tokens": 40,
            "ignore_eos": True,
        },
    ),
    Case(
        "with log-probabilities",
        ask(prompt(4, 33), 10, GREEDY, logprobs=3),
        {**_VARIED, "max_tokens": 10, "ignore_eos": True, "logprobs": 3},
    ),
    Case(
        "that may stop",
        ask(prompt(5, 40), 60, SamplingOptions(temperature=1.0, seed=5), ignore_eos=False, min_tokens=3),
        {"temperature": 1.0, "seed": 5, "max_tokens": 60, "min_tokens": 3},
    ),
]
