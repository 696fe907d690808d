"""What a worker answers to a router that has missed some of its KV events, or all.

The endpoint `kv_query` of the worker's component. One request is answered for every rank of the worker: with the
events that the asker has not, if they are still kept, and else with all that the rank holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from weakref import WeakKeyDictionary

import msgspec

from dynamo._core.address import EndpointId
from dynamo._core.errors import DynamoError
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import beta
from dynamo.llm._kv_events import KvEvent, num_hashes
from dynamo.llm._kv_local_index import LocalIndex
from dynamo.runtime import DistributedRuntime, Endpoint, ServedEndpoint

log = logging.getLogger(__name__)

KV_QUERY = "kv_query"
#: An answer is cut into items of about so many hashes, so that nobody waits long for the loop: at either end an item
#: takes about two milliseconds.
HASHES_PER_ITEM = 4096
EVENTS_PER_ITEM = 256
#: Askers that are answered at a time; the others wait.
QUERIES_MAX = 8
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0


@beta(since="0.1")
class Known(msgspec.Struct, array_like=True, frozen=True):
    """How far the asker knows one rank."""

    worker_id: int
    dp_rank: int
    epoch: int
    event_id: int


@beta(since="0.1")
class KvQuery(msgspec.Struct, array_like=True, frozen=True):
    """The question: what else is there?"""

    known: list[Known]


@beta(since="0.1")
class KvAnswer(msgspec.Struct, array_like=True, frozen=True):
    """A part of the answer for one rank. `is_dump`: what the asker knew of the rank is to be forgotten before."""

    worker_id: int
    dp_rank: int
    block_size: int
    epoch: int
    #: The number of the first of the events; of a dump, that of the last event which it covers.
    event_id: int
    is_dump: bool
    is_first: bool
    is_last: bool
    events: list[KvEvent]


class KvQueries:
    """Answers for all ranks of one instance, as long as there is one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        # The mutable state: a rank is that of the publisher that came last.
        self._ranks: dict[WorkerKey, LocalIndex] = {}
        self._serving: asyncio.Task[None] | None = None
        # Who serves the endpoint has it: discovery is not to take the next one out with the one before.
        self._turn = asyncio.Lock()

    def add(self, rank: LocalIndex) -> None:
        """Answer for a rank, too."""
        self._ranks[rank.worker] = rank
        if self._serving is None:
            self._serving = asyncio.get_running_loop().create_task(self._serve(), name=f"serve {self.endpoint.id}")

    async def remove(self, rank: LocalIndex) -> None:
        """Answer for a rank no more; without any, the endpoint closes."""
        if self._ranks.get(rank.worker) is rank:
            del self._ranks[rank.worker]
        if self._ranks or self._serving is None:
            return
        serving, self._serving = self._serving, None
        serving.cancel()
        await asyncio.wait([serving])

    async def answer(self, query: KvQuery) -> AsyncGenerator[KvAnswer, None]:
        """Tell what the asker does not know."""
        known = {WorkerKey(one.worker_id, one.dp_rank): one for one in query.known}
        for worker, rank in list(self._ranks.items()):
            for part in _parts(rank, known.get(worker)):
                yield part
                await asyncio.sleep(0)

    async def _serve(self) -> None:
        """Serve the endpoint until that is cancelled."""
        async with self._turn:
            served = await self._begin()
            if served is not None:
                try:
                    await asyncio.Event().wait()
                finally:
                    await served.close(drain_s=0.0)

    async def _begin(self) -> ServedEndpoint | None:
        delay_s = RETRY_S_MIN
        while True:
            try:
                return await self.endpoint.serve(
                    self.answer, request_type=KvQuery, drain_s=0.0, max_concurrent_requests=QUERIES_MAX
                )
            except DynamoError as error:
                if self.endpoint.runtime.primary_token().is_cancelled():
                    return None
                log.warning("%s cannot be served; trying again in %.1f s: %s", self.endpoint.id, delay_s, error)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_S_MAX)


_queries: WeakKeyDictionary[DistributedRuntime, dict[tuple[EndpointId, int], KvQueries]] = WeakKeyDictionary()


def queries_beside(endpoint: Endpoint) -> KvQueries:
    """Return who answers for the ranks of the instance that serves an endpoint: all of them use one `kv_query`."""
    beside = endpoint.sibling(KV_QUERY)
    of_runtime = _queries.setdefault(endpoint.runtime, {})
    queries = of_runtime.get((beside.id, beside.lease_id()))
    if queries is None:
        queries = of_runtime[beside.id, beside.lease_id()] = KvQueries(beside)
    return queries


def _parts(rank: LocalIndex, known: Known | None) -> Iterator[KvAnswer]:
    """Cut what a rank has to say into items. It is what the rank knows now, however long sending it takes."""
    events: Iterator[KvEvent] | None = None
    event_id = rank.event_id
    if known is not None and known.epoch == rank.epoch:
        after = rank.events_after(known.event_id)
        if after is not None:
            events, event_id = iter(after), event_id + 1 - len(after)
    is_dump = events is None
    items = _items(rank.dump() if events is None else events)
    is_first, item = True, next(items, [])
    while True:
        following = next(items, None)
        yield KvAnswer(
            rank.worker.worker_id,
            rank.worker.dp_rank,
            rank.block_size,
            rank.epoch,
            event_id,
            is_dump,
            is_first,
            following is None,
            item,
        )
        if following is None:
            return
        event_id += 0 if is_dump else len(item)
        is_first, item = False, following


def _items(events: Iterator[KvEvent]) -> Iterator[list[KvEvent]]:
    """Cut events into lists, none of which is large."""
    item: list[KvEvent] = []
    size = 0
    for event in events:
        item.append(event)
        size += num_hashes(event)
        if size >= HASHES_PER_ITEM or len(item) == EVENTS_PER_ITEM:
            yield item
            item, size = [], 0
    if item:
        yield item
