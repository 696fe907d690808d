"""What a frontend and a worker say to each other: token ids in, token ids out.

Both sides keep the field names of today's Dynamo, so that a worker can be written as a plain function
from dict to dicts. Unknown fields of a newer peer are ignored.

Types and the ranges of requests are checked where a message arrives, and not where it is made. Whether an answer is
what its request asked for is checked by the frontend (`_response_check.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dynamo._core.stability import stable
from dynamo.llm._wishes import RouterConfigOverride, Wishes

#: Why an answer ended: a stop token or string, its length, whoever asked, or a failure of the engine.
FinishReason = Literal["stop", "length", "cancelled", "error"]

#: A number of things, and the number of a token.
Count = Annotated[int, Meta(ge=0)]
#: The same in answers. Their values are held against the request, so that it is known what is wrong with which worker.
AnsweredCount = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
LogProb = Annotated[float, Meta(extra_json_schema={"maximum": 0})]


@stable(since="0.1")
class StopConditions(msgspec.Struct, omit_defaults=True):
    """When to stop. Stop strings are the frontend's business: engines see token ids only."""

    #: How many tokens there may be, at most; None: as many as fit into the context.
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    #: No stop token counts before there are so many.
    min_tokens: Count = 0
    #: Texts that end the answer; they are not part of it.
    stop: list[str] = []
    #: Tokens that end the answer, besides the request's `eos_token_ids`.
    stop_token_ids: list[Count] = []
    #: Go on after a token of `eos_token_ids`.
    ignore_eos: bool = False


@stable(since="0.1")
class SamplingOptions(msgspec.Struct, omit_defaults=True):
    """How to choose the next token; None leaves it to the model's own defaults."""

    #: Answers to give. A frontend asks for each of several by itself, so it is 1.
    n: Annotated[int, Meta(ge=1)] = 1
    #: From 0, which is the likeliest token always.
    temperature: float | None = None
    #: Only the likeliest tokens, which have this probability together; from 0 to 1.
    top_p: float | None = None
    #: Only so many of the likeliest tokens; 0 or -1: all.
    top_k: int | None = None
    #: Only tokens with this share of the likeliest one's probability; from 0 to 1.
    min_p: float | None = None
    #: With the same seed the same request is answered in the same way, as far as the engine can.
    seed: int | None = None
    #: What tokens lose that have come already, once and for each time; from -2 to 2.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    #: What tokens are divided by that have come already, prompt included; above 0, and 1 changes nothing.
    repetition_penalty: float | None = None


@stable(since="0.1")
class OutputOptions(msgspec.Struct, omit_defaults=True):
    """What to send back besides token ids."""

    #: Log probabilities: of the chosen tokens with 0, of so many of the likeliest ones too above; None: none.
    logprobs: Count | None = None
    #: Show no text for special tokens.
    skip_special_tokens: bool = True


@stable(since="0.1")
class PreprocessedRequest(msgspec.Struct, omit_defaults=True):
    """A request as an engine sees it."""

    #: What the client calls the model.
    model: str
    #: The prompt.
    token_ids: list[Count]
    stop_conditions: StopConditions = msgspec.field(default_factory=StopConditions)
    sampling_options: SamplingOptions = msgspec.field(default_factory=SamplingOptions)
    output_options: OutputOptions = msgspec.field(default_factory=OutputOptions)
    #: Tokens by which the model says that it is done.
    eos_token_ids: list[Count] = []
    #: How many of the last `token_ids` are the answer's own: it began at another worker, and goes on here. An
    #: engine may use it to sample and to penalize as if nothing had happened; the stop conditions are what is left.
    num_resumed_tokens: Count = 0
    #: Which of the worker's data parallel ranks takes it, since that has its KV cache; None: any.
    dp_rank: Count | None = None
    #: What makes equal tokens another prompt to a KV cache: the salt of a tenant. Whoever caches must not share
    #: between different ones; empty is none.
    cache_salt: str | None = None
    #: The LoRA adapter that computes it; like a salt, it makes equal tokens another prompt.
    lora_name: str | None = None
    #: What the request says of where it is to go, for a router between the frontend and its workers.
    routing: Wishes | None = None
    #: What it wants otherwise than such a router is configured.
    router_config_override: RouterConfigOverride | None = None
    #: What the client wants to be told besides the answer, by name.
    annotations: list[str] = []
    #: Whatever else a worker understands; plain JSON values.
    extra_args: dict[str, object] = {}


@stable(since="0.1")
class PromptTokensDetails(msgspec.Struct, omit_defaults=True):
    """What became of the tokens of a prompt."""

    #: Those that the engine did not compute, because they were in its KV cache.
    cached_tokens: AnsweredCount = 0


@stable(since="0.1")
class CompletionUsage(msgspec.Struct, omit_defaults=True):
    """Token counts of one request."""

    prompt_tokens: AnsweredCount = 0
    #: Those of the answer; of one that goes on here, with or without those that another worker has sent.
    completion_tokens: AnsweredCount = 0
    #: The sum of both.
    total_tokens: AnsweredCount = 0
    #: None: the engine does not say.
    prompt_tokens_details: PromptTokensDetails | None = None


@stable(since="0.1")
class TopLogprob(msgspec.Struct):
    """One of the likeliest tokens at a position."""

    #: From 1, the likeliest.
    rank: int
    token_id: AnsweredCount
    #: The natural logarithm of its probability.
    logprob: LogProb


@stable(since="0.1")
class EngineOutput(msgspec.Struct, omit_defaults=True):
    """The tokens of one step. The last output of a stream, and no other, has a `finish_reason`."""

    #: What was generated since the output before, the end-of-sequence or stop token that ended the stream included;
    #: the frontend does not show that one. Each is a token of the model, and all together are at most `max_tokens`.
    token_ids: list[AnsweredCount] = []
    #: Which of the request's answers this is of. A frontend asks for each of several by itself, so it is 0.
    index: AnsweredCount = 0
    #: Why the answer ends here; None: it goes on.
    finish_reason: FinishReason | None = None
    #: The natural logarithm of each token's probability, one per token id. None: they were not asked for.
    log_probs: list[LogProb] | None = None
    #: For each token id, the likeliest tokens in its place.
    top_logprobs: list[list[TopLogprob]] | None = None
    #: The last output has it; the first may have it, too: `cached_tokens` is known then, and not every answer is read
    #: to its end.
    completion_usage: CompletionUsage | None = None
