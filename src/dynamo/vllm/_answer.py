"""What becomes of one request: the items that vLLM produces, as the outputs that its reader gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamo._core.errors import DynamoError, EngineShutdown
from dynamo.llm._engine_request import completion_usage
from dynamo.llm._messages import (
    CompletionUsage,
    EngineOutput,
    FinishReason,
    PreprocessedRequest,
    TopLogprob,
)
from dynamo.vllm._core import Produced, TokenLogprob

#: vLLM ends an answer that repeats itself, if it was told to look for that.
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "stop"}
_ABORT = "abort"


class Answer:
    """Counts the tokens of one answer, and makes its outputs. The first and the last output have the usage."""

    def __init__(self, request: PreprocessedRequest) -> None:
        self._num_top = request.output_options.logprobs or 0
        # Those of an answer that began elsewhere are the answer's, and not the prompt's.
        self._num_prompt_tokens = len(request.token_ids) - request.num_resumed_tokens
        self._num_tokens = request.num_resumed_tokens
        self._num_cached_tokens: int | None = None
        self._is_first = True

    def output(self, produced: Produced, *, is_stopped: bool) -> EngineOutput:
        """Return the next output. Raises if vLLM has ended the request, and nobody had asked for that."""
        reason = None if produced.finish_reason is None else _reason(produced.finish_reason, is_stopped)
        token_ids = list(produced.token_ids)
        self._num_tokens += len(token_ids)
        if produced.num_cached_tokens is not None:
            self._num_cached_tokens = produced.num_cached_tokens
        output = EngineOutput(token_ids=token_ids, finish_reason=reason)
        if produced.logprobs is not None:
            _add_logprobs(output, produced.logprobs, self._num_top)
        if self._is_first or reason is not None:
            output.completion_usage = self._usage()
            self._is_first = False
        return output

    def cancelled(self) -> EngineOutput:
        """Return the last output of a request that nobody wants any more."""
        return EngineOutput(finish_reason="cancelled", completion_usage=self._usage())

    def _usage(self) -> CompletionUsage:
        return completion_usage(self._num_prompt_tokens, self._num_tokens, self._num_cached_tokens)


def _reason(said: str, is_stopped: bool) -> FinishReason:
    if said in _REASONS:
        return _REASONS[said]
    if said == _ABORT:
        if is_stopped:
            return "cancelled"
        raise EngineShutdown("vLLM gave the request up before it was done")
    raise DynamoError(f"vLLM ended the request with {said!r}; its log says why")


def _add_logprobs(output: EngineOutput, positions: Sequence[Mapping[int, TokenLogprob]], num_top: int) -> None:
    output.log_probs = [found[token_id].logprob for token_id, found in zip(output.token_ids, positions, strict=True)]
    if num_top:
        output.top_logprobs = [_top(found, num_top) for found in positions]


def _top(found: Mapping[int, TokenLogprob], num_top: int) -> list[TopLogprob]:
    """The likeliest tokens; the chosen one is not among them if it is less likely."""
    best = sorted(found.items(), key=lambda item: -item[1].logprob)[:num_top]
    return [TopLogprob(rank, token_id, said.logprob) for rank, (token_id, said) in enumerate(best, start=1)]
