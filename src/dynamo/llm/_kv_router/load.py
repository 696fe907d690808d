"""What each worker has to do: prompts to compute, and blocks that it holds while it generates.

A request is booked with a worker when it is sent there. While its prompt is computed, the tokens that the cache does
not save count; its blocks count until it ends, those that requests of one worker share once. A booking lasts until it
is freed, be that two hours later, or until its worker is gone for good. Nothing here looks at a clock, and every
change costs the same however many requests there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import beta
from dynamo.llm._kv_router.prompt import DEPTHS, Prompt

#: What an engine computes in one step if its card does not say.
MAX_NUM_BATCHED_TOKENS = 8192
RANKS_MAX = 1024


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker's model card says of it, as far as routers care."""

    num_ranks: int = 1
    total_kv_blocks: int | None = None
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
    taints: frozenset[str] = frozenset()

    @classmethod
    def read(cls, runtime_config: Mapping[str, object]) -> WorkerFacts:
        """Read the `runtime_config` of a card; what makes no sense counts as not said."""
        taints = runtime_config.get("taints")
        return cls(
            min(RANKS_MAX, _positive(runtime_config.get("data_parallel_size")) or 1),
            _positive(runtime_config.get("total_kv_blocks")),
            _positive(runtime_config.get("max_num_batched_tokens")) or MAX_NUM_BATCHED_TOKENS,
            frozenset(one for one in taints if isinstance(one, str))
            if isinstance(taints, list | tuple)
            else frozenset(),
        )


@beta(since="0.1")
class PotentialLoad(msgspec.Struct, frozen=True):
    """What a worker would have to do with one more request."""

    worker_id: int
    dp_rank: int
    potential_prefill_tokens: int
    potential_decode_blocks: int
    active_requests: int


@dataclass(frozen=True, slots=True)
class Tracking:
    """What counts as load."""

    prefill_tokens: bool = True
    active_blocks: bool = True
    output_blocks: bool = False
    kv_reuse: bool = True


class Load:
    """What one worker, or one rank of it, has to do."""

    __slots__ = ("bookings", "decode_blocks", "facts", "held", "key", "num_requests", "prefill_tokens")

    def __init__(self, key: WorkerKey, facts: WorkerFacts) -> None:
        self.key: WorkerKey = key
        self.facts: WorkerFacts = facts
        # All state; changed by bookings only.
        self.num_requests: int = 0
        self.prefill_tokens: int = 0
        self.decode_blocks: int = 0
        self.bookings: set[Booking] = set()
        #: How many of its requests have each checkpoint.
        self.held: Counter[int] = Counter()


class Booking:
    """One request at one worker, from when it is sent until it ends."""

    __slots__ = (
        "_active", "_block_size", "_num_tokens", "_tracks_output", "checkpoints", "load", "own_blocks",
        "prefill_tokens",
    )  # fmt: skip

    def __init__(
        self, active: ActiveBlocks, load: Load, prompt: Prompt, prefill_tokens: int, tracking: Tracking
    ) -> None:
        self._active = active
        self.load: Load = load
        # What is counted for it at the moment.
        self.prefill_tokens: int = prefill_tokens if tracking.prefill_tokens else 0
        self.own_blocks: int = 0
        self.checkpoints: list[int] = []
        self._tracks_output = tracking.output_blocks and tracking.active_blocks
        self._num_tokens, self._block_size = prompt.num_tokens, prompt.block_size
        load.bookings.add(self)
        load.num_requests += 1
        load.prefill_tokens += self.prefill_tokens
        if tracking.active_blocks:
            self._hold_blocks(prompt, tracking.kv_reuse)

    @property
    def is_open(self) -> bool:
        """Whether it counts."""
        return self in self.load.bookings

    def _hold_blocks(self, prompt: Prompt, kv_reuse: bool) -> None:
        self.own_blocks = prompt.num_blocks
        if kv_reuse and prompt.checkpoints:
            self.checkpoints = prompt.checkpoints
            self.own_blocks -= DEPTHS[len(self.checkpoints)]
            self.load.decode_blocks += self._active.add(self.load, self.checkpoints)
        self.load.decode_blocks += self.own_blocks

    def complete_prefill(self) -> None:
        """The prompt is computed. A second call changes nothing."""
        if self.prefill_tokens and self.is_open:
            self.load.prefill_tokens -= self.prefill_tokens
            self.prefill_tokens = 0

    def grow(self, num_tokens: int) -> None:
        """So many tokens were generated since the last call."""
        if not self._tracks_output or not self.is_open:
            return
        before = -(-self._num_tokens // self._block_size)
        self._num_tokens += num_tokens
        grown = -(-self._num_tokens // self._block_size) - before
        self.own_blocks += grown
        self.load.decode_blocks += grown

    def free(self) -> None:
        """The request has ended. A second call changes nothing."""
        if not self.is_open:
            return
        self.complete_prefill()
        load = self.load
        load.bookings.discard(self)
        load.num_requests -= 1
        load.decode_blocks -= self.own_blocks
        if self.checkpoints:
            load.decode_blocks -= self._active.remove(load, self.checkpoints)


class ActiveBlocks:
    """How far the requests that are booked with each worker agree with a prompt.

    There are many checkpoints, and so neither of the maps has objects in it: nothing for the garbage collector.
    """

    def __init__(self) -> None:
        # For each checkpoint, which workers have it, as the bits of an int. Who has one has all before it.
        self._holders: dict[int, int] = {}
        # The bit of each worker that has any, and the other way round.
        self._bits: dict[Load, int] = {}
        self._by_bit: dict[int, Load] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def shared(self, prompt: Prompt) -> dict[Load, int]:
        """Return how many leading blocks of a prompt the requests of each worker hold already."""
        found: dict[Load, int] = {}
        if not self._holders or not prompt.tokens_hashes:
            return found
        reached = depth = 0
        for number, checkpoint in enumerate(prompt.checkpoints, 1):
            holders = self._holders.get(checkpoint, 0)
            if holders != reached and reached:
                self._note(found, reached ^ holders, depth)
            if not holders:
                return found
            reached, depth = holders, DEPTHS[number]
        self._note(found, reached, depth)
        return found

    def _note(self, found: dict[Load, int], bits: int, depth: int) -> None:
        while bits:
            bit = bits & -bits
            found[self._by_bit[bit]] = depth
            bits ^= bit

    def add(self, load: Load, checkpoints: list[int]) -> int:
        """Count a prompt's checkpoints for a worker; returns how many blocks nobody there held before."""
        held, holders = load.held, self._holders
        num_before = len(held)
        held.update(checkpoints)
        num_known = len(checkpoints) - (len(held) - num_before)
        bit = self._bits.get(load) or self._new_bit(load)
        for checkpoint in checkpoints[num_known:]:
            holders[checkpoint] = holders.get(checkpoint, 0) | bit
        return DEPTHS[len(checkpoints)] - DEPTHS[num_known]

    def remove(self, load: Load, checkpoints: list[int]) -> int:
        """Take checkpoints back; returns how many blocks nobody there holds any more."""
        held, holders, bit = load.held, self._holders, self._bits[load]
        num_left = 0
        for checkpoint in checkpoints:
            count = held[checkpoint]
            if count > 1:
                held[checkpoint] = count - 1
                num_left += 1
                continue
            held.pop(checkpoint)  # quicker than `del`, which a Counter has in Python
            if others := holders.get(checkpoint, 0) & ~bit:
                holders[checkpoint] = others
            else:
                holders.pop(checkpoint, None)
        if not held:
            del self._bits[load], self._by_bit[bit]
        return DEPTHS[len(checkpoints)] - DEPTHS[num_left]

    def continues(self, load: Load, checkpoints: list[int]) -> bool:
        """Whether a prompt goes on where those of a worker's requests agree with it; false if it contradicts them.

        Another router may tell of such a prompt. Nothing here fails for that, but what is shared is counted wrong.
        """
        known = [checkpoint in load.held for checkpoint in checkpoints]
        return not any(known[sum(known) :]) and len(set(checkpoints)) == len(checkpoints)

    def _new_bit(self, load: Load) -> int:
        bit = 1
        while bit in self._by_bit:
            bit <<= 1
        self._bits[load], self._by_bit[bit] = bit, load
        return bit


def _positive(value: object) -> int | None:
    """Return a count that a card tells; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
