"""What a worker tells of its load, to whoever asks: `load_metrics`, an endpoint beside the one that does the work.

Publishing is a plain call that keeps the last value; nothing is sent before somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo.runtime import Component, CustomLease, Endpoint

log = logging.getLogger(__name__)

LOAD_METRICS = "load_metrics"
RANKS_MAX = 1024


class WorkerStats(msgspec.Struct, frozen=True):
    """Requests of a worker, or of one of its ranks."""

    request_active_slots: int = 0
    request_total_slots: int = 0
    num_requests_waiting: int = 0
    data_parallel_rank: int | None = None


class KvStats(msgspec.Struct, frozen=True):
    """Its KV cache."""

    kv_active_blocks: int = 0
    kv_total_blocks: int = 0
    gpu_cache_usage_perc: float = 0.0
    gpu_prefix_cache_hit_rate: float = 0.0


class SpecDecodeStats(msgspec.Struct, frozen=True):
    """Its speculative decoding."""

    num_spec_tokens: int | None = None
    num_drafts: int | None = None
    num_draft_tokens: int | None = None
    num_accepted_tokens: int | None = None
    num_accepted_tokens_per_pos: list[int] | None = None


class ForwardPassMetrics(msgspec.Struct, frozen=True):
    """All of it."""

    worker_stats: WorkerStats
    kv_stats: KvStats
    spec_decode_stats: SpecDecodeStats | None = None


class LoadReport(msgspec.Struct, frozen=True):
    """What `load_metrics` answers: the last values of each rank. Empty before the first."""

    ranks: list[ForwardPassMetrics]


class _LoadEndpoint:
    """Answers with the last values."""

    def __init__(self) -> None:
        self._last: dict[int, ForwardPassMetrics] = {}
        self._serving: asyncio.Task[None] | None = None

    def create_endpoint(self, component: Component | Endpoint, lease: CustomLease | None = None) -> asyncio.Task[None]:
        """Begin to answer, for the worker whose component (or one of whose endpoints) this is.

        It begins at once; awaiting what is returned waits until it can be asked. To be called in the event loop.
        With a lease the worker is known by that.
        """
        beside = component.sibling if isinstance(component, Endpoint) else component.endpoint
        self._serving = asyncio.ensure_future(self._serve(beside(LOAD_METRICS), lease))
        self._serving.add_done_callback(_tell_failure)
        return self._serving

    def _keep(self, metrics: ForwardPassMetrics) -> None:
        rank = metrics.worker_stats.data_parallel_rank or 0
        if rank not in self._last and len(self._last) >= RANKS_MAX:
            raise InvalidArgument(f"a worker has at most {RANKS_MAX} ranks; {rank} is one too many")
        self._last[rank] = metrics

    async def _serve(self, endpoint: Endpoint, lease: CustomLease | None) -> None:
        await endpoint.serve(self._report, drain_s=0.0, lease=lease)

    async def _report(self, _: object) -> AsyncGenerator[LoadReport, None]:
        yield LoadReport(list(self._last.values()))


class KvMetricsPublisher(_LoadEndpoint):
    """Tells of a worker's load in seven numbers."""

    def publish(
        self,
        request_active_slots: int,
        request_total_slots: int,
        kv_active_blocks: int,
        kv_total_blocks: int,
        num_requests_waiting: int,
        gpu_cache_usage_perc: float,
        gpu_prefix_cache_hit_rate: float,
    ) -> None:
        """Set the values; the last ones count. Shares are from 0 to 1."""
        self._keep(
            ForwardPassMetrics(
                WorkerStats(request_active_slots, request_total_slots, num_requests_waiting),
                KvStats(kv_active_blocks, kv_total_blocks, gpu_cache_usage_perc, gpu_prefix_cache_hit_rate),
            )
        )


class WorkerMetricsPublisher(_LoadEndpoint):
    """Tells of a worker's load, or of that of each of its ranks."""

    def publish(
        self,
        dp_rank: ForwardPassMetrics | int | None = None,
        active_decode_blocks: int | None = None,
        kv_used_blocks: int | None = None,
    ) -> None:
        """Set the values of a rank: all of them, as `ForwardPassMetrics`, or the blocks that it uses.

        `kv_used_blocks` are all that are not free, `active_decode_blocks` those of running requests; if both are
        given the first counts.
        """
        if isinstance(dp_rank, ForwardPassMetrics):
            self._keep(dp_rank)
            return
        used = active_decode_blocks if kv_used_blocks is None else kv_used_blocks
        if used is None:
            raise InvalidArgument("publish what? give ForwardPassMetrics, kv_used_blocks or active_decode_blocks")
        self._keep(ForwardPassMetrics(WorkerStats(data_parallel_rank=dp_rank), KvStats(kv_active_blocks=used)))


def _tell_failure(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and serving.exception() is not None:
        log.error("the load of this worker cannot be asked for: %s", serving.exception())
