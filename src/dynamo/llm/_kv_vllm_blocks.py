"""What vLLM says of its blocks, in our terms: their tokens hashes, and only what a prompt can be found by.

Without I/O. The engine's hashes are the names of blocks and nothing else: what is in a block is computed from its
tokens, its adapter, and the salt of its tenant. vLLM tells the salt with the first block of a prompt only, so it is
remembered for those that continue it. What else vLLM has hashed into a block, such as an image, nobody could ask for:
it is left out. And it may hold a block twice, when two requests have computed it at a time: each copy is told as
stored, and as removed, and only the last one is gone for us. But of blocks at the beginning of a prompt one copy counts
at most: vLLM tells those that it uses again as if it had stored them, if a request wants that. To know one copy too few
may cost a hit, and one too many is wrong for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dynamo._core.blocks import block_hashes
from dynamo._core.errors import InvalidArgument
from dynamo._core.prefix_index import BLOCKS_MAX
from dynamo.llm._kv_events import KvEventSink
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._kv_vllm_events import (
    DEVICE_MEDIA,
    WHOLE_KINDS,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    VllmEvent,
    hash_of,
    hashes_of,
    other_keys,
    read_event,
)


class VllmBlocks:
    """Tells a sink what an engine's events say."""

    def __init__(self, sink: KvEventSink, block_size: int | None, faults: Faults) -> None:
        """`block_size` is what the engine's blocks must have; None: what the first of them has."""
        self._sink = sink
        self._given_block_size = block_size
        self._faults = faults
        # The mutable state: how many copies there are of each block, the salt of those that have one, and, from the
        # first event that was taken, their size and the group of layers that counts.
        self._copies: dict[int, int] = {}
        self._salts: dict[int, str] = {}
        self.block_size = block_size
        self._group: int | None = None
        self._has_group = False

    def take(self, raw: msgspec.Raw) -> int:
        """Take one event as it was sent, and return how many blocks it is about."""
        try:
            event = read_event(raw)
            self.apply(event)
        except (ValueError, TypeError, RecursionError, InvalidArgument) as error:
            self._faults.note(Fault.MALFORMED, 1, f"an event of the engine is ignored: {error}")
            return 0
        return 0 if isinstance(event, AllBlocksCleared) else len(event.block_hashes)

    def apply(self, event: VllmEvent) -> None:
        """Tell the sink of an event. Raises ValueError or `InvalidArgument` for one that makes no sense."""
        if isinstance(event, AllBlocksCleared):
            self.clear()
        elif event.medium not in DEVICE_MEDIA:
            what = f"blocks in {event.medium!r} are ignored: only those that the engine computes with count"
            self._faults.note(Fault.OTHER_MEDIUM, len(event.block_hashes), what)
        elif not self._is_whole(event):
            what = "blocks of layers with a sliding window or a state are ignored: those of the other layers count"
            self._faults.note(Fault.OTHER_GROUP, len(event.block_hashes), what)
        elif isinstance(event, BlockRemoved):
            gone = [name for name in hashes_of(event.block_hashes) if self._drop_copy(name)]
            if gone:
                self._sink.removed(gone)
        else:
            self._store(event)

    def clear(self) -> None:
        """All blocks have gone, or nobody knows which have not."""
        self._copies.clear()
        self._salts.clear()
        self._sink.cleared()

    def restart(self) -> None:
        """The engine has started anew, perhaps with other blocks."""
        self.block_size = self._given_block_size
        self._group, self._has_group = None, False
        self.clear()

    def _is_whole(self, event: BlockStored | BlockRemoved) -> bool:
        """Whether an event is of the layers that keep all tokens; of several such groups the first one counts."""
        if isinstance(event, BlockStored):
            if event.kv_cache_spec_kind not in WHOLE_KINDS or event.kv_cache_spec_sliding_window is not None:
                return False
            if not self._has_group:
                return True
        return self._has_group and event.group_idx == self._group

    def _store(self, event: BlockStored) -> None:
        if event.block_size < 1:
            raise ValueError(f"blocks of {event.block_size} tokens")
        if event.block_size != (self.block_size or event.block_size):
            what = (
                f"the engine's blocks have {event.block_size} tokens, and the worker was started for "
                f"{self.block_size}: its events are refused; give both the same block size"
            )
            self._faults.note(Fault.BLOCK_SIZE, len(event.block_hashes), what)
            return
        num_blocks = len(event.block_hashes)
        if len(event.token_ids) != num_blocks * event.block_size:
            what = f"{num_blocks} blocks with {len(event.token_ids)} tokens are left out"
            self._faults.note(Fault.SHORT_BLOCK, num_blocks, what)
            return
        if event.extra_keys is not None and len(event.extra_keys) != num_blocks:
            raise ValueError(f"{num_blocks} blocks with {len(event.extra_keys)} extra_keys")
        names = hashes_of(event.block_hashes)
        parent = None if event.parent_block_hash is None else hash_of(event.parent_block_hash)
        lora_name = event.lora_name or (str(event.lora_id) if event.lora_id else None)
        salt = event.cache_salt or (_salt(event, lora_name) if parent is None else self._salts.get(parent))
        num_named = _num_without_media(event, lora_name, salt if parent is None else None)
        self._faults.note(
            Fault.MEDIA,
            num_blocks - num_named,
            "blocks with images or other media, and those behind them, are left out",
        )
        if not num_named:
            return
        tokens_hashes = block_hashes(
            event.token_ids[: num_named * event.block_size],
            event.block_size,
            lora_name=lora_name,
            cache_namespace=salt,
        )
        if self._remember(parent, names[:num_named], salt):
            self.block_size = event.block_size
            self._group, self._has_group = event.group_idx, True
            self._sink.stored(parent, names[:num_named], tokens_hashes)

    def _remember(self, parent: int | None, names: Sequence[int], salt: str | None) -> bool:
        """Count the copies of blocks, and keep their salt; False if there is no room."""
        if len(self._copies) + len(names) > BLOCKS_MAX:
            what = f"blocks are left out: the engine holds more than {BLOCKS_MAX}"
            self._faults.note(Fault.FULL, len(names), what)
            return False
        copies = self._copies
        if parent is None:
            for name in names:
                copies.setdefault(name, 1)
        else:
            for name in names:
                copies[name] = copies.get(name, 0) + 1
        if salt is not None:
            self._salts.update(dict.fromkeys(names, salt))
        return True

    def _drop_copy(self, name: int) -> bool:
        """Whether it was the last one."""
        copies = self._copies.pop(name, 1)
        if copies > 1:
            self._copies[name] = copies - 1
            return False
        self._salts.pop(name, None)
        return True


def _salt(event: BlockStored, lora_name: str | None) -> str | None:
    """Return the salt of a prompt, which the first of its blocks has; a single text there is nothing else."""
    keys = other_keys(event.extra_keys[0], lora_name) if event.extra_keys else []
    return keys[0] if len(keys) == 1 and isinstance(keys[0], str) and keys[0] else None


def _num_without_media(event: BlockStored, lora_name: str | None, salt: str | None) -> int:
    """How many of the blocks, up to the first that is not, are named by their tokens, adapter and salt alone."""
    for at, keys in enumerate(event.extra_keys or ()):
        others = other_keys(keys, lora_name)
        if others and not (at == 0 and salt is not None and others == [salt]):
            return min(at, len(event.block_hashes))
    return len(event.block_hashes)
