"""An index made of the router's own decisions, for engines that publish no events.

A worker that was sent a prompt holds its blocks soon afterwards, and after some time no longer: how long is a guess
(TTL), or follows from how many blocks it has room for (LRU). Time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from dynamo._core.blocks import sequence_hashes
from dynamo._core.prefix_index import PrefixIndex, StoredBlocks, WorkerKey

TTL_S = 120.0
#: So many blocks are remembered of all workers together.
BLOCKS_MAX = 1 << 20


class _Sent:
    """A prompt that was sent to a worker: the names of its blocks, and until when they count."""

    __slots__ = ("expires", "names")

    def __init__(self, names: Sequence[int], expires: float) -> None:
        self.names = names
        self.expires = expires


class _Worker:
    """What was sent to one worker. A block belongs to the last prompt that had it."""

    __slots__ = ("owners", "sent")

    def __init__(self) -> None:
        self.sent: deque[_Sent] = deque()
        self.owners: dict[int, _Sent] = {}

    def disown(self, sent: _Sent) -> list[int]:
        """Return the blocks of a prompt that no later one had, and forget them."""
        owners = self.owners
        own = [name for name in sent.names if owners.get(name) is sent]
        for name in own:
            del owners[name]
        return own


class ApproxIndex:
    """The blocks that each worker should hold, by what it was sent."""

    def __init__(self, *, ttl_s: float | None = TTL_S, blocks_max: int = BLOCKS_MAX) -> None:
        """`ttl_s` is how long blocks count; None: until there is no room for them."""
        self._ttl_s = float("inf") if ttl_s is None else ttl_s
        self._blocks_max = blocks_max
        self._index = PrefixIndex(blocks_max=2 * blocks_max)
        self._workers: dict[WorkerKey, _Worker] = {}

    @property
    def num_blocks(self) -> int:
        """Blocks of all workers; a block that two workers hold counts twice."""
        return sum(len(worker.owners) for worker in self._workers.values())

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        """Return how many leading blocks of a prompt each worker should hold; see `expire`."""
        return self._index.find(tokens_hashes)

    def note_sent(
        self, worker: WorkerKey, tokens_hashes: Sequence[int], now: float, *, room_blocks: int | None = None
    ) -> None:
        """A prompt was sent to a worker, which has room for so many blocks."""
        if not tokens_hashes:
            return
        names = sequence_hashes(tokens_hashes)
        known = self._workers.get(worker)
        if known is None:
            known = self._workers[worker] = _Worker()
        sent = _Sent(names, now + self._ttl_s)
        known.sent.append(sent)
        known.owners.update(dict.fromkeys(names, sent))
        self._index.store(worker, None, names, tokens_hashes)
        room = self._blocks_max if room_blocks is None else min(room_blocks, self._blocks_max)
        self._make_room(worker, known, max(room, len(names)))
        if self.num_blocks > self._blocks_max:
            self._forget_oldest()

    def expire(self, now: float) -> None:
        """Forget what was sent too long ago."""
        for key, worker in list(self._workers.items()):
            while worker.sent and worker.sent[0].expires <= now:
                self._index.remove(key, worker.disown(worker.sent.popleft()))
            if not worker.sent:
                self.remove_worker(key)

    def remove_worker(self, worker: WorkerKey) -> None:
        """Forget all that was sent to a worker."""
        if self._workers.pop(worker, None) is not None:
            self._index.remove_worker(worker)
            self._index.reclaim()

    def dump(self) -> Iterator[StoredBlocks]:
        """Yield what each worker should hold; see `PrefixIndex.dump`."""
        return self._index.dump()

    def _make_room(self, key: WorkerKey, worker: _Worker, room: int) -> None:
        """Forget the ends of what was sent first, until a worker holds no more than it can."""
        while (excess := len(worker.owners) - room) > 0:
            first = worker.sent[0]
            own = worker.disown(first)
            kept, gone = (own[: len(own) - excess], own[len(own) - excess :]) if len(own) > excess else ([], own)
            self._index.remove(key, gone)
            if kept:
                first.names = kept
                worker.owners.update(dict.fromkeys(kept, first))
            else:
                worker.sent.popleft()

    def _forget_oldest(self) -> None:
        """Make room among all workers, at the cost of the one that was sent something the longest ago."""
        while (excess := self.num_blocks - self._blocks_max) > 0:
            key, worker = min(self._workers.items(), key=lambda item: item[1].sent[0].expires)
            self._make_room(key, worker, max(0, len(worker.owners) - excess))
            if not worker.sent:
                self.remove_worker(key)
