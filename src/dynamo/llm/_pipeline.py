"""The story of one request to a model that takes token ids, told once.

Words become token ids, a worker gets them, its token ids become words again, and the words become chunks.
What travels between the steps is batches: everything that has arrived by now, never one token at a time.
Closing a generator here closes the worker's stream, which cancels the work behind it. A worker that is lost
is none of the reader's business: the next one goes on where it stopped (`_migration.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, nullcontext

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.llm._choice import Choice, Delta
from dynamo.llm._chunks import ChatChunks, Chunks, CompletionChunks
from dynamo.llm._limits import CHOICES_MAX
from dynamo.llm._merge import merged
from dynamo.llm._messages import (
    CompletionUsage,
    EngineOutput,
    OutputOptions,
    PreprocessedRequest,
    PromptTokensDetails,
    SamplingOptions,
    StopConditions,
)
from dynamo.llm._migration import Migration, is_migratable
from dynamo.llm._openai import SEED_MAX, ChatRequest, CompletionRequest, OpenAIRequest, refuse_unserved
from dynamo.llm._poison import Suspect
from dynamo.llm._preprocess import Preprocessor, RequestOptions
from dynamo.llm._request_trace import RequestTrace
from dynamo.llm._response_check import token_id_end
from dynamo.llm._routing import NO_HINTS, RoutingHints, note_outputs

#: So many outputs are passed on at a time. After a pause much more may have arrived, and a client that
#: reads slowly must not get it all at once.
BATCH_MAX = 256

NOT_TRACED = nullcontext()


class TokenPipeline:
    """Answers requests for a model whose workers take token ids."""

    def __init__(self, preprocessor: Preprocessor, migration: Migration, trace: RequestTrace | None = None) -> None:
        self._preprocessor = preprocessor
        self._migration = migration
        self._trace = trace
        # What the ids of the model's tokens are below; found out with the first request.
        self._token_id_end: int | None = None

    async def stream(
        self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the JSON of the chunks that are ready, until the answer is complete."""
        prompts = await self._prepare(request)
        choices = await self._choices(request, prompts, context)
        chunks = _chunks_for(request, context)
        async with aclosing(self._deltas(prompts, choices, context, hints)) as batches:
            async for deltas in batches:
                yield [chunks.encode(delta) for delta in deltas]
        if request.include_usage:
            yield [chunks.usage(_usage(prompts, choices))]

    async def complete(self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS) -> bytes:
        """Return the JSON of the whole answer."""
        prompts = await self._prepare(request)
        choices = await self._choices(request, prompts, context)
        answer: list[Delta] = []
        async with aclosing(self._deltas(prompts, choices, context, hints)) as batches:
            async for deltas in batches:
                answer.extend(deltas)
        return _chunks_for(request, context).whole(answer, _usage(prompts, choices))

    async def _prepare(self, request: OpenAIRequest) -> list[PreprocessedRequest]:
        """Words to token ids: one request per prompt."""
        refuse_unserved(request)
        options = _options(request)
        try:
            if isinstance(request, ChatRequest):
                messages = [message.model_dump(exclude_unset=True) for message in request.messages]
                return [await self._preprocessor.chat(messages, options)]
            assert isinstance(request, CompletionRequest)
            return [await self._preprocessor.completion(prompt, options) for prompt in request.prompts]
        except InvalidArgument as error:
            about = request.budget_name if "max_tokens" in error.details else request.PROMPT
            raise InvalidArgument(error.message, **{"param": about, **error.details}) from error

    async def _choices(
        self, request: OpenAIRequest, prompts: list[PreprocessedRequest], context: Context
    ) -> list[Choice]:
        """The answers to give: `n` to each prompt, in order."""
        n = request.n or 1
        if n * len(prompts) > CHOICES_MAX:
            raise InvalidArgument(f"{n} answers to each of {len(prompts)} prompts are over {CHOICES_MAX}", param="n")
        wanted = [_nth(prompt, i) for prompt in prompts for i in range(n)]
        card, tokenizer = self._preprocessor.card, self._preprocessor.tokenizer
        if self._token_id_end is None:
            self._token_id_end = await asyncio.to_thread(token_id_end, card, tokenizer)
        return [
            Choice(index, one, tokenizer, self._migration.check(context), self._token_id_end)
            for index, one in enumerate(wanted)
        ]

    def _deltas(
        self, prompts: list[PreprocessedRequest], choices: list[Choice], context: Context, hints: RoutingHints
    ) -> AsyncGenerator[list[Delta], None]:
        """Yield what the workers add to the choices, in batches."""
        suspects = [self._migration.suspect(prompt) for prompt in prompts]
        if len(choices) == 1:
            return self._answer(choices[0], suspects[0], context, hints)
        n = len(choices) // len(prompts)
        return merged(
            [
                self._answer(choice, suspects[choice.index // n].of_choice(), _child(context, choice.index), hints)
                for choice in choices
            ]
        )

    async def _answer(
        self, choice: Choice, suspect: Suspect, context: Context, hints: RoutingHints
    ) -> AsyncGenerator[list[Delta], None]:
        """Send, and yield what comes back, until the answer is complete; go on elsewhere if a worker is lost."""
        traced = None if self._trace is None else self._trace.begin(choice, context)
        with self._migration.journey(suspect, context, hints) as journey, traced or NOT_TRACED:
            while True:
                try:
                    async with await journey.send(choice.rest(), EngineOutput) as stream:
                        choice.begin(stream)
                        while outputs := await stream.batch():
                            journey.note_answer()
                            if traced is not None:
                                traced.note_answer()
                            if journey.route is not None:
                                note_outputs(journey.route, outputs)
                            for deltas in _added(choice, outputs):
                                yield deltas
                            if choice.cut:
                                return
                        if (last := choice.end()) is not None:
                            yield [last]
                        return
                except DynamoError as error:
                    choice.check.note_unreadable(error)
                    if is_migratable(error) and (last := choice.finish_if_complete()) is not None:
                        yield [last]
                    if is_migratable(error) and choice.finished:
                        return
                    await journey.go_on(error, num_tokens=choice.num_tokens, seq_len=choice.seq_len)


def _added(choice: Choice, outputs: list[EngineOutput]) -> Iterator[list[Delta]]:
    """Yield what outputs add to a choice, so much at a time as may be passed on."""
    deltas: list[Delta] = []
    for output in outputs:
        if (delta := choice.push(output)) is not None:
            deltas.append(delta)
        if choice.cut:
            break
        if len(deltas) == BATCH_MAX:
            yield deltas
            deltas = []
    if deltas:
        yield deltas


def _options(request: OpenAIRequest) -> RequestOptions:
    """How to generate and sample, in the words of engines."""
    return RequestOptions(
        StopConditions(
            max_tokens=request.budget,
            min_tokens=request.min_tokens or 0,
            stop=request.stops,
            ignore_eos=bool(request.ignore_eos),
        ),
        SamplingOptions(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=request.seed,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            repetition_penalty=request.repetition_penalty,
        ),
        OutputOptions(
            logprobs=request.logprobs_count,
            skip_special_tokens=True if request.skip_special_tokens is None else request.skip_special_tokens,
        ),
        cache_salt=request.salt,
    )


def _nth(request: PreprocessedRequest, n: int) -> PreprocessedRequest:
    """Return the request for the n-th answer to a prompt: with a seed, it samples differently each time."""
    seed = request.sampling_options.seed
    if seed is None or n == 0:
        return request
    sampling = msgspec.structs.replace(request.sampling_options, seed=(seed + n) & SEED_MAX)
    return msgspec.structs.replace(request, sampling_options=sampling)


def _child(context: Context, index: int) -> Context:
    """Return the context of one of several choices: workers tell requests apart by their ids."""
    return Context(f"{context.request_id}-{index}", context.metadata, deadline=context.deadline)


def _chunks_for(request: OpenAIRequest, context: Context) -> Chunks:
    if isinstance(request, ChatRequest):
        return ChatChunks(f"chatcmpl-{context.request_id}", request.model, include_usage=request.include_usage)
    return CompletionChunks(f"cmpl-{context.request_id}", request.model, include_usage=request.include_usage)


def _usage(prompts: list[PreprocessedRequest], choices: list[Choice]) -> CompletionUsage:
    prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
    completion_tokens = sum(choice.num_tokens for choice in choices)
    return CompletionUsage(
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        _prompt_tokens_details(choices[:: len(choices) // len(prompts)]),
    )


def _prompt_tokens_details(firsts: list[Choice]) -> PromptTokensDetails | None:
    """What was cached of the prompts, given the first answer to each; None if no worker has said.

    A prompt counts once. Its other answers find what the first one has computed, which says nothing of the prompt.
    """
    known = [choice.cached_tokens for choice in firsts if choice.cached_tokens is not None]
    return PromptTokensDetails(sum(known)) if known else None
