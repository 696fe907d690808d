"""What vLLM says of its blocks, in our terms: their tokens hashes, and only what a prompt can be found by.

Without I/O. The engine's hashes are the names of blocks and nothing else: what is in a block is computed from its
tokens, its adapter, and the salt of its tenant. vLLM tells the salt with the first block of a prompt only, so it is
remembered for those that continue it. And it may hold a block twice, when two requests have computed it at a time:
each copy is told as stored, and as removed, and only the last one is gone for us.
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
    read_event,
    text_keys,
)


class VllmBlocks:
    """Tells a sink what an engine's events say."""

    def __init__(self, sink: KvEventSink, block_size: int | None, faults: Faults) -> None:
        """`block_size` is what the engine's blocks must have; None: what the first of them has."""
        self._sink = sink
        self.block_size = block_size
        self._faults = faults
        # The mutable state: how many copies there are of each block, the salt of those that have one, and the group of
        # layers that counts.
        self._copies: dict[int, int] = {}
        self._salts: dict[int, str] = {}
        self._group: int | None = None
        self._has_group = False

    def take(self, raw: msgspec.Raw) -> None:
        """Take one event as it was sent."""
        try:
            self.apply(read_event(raw))
        except (ValueError, TypeError, RecursionError, InvalidArgument) as error:
            self._faults.note(Fault.MALFORMED, 1, f"an event of the engine is ignored: {error}")

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

    def _is_whole(self, event: BlockStored | BlockRemoved) -> bool:
        """Whether an event is of the layers that keep all tokens; of several such groups the first one counts."""
        if isinstance(event, BlockStored):
            if event.kv_cache_spec_kind not in WHOLE_KINDS or event.kv_cache_spec_sliding_window is not None:
                return False
            if not self._has_group:
                self._group, self._has_group = event.group_idx, True
        return self._has_group and event.group_idx == self._group

    def _store(self, event: BlockStored) -> None:
        if self.block_size is None and event.block_size > 0:
            self.block_size = event.block_size
        if event.block_size != self.block_size:
            what = (
                f"the engine's blocks have {event.block_size} tokens, and the worker was started for "
                f"{self.block_size}: its events are refused; give both the same block size"
            )
            self._faults.note(Fault.BLOCK_SIZE, len(event.block_hashes), what)
            return
        num_blocks = len(event.block_hashes)
        if len(event.token_ids) != num_blocks * self.block_size:
            what = f"{num_blocks} blocks with {len(event.token_ids)} tokens are left out"
            self._faults.note(Fault.SHORT_BLOCK, num_blocks, what)
            return
        names = hashes_of(event.block_hashes)
        parent = None if event.parent_block_hash is None else hash_of(event.parent_block_hash)
        lora_name = event.lora_name or (str(event.lora_id) if event.lora_id else None)
        salt = self._salts.get(parent) if parent is not None else _salt(event, lora_name)
        num_named = _num_without_media(event, lora_name, salt if parent is None else None)
        self._faults.note(
            Fault.MEDIA,
            num_blocks - num_named,
            "blocks with images or other media, and those behind them, are left out",
        )
        if not num_named:
            return
        tokens_hashes = block_hashes(
            event.token_ids[: num_named * self.block_size],
            self.block_size,
            lora_name=lora_name,
            cache_namespace=salt,
        )
        if self._remember(names[:num_named], salt):
            self._sink.stored(parent, names[:num_named], tokens_hashes)

    def _remember(self, names: Sequence[int], salt: str | None) -> bool:
        """Count the copies of blocks, and keep their salt; False if there is no room."""
        if len(self._copies) + len(names) > BLOCKS_MAX:
            what = f"blocks are left out: the engine holds more than {BLOCKS_MAX}"
            self._faults.note(Fault.FULL, len(names), what)
            return False
        copies = self._copies
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
    keys = list(text_keys(event.extra_keys[0], lora_name)) if event.extra_keys else []
    return keys[0] if len(keys) == 1 and isinstance(keys[0], str) else None


def _num_without_media(event: BlockStored, lora_name: str | None, salt: str | None) -> int:
    """How many of the blocks, up to the first that is not, are named by their tokens, adapter and salt alone."""
    for at, keys in enumerate(event.extra_keys or ()):
        others = list(text_keys(keys, lora_name))
        if others and not (at == 0 and others == [salt]):
            return min(at, len(event.block_hashes))
    return len(event.block_hashes)
