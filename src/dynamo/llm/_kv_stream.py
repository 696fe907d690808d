"""What a router knows of one publisher of KV events: how far, and whether something is missing.

Without I/O. Events are numbered, and a batch without any tells how far its publisher has counted: so a loss is seen
as soon as anything arrives after it. Then what comes is held until the publisher was asked for what is missing. Only
its answer says which epoch is the current one: an event of another may be late, or of a start that is yet unknown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_events import KvEvent, KvEventBatch, weight_of
from dynamo.llm._kv_query import Known, KvAnswer

#: What waits for an answer, as `weight_of` counts; if more comes, all is forgotten, and asked for again.
HELD_WEIGHT_MAX = 1 << 18
#: Epochs that are known to be over.
FORMER_EPOCHS_MAX = 16


class Forget:
    """What was known of a publisher is to be forgotten: it tells everything."""


class KvStream:
    """The events of one publisher, put in order. What it yields is to be taken before it is told of anything else."""

    def __init__(self, worker: WorkerKey) -> None:
        self.worker = worker
        # The mutable state. Without an epoch nothing is known.
        self._epoch: int | None = None
        self._event_id = 0
        self._former: deque[int] = deque(maxlen=FORMER_EPOCHS_MAX)
        self._held: list[KvEventBatch] = []
        self._held_weight = 0
        # Whether what was held since the publisher was asked is not all that came.
        self._has_forgotten = False
        #: Epochs that had been heard of when the publisher was asked.
        self._asked_of: set[int] = set()
        #: Whether the publisher has to be asked.
        self.is_behind = True
        #: Whether something did not fit that was applied since then.
        self.is_doubtful = False
        self.num_duplicates = 0
        self.num_wrong_epoch = 0
        self.num_missed = 0

    @property
    def epoch(self) -> int | None:
        return self._epoch

    def known(self) -> Known | None:
        """How far it is known, for the question; None if nothing is."""
        return None if self._epoch is None else Known(*self.worker, self._epoch, self._event_id)

    def take(self, batch: KvEventBatch) -> Iterator[KvEvent]:
        """Yield the events that are to be applied now."""
        if self.is_behind:
            self._hold(batch)
        elif batch.epoch == self._epoch:
            yield from self._follow(batch)
        elif batch.epoch in self._former:
            self.num_wrong_epoch += len(batch.events)
        else:
            self.is_behind = True
            self._hold(batch)

    def doubt(self) -> None:
        """What was applied did not fit: everything has to be asked for."""
        self._epoch = None
        self.is_behind = True
        self.is_doubtful = False

    def ask(self) -> None:
        """The publisher is being asked now."""
        self._asked_of = {batch.epoch for batch in self._held}
        self._has_forgotten = False

    def answer(self, part: KvAnswer) -> Iterator[KvEvent | Forget]:
        """Yield what is to be applied of a part of the answer; behind the last one also of what was held."""
        if part.is_first:
            self._adopt(part.epoch)
        if part.is_dump:
            if part.is_first:
                self._epoch = None  # until all of it is here
                yield Forget()
            yield from part.events
            if part.is_last:
                self._epoch, self._event_id = part.epoch, part.event_id
        else:
            yield from self._skip_known(part.event_id, part.events)
        if part.is_last:
            yield from self._resume()

    def _adopt(self, epoch: int) -> None:
        over = self._asked_of if self._epoch is None else {*self._asked_of, self._epoch}
        self._former.extend(sorted(over - {epoch} - set(self._former)))
        if epoch in self._former:
            self._former.remove(epoch)

    def _resume(self) -> Iterator[KvEvent]:
        """Go on with what was held, as far as it fits."""
        self.is_behind = self._has_forgotten
        held, self._held, self._held_weight = self._held, [], 0
        num_duplicates = self.num_duplicates
        for batch in held:
            yield from self.take(batch)
        self.num_duplicates = num_duplicates  # they came once, and the answer had them

    def _follow(self, batch: KvEventBatch) -> Iterator[KvEvent]:
        num_missing = batch.event_id - 1 - self._event_id
        if num_missing > 0:
            self.num_missed += num_missing
            self.is_behind = True
            self._hold(batch)
        else:
            yield from self._skip_known(batch.event_id, batch.events)

    def _skip_known(self, event_id: int, events: list[KvEvent]) -> Iterator[KvEvent]:
        num_known = min(max(0, self._event_id + 1 - event_id), len(events))
        self.num_duplicates += num_known
        for event in events[num_known:]:
            self._event_id += 1
            yield event

    def _hold(self, batch: KvEventBatch) -> None:
        self._held.append(batch)
        self._held_weight += weight_of(batch)
        if self._held_weight > HELD_WEIGHT_MAX:
            self._held, self._held_weight, self._has_forgotten = [], 0, True
