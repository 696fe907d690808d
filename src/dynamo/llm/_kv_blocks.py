"""The blocks of one rank of a worker: what each continues, and what is in it.

Without I/O. It can be told as events at any time, exactly: an engine may drop a block and keep those that continue it,
and find them again once it has stored that block anew. So a block that has gone is remembered as long as something
continues it, and is told as one that was stored and then removed. About 130 bytes per block.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterator

from dynamo._core.prefix_index import BLOCKS_MAX, Applied
from dynamo.llm._kv_events import (
    BLOCKS_PER_EVENT_MAX,
    Cleared,
    KvEvent,
    Removed,
    Stored,
    U64s,
    hashes_from_bytes,
    hashes_to_bytes,
    removed_events,
)

_ROOT = -1
#: What a slot is for: a block that is held, one that has gone and that something continues, or none.
_GONE, _HELD, _FREE = 0, 1, 2
_IS_FREE = bytes([False, False, True]).ljust(256)
_U64 = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15


class KvBlocks:
    """Blocks by the names that the engine has given them."""

    def __init__(self, blocks_max: int = BLOCKS_MAX) -> None:
        self._blocks_max = blocks_max
        self._clear()

    def _clear(self) -> None:
        # The mutable state: a block has a slot, and each array has an entry for each slot.
        self._slot_of: dict[int, int] = {}
        self._names: U64s = array("Q")
        self._tokens: U64s = array("Q")
        self._parents = array("q")
        self._num_children = array("L")
        self._states = bytearray()
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many blocks are held."""
        return len(self._slot_of)

    def apply(self, event: KvEvent) -> Applied:
        """Have an event take effect; what it returns counts as `PrefixIndex` does."""
        if isinstance(event, Cleared):
            applied = Applied(len(self._slot_of))
            self._clear()
            return applied
        try:
            names = hashes_from_bytes(event.block_hashes)
            if isinstance(event, Removed):
                return self._remove(names)
            tokens = hashes_from_bytes(event.tokens_hashes)
        except ValueError:
            return Applied(0, malformed=-(-len(event.block_hashes) // 8))
        if len(names) != len(tokens):
            return Applied(0, malformed=max(len(names), len(tokens)))
        return self._store(event.parent_hash, names, tokens)

    def events(self) -> Iterator[KvEvent]:
        """Yield what tells all this to someone who knows nothing: as it is at the first of the events.

        Each takes about a millisecond to make, so that others can go on in between.
        """
        names, tokens, parents, states = self._names[:], self._tokens[:], self._parents[:], self._states[:]
        is_told = states.translate(_IS_FREE)
        gone: U64s = array("Q")
        last = len(names)
        # A block comes mostly after the one that it continues: from behind, a whole prompt is found at once.
        while (last := is_told.rfind(False, 0, last)) >= 0:
            row = _untold(last, parents, is_told)
            parent = parents[row[0]]
            for start in range(0, len(row), BLOCKS_PER_EVENT_MAX):
                piece = row[start : start + BLOCKS_PER_EVENT_MAX]
                for slot in piece:
                    if states[slot] == _GONE:
                        names[slot] = _unused_name(slot, self._slot_of)
                        gone.append(names[slot])
                its_names, its_tokens = (array("Q", map(part.__getitem__, piece)) for part in (names, tokens))
                parent_hash = None if parent == _ROOT else names[parent]
                yield Stored(parent_hash, hashes_to_bytes(its_names), hashes_to_bytes(its_tokens))
                parent = piece[-1]
        yield from removed_events(gone)

    @property
    def _num_slots(self) -> int:
        """Slots that are taken, by blocks that are held and by those that something continues."""
        return len(self._names) - len(self._free)

    def _store(self, parent_hash: int | None, names: U64s, tokens: U64s) -> Applied:
        parent = _ROOT if parent_hash is None else self._slot_of.get(parent_hash)
        if parent is None:
            return Applied(0, unknown_parent=len(names))
        if self._num_slots + len(names) <= self._blocks_max and self._are_new(names):
            self._add_row(parent, names, tokens)
            return Applied(len(names))
        for done, (name, token) in enumerate(zip(names, tokens, strict=True)):
            slot = self._slot_of.get(name)
            if slot is None or self._parents[slot] != parent or self._tokens[slot] != token:
                if slot is not None and slot == parent:
                    return Applied(done, malformed=len(names) - done)
                if self._num_slots >= self._blocks_max:
                    return Applied(done, full=len(names) - done)
                slot = self._add(name, token, parent)
            parent = slot
        return Applied(len(names))

    def _are_new(self, names: U64s) -> bool:
        return self._slot_of.keys().isdisjoint(names) and len(set(names)) == len(names)

    def _add_row(self, parent: int, names: U64s, tokens: U64s) -> None:
        """Add blocks that are all new: what nearly every event says, in a third of the time."""
        if not names:
            return
        slots = self._free_slots(len(names))
        all_names, all_tokens, parents = self._names, self._tokens, self._parents
        num_children, states = self._num_children, self._states
        if parent != _ROOT:
            num_children[parent] += 1
        for slot, name, token in zip(slots, names, tokens, strict=True):
            all_names[slot] = name
            all_tokens[slot] = token
            parents[slot] = parent
            num_children[slot] = 1
            states[slot] = _HELD
            parent = slot
        num_children[parent] = 0
        self._slot_of.update(zip(names, slots, strict=True))

    def _free_slots(self, count: int) -> list[int]:
        """Return slots in ascending order, so that a row is told in one piece."""
        num_missing = count - len(self._free)
        if num_missing > 0:
            end = len(self._names)
            self._free += range(end, end + num_missing)
            for part in (self._names, self._tokens, self._parents, self._num_children):
                part.frombytes(bytes(part.itemsize * num_missing))
            self._states += bytes(num_missing)
        slots = sorted(self._free[-count:])
        del self._free[-count:]
        return slots

    def _add(self, name: int, token: int, parent: int) -> int:
        if parent != _ROOT:
            self._num_children[parent] += 1
        if name in self._slot_of:  # of another block, which is no more known by it
            self._remove_one(name)
        (slot,) = self._free_slots(1)
        self._names[slot], self._tokens[slot], self._parents[slot] = name, token, parent
        self._num_children[slot], self._states[slot] = 0, _HELD
        self._slot_of[name] = slot
        return slot

    def _remove(self, names: U64s) -> Applied:
        removed = sum([self._remove_one(name) for name in names])
        return Applied(removed, unknown_blocks=len(names) - removed)

    def _remove_one(self, name: int) -> bool:
        slot = self._slot_of.pop(name, None)
        if slot is None:
            return False
        self._states[slot] = _GONE
        while slot != _ROOT and self._states[slot] == _GONE and not self._num_children[slot]:
            self._states[slot] = _FREE
            self._free.append(slot)
            slot = self._parents[slot]
            if slot != _ROOT:
                self._num_children[slot] -= 1
        return True


def _untold(last: int, parents: array[int], is_told: bytearray) -> list[int]:
    """Return a block behind those which it continues, as far as they are not told yet, and have them told."""
    row: list[int] = []
    slot = last
    while slot != _ROOT and not is_told[slot]:
        is_told[slot] = True
        row.append(slot)
        slot = parents[slot]
    row.reverse()
    return row


def _unused_name(slot: int, taken: Container[int]) -> int:
    """Return a name for a block that has gone, which no other block has."""
    name = (slot + 1) * _ODD & _U64
    while name in taken:
        name = (name + 1) & _U64
    return name
