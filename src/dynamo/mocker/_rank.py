"""One rank of a simulated engine: its scheduler on the clock, and who reads what it gives.

A task does the steps, from the first request until there is none left; an idle rank has no task. All time is the
loop's, and passes in `asyncio.sleep` alone, so a rank runs as well on a virtual clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dynamo._core.errors import DynamoError
from dynamo._core.stability import beta
from dynamo.llm._kv_events import KvEventSink
from dynamo.mocker._block_pool import BlockPool
from dynamo.mocker._config import MockerConfig
from dynamo.mocker._scheduler import Generated, Scheduler
from dynamo.mocker._sequence import TokenSequence
from dynamo.mocker._stream import OutputStream
from dynamo.mocker._timing import TimingModel, step_s

#: Timers are late by up to a millisecond, and steps that follow make up for it; for no more than this.
LAG_S_MAX = 0.05

log = logging.getLogger(__name__)


@beta(since="0.1", constructor=False)
@dataclass(frozen=True, slots=True)
class RankStats:
    """How a rank is now, and what it has done since the start; the names are those of vLLM's metrics."""

    dp_rank: int
    num_requests_running: int
    num_requests_waiting: int
    #: The share of the blocks that requests hold, from 0 to 1.
    kv_cache_usage_perc: float
    kv_used_blocks: int
    kv_total_blocks: int
    #: Blocks whose content can be found, held or not.
    kv_cached_blocks: int
    #: Tokens that were looked for in the cache, and found.
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_preemptions: int
    prompt_tokens: int
    generation_tokens: int
    num_steps: int


class Rank:
    """Runs requests, one step after the other."""

    def __init__(
        self,
        dp_rank: int,
        config: MockerConfig,
        timing: TimingModel,
        sink: KvEventSink | None,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.dp_rank = dp_rank
        self._config = config
        self._timing = timing
        self._on_failure = on_failure
        self._pool = BlockPool(config.num_gpu_blocks, sink)
        self._scheduler = Scheduler(config, self._pool)
        # The mutable state: who reads, until they leave, and the task while there is work.
        self._streams: dict[TokenSequence, OutputStream] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def num_requests(self) -> int:
        """Those that run and those that wait."""
        return self._scheduler.num_running + self._scheduler.num_waiting

    def enter(self, sequence: TokenSequence, *, with_log_probs: bool) -> OutputStream:
        """Take a request. Raises `Overloaded`."""
        self._scheduler.add(sequence)
        stream = OutputStream(sequence, with_log_probs=with_log_probs, interval=self._config.stream_interval)
        self._streams[sequence] = stream
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"mocker rank {self.dp_rank}")
        return stream

    def leave(self, sequence: TokenSequence) -> None:
        """Forget a request, which frees its place at once, whatever the step that runs makes of it."""
        self._streams.pop(sequence, None)
        self._scheduler.remove(sequence)

    def fail(self, failure: Callable[[], DynamoError]) -> None:
        """End every request with an error."""
        for sequence, stream in self._streams.items():
            stream.fail(failure)
            self._scheduler.remove(sequence)

    async def close(self) -> None:
        """End the step that runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def clear_cache(self) -> bool:
        """Forget what is cached; False, and nothing has changed, if a request holds some of it."""
        return self._pool.clear()

    def block_hashes(self) -> frozenset[int]:
        """What can be found in the cache."""
        return self._pool.block_hashes

    def check(self) -> None:
        """Assert that no block is lost, and that everybody is where they should be."""
        self._scheduler.check()

    def stats(self) -> RankStats:
        """Return how it is now."""
        scheduler, pool, counts = self._scheduler, self._pool, self._scheduler.counts
        return RankStats(
            dp_rank=self.dp_rank,
            num_requests_running=scheduler.num_running,
            num_requests_waiting=scheduler.num_waiting,
            kv_cache_usage_perc=pool.usage,
            kv_used_blocks=pool.num_held,
            kv_total_blocks=pool.num_blocks,
            kv_cached_blocks=pool.num_written,
            prefix_cache_queries=counts.prefix_cache_queries,
            prefix_cache_hits=counts.prefix_cache_hits,
            num_preemptions=counts.num_preemptions,
            prompt_tokens=counts.prompt_tokens,
            generation_tokens=counts.generation_tokens,
            num_steps=counts.num_steps,
        )

    async def _run(self) -> None:
        config, loop = self._config, asyncio.get_running_loop()
        due_s = loop.time()
        try:
            while self._scheduler.has_work:
                step = self._scheduler.schedule()
                duration_s = step_s(self._timing, step.work, config.speedup_ratio, config.decode_speedup_ratio)
                due_s = max(due_s, loop.time() - LAG_S_MAX) + duration_s
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                self._deliver(self._scheduler.complete(step))
        except Exception as error:
            log.exception("the simulated engine failed; it takes no more requests")
            self._on_failure(error)
        finally:
            self._task = None

    def _deliver(self, generated: Iterable[Generated]) -> None:
        for sequence, token_id, reason in generated:
            self._streams[sequence].put(token_id, reason)
