"""What a frontend and a worker say to each other: token ids in, token ids out.

Both sides keep the field names of today's Dynamo, so that a worker can be written as a plain function
from dict to dicts. Unknown fields of a newer peer are ignored.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from dynamo.llm._wishes import RouterConfigOverride, Wishes

FinishReason = Literal["stop", "length", "cancelled", "error"]


class StopConditions(msgspec.Struct, omit_defaults=True):
    """When to stop. Stop strings are the frontend's business: engines see token ids only."""

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False


class SamplingOptions(msgspec.Struct, omit_defaults=True):
    """How to choose the next token; None leaves it to the model's own defaults."""

    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None


class OutputOptions(msgspec.Struct, omit_defaults=True):
    """What to send back besides token ids."""

    logprobs: int | None = None
    skip_special_tokens: bool = True


class PreprocessedRequest(msgspec.Struct, omit_defaults=True):
    """A request as an engine sees it."""

    model: str
    token_ids: list[int]
    stop_conditions: StopConditions = msgspec.field(default_factory=StopConditions)
    sampling_options: SamplingOptions = msgspec.field(default_factory=SamplingOptions)
    output_options: OutputOptions = msgspec.field(default_factory=OutputOptions)
    eos_token_ids: list[int] = []
    #: How many of the last `token_ids` are the answer's own: it began at another worker, and goes on here. An
    #: engine may use it to sample and to penalize as if nothing had happened; the stop conditions are what is left.
    num_resumed_tokens: int = 0
    #: Which of the worker's data parallel ranks takes it, since that has its KV cache; None: any.
    dp_rank: int | None = None
    #: What makes equal tokens another prompt to a KV cache: the salt of a tenant, and the LoRA adapter that computes
    #: them. Whoever caches must not share between different ones; empty is none.
    cache_salt: str | None = None
    lora_name: str | None = None
    #: What the request says of where it is to go, for a router between the frontend and its workers.
    routing: Wishes | None = None
    router_config_override: RouterConfigOverride | None = None
    annotations: list[str] = []
    extra_args: dict[str, Any] = {}


class PromptTokensDetails(msgspec.Struct, omit_defaults=True):
    """What became of the tokens of a prompt."""

    #: Those that the engine did not compute, because they were in its KV cache.
    cached_tokens: int = 0


class CompletionUsage(msgspec.Struct, omit_defaults=True):
    """Token counts of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    #: None: the engine does not say.
    prompt_tokens_details: PromptTokensDetails | None = None


class TopLogprob(msgspec.Struct):
    """One of the likeliest tokens at a position; the likeliest has rank 1."""

    rank: int
    token_id: int
    logprob: float


class EngineOutput(msgspec.Struct, omit_defaults=True):
    """The tokens of one step. The last output of a stream, and no other, has a `finish_reason`.

    `token_ids` includes the end-of-sequence or stop token that ended the stream, if one did; the
    frontend does not show it. `log_probs` and `top_logprobs` have one entry per token id. The last output has
    the usage; the first may have it, too: `cached_tokens` is known then, and not every answer is read to its end.
    """

    token_ids: list[int] = []
    index: int = 0
    finish_reason: FinishReason | None = None
    log_probs: list[float] | None = None
    top_logprobs: list[list[TopLogprob]] | None = None
    completion_usage: CompletionUsage | None = None
