"""A simulated engine: takes the time of one with a model, and says what nobody has to compute.

It stands for vLLM where the model does not matter: for routers, for measurements, and for simulations on a
virtual clock. Blocks, prefix caching, batching and preemption are those of `_scheduler.py` and
`_block_pool.py`, times those of `_timing.py`, and tokens those of `_answer.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, EngineShutdown, InvalidArgument
from dynamo._core.stability import beta
from dynamo.llm._kv_events import KvEventSink
from dynamo.llm._messages import EngineOutput, PreprocessedRequest
from dynamo.mocker._answer import VOCABULARY
from dynamo.mocker._config import MockerConfig
from dynamo.mocker._rank import Rank, RankStats
from dynamo.mocker._sequence import TokenSequence
from dynamo.mocker._timing import PolynomialTiming, TimingModel


@beta(since="0.1")
class MockerEngine:
    """Serves requests in simulated time.

    `kv_event_sinks` hear of every block that is stored or removed, one for each of the `dp_size` ranks. A
    request that names a `dp_rank` goes there, and another one to the rank with the fewest requests.
    `vocabulary` is what it answers with: the ids of the tokens, two of them at least. Raises `ConfigError` for sinks
    or a vocabulary that do not fit.
    """

    def __init__(
        self,
        config: MockerConfig | None = None,
        *,
        timing: TimingModel | None = None,
        kv_event_sinks: Sequence[KvEventSink] = (),
        vocabulary: range = VOCABULARY,
    ) -> None:
        config = config or MockerConfig()
        self.config: MockerConfig = config
        if kv_event_sinks and len(kv_event_sinks) != config.dp_size:
            raise ConfigError(f"{len(kv_event_sinks)} kv_event_sinks for {config.dp_size} ranks: give one for each")
        if len(vocabulary) < 2:
            raise ConfigError(f"a vocabulary of {len(vocabulary)} tokens is too small to answer with")
        self._vocabulary = vocabulary
        self._has_kv_events = bool(kv_event_sinks)
        self._ranks = [
            Rank(
                dp_rank,
                config,
                timing or PolynomialTiming(),
                kv_event_sinks[dp_rank] if kv_event_sinks else None,
                self._take_failure,
            )
            for dp_rank in range(config.dp_size)
        ]
        # Why it takes no more requests.
        self._failure: Callable[[], EngineShutdown] | None = None
        self._ended = asyncio.Event()

    @property
    def max_context_length(self) -> int:
        """Tokens that a prompt and its output may have together."""
        return self.config.max_context_length

    @property
    def capabilities(self) -> list[str]:
        """What requests may ask for: all that they may of the engines that it stands for."""
        return ["logprobs", "seed", "penalties", "cache_salt"]

    @property
    def kv_cache_block_size(self) -> int:
        """Tokens in one block."""
        return self.config.block_size

    @property
    def runtime_config(self) -> dict[str, object]:
        """What its model card tells routers."""
        return {
            "total_kv_blocks": self.config.num_gpu_blocks,
            "max_num_seqs": self.config.max_num_seqs,
            "max_num_batched_tokens": self.config.max_num_batched_tokens,
            "data_parallel_size": self.config.dp_size,
            "kv_events": self._has_kv_events,
        }

    @property
    def num_requests_running(self) -> int:
        """Requests that are in a batch now, over all ranks."""
        return sum(stats.num_requests_running for stats in self.stats())

    @property
    def num_requests_waiting(self) -> int:
        """Requests that wait for a place or for blocks, over all ranks."""
        return sum(stats.num_requests_waiting for stats in self.stats())

    def stats(self) -> list[RankStats]:
        """Return how each rank is now."""
        return [rank.stats() for rank in self._ranks]

    def block_hashes(self, dp_rank: int = 0) -> frozenset[int]:
        """What a rank has in its cache: the sequence hash of each block that a request would find."""
        return self._ranks[dp_rank].block_hashes()

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield the request's tokens as they come. The first and the last output have the usage.

        Raises `InvalidArgument` for a request that no rank could serve, `Overloaded` if too many wait already, and
        `EngineShutdown` when it is closed or has failed.
        """
        if self._failure is not None:
            raise self._failure()
        rank = self._rank_for(request)
        sequence = TokenSequence(
            request,
            block_size=self.config.block_size,
            max_context_length=self.config.max_context_length,
            vocabulary=self._vocabulary,
        )
        stream = rank.enter(sequence, with_log_probs=request.output_options.logprobs is not None)

        def stop() -> None:
            rank.leave(sequence)
            stream.stop()

        context.stopped_token.add_callback(stop)
        try:
            while True:
                output = await stream.next()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            context.stopped_token.remove_callback(stop)
            rank.leave(sequence)

    def clear_kv_blocks(self) -> bool:
        """Forget what is cached; False, where a request holds some of it, and that rank keeps all."""
        cleared = [rank.clear_cache() for rank in self._ranks]
        return all(cleared)

    def check(self) -> None:
        """Assert that no block is lost; for tests of what breaks things."""
        for rank in self._ranks:
            rank.check()

    async def ended(self) -> EngineShutdown:
        """Wait until the engine takes no more requests, and return why."""
        await self._ended.wait()
        assert self._failure is not None
        return self._failure()

    async def close(self) -> None:
        """Requests that run or wait fail with `EngineShutdown`. A second call changes nothing."""
        self._fail(partial(EngineShutdown, "the engine was closed before the request was done"))
        for rank in self._ranks:
            await rank.close()

    def _rank_for(self, request: PreprocessedRequest) -> Rank:
        wanted = request.dp_rank
        if wanted is None:
            return min(self._ranks, key=lambda rank: rank.num_requests)
        if not 0 <= wanted < len(self._ranks):
            raise InvalidArgument(f"dp_rank={wanted} is none of the {len(self._ranks)} ranks of this engine")
        return self._ranks[wanted]

    def _take_failure(self, error: BaseException) -> None:
        self._fail(partial(_engine_failed, error))

    def _fail(self, failure: Callable[[], EngineShutdown]) -> None:
        """Take no more requests, and end those that there are."""
        if self._failure is None:
            self._failure = failure
            self._ended.set()
            for rank in self._ranks:
                rank.fail(failure)


def _engine_failed(cause: BaseException) -> EngineShutdown:
    failure = EngineShutdown(f"the engine failed: {type(cause).__name__}: {cause}")
    failure.__cause__ = cause
    return failure
