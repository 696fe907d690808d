"""What a worker knows of its own cache: the blocks, and its last events, for whoever has missed some.

Without I/O and without time. An event that has no effect is not told: what the blocks do not take, an index of a
router would not take either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from dynamo._core.prefix_index import Applied, WorkerKey
from dynamo.llm._kv_blocks import KvBlocks
from dynamo.llm._kv_events import KvEvent, num_hashes

#: The last events that are kept: so many, with so many hashes.
EVENTS_MAX = 16384
EVENT_HASHES_MAX = 1 << 19


class LocalIndex:
    """The blocks of one rank of a worker, and the events that led to them."""

    def __init__(self, worker: WorkerKey, block_size: int, epoch: int) -> None:
        self.worker = worker
        self.block_size = block_size
        self.epoch = epoch
        # The mutable state. The number of the last event; the first one is 1.
        self.event_id = 0
        self._blocks = KvBlocks()
        self._events: deque[KvEvent] = deque()
        self._num_hashes = 0

    @property
    def num_blocks(self) -> int:
        """How many blocks the worker holds."""
        return len(self._blocks)

    def take(self, event: KvEvent) -> Applied:
        """Apply an event, and number it if it changes anything."""
        applied = self._blocks.apply(event)
        if applied.applied:
            self._keep(event)
        return applied

    @property
    def kept_after(self) -> int:
        """The number of the last event that is not kept any more."""
        return self.event_id - len(self._events)

    def events_after(self, event_id: int, num_max: int = EVENTS_MAX) -> list[KvEvent] | None:
        """Return the events that follow one, or the first of them; None if some are not kept any more."""
        if event_id < self.kept_after:
            return None
        return list(islice(self._events, event_id - self.kept_after, event_id - self.kept_after + num_max))

    def dump(self) -> Iterator[KvEvent]:
        """Yield what is held, as events to someone who knows nothing: as it is at the first of them."""
        return self._blocks.events()

    def _keep(self, event: KvEvent) -> None:
        self.event_id += 1
        self._events.append(event)
        self._num_hashes += num_hashes(event)
        while len(self._events) > EVENTS_MAX or self._num_hashes > EVENT_HASHES_MAX:
            self._num_hashes -= num_hashes(self._events.popleft())
