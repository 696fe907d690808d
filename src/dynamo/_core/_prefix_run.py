"""A run: consecutive blocks without a branch between them, and which workers hold how many of them.

What is true in every run:

- A worker holds the first blocks of a run, up to its depth, and none behind. Where a worker loses a block and keeps
  a later one, the run is split; where a prefix continues in two ways, too. So one number per worker and run says all,
  and for the workers that hold the whole run one bit does.
- `names` are the engines' names of the blocks, shared by every worker that uses the same ones. A worker that names
  one of them differently has all its names of this run in `own`, exactly as many as its depth. A run without shared
  names has only such workers.
- A child begins where its parent ends, and is found by the tokens hash of its first block.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from dynamo._core._prefix_names import U64s

#: Longer runs cost more to split and to search for a name, shorter ones more steps along a long prompt. See also
#: `_OWN_NAMES_MAX` of the tree.
RUN_BLOCKS_MAX = 512


class Run:
    """Blocks in a row. Workers appear as small numbers, sets of them as the bits of an int."""

    __slots__ = ("children", "full", "id", "names", "own", "parent", "partial", "tokens")

    def __init__(self, run_id: int, parent: Run | None, tokens: U64s, names: U64s | None) -> None:
        self.id = run_id
        self.parent = parent
        self.tokens = tokens
        self.names = names
        self.own: dict[int, U64s] | None = None
        self.full = 0
        self.partial: dict[int, int] | None = None
        self.children: dict[int, Run] | None = None

    def depth(self, worker: int) -> int:
        """Return how many blocks of this run a worker holds."""
        if self.full >> worker & 1:
            return len(self.tokens)
        return self.partial.get(worker, 0) if self.partial else 0

    def set_depth(self, worker: int, depth: int) -> None:
        if depth == len(self.tokens):
            self.full |= 1 << worker
            if self.partial:
                self.partial.pop(worker, None)
        else:
            self.full &= ~(1 << worker)
            if depth:
                self.partial = self.partial or {}
                self.partial[worker] = depth
            elif self.partial:
                self.partial.pop(worker, None)
        self.partial = self.partial or None

    def deepest(self) -> int:
        """Return how many blocks the worker with the most of them holds."""
        if self.full:
            return len(self.tokens)
        return max(self.partial.values()) if self.partial else 0

    def holders(self) -> int:
        """Return the workers that hold at least the first block."""
        mask = self.full
        for worker in self.partial or ():
            mask |= 1 << worker
        return mask

    def names_of(self, worker: int) -> U64s:
        """Return the names that a worker which holds something here uses; beyond its depth they mean nothing."""
        names = self.own.get(worker, self.names) if self.own else self.names
        assert names is not None
        return names

    def uses_own(self, worker: int) -> bool:
        return self.own is not None and worker in self.own

    def only_child(self) -> Run | None:
        if self.children is None or len(self.children) != 1:
            return None
        return next(iter(self.children.values()))

    def add_child(self, child: Run) -> None:
        self.children = self.children if self.children is not None else {}
        self.children[child.tokens[0]] = child
        child.parent = self

    def remove_child(self, first_token: int) -> None:
        assert self.children is not None
        del self.children[first_token]
        self.children = self.children or None


def bits(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def common(a: U64s, a_from: int, b: U64s, b_from: int) -> int:
    """Return how many elements agree, from these places on.

    Slices of arrays compare at a nanosecond per element, so halving beats looking at each.
    """
    length = min(len(a) - a_from, len(b) - b_from)
    if a[a_from : a_from + length] == b[b_from : b_from + length]:
        return length
    agree, differ = 0, length
    while differ - agree > 1:
        middle = (agree + differ) // 2
        if a[a_from + agree : a_from + middle] == b[b_from + agree : b_from + middle]:
            agree = middle
        else:
            differ = middle
    return agree


def position(names: U64s, name: int, depth: int) -> int:
    """Return where a name is among the first `depth`, or -1.

    Engines continue after the last block and free from the end. Elsewhere the bytes are searched: that is six times
    faster than `array.index`, which makes an int of each element.
    """
    if depth and names[depth - 1] == name:
        return depth - 1
    haystack, needle = names[:depth].tobytes(), array("Q", (name,)).tobytes()
    at = haystack.find(needle)
    while at % 8 and at >= 0:
        at = haystack.find(needle, at + 1)
    return at // 8 if at >= 0 else -1
