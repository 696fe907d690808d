"""One answer to one prompt, as its tokens arrive: what may be shown, and whether the worker keeps its word.

The worker's word is the contract of `EngineOutput`: at most `max_tokens` tokens, a finish reason exactly
once, and nothing after it. Whatever breaks it is an error here, so that no answer is silently wrong.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dynamo._core.errors import HandlerError, InvalidArgument, ProtocolError, StreamIncomplete
from dynamo.llm._detokenize import Detokenizer
from dynamo.llm._messages import EngineOutput, FinishReason, PreprocessedRequest
from dynamo.llm._tokenizer import Tokenizer

#: JSON has no infinity and no NaN; this is what the field reports instead.
LOGPROB_MIN = -9999.0

ShownReason = Literal["stop", "length"]


class TokenLogprob(msgspec.Struct, gc=False):
    """A generated token, in words, and its log probability."""

    token: str
    logprob: float


class Delta(msgspec.Struct):
    """What one engine output adds to one choice. The last delta of a choice, and no other, has a reason."""

    index: int
    text: str
    finish_reason: ShownReason | None = None
    logprobs: list[TokenLogprob] | None = None


class Choice:
    """One answer to one prompt."""

    __slots__ = (
        "_detokenizer",
        "_token_ids",
        "_tokenizer",
        "_unshown",
        "cached_tokens",
        "cut",
        "finished",
        "index",
        "request",
    )

    def __init__(self, index: int, request: PreprocessedRequest, tokenizer: Tokenizer) -> None:
        self.index = index
        self.request = request
        #: Whether the answer is complete and the worker does not know it, as after a stop string.
        self.cut = False
        #: Whether it has its finish reason.
        self.finished = False
        #: How much of the prompt the last worker had in its cache; None if it has not said.
        self.cached_tokens: int | None = None
        # Everything that came, from however many workers.
        self._token_ids: list[int] = []
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer.for_request(tokenizer, request)
        self._unshown = {*request.eos_token_ids, *request.stop_conditions.stop_token_ids}

    @property
    def num_tokens(self) -> int:
        """How many tokens the answer has, those that are not shown included.

        What a worker generated past a stop string does not count: how much that is, is chance.
        """
        return self._detokenizer.num_tokens

    @property
    def seq_len(self) -> int:
        """How many tokens there are, those of the prompt included."""
        return len(self.request.token_ids) + len(self._token_ids)

    def push(self, output: EngineOutput) -> Delta | None:
        """Return what this output adds; None if that is nothing yet."""
        if self.finished:
            raise ProtocolError("the worker sent more after its finish reason")
        request, token_ids = self.request, output.token_ids
        self._token_ids += token_ids
        if output.completion_usage is not None and output.completion_usage.prompt_tokens_details is not None:
            cached_tokens = output.completion_usage.prompt_tokens_details.cached_tokens
            self.cached_tokens = min(cached_tokens, len(request.token_ids))
        max_tokens = request.stop_conditions.max_tokens
        if max_tokens is not None and len(self._token_ids) > max_tokens:
            raise ProtocolError(f"the worker sent {len(self._token_ids)} tokens; at most {max_tokens} were asked for")
        before = self._detokenizer.num_tokens
        text = self._detokenizer.push(token_ids) if token_ids else ""
        logprobs = (
            self._logprobs(output, self.num_tokens - before) if request.output_options.logprobs is not None else None
        )
        stopped = self._detokenizer.stopped
        if output.finish_reason is None and not stopped:
            return Delta(self.index, text, None, logprobs) if text or logprobs else None
        self.finished = True
        self.cut = output.finish_reason is None
        reason = _shown(output.finish_reason)
        if stopped:
            return Delta(self.index, text, "stop", logprobs)
        return Delta(self.index, text + self._detokenizer.finish(), reason, logprobs)

    def rest(self) -> PreprocessedRequest:
        """Return what to ask for what is missing: the prompt and all that came, and what is left of the budgets."""
        request, num_tokens = self.request, len(self._token_ids)
        if not num_tokens:
            return request
        conditions = request.stop_conditions
        max_tokens = conditions.max_tokens
        return msgspec.structs.replace(
            request,
            token_ids=request.token_ids + self._token_ids,
            num_resumed_tokens=num_tokens,
            stop_conditions=msgspec.structs.replace(
                conditions,
                max_tokens=None if max_tokens is None else max_tokens - num_tokens,
                min_tokens=max(0, conditions.min_tokens - num_tokens),
            ),
        )

    def finish_if_complete(self) -> Delta | None:
        """Return the last delta if the worker was lost when only its reason was missing; None if there is more."""
        if self.finished or len(self._token_ids) != self.request.stop_conditions.max_tokens:
            return None
        self.finished = True
        logprobs: list[TokenLogprob] | None = None if self.request.output_options.logprobs is None else []
        return Delta(self.index, self._detokenizer.finish(), "length", logprobs)

    def end(self) -> None:
        """Take the end of the worker's stream. Raises `StreamIncomplete` if it came without a reason."""
        if not self.finished:
            raise StreamIncomplete(
                f"the worker's stream ended after {self.num_tokens} tokens without a finish reason",
                num_tokens=self.num_tokens,
            )

    def _logprobs(self, output: EngineOutput, count: int) -> list[TokenLogprob]:
        """Those of the first `count` tokens: after a stop string there may be more."""
        values = output.log_probs
        if values is None:
            if not output.token_ids:
                return []
            raise InvalidArgument(
                "this model's engine reports no log probabilities: leave out 'logprobs'", param="logprobs"
            )
        if len(values) != len(output.token_ids):
            raise ProtocolError(f"the worker sent {len(values)} log probabilities for {len(output.token_ids)} tokens")
        decode = self._tokenizer.decode
        return [
            TokenLogprob(decode([token_id], skip_special_tokens=False), value if value >= LOGPROB_MIN else LOGPROB_MIN)
            for token_id, value in zip(output.token_ids[:count], values, strict=False)
            if token_id not in self._unshown
        ]


def _shown(reason: FinishReason | None) -> ShownReason:
    if reason == "error":
        raise HandlerError("the engine ended the request with an error", type_name="EngineError")
    if reason == "cancelled":
        raise StreamIncomplete("the engine cancelled the request, which nobody asked it to")
    return reason or "stop"
