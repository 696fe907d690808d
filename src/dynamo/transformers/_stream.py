"""The outputs of one request on their way to its reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dynamo._core.errors import DynamoError
from dynamo.llm._engine_request import completion_usage
from dynamo.llm._messages import CompletionUsage, EngineOutput, FinishReason, TopLogprob


class OutputStream:
    """Joins what nobody has read yet into one output, so that it never holds more than one.

    It ends once: with a finish reason or with a failure. What comes later is dropped. The first output and the
    last have the usage: what was cached is known from the start, and not every answer is read to its end. The last
    `num_resumed_tokens` of those that the request came with are the answer's: another worker has generated them.
    """

    def __init__(self, num_tokens: int, num_resumed_tokens: int = 0) -> None:
        self._num_prompt_tokens = num_tokens - num_resumed_tokens
        self._num_tokens = num_resumed_tokens
        #: How much of the prompt was in the prefix cache; None: it has not begun.
        self.num_cached_tokens: int | None = None
        self._is_first = True
        self._pending: EngineOutput | None = None
        self._failure: Callable[[], DynamoError] | None = None
        self._has_ended = False
        self._reader: asyncio.Future[None] | None = None

    async def next(self) -> EngineOutput:
        """Return everything since the last call, waiting for something to come."""
        if self._pending is None and self._failure is None:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        output, self._pending = self._pending, None
        if output is not None:
            if self._is_first:
                output.completion_usage = self._usage()
                self._is_first = False
            return output
        assert self._failure is not None
        raise self._failure()

    def put(
        self,
        token_id: int,
        finish_reason: FinishReason | None,
        log_prob: float | None = None,
        top: Sequence[tuple[int, float]] = (),
    ) -> None:
        """Add a token."""
        if self._has_ended:
            return
        output = self._output()
        output.token_ids.append(token_id)
        self._num_tokens += 1
        if log_prob is not None:
            output.log_probs = [*(output.log_probs or ()), log_prob]
        if top:
            ranked = [TopLogprob(rank, token_id, logprob) for rank, (token_id, logprob) in enumerate(top, start=1)]
            output.top_logprobs = [*(output.top_logprobs or ()), ranked]
        if finish_reason is not None:
            self._finish(output, finish_reason)

    def stop(self) -> None:
        """End with what there is."""
        if not self._has_ended:
            self._finish(self._output(), "cancelled")

    def fail(self, failure: Callable[[], DynamoError]) -> None:
        """End with an error, after what there is."""
        if not self._has_ended:
            self._has_ended = True
            self._failure = failure
            self._wake()

    def _output(self) -> EngineOutput:
        if self._pending is None:
            self._pending = EngineOutput(token_ids=[])
            self._wake()
        return self._pending

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _finish(self, output: EngineOutput, reason: FinishReason) -> None:
        self._has_ended = True
        output.finish_reason = reason
        output.completion_usage = self._usage()

    def _usage(self) -> CompletionUsage:
        return completion_usage(self._num_prompt_tokens, self._num_tokens, self.num_cached_tokens)
