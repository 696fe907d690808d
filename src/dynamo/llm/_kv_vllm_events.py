"""vLLM's KV events as bytes: maps as it writes them now, and arrays as it did before.

Fields that are not known are ignored, and those at the end of an array may be missing. Hashes are integers, or bytes
of which the last eight count. Each event is read by itself: one that cannot be read does not hide the others.
"""

from __future__ import annotations

import msgspec

from dynamo.llm._kv_events import U64s, to_u64, to_u64s

BlockHash = int | bytes
#: What is in `extra_keys` for a block: text, or what is said of media.
ExtraKeys = list[object] | None

#: The memory that the engine computes in. vLLM says GPU on a CPU, too; before it had tiers it said nothing.
DEVICE_MEDIA = (None, "GPU", "DEVICE")
#: The kinds of layers that keep all tokens; before there were kinds it said nothing.
WHOLE_KINDS = (None, "full_attention", "mla_attention")
SEQUENCE_BYTES = 8


class BlockStored(msgspec.Struct, tag_field="type", tag="BlockStored"):
    """Blocks were filled."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[ExtraKeys] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    #: Of SGLang and others, which write it into each event of the salt; vLLM has it among the first `extra_keys`.
    cache_salt: str | None = None


class BlockRemoved(msgspec.Struct, tag_field="type", tag="BlockRemoved"):
    """Blocks have gone."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag_field="type", tag="AllBlocksCleared"):
    """All blocks have gone."""


VllmEvent = BlockStored | BlockRemoved | AllBlocksCleared


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


#: Of the older form, an array with the type first, the fields in their order. No engine had a salt among them.
_FIELDS: dict[object, tuple[type[VllmEvent], tuple[str, ...]]] = {
    kind.__name__: (kind, tuple(name for name in kind.__struct_fields__ if name != "cache_salt"))
    for kind in (BlockStored, BlockRemoved, AllBlocksCleared)
}
_batches = msgspec.msgpack.Decoder(_Batch)
_maps: msgspec.msgpack.Decoder[VllmEvent] = msgspec.msgpack.Decoder(VllmEvent)
_arrays = msgspec.msgpack.Decoder(list[object])


def read_batch(payload: bytes) -> list[msgspec.Raw]:
    """Return the events of a batch, yet to be read. Raises ValueError."""
    return _batches.decode(payload).events


def read_event(raw: msgspec.Raw) -> VllmEvent:
    """Read an event of either form. Raises ValueError."""
    first = bytes(memoryview(raw)[:1])
    if not (0x90 <= first[0] <= 0x9F or first in (b"\xdc", b"\xdd")):
        return _maps.decode(raw)
    kind, *values = _arrays.decode(raw) or [None]
    if kind not in _FIELDS:
        raise ValueError(f"{kind!r} is no KV event")
    event_type, fields = _FIELDS[kind]
    return msgspec.convert({"type": kind, **dict(zip(fields, values, strict=False))}, event_type)


def hash_of(value: BlockHash) -> int:
    """Return the engine's name of a block as 64 bits: of more, it is the lower ones that vLLM would send."""
    return to_u64(value) if isinstance(value, int) else int.from_bytes(value[-8:], "big")


def hashes_of(values: list[BlockHash]) -> U64s:
    """Return the engine's names of blocks."""
    return to_u64s([hash_of(value) for value in values])


def read_sequence(frame: bytes) -> int:
    """Return the number of a message. Raises ValueError."""
    if len(frame) != SEQUENCE_BYTES:
        raise ValueError(f"a sequence of {len(frame)} bytes")
    return int.from_bytes(frame, "big")


def other_keys(keys: ExtraKeys, lora_name: str | None) -> list[object]:
    """Return what `extra_keys` has for a block behind the name of the adapter, which is the first if there is one."""
    found = keys or []
    return found[1:] if lora_name is not None and found[:1] == [lora_name] else found
