"""An engine's cache that does what engines may do at random, and knows what it holds: the truth."""

from __future__ import annotations

import random
from collections.abc import Sequence

from dynamo.llm._kv_events import KvEventSink


class RandomCache:
    """Blocks of prompts of a small family, under names that are its own."""

    def __init__(self, sink: KvEventSink, rng: random.Random, *, num_prompts: int = 12, num_blocks: int = 12) -> None:
        self.sink = sink
        self._rng = rng
        # Prompt `p` shares its first blocks with the others: a block is known by what it continues and a number.
        self.prompts = prompts(num_prompts, num_blocks)
        # The name of each place that is held: a place is a prefix of tokens hashes.
        self._held: dict[tuple[int, ...], int] = {}

    def held(self, prompt: Sequence[int]) -> int:
        """How many leading blocks of a prompt are there."""
        for length in range(len(prompt)):
            if tuple(prompt[: length + 1]) not in self._held:
                return length
        return len(prompt)

    def step(self) -> None:
        """Do one thing that an engine may do."""
        chance = self._rng.random()
        if chance < 0.6:
            self._store()
        elif chance < 0.98:
            self._remove()
        else:
            self._held.clear()
            self.sink.cleared()

    def _store(self) -> None:
        prompt = self._rng.choice(self.prompts)
        begin = self.held(prompt)
        end = begin
        while end < len(prompt) and tuple(prompt[: end + 1]) not in self._held and self._rng.random() < 0.8:
            end += 1
        if end == begin:
            return
        names = [self._rng.getrandbits(64) for _ in range(begin, end)]
        parent = self._held[tuple(prompt[:begin])] if begin else None
        for at, name in zip(range(begin, end), names, strict=True):
            self._held[tuple(prompt[: at + 1])] = name
        self.sink.stored(parent, names, prompt[begin:end])

    def _remove(self) -> None:
        places = self._rng.sample(list(self._held), min(len(self._held), self._rng.randrange(1, 5)))
        if places:
            self.sink.removed([self._held.pop(place) for place in places])


def prompts(num_prompts: int, num_blocks: int) -> list[list[int]]:
    """Prompts that have beginnings in common."""
    rng = random.Random("prompts")
    first = [rng.getrandbits(64) for _ in range(num_blocks)]
    family = [first]
    while len(family) < num_prompts:
        shared = rng.randrange(num_blocks)
        family.append(rng.choice(family)[:shared] + [rng.getrandbits(64) for _ in range(num_blocks - shared)])
    return family
