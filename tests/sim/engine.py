"""The oracle's tokens, given at a pace and in bunches that the seed decides, and with an end of their own.

So it does not matter who generates a token, or how often somebody took over: what a request gets is known before
it is sent, and a token that is lost, doubled or of another request shows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

from tests.oracle import Sequel

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo.llm import CompletionUsage, EngineOutput, FinishReason, PreprocessedRequest
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE
from dynamo.runtime import Endpoint

#: How often it ends of itself.
EOS_ONE_IN = 40
TOKENS_AT_ONCE_MAX = 3


def _next(sequel: Sequel, request: PreprocessedRequest) -> int:
    token_id = sequel.next()
    return request.eos_token_ids[0] if request.eos_token_ids and token_id % EOS_ONE_IN == 0 else token_id


class SimEngine:
    """Generates, `pace_s` on average for each token."""

    kv_cache_block_size = KV_CACHE_BLOCK_SIZE
    #: That of the model, if it has none of its own.
    context_length: int | None = None
    runtime_config: dict[str, object] | None = None

    def __init__(self, rng: random.Random, pace_s: float) -> None:
        self._rng = rng
        self._pace_s = pace_s
        #: How many times each request holds a place in it, and how many times each has begun.
        self.running: dict[str, int] = {}
        self.begun: dict[str, int] = {}
        # Set while it generates: one that is stuck gives no token, and all else of its process goes on.
        self._going = asyncio.Event()
        self._going.set()

    @staticmethod
    def expected_tokens(request: PreprocessedRequest) -> list[int]:
        """Return everything that a request gets."""
        sequel = Sequel(request.token_ids, request.sampling_options)
        generated: list[int] = []
        while len(generated) < (request.stop_conditions.max_tokens or 0):
            generated.append(_next(sequel, request))
            if generated[-1] in request.eos_token_ids:
                break
        return generated

    def start(self, endpoint: Endpoint) -> None:
        """It is that of the worker at `endpoint`. There is no cache of which anybody could hear."""

    async def restart(self) -> None:
        """Begin anew within the same process."""

    async def close(self) -> None:
        """Its worker has ended."""

    def stick(self) -> None:
        """Give no token any more."""
        self._going.clear()

    def go_on(self) -> None:
        """Be well again."""
        self._going.set()

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield outputs until one has a finish reason."""
        limit = request.stop_conditions.max_tokens
        if limit is None or not request.token_ids:
            raise InvalidArgument("this engine wants a prompt and max_tokens")
        self.enter(context.request_id)
        try:
            sequel = Sequel(request.token_ids, request.sampling_options)
            num_tokens = 0
            reason: FinishReason | None = None
            while reason is None:
                batch: list[int] = []
                for _ in range(self._rng.randint(1, TOKENS_AT_ONCE_MAX)):
                    await asyncio.sleep(self._pace_s * self._rng.uniform(0.0, 2.0))
                    await self._going.wait()
                    batch.append(_next(sequel, request))
                    num_tokens += 1
                    if batch[-1] in request.eos_token_ids:
                        reason = "stop"
                    elif num_tokens >= limit:
                        reason = "length"
                    if reason is not None:
                        break
                if reason is None and context.is_stopped():
                    reason = "cancelled"
                yield self.output(batch, reason, request, num_tokens)
        finally:
            self.leave(context.request_id)

    def output(
        self, batch: list[int], reason: FinishReason | None, request: PreprocessedRequest, num_tokens: int
    ) -> EngineOutput:
        """What it says in one step; a test overrides it to have it say something wrong."""
        num_prompt = len(request.token_ids)
        usage = None if reason is None else CompletionUsage(num_prompt, num_tokens, num_prompt + num_tokens)
        return EngineOutput(token_ids=batch, finish_reason=reason, completion_usage=usage)

    def enter(self, request_id: str) -> None:
        """Take a place."""
        self.running[request_id] = self.running.get(request_id, 0) + 1
        self.begun[request_id] = self.begun.get(request_id, 0) + 1

    def leave(self, request_id: str) -> None:
        """Give a place back."""
        self.running[request_id] -= 1
        if not self.running[request_id]:
            del self.running[request_id]
