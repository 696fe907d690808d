"""One answer to one prompt, as its tokens arrive: what may be shown, and whether the worker keeps its word.

The worker's word is the contract of `EngineOutput`: tokens that the model has, at most `max_tokens` of them, a
finish reason exactly once, and nothing after it. What breaks it and what becomes of that is in `_response_check.py`;
no answer is silently wrong.
"""

from __future__ import annotations

import math
import sys
from typing import Literal

import msgspec

from dynamo._core.errors import HandlerError, InvalidArgument, ProtocolError, StreamIncomplete
from dynamo.llm._detokenize import Detokenizer
from dynamo.llm._messages import CompletionUsage, EngineOutput, FinishReason, PreprocessedRequest
from dynamo.llm._response_check import ResponseCheck, Source, Violation
from dynamo.llm._tokenizer import Tokenizer

#: JSON has no infinity; this is what the field reports of a token that could not be.
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
        "_max_tokens",
        "_num_resumed",
        "_token_id_end",
        "_token_ids",
        "_tokenizer",
        "_unshown",
        "_wants_logprobs",
        "cached_tokens",
        "check",
        "cut",
        "finished",
        "index",
        "request",
    )

    def __init__(
        self,
        index: int,
        request: PreprocessedRequest,
        tokenizer: Tokenizer,
        check: ResponseCheck,
        token_id_end: int,
    ) -> None:
        self.index = index
        self.request = request
        self.check = check
        #: Whether the answer is complete and the worker does not know it, as after a stop string.
        self.cut = False
        #: Whether it has its finish reason.
        self.finished = False
        #: How much of the prompt the last worker had in its cache; None if it has not said.
        self.cached_tokens: int | None = None
        # Everything that came, from however many workers, and how much of that others than the last have sent.
        self._token_ids: list[int] = []
        self._num_resumed = 0
        self._token_id_end = token_id_end
        max_tokens = request.stop_conditions.max_tokens
        self._max_tokens = sys.maxsize if max_tokens is None else max_tokens
        self._wants_logprobs = request.output_options.logprobs is not None
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

    def begin(self, source: Source) -> None:
        """Another worker answers from here on."""
        self.check.source = source
        self._num_resumed = len(self._token_ids)

    def push(self, output: EngineOutput) -> Delta | None:
        """Return what this output adds; None if that is nothing yet. Raises `ProtocolError` if it cannot be right."""
        if self.finished:
            self.check.tolerate(Violation.AFTER_FINISH, "sent more after its finish reason")
            self.cut = True
            return None
        if output.index:
            raise self.check.broken(
                Violation.WRONG_INDEX, f"sent a part of the answer {output.index}, and was asked for one, which is 0"
            )
        token_ids = output.token_ids
        if len(token_ids) == 1:
            if not 0 <= token_ids[0] < self._token_id_end:
                raise self._out_of_range(token_ids)
        elif token_ids and (min(token_ids) < 0 or max(token_ids) >= self._token_id_end):
            raise self._out_of_range(token_ids)
        received, detokenizer = self._token_ids, self._detokenizer
        received += token_ids
        if output.completion_usage is not None:
            self._take_usage(output.completion_usage, output.finish_reason)
        num_over = len(received) - self._max_tokens
        if num_over > 0:
            output = self._shortened(output, num_over)
            token_ids = output.token_ids
        before = detokenizer.num_tokens
        text = detokenizer.push(token_ids) if token_ids else ""
        logprobs = self._logprobs(output, detokenizer.num_tokens - before) if self._wants_logprobs else None
        # Its property says the same; this is once per token.
        stopped = detokenizer.stop_reason is not None
        if output.finish_reason is None and not stopped and num_over <= 0:
            return Delta(self.index, text, None, logprobs) if text or logprobs else None
        self.finished = True
        self.cut = output.finish_reason is None
        reason = "length" if num_over > 0 else _shown(output.finish_reason)
        if stopped:
            return Delta(self.index, text, "stop", logprobs)
        return Delta(self.index, text + detokenizer.finish(), reason, logprobs)

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
        logprobs: list[TokenLogprob] | None = [] if self._wants_logprobs else None
        return Delta(self.index, self._detokenizer.finish(), "length", logprobs)

    def end(self) -> Delta | None:
        """Take the end of the worker's stream; return the last delta if only that was missing.

        Raises `StreamIncomplete` if it came without a reason, and before all that was asked for.
        """
        if self.finished:
            return None
        num_tokens = self.num_tokens
        what = f"ended after {num_tokens} tokens without a finish reason"
        self.check.note(Violation.NO_FINISH, what)
        if not self.check.is_strict and (last := self.finish_if_complete()) is not None:
            return last
        raise StreamIncomplete(f"the worker's stream {what}", num_tokens=num_tokens, code=Violation.NO_FINISH.value)

    def _out_of_range(self, token_ids: list[int]) -> ProtocolError:
        wrong = next(one for one in token_ids if not 0 <= one < self._token_id_end)
        return self.check.broken(
            Violation.TOKEN_OUT_OF_RANGE, f"sent {wrong}, which is no token id: they are 0 to {self._token_id_end - 1}"
        )

    def _take_usage(self, usage: CompletionUsage, reason: FinishReason | None) -> None:
        """Keep what only the worker knows, and see whether it counts as it sends. The client is told our own count."""
        if wrong := self._wrong_in(usage, reason):
            self.check.tolerate(Violation.WRONG_USAGE, wrong)
        if usage.prompt_tokens_details is not None:
            self.cached_tokens = max(0, min(usage.prompt_tokens_details.cached_tokens, len(self.request.token_ids)))

    def _wrong_in(self, usage: CompletionUsage, reason: FinishReason | None) -> str | None:
        """Say what of the counts cannot be, the first thing of several; None if they can."""
        num_prompt, num_resumed = len(self.request.token_ids), self._num_resumed
        num_asked, details = num_prompt + num_resumed, usage.prompt_tokens_details
        if details is not None and not 0 <= details.cached_tokens <= num_asked:
            return f"says that it had {details.cached_tokens} of {num_asked} tokens of the prompt in its cache"
        if reason not in ("stop", "length"):
            return None
        num_sent = len(self._token_ids) - num_resumed
        if usage.completion_tokens not in (num_sent, len(self._token_ids)):
            return f"counts {usage.completion_tokens} tokens, and has sent {num_sent}"
        if usage.prompt_tokens not in (num_prompt, num_asked):
            return f"counts {usage.prompt_tokens} tokens of a prompt of {num_asked}"
        if usage.prompt_tokens + usage.completion_tokens != usage.total_tokens:
            return f"counts {usage.prompt_tokens} tokens and {usage.completion_tokens}, and {usage.total_tokens} in all"
        return None

    def _shortened(self, output: EngineOutput, num_over: int) -> EngineOutput:
        """Return an output without what is too much, and without the reason that belongs to it."""
        self.check.tolerate(
            Violation.TOO_MANY_TOKENS,
            f"sent {len(self._token_ids)} tokens; at most {self._max_tokens} were asked for",
        )
        del self._token_ids[self._max_tokens :]
        kept = len(output.token_ids) - num_over
        log_probs = None if output.log_probs is None else output.log_probs[:kept]
        return EngineOutput(token_ids=output.token_ids[:kept], log_probs=log_probs)

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
            raise self.check.broken(
                Violation.WRONG_LOG_PROBS, f"sent {len(values)} log probabilities for {len(output.token_ids)} tokens"
            )
        # What is not below infinity is infinite, or no number.
        if wrong := [value for value in values if not value < math.inf]:
            raise self.check.broken(Violation.WRONG_LOG_PROBS, f"sent {wrong[0]} as a log probability")
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
        raise StreamIncomplete(
            "the engine cancelled the request, which nobody asked it to", code="cancelled_by_the_worker"
        )
    return reason or "stop"
