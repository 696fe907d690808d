"""The load of all workers of a component, as they tell it when they are asked, about once a second."""

from __future__ import annotations

import asyncio
import logging
import statistics
from dataclasses import dataclass, field

from dynamo._core.errors import DynamoError, InvalidArgument, ProtocolError
from dynamo._core.stability import beta
from dynamo.llm._kv_metrics import LOAD_METRICS
from dynamo.llm._load_stats import LOAD_REPORT, ForwardPassMetrics, LoadReport
from dynamo.llm._numbers import shown
from dynamo.runtime import Client
from dynamo.runtime._component import Component

log = logging.getLogger(__name__)

POLL_S = 1.0
#: How long one worker may take to answer, and how many are asked at a time.
ANSWER_TIMEOUT_S = 2.0
ASKED_MAX = 64
#: What a worker said counts for so long after it last answered.
STALE_S = 5.0
FIRST_POLL_TIMEOUT_S = 10.0


@beta(since="0.1", constructor=False)
@dataclass(frozen=True, slots=True)
class EndpointKvMetrics:
    """The load of one worker. Of several ranks these are the sums, and of shares the means.

    The names are those of `WorkerStats` and `KvStats`; shares are from 0 to 1.
    """

    #: The instance that told it.
    worker_id: int
    request_active_slots: int
    request_total_slots: int
    kv_active_blocks: int
    kv_total_blocks: int
    num_requests_waiting: int
    gpu_cache_usage_perc: float
    gpu_prefix_cache_hit_rate: float


@beta(since="0.1", constructor=False)
@dataclass(frozen=True, slots=True)
class AggregatedMetrics:
    """The load of all workers. The load that is averaged is `kv_active_blocks`."""

    #: Each worker that has told of its load lately, in the order of their ids.
    endpoints: list[EndpointKvMetrics] = field(default_factory=list)
    #: The mean, in blocks, and the standard deviation; 0 without workers.
    load_avg: float = 0.0
    load_std: float = 0.0


@beta(since="0.1")
class KvMetricsAggregator:
    """Asks the workers of a component for their load. To be made in the event loop; it ends with the runtime.

    Raises `InvalidArgument` for what is no component.
    """

    def __init__(self, component: Component) -> None:
        if not isinstance(component, Component):
            raise InvalidArgument(
                f"'component' is {shown(component)}; it must be the Component of the workers", param="component"
            )
        self._component = component
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(ASKED_MAX)
        # The mutable state: what each worker said, and when.
        self._said: dict[int, tuple[float, LoadReport]] = {}
        self._polled = asyncio.Event()
        self._num_unreadable = 0
        self._running = self._loop.create_task(self._run(), name=f"load of {component.name}")
        component.runtime.primary_token().add_callback(self._end)

    async def get_metrics(self) -> AggregatedMetrics:
        """Return what the workers last said; at first it waits until they were asked once.

        A worker that has published nothing yet is not in it. Raises `DynamoError` if nobody can be asked.
        """
        try:
            async with asyncio.timeout(FIRST_POLL_TIMEOUT_S):
                await self._polled.wait()
        except TimeoutError:
            raise DynamoError(
                f"the load of {self._component.name} is not known after {FIRST_POLL_TIMEOUT_S:g} s: discovery does not "
                "say who its workers are"
            ) from None
        now = self._loop.time()
        return aggregate({id: said for id, (at_s, said) in sorted(self._said.items()) if now - at_s <= STALE_S})

    async def close(self) -> None:
        """Ask nobody any more. A second call changes nothing."""
        self._component.runtime.primary_token().remove_callback(self._end)
        self._end()
        await asyncio.wait([self._running])

    def _end(self) -> None:
        self._running.cancel()

    async def _run(self) -> None:
        while True:
            try:
                client = await self._component.endpoint(LOAD_METRICS).client()
                try:
                    while True:
                        await self._poll(client)
                        await asyncio.sleep(POLL_S)
                finally:
                    await client.close()
            except DynamoError as error:
                log.warning("the load of %s cannot be asked for, and is again soon: %s", self._component.name, error)
                await asyncio.sleep(POLL_S)

    async def _poll(self, client: Client) -> None:
        ids = client.instance_ids()
        reports = await asyncio.gather(*(self._ask(client, id) for id in ids))
        now = self._loop.time()
        self._said = {id: said for id, said in self._said.items() if id in ids}
        self._said |= {id: (now, report) for id, report in zip(ids, reports, strict=True) if report is not None}
        self._polled.set()

    async def _ask(self, client: Client, id: int) -> LoadReport | None:
        try:
            async with self._slots, asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await client.direct(None, id, item_type=LOAD_REPORT.struct)
                async with answer:
                    return LOAD_REPORT.read(await anext(answer))
        except ProtocolError as error:
            self._note_unreadable(id, error)
            return None
        except (DynamoError, StopAsyncIteration, TimeoutError) as error:
            log.debug("worker %x did not tell its load: %s", id, error)
            return None

    def _note_unreadable(self, id: int, error: ProtocolError) -> None:
        """Say it the first time, and each time that the count has doubled."""
        self._num_unreadable += 1
        if self._num_unreadable.bit_count() == 1:
            log.warning(
                "%d reports of load to %s were no such reports so far; the last one, of worker %x, is left out: %s",
                self._num_unreadable, self._component.name, id, error,
            )  # fmt: skip


def aggregate(reports: dict[int, LoadReport]) -> AggregatedMetrics:
    """Put the load of all workers together."""
    endpoints = [_sum(id, report.ranks) for id, report in reports.items() if report.ranks]
    loads = [endpoint.kv_active_blocks for endpoint in endpoints]
    if not loads:
        return AggregatedMetrics()
    return AggregatedMetrics(endpoints, statistics.fmean(loads), statistics.pstdev(loads))


def _sum(worker_id: int, ranks: list[ForwardPassMetrics]) -> EndpointKvMetrics:
    requests, caches = [rank.worker_stats for rank in ranks], [rank.kv_stats for rank in ranks]
    return EndpointKvMetrics(
        worker_id,
        sum(one.request_active_slots for one in requests),
        sum(one.request_total_slots for one in requests),
        sum(one.kv_active_blocks for one in caches),
        sum(one.kv_total_blocks for one in caches),
        sum(one.num_requests_waiting for one in requests),
        statistics.fmean(one.gpu_cache_usage_perc for one in caches),
        statistics.fmean(one.gpu_prefix_cache_hit_rate for one in caches),
    )
