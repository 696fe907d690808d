"""The outputs of one request on their way from a simulated engine to its reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dynamo._core.errors import DynamoError
from dynamo.llm._messages import EngineOutput, FinishReason
from dynamo.mocker._answer import log_prob
from dynamo.mocker._sequence import TokenSequence


class OutputStream:
    """Joins what nobody has read yet into one output, so that it never holds more than one.

    The first token can be read at once, and after it so many at a time as `interval` says.

    It ends once: with a finish reason or with a failure. What comes later is dropped. The first output and the
    last have the usage: what was cached is known from the start, and not every answer is read to its end.
    """

    def __init__(self, sequence: TokenSequence, *, with_log_probs: bool, interval: int = 1) -> None:
        self.sequence = sequence
        self._interval = interval
        self._with_log_probs = with_log_probs
        self._token_ids: list[int] = []
        self._reason: FinishReason | None = None
        self._failure: Callable[[], DynamoError] | None = None
        self._is_first = True
        self._reader: asyncio.Future[None] | None = None

    @property
    def has_ended(self) -> bool:
        return self._reason is not None or self._failure is not None

    async def next(self) -> EngineOutput:
        """Return everything since the last call, waiting for something to come."""
        if not self._is_ready():
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._failure is not None and not self._token_ids:
            raise self._failure()
        output = EngineOutput(token_ids=self._token_ids, finish_reason=self._reason)
        self._token_ids = []
        if self._with_log_probs:
            output.log_probs = [log_prob(token_id) for token_id in output.token_ids]
        if self._is_first or self._reason is not None:
            output.completion_usage = self.sequence.usage()
            self._is_first = False
        return output

    def put(self, token_id: int, reason: FinishReason | None) -> None:
        """Add a token."""
        if not self.has_ended:
            self._token_ids.append(token_id)
            self._reason = reason
            if self._is_ready():
                self._wake()

    def stop(self) -> None:
        """End with what there is."""
        if not self.has_ended:
            self._reason = "cancelled"
            self._wake()

    def fail(self, failure: Callable[[], DynamoError]) -> None:
        """End with an error, after what there is."""
        if not self.has_ended:
            self._failure = failure
            self._wake()

    def _is_ready(self) -> bool:
        return len(self._token_ids) >= (1 if self._is_first else self._interval) or self.has_ended

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
