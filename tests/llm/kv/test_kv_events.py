"""KV events as bytes and as JSON: what must not change, and what others write."""

from __future__ import annotations

from array import array
from pathlib import Path

import msgspec
import pytest

from dynamo._core.event_plane.base import check_payload
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm._kv_events import (
    BLOCKS_PER_EVENT_MAX,
    Cleared,
    KvCacheEvent,
    KvCacheEventData,
    KvEvent,
    KvEventBatch,
    Removed,
    RouterEvent,
    Stored,
    apply_event,
    event_data,
    hashes_from_bytes,
    hashes_to_bytes,
    parts_of,
    read_data,
    router_events,
    stored_events,
    to_u64s,
)
from dynamo.llm._kv_publisher import BATCH_HASHES_MAX
from dynamo.llm._kv_query import Known, KvAnswer, KvQuery

GOLDEN = Path(__file__).parents[2] / "golden" / "kv_events"
NAMES = array("Q", [12299694243627513982, 1])
TOKENS = array("Q", [16863443419780771464, 2287610619914608821])
EVENTS: list[KvEvent] = [
    Stored(14605283265388122924, hashes_to_bytes(NAMES), hashes_to_bytes(TOKENS)),
    Stored(None, hashes_to_bytes(NAMES[1:]), hashes_to_bytes(TOKENS[1:])),
    Removed(hashes_to_bytes(NAMES)),
    Cleared(),
]
BATCH = KvEventBatch(0x1122334455667788, 1, 0x1122334455667788, 16, 77, 5, EVENTS)
FIXTURES = {
    "batch.hex": (KvEventBatch, BATCH),
    "head.hex": (KvEventBatch, KvEventBatch(7, 0, 7, 64, 78, 9, [])),
    "query.hex": (KvQuery, KvQuery([Known(7, 0, 78, 8)])),
    "answer.hex": (KvAnswer, KvAnswer(7, 0, 64, 78, 8, True, True, False, EVENTS[:1])),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_what_is_sent_is_written_as_it_always_was(name: str) -> None:
    kind, value = FIXTURES[name]
    golden = bytes.fromhex((GOLDEN / name).read_text())
    assert msgspec.msgpack.encode(value) == golden
    assert msgspec.msgpack.decode(golden, type=kind) == value


def test_what_newer_publishers_add_is_ignored() -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(BATCH))
    fields[-1][0].append("news")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([*fields, {"more": 1}]), type=KvEventBatch) == BATCH


def test_the_json_is_that_of_dynamo() -> None:
    first, _, removed, cleared = router_events(BATCH)
    assert msgspec.json.decode(msgspec.json.encode(first)) == {
        "worker_id": 0x1122334455667788,
        "storage_tier": "device",
        "residency_domain": "worker",
        "event": {
            "event_id": 5,
            "dp_rank": 1,
            "data": {
                "stored": {
                    "parent_hash": 14605283265388122924,
                    "start_position": None,
                    "blocks": [
                        {"block_hash": name, "tokens_hash": tokens, "mm_extra_info": None}
                        for name, tokens in zip(NAMES, TOKENS, strict=True)
                    ],
                }
            },
        },
    }
    assert msgspec.json.decode(msgspec.json.encode(removed.event.data)) == {"removed": {"block_hashes": NAMES.tolist()}}
    assert msgspec.json.encode(cleared.event.data) == b'"cleared"'
    assert [event.event.event_id for event in router_events(BATCH)] == [5, 6, 7, 8]


def test_json_and_bytes_say_the_same() -> None:
    for event in EVENTS:
        text = msgspec.json.encode(KvCacheEvent(1, event_data(event)))
        assert list(read_data(msgspec.json.decode(text, type=KvCacheEvent).data)) == [event]


def test_older_json_with_signed_hashes_and_without_the_newer_fields_is_read() -> None:
    text = (
        b'{"worker_id":1,"event":{"event_id":0,"data":{"stored":{"parent_hash":-1,'
        b'"blocks":[{"block_hash":-2,"tokens_hash":3,"mm_extra_info":{"mm_objects":[]}}]}}},"news":1}'
    )
    event = msgspec.json.decode(text, type=RouterEvent)
    (stored,) = read_data(event.event.data)
    assert stored == Stored(2**64 - 1, hashes_to_bytes(array("Q", [2**64 - 2])), hashes_to_bytes(array("Q", [3])))


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1])
def test_what_is_no_hash_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        to_u64s([value])


def test_bytes_that_are_no_whole_hashes_are_refused() -> None:
    with pytest.raises(ValueError, match="item size"):
        hashes_from_bytes(b"1234567")


def test_many_blocks_are_several_events_that_continue_each_other() -> None:
    names = to_u64s(range(1, 2 * BLOCKS_PER_EVENT_MAX + 2))
    first, second, third = stored_events(None, names, names)
    assert second.parent_hash == hashes_from_bytes(first.block_hashes)[-1]
    assert hashes_from_bytes(third.block_hashes).tolist() == [2 * BLOCKS_PER_EVENT_MAX + 1]
    check_payload(bytes(8 * BATCH_HASHES_MAX) + msgspec.msgpack.encode(first))


def test_an_event_may_be_anything_of_the_three() -> None:
    assert list(read_data(msgspec.convert("cleared", KvCacheEventData))) == [Cleared()]
    assert list(read_data(msgspec.convert({}, KvCacheEventData))) == []


def long_row(num_blocks: int) -> tuple[bytes, bytes]:
    """The names and the tokens hashes of blocks."""
    return tuple(hashes_to_bytes(array("Q", range(begin, begin + num_blocks))) for begin in (1, 1_000_000))  # type: ignore[return-value]


def test_a_long_removal_is_cut_into_events_that_do_not_take_long() -> None:
    count = 3 * BLOCKS_PER_EVENT_MAX + 1
    data = msgspec.convert({"removed": {"block_hashes": list(range(count))}}, KvCacheEventData)
    events = [event for event in read_data(data) if isinstance(event, Removed)]
    names = [name for event in events for name in hashes_from_bytes(event.block_hashes)]
    assert names == list(range(count))
    assert [len(event.block_hashes) // 8 for event in events] == [BLOCKS_PER_EVENT_MAX] * 3 + [1]


def test_an_event_of_any_length_has_the_effect_of_its_parts() -> None:
    names, tokens = long_row(5000)
    index, worker = PrefixIndex(), WorkerKey(1)
    for event, num_blocks in ((Stored(None, names, tokens), 5000), (Removed(names[8 * 1000 :]), 1000), (Cleared(), 0)):
        parts = list(parts_of(event))
        assert all(isinstance(part, Cleared) or len(part.block_hashes) <= 8 * BLOCKS_PER_EVENT_MAX for part in parts)
        for part in parts:
            apply_event(index, worker, part)
        assert index.num_blocks == num_blocks


@pytest.mark.parametrize("cut", [slice(0, -1), slice(0, -8)])
def test_a_malformed_event_has_one_part(cut: slice) -> None:
    names, tokens = long_row(5000)
    event = Stored(None, names, tokens[cut])
    assert list(parts_of(event)) == [event]
    if cut.stop == -1:
        assert list(parts_of(Removed(names[cut]))) == [Removed(names[cut])]
