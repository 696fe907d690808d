"""The engine seam: token ids in, token ids out, as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from dynamo._core.context import Context
from dynamo._core.stability import stable
from dynamo.llm._messages import EngineOutput, PreprocessedRequest


@stable(since="0.1")
class Engine(Protocol):
    """Generates tokens. Every implementation passes `tests/conformance/test_engine.py`."""

    def generate(self, request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
        """Yield outputs until exactly one carries a `finish_reason`, then stop.

        Closing the iterator, or stopping the context, frees the request's place at once; a stopped
        context ends the stream with "cancelled". At most `max_tokens` token ids are yielded in all. A
        prompt that does not fit raises `InvalidArgument` before the first output, a queue that is full
        `Overloaded`. An engine that ends while the request runs raises `EngineShutdown`.
        """
