"""vLLM's engine without vLLM: says token after token, as long as a request is there, and what a test makes it say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from dynamo._core.errors import EngineShutdown
from dynamo.vllm._core import CoreFacts, Produced

FACTS = CoreFacts(
    max_context_length=512,
    vocab_size=2048,
    block_size=32,
    num_blocks=64,
    max_num_seqs=2,
    max_num_batched_tokens=512,
    sampling_defaults={"temperature": 0.5, "max_tokens": 99},
)


class FakeCore:
    """Answers each request with its prompt, over and over, up to `max_tokens` tokens, one in a turn of the loop."""

    def __init__(self, facts: CoreFacts = FACTS) -> None:
        self.facts = facts
        self.asked: list[tuple[list[int], Mapping[str, object], str, int | None]] = []
        self.cache_salts: list[str | None] = []
        self.num_closed = 0
        # The requests that run, and how many others were told to end.
        self.running: dict[str, asyncio.Event] = {}
        self.num_aborted = 0
        self._died = asyncio.Event()

    async def generate(
        self,
        token_ids: list[int],
        sampling: Mapping[str, object],
        request_id: str,
        dp_rank: int | None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[Produced, None]:
        self.asked.append((token_ids, sampling, request_id, dp_rank))
        self.cache_salts.append(cache_salt)
        aborted = self.running[request_id] = asyncio.Event()
        max_tokens = sampling["max_tokens"]
        assert isinstance(max_tokens, int)
        try:
            for index in range(max_tokens):
                await asyncio.sleep(0)
                if self._died.is_set():
                    raise EngineShutdown("it died")
                if aborted.is_set():
                    yield Produced([], "abort", 0)
                    return
                yield Produced(
                    [token_ids[index % len(token_ids)]], "length" if index + 1 == max_tokens else None, len(token_ids)
                )
        finally:
            del self.running[request_id]

    async def abort(self, request_id: str) -> None:
        self.num_aborted += 1
        if request_id in self.running:
            self.running[request_id].set()

    async def ended(self) -> None:
        await self._died.wait()

    async def close(self) -> None:
        self.num_closed += 1

    def die(self) -> None:
        """As if the processes were killed."""
        self._died.set()
