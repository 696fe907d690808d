"""What a router has counted, as plain numbers: whoever exports metrics reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field

#: First blocks of prompts that are remembered, to see whether prompts repeat.
_BEGINNINGS_MAX = 8192

#: The buckets of times: from 20 microseconds, which is quick, to a minute in the queue.
LIMITS_S = (
    20e-6, 50e-6, 100e-6, 200e-6, 300e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3, 0.2, 1.0, 5.0, 20.0, 60.0,
)  # fmt: skip


@dataclass(slots=True)
class Phase:
    """How often a phase of a decision was gone through, how long that took in all, and how often how long."""

    count: int = 0
    total_s: float = 0.0
    #: How often it took longer than the limit in `LIMITS_S` before, and no longer than the one at its place.
    by_limit: list[int] = field(default_factory=lambda: [0] * (len(LIMITS_S) + 1))

    def add(self, seconds: float) -> None:
        """It was gone through once more, and took so long."""
        self.count += 1
        self.total_s += seconds
        self.by_limit[bisect_left(LIMITS_S, seconds)] += 1


@dataclass(slots=True)
class RouterStats:
    """Counters and times of one KV router since it was made."""

    decisions: int = 0
    #: Full blocks of all prompts, and how many of them were expected to be cached where they were sent. Their ratio
    #: is the hit rate: a mean of the ratios of requests would count a short prompt as much as a long one.
    prompt_blocks: int = 0
    predicted_cached_blocks: int = 0
    predicted_cached_tokens: int = 0
    #: Prompts that begin as another one did lately, and those of them that no worker had a block of.
    repeated_prompts: int = 0
    repeated_prompts_without_hit: int = 0
    #: What workers say that they had cached of all prompts. Of the requests that were expected to find something, those
    #: whose worker says what it found, and those of them that found nothing.
    reported_cached_tokens: int = 0
    expected_hits: int = 0
    expected_hits_missed: int = 0
    #: Requests that waited for room, and those that were refused or gave up.
    queued: int = 0
    queue_rejected: int = 0
    queue_abandoned: int = 0
    #: Where the time of a decision goes.
    hashing: Phase = field(default_factory=Phase)
    lookup: Phase = field(default_factory=Phase)
    scheduling: Phase = field(default_factory=Phase)
    total: Phase = field(default_factory=Phase)
    queueing: Phase = field(default_factory=Phase)


class Beginnings:
    """Sees whether prompts begin alike."""

    def __init__(self, size_max: int = _BEGINNINGS_MAX) -> None:
        self._size_max = size_max
        self._seen: OrderedDict[int, None] = OrderedDict()

    def note(self, first_block: int) -> bool:
        """Note the first block of a prompt; returns whether another one had it lately."""
        seen = self._seen
        if first_block in seen:
            seen.move_to_end(first_block)
            return True
        seen[first_block] = None
        if len(seen) > self._size_max:
            seen.popitem(last=False)
        return False
