"""An index made of the router's own decisions, for engines that publish no events.

A worker that was sent a prompt holds its blocks soon afterwards, and after some time no longer: how long is a guess
(TTL), or follows from how many blocks it has room for (LRU). Time is passed in.

What is remembered is one entry for each block of each worker, however often it is sent. Nothing here takes long but to
note a prompt of very many blocks: much that is over at once is forgotten in slices.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

from dynamo._core.blocks import sequence_hashes
from dynamo._core.prefix_index import PrefixIndex, StoredBlocks, WorkerKey

TTL_S = 120.0
#: So many blocks are remembered of all workers together.
BLOCKS_MAX = 1 << 20
#: So many are forgotten at a time, beside as many as are new: about a millisecond.
SLICE_BLOCKS = 512

#: When each block of a worker was sent last, in the order in which they are forgotten: what was sent the longest ago
#: comes first, and of one prompt its end.
_Blocks = OrderedDict[int, float]


class ApproxIndex:
    """The blocks that each worker should hold, by what it was sent."""

    def __init__(self, *, ttl_s: float | None = TTL_S, blocks_max: int = BLOCKS_MAX) -> None:
        """`ttl_s` is how long blocks count; None: until there is no room for them."""
        self._ttl_s = float("inf") if ttl_s is None else ttl_s
        self._blocks_max = blocks_max
        self._index = PrefixIndex(blocks_max=2 * blocks_max)
        self._workers: dict[WorkerKey, _Blocks] = {}
        # Those of workers that are gone: to free them all at once would take long.
        self._left: list[_Blocks] = []

    @property
    def num_blocks(self) -> int:
        """Blocks of all workers; a block that two workers hold counts twice."""
        return sum(map(len, self._workers.values()))

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
        blocks = self._workers.get(worker)
        if blocks is None:
            blocks = self._workers[worker] = OrderedDict()
        num_before, move_to_end = len(blocks), blocks.move_to_end
        for name in reversed(names):
            blocks[name] = now
            move_to_end(name)
        num_new = len(blocks) - num_before
        self._index.store(worker, None, names, tokens_hashes)
        room = self._blocks_max if room_blocks is None else min(room_blocks, self._blocks_max)
        most = num_new + SLICE_BLOCKS
        excess = min(most, len(blocks) - max(room, len(names)))
        if (num := max(excess, self._num_expired(blocks, now, most))) > 0:
            self._forget(worker, blocks, num)
        if (excess := self.num_blocks - self._blocks_max) > 0:
            self._forget_oldest(excess)

    def expire(self, now: float) -> bool:
        """Forget some of what was sent too long ago, and return whether that was all.

        The owner calls it from time to time, and again until it was, with a turn for others in between.
        """
        budget = SLICE_BLOCKS
        for worker, blocks in list(self._workers.items()):
            if num := self._num_expired(blocks, now, budget):
                self._forget(worker, blocks, num)
                budget -= num
            if not budget:
                return False
        while self._left:
            blocks = self._left[-1]
            for _ in range(min(budget, len(blocks))):
                blocks.popitem()
                budget -= 1
            if blocks:
                return False
            self._left.pop()
        return self._index.reclaim(budget)

    def remove_worker(self, worker: WorkerKey) -> None:
        """Forget all that was sent to a worker. It is found no more from now on; `expire` takes back its memory."""
        blocks = self._workers.pop(worker, None)
        if blocks is not None:
            self._left.append(blocks)
            self._index.remove_worker(worker)

    def dump(self) -> Iterator[StoredBlocks]:
        """Yield what each worker should hold; see `PrefixIndex.dump`."""
        return self._index.dump()

    def _forget(self, worker: WorkerKey, blocks: _Blocks, num: int) -> None:
        """Forget so many blocks of a worker: the ends of what was sent first."""
        gone = list(islice(blocks, num))
        for name in gone:
            del blocks[name]
        self._index.remove(worker, gone)
        if not blocks:
            self.remove_worker(worker)

    def _forget_oldest(self, excess: int) -> None:
        """Make room among all workers: forget what was sent the longest ago, whoever has it."""
        oldest = [(_first_sent(blocks), worker) for worker, blocks in self._workers.items()]
        heapq.heapify(oldest)
        while excess > 0:
            _, worker = heapq.heappop(oldest)
            blocks = self._workers[worker]
            # Up to where another worker has the oldest.
            until = oldest[0][0] if oldest else float("inf")
            num = _num_sent(blocks, until, excess)
            self._forget(worker, blocks, num)
            excess -= num
            if blocks:
                heapq.heappush(oldest, (_first_sent(blocks), worker))

    def _num_expired(self, blocks: _Blocks, now: float, most: int) -> int:
        """How many blocks count no longer, of so many that are looked at."""
        return _num_sent(blocks, now - self._ttl_s, most)


def _first_sent(blocks: _Blocks) -> float:
    """When that was sent which is forgotten next."""
    return next(iter(blocks.values()))


def _num_sent(blocks: _Blocks, until: float, most: int) -> int:
    """How many blocks were sent up to then, of so many that are looked at."""
    return sum(1 for _ in takewhile(lambda sent: sent <= until, islice(blocks.values(), most)))
