"""What a worker tells of its load, to whoever asks: `load_metrics`, an endpoint beside the one that does the work.

Publishing is a plain call that keeps the last value; nothing is sent before somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.llm._load_stats import RANKS_MAX, ForwardPassMetrics, KvStats, LoadReport, WorkerStats
from dynamo.llm._numbers import shown
from dynamo.runtime import CustomLease, Endpoint
from dynamo.runtime._component import Component

log = logging.getLogger(__name__)

LOAD_METRICS = "load_metrics"


class _LoadEndpoint:
    """Answers with the last values."""

    def __init__(self) -> None:
        self._last: dict[int, ForwardPassMetrics] = {}
        self._serving: asyncio.Task[None] | None = None

    def create_endpoint(self, component: Component | Endpoint, lease: CustomLease | None = None) -> asyncio.Task[None]:
        """Begin to answer, for the worker whose component (or one of whose endpoints) this is.

        It begins at once; awaiting what is returned waits until it can be asked. To be called in the event loop.
        With a lease the worker is known by that. Raises `InvalidArgument` for what is neither a component nor an
        endpoint; that another publisher of this worker answers already is raised to whoever awaits, and logged.
        """
        if not isinstance(component, Component | Endpoint):
            raise InvalidArgument(
                f"'component' is {shown(component)}; it must be the Component, or an Endpoint, of the worker",
                param="component",
            )
        beside = component.sibling if isinstance(component, Endpoint) else component.endpoint
        self._serving = asyncio.ensure_future(self._serve(beside(LOAD_METRICS), lease))
        self._serving.add_done_callback(_tell_failure)
        return self._serving

    def _keep(self, metrics: ForwardPassMetrics) -> None:
        # A rank is below RANKS_MAX, so there are no more of them.
        self._last[metrics.worker_stats.data_parallel_rank or 0] = metrics

    async def _serve(self, endpoint: Endpoint, lease: CustomLease | None) -> None:
        await endpoint.serve(self._report, drain_s=0.0, lease=lease)

    async def _report(self, _: object) -> AsyncGenerator[LoadReport, None]:
        yield LoadReport(list(self._last.values()))


@stable(since="0.1")
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
        """Set the values; the last ones count.

        They are those of `WorkerStats` and `KvStats`: counts from 0, shares from 0 to 1. Raises `InvalidArgument`,
        which names the value, for anything else; then the values before it stay.
        """
        self._keep(
            ForwardPassMetrics(
                WorkerStats(request_active_slots, request_total_slots, num_requests_waiting),
                KvStats(kv_active_blocks, kv_total_blocks, gpu_cache_usage_perc, gpu_prefix_cache_hit_rate),
            )
        )


@stable(since="0.1")
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
        given the first counts. `dp_rank` is from 0 to 1023; None is the only one. Raises `InvalidArgument` for what
        is out of range, for no blocks at all, and for blocks beside `ForwardPassMetrics`, which has its own.
        """
        if isinstance(dp_rank, ForwardPassMetrics):
            if active_decode_blocks is not None or kv_used_blocks is not None:
                raise InvalidArgument(
                    "ForwardPassMetrics says how many blocks are used: leave out active_decode_blocks and "
                    "kv_used_blocks",
                    param="kv_used_blocks" if active_decode_blocks is None else "active_decode_blocks",
                )
            self._keep(dp_rank)
            return
        _check_number("dp_rank", dp_rank, RANKS_MAX - 1)
        _check_number("active_decode_blocks", active_decode_blocks)
        _check_number("kv_used_blocks", kv_used_blocks)
        used = active_decode_blocks if kv_used_blocks is None else kv_used_blocks
        if used is None:
            raise InvalidArgument("publish what? give ForwardPassMetrics, kv_used_blocks or active_decode_blocks")
        self._keep(ForwardPassMetrics(WorkerStats(0, 0, data_parallel_rank=dp_rank), KvStats(used, 0)))


def _check_number(name: str, value: object, most: int | None = None) -> None:
    """Raise `InvalidArgument` for what is given and no number from 0 to `most`."""
    is_fit = type(value) is int and value >= 0 and (most is None or value <= most)
    if value is not None and not is_fit:
        allowed = "0 or more" if most is None else f"from 0 to {most}"
        raise InvalidArgument(f"{name!r} is {shown(value)}; it must be a whole number, {allowed}", param=name)


def _tell_failure(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and serving.exception() is not None:
        log.error("the load of this worker cannot be asked for: %s", serving.exception())
