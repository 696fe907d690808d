"""What an engine says of its KV cache, so that routers know which blocks it holds.

Three forms of the same facts. An engine calls a `KvEventSink`. On our event plane they are a `KvEventBatch`, small and
fast to read: hashes travel as the bytes of little-endian u64. People, recordings and `RadixTree` see `RouterEvent`s,
as JSON that Dynamo 1.6 understands, too.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from dynamo._core.prefix_index import Applied, PrefixIndex, StoredBlocks, WorkerKey
from dynamo._core.stability import stable

U64s: TypeAlias = "array[int]"
#: What a tier is called that the index knows: the memory that the engine computes in.
DEVICE = "device"
#: Longer runs of blocks are told in several events, so that none takes long: about a millisecond.
BLOCKS_PER_EVENT_MAX = 1024
#: An event costs as much as so many hashes, besides those that it has.
EVENT_WEIGHT = 32
_U64 = (1 << 64) - 1
_I64_MIN = -(1 << 63)


class KvEventSink(Protocol):
    """Hears of every block that can be found in an engine's cache, and of every one that no longer can.

    The calls return at once and never fail: an engine does not wait for those who listen.
    """

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        """Blocks were filled, each the continuation of the one before it, the first that of `parent_hash`.

        `block_hashes` are the engine's names for them; what is in them is said by `tokens_hashes`, by
        `token_ids`, or by both.
        """

    def removed(self, block_hashes: Sequence[int]) -> None:
        """Blocks have gone."""

    def cleared(self) -> None:
        """All blocks have gone."""


# On the event plane.


@stable(since="0.1")
class Stored(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Blocks in a row; both kinds of hashes as little-endian u64."""

    parent_hash: int | None
    block_hashes: bytes
    tokens_hashes: bytes


@stable(since="0.1")
class Removed(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """Blocks that have gone."""

    block_hashes: bytes


@stable(since="0.1")
class Cleared(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """All blocks have gone."""


KvEvent = Stored | Removed | Cleared


@stable(since="0.1")
class KvEventBatch(msgspec.Struct, array_like=True, frozen=True):
    """Events of one publisher, in order; without any it says how far the publisher has counted."""

    #: Who holds the blocks.
    worker_id: int
    dp_rank: int
    #: The instance whose `kv_query` knows more.
    source_id: int
    block_size: int
    #: Another one at each start of the publisher: its events are counted from 1 again, and nothing before holds.
    epoch: int
    #: The number of the first of the events, or of the next one that there will be.
    event_id: int
    events: list[KvEvent]


def num_hashes(event: KvEvent) -> int:
    """How many hashes are in an event: about what it weighs, and how long it takes."""
    if isinstance(event, Stored):
        return (len(event.block_hashes) + len(event.tokens_hashes)) // 8
    return len(event.block_hashes) // 8 if isinstance(event, Removed) else 0


def weight_of(batch: KvEventBatch) -> int:
    """What a batch costs those who hold or apply it, in hashes."""
    return EVENT_WEIGHT + sum([EVENT_WEIGHT + num_hashes(event) for event in batch.events])


# For people, recordings, and others.


@stable(since="0.1")
class KvCacheStoredBlock(msgspec.Struct, frozen=True):
    """One block: the engine's name for it, and the hash of its tokens."""

    block_hash: int
    tokens_hash: int
    mm_extra_info: object = None


@stable(since="0.1")
class KvCacheStored(msgspec.Struct, frozen=True):
    """Blocks in a row."""

    parent_hash: int | None
    blocks: list[KvCacheStoredBlock]
    start_position: int | None = None


@stable(since="0.1")
class KvCacheRemoved(msgspec.Struct, frozen=True):
    """Blocks that have gone."""

    block_hashes: list[int]


@stable(since="0.1")
class KvCacheChange(msgspec.Struct, frozen=True):
    """One of the two."""

    stored: KvCacheStored | UnsetType = UNSET
    removed: KvCacheRemoved | UnsetType = UNSET


KvCacheEventData = KvCacheChange | Literal["cleared"]


@stable(since="0.1")
class KvCacheEvent(msgspec.Struct, frozen=True):
    """An event of one rank of a worker."""

    event_id: int
    data: KvCacheEventData
    dp_rank: int = 0


@stable(since="0.1")
class RouterEvent(msgspec.Struct, frozen=True):
    """An event and the worker it is of."""

    worker_id: int
    event: KvCacheEvent
    storage_tier: str = DEVICE
    residency_domain: str = "worker"


# From one form to another.


def to_u64(value: int) -> int:
    """Return a hash as u64, which older publishers wrote as i64. Raises ValueError if it is neither."""
    if _I64_MIN <= value <= _U64:
        return value & _U64
    raise ValueError(f"{value} is no hash of 64 bits")


def to_u64s(values: Sequence[int]) -> U64s:
    """Return hashes as an array. Raises ValueError or TypeError if some are no integers of 64 bits."""
    if isinstance(values, array) and values.typecode == "Q":
        return values
    try:
        return array("Q", values)
    except OverflowError:
        return array("Q", map(to_u64, values))


def hashes_to_bytes(hashes: U64s) -> bytes:
    """Return the hashes as they travel."""
    return hashes.tobytes() if sys.byteorder == "little" else _swapped(hashes).tobytes()


def hashes_from_bytes(data: bytes) -> U64s:
    """Read hashes. Raises ValueError if it is no whole number of them."""
    hashes = array("Q")
    hashes.frombytes(data)
    return hashes if sys.byteorder == "little" else _swapped(hashes)


def stored_events(parent_hash: int | None, block_hashes: U64s, tokens_hashes: U64s) -> Iterator[Stored]:
    """Yield what says that these blocks are stored: one event, or several if they are many."""
    for start in range(0, len(block_hashes), BLOCKS_PER_EVENT_MAX):
        names = block_hashes[start : start + BLOCKS_PER_EVENT_MAX]
        tokens = tokens_hashes[start : start + BLOCKS_PER_EVENT_MAX]
        yield Stored(parent_hash, hashes_to_bytes(names), hashes_to_bytes(tokens))
        parent_hash = names[-1]


def removed_events(block_hashes: U64s) -> Iterator[Removed]:
    """Yield what says that these blocks have gone: one event, or several if they are many."""
    for start in range(0, len(block_hashes), BLOCKS_PER_EVENT_MAX):
        yield Removed(hashes_to_bytes(block_hashes[start : start + BLOCKS_PER_EVENT_MAX]))


def parts_of(event: KvEvent) -> Iterable[KvEvent]:
    """Return an event as several of which none takes long to apply, whoever has made it."""
    if isinstance(event, Cleared) or len(event.block_hashes) <= 8 * BLOCKS_PER_EVENT_MAX:
        return (event,)
    try:
        names = hashes_from_bytes(event.block_hashes)
        if isinstance(event, Removed):
            return removed_events(names)
        tokens = hashes_from_bytes(event.tokens_hashes)
    except ValueError:
        return (event,)  # it is malformed, and applied as such
    return stored_events(event.parent_hash, names, tokens) if len(names) == len(tokens) else (event,)


def read_data(data: KvCacheEventData) -> Iterator[KvEvent]:
    """Yield what an event of the other form says. Raises ValueError or TypeError for hashes that are none."""
    if data == "cleared":
        yield Cleared()
        return
    assert isinstance(data, KvCacheChange)
    if data.stored:
        parent, blocks = data.stored.parent_hash, data.stored.blocks
        yield from stored_events(
            None if parent is None else to_u64(parent),
            to_u64s([block.block_hash for block in blocks]),
            to_u64s([block.tokens_hash for block in blocks]),
        )
    if data.removed:
        yield from removed_events(to_u64s(data.removed.block_hashes))


def event_data(event: KvEvent) -> KvCacheEventData:
    """Return an event in the other form. Raises ValueError for one with parts of a hash."""
    if isinstance(event, Stored):
        pairs = zip(hashes_from_bytes(event.block_hashes), hashes_from_bytes(event.tokens_hashes), strict=True)
        return KvCacheChange(
            stored=KvCacheStored(event.parent_hash, [KvCacheStoredBlock(name, tokens) for name, tokens in pairs])
        )
    if isinstance(event, Removed):
        return KvCacheChange(removed=KvCacheRemoved(hashes_from_bytes(event.block_hashes).tolist()))
    return "cleared"


def router_events(batch: KvEventBatch) -> Iterator[RouterEvent]:
    """Yield the events of a batch in the other form."""
    for event_id, event in enumerate(batch.events, batch.event_id):
        yield RouterEvent(batch.worker_id, KvCacheEvent(event_id, event_data(event), batch.dp_rank))


def apply_event(index: PrefixIndex, worker: WorkerKey, event: KvEvent) -> Applied:
    """Have an index know an event of a worker."""
    if isinstance(event, Cleared):
        index.clear(worker)
        return Applied(0)
    try:
        names = hashes_from_bytes(event.block_hashes)
        if isinstance(event, Removed):
            return index.remove(worker, names)
        return index.store(worker, event.parent_hash, names, hashes_from_bytes(event.tokens_hashes))
    except ValueError:
        return Applied(0, malformed=-(-len(event.block_hashes) // 8))


def dumped_events(dumped: Iterable[StoredBlocks]) -> Iterator[RouterEvent]:
    """Yield what an index holds in the other form; the events of each worker are counted from 1."""
    counts: dict[tuple[int, int], int] = {}
    for worker, parent_hash, block_hashes, tokens_hashes in dumped:
        for event in stored_events(parent_hash, block_hashes, tokens_hashes):
            event_id = counts[worker] = counts.get(worker, 0) + 1
            yield RouterEvent(worker.worker_id, KvCacheEvent(event_id, event_data(event), worker.dp_rank))


def _swapped(hashes: U64s) -> U64s:
    swapped = hashes[:]
    swapped.byteswap()
    return swapped
