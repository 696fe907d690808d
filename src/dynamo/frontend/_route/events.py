"""What the servers behind a route hold in their caches, by their own KV events.

A server that was not heard yet may be one that has cached nothing, or one whose events do not arrive: as long as that
is so, and for servers without events, what was sent there counts as cached for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.frontend._route.backends import Backends
from dynamo.llm._kv_counted_index import CountedIndex, HasIndexStats, KvIndexStats
from dynamo.llm._kv_events import to_u64s
from dynamo.llm._kv_faults import Faults
from dynamo.llm._kv_router.approx import ApproxIndex
from dynamo.llm._kv_router.decision import Weighed
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._kv_zmq_events import ZmqKvEvents

logger = logging.getLogger(__name__)


class _Sink:
    """Applies the events of one server to the index; see `KvEventSink`."""

    def __init__(self, index: PrefixIndex, worker: WorkerKey, faults: Faults, on_heard: Callable[[], None]) -> None:
        self._index = index
        self._worker = worker
        self._faults = faults
        self._on_heard = on_heard
        self.is_heard = False

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        assert tokens_hashes is not None, "they are computed where the engine's events are read"
        if not self.is_heard:
            self.is_heard = True
            self._on_heard()
        names, tokens = to_u64s(block_hashes), to_u64s(tokens_hashes)
        self._faults.note_unapplied(self._index.store(self._worker, parent_hash, names, tokens))

    def removed(self, block_hashes: Sequence[int]) -> None:
        self._faults.note_unapplied(self._index.remove(self._worker, to_u64s(block_hashes)))

    def cleared(self) -> None:
        self._index.clear(self._worker)


class BackendEvents(HasIndexStats):
    """Follows the events of all servers that have some, from `start` to `close`; see `Overlaps`."""

    def __init__(self, backends: Backends, *, sent_ttl_s: float) -> None:
        clock = asyncio.get_running_loop().time
        self._clock = clock
        self._index = CountedIndex()
        self._sent = ApproxIndex(ttl_s=sent_ttl_s)
        self._faults = Faults(logger, "KV events of the servers", clock)
        self._sinks: dict[WorkerKey, _Sink] = {}
        self._sources: dict[WorkerKey, ZmqKvEvents] = {}
        self._has_told_sizes = False
        for backend in backends:
            if (events := backend.address.events) is None:
                continue
            key = WorkerKey(backend.id)
            sink = self._sinks[key] = _Sink(self._index, key, self._faults, partial(self._sent.remove_worker, key))
            self._sources[key] = ZmqKvEvents(
                sink, events.endpoint, None, replay_endpoint=events.replay_endpoint, bind=events.bind
            )

    def start(self) -> None:
        """Begin to listen."""
        for source in self._sources.values():
            source.start()

    async def close(self) -> None:
        """Listen no more. A second call changes nothing."""
        await asyncio.gather(*(source.close() for source in self._sources.values()))

    @property
    def block_size(self) -> int | None:
        """Tokens in a block, as the first server says that tells; None until one does."""
        sizes = [size for source in self._sources.values() if (size := source.block_size) is not None]
        if len(set(sizes)) > 1 and not self._has_told_sizes:
            self._has_told_sizes = True
            logger.error(
                "the servers have blocks of %s tokens: only those with %d are found by their events; give all the "
                "same block size",
                ", ".join(map(str, sorted(set(sizes)))), sizes[0],
            )  # fmt: skip
        return sizes[0] if sizes else None

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        """Return how many leading blocks of a prompt each server holds; those without any are absent."""
        return {**self._sent.find(tokens_hashes), **self._index.find(tokens_hashes)}

    def num_blocks(self, backend_id: int) -> int | None:
        """How many blocks a server holds; None if it was not heard."""
        key = WorkerKey(backend_id)
        sink = self._sinks.get(key)
        return self._index.workers().get(key, 0) if sink is not None and sink.is_heard else None

    def faults(self) -> Mapping[str, int]:
        """How often something was wrong with events, by reason."""
        counts = dict(self._faults.counts)
        for source in self._sources.values():
            for reason, count in source.faults.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts

    def stats(self) -> KvIndexStats:
        """Return how large the index is, and what happened. Servers that were heard count as publishers."""
        return KvIndexStats(
            is_following=True,
            num_workers=self._index.num_workers,
            num_blocks=self._index.num_blocks,
            num_unique_blocks=self._index.num_unique_blocks,
            num_publishers=sum(sink.is_heard for sink in self._sinks.values()),
            num_refused=0,
            events=self._index.events,
            num_answers=sum(source.num_replays for source in self._sources.values()),
            num_dumps=0,
            faults=self.faults(),
        )

    # What the router tells: see `Listener`.

    def booked(self, route: KvRoute, weighed: Weighed) -> None:
        key, now = weighed.load.key, self._clock()
        self._sent.expire(now)
        sink = self._sinks.get(key)
        if sink is None or not sink.is_heard:
            self._sent.note_sent(key, route.prompt.tokens_hashes, now)

    def prefill_completed(self, route: KvRoute) -> None:
        pass

    def freed(self, route: KvRoute) -> None:
        pass
