"""Conversations of random blocks, and who holds them. The same seed gives every system the same ones."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

NUM_WORKERS = 64
#: How many workers hold a conversation, of which one is chosen by chance; and whether they store block by block.
WORKLOADS = {"shared": ((16,), False), "little": ((1, 2), False), "decode": ((1,), True)}
#: The longest conversations have more than the 4,096 blocks that queries have.
_EVENTS_PER_CONVERSATION = (1, 2, 4, 8, 33)
_EVENT_BLOCKS = (100, 168)
_SEED = 7


@dataclass(frozen=True)
class Conversation:
    """Names and tokens hashes of consecutive blocks, where events end, and the workers that hold them."""

    workers: list[int]
    names: array[int]
    tokens: array[int]
    ends: list[int]

    def events(self) -> Iterator[tuple[int | None, array[int], array[int]]]:
        """Yield parent, names and tokens hashes of each event."""
        for begin, end in pairwise([0, *self.ends]):
            yield self.names[begin - 1] if begin else None, self.names[begin:end], self.tokens[begin:end]


def conversations(workload: str, num_blocks: int) -> Iterator[Conversation]:
    """Yield conversations with so many blocks together, or a few more; the first one is a long one."""
    holders, one_by_one = WORKLOADS[workload]
    rng = random.Random(_SEED)
    made, num_events = 0, max(_EVENTS_PER_CONVERSATION)
    while made < num_blocks:
        ends = [0]
        for _ in range(num_events):
            ends.append(ends[-1] + rng.randint(*_EVENT_BLOCKS))
        size = ends[-1]
        workers = rng.sample(range(NUM_WORKERS), rng.choice(holders))
        names, tokens = random_hashes(rng, size), random_hashes(rng, size)
        yield Conversation(workers, names, tokens, list(range(1, size + 1)) if one_by_one else ends[1:])
        made += size
        num_events = rng.choice(_EVENTS_PER_CONVERSATION)


def random_hashes(rng: random.Random, count: int) -> array[int]:
    return array("Q", rng.randbytes(8 * count))
