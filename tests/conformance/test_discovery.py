"""What every discovery must do with keys and leases, run on each of them."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.conformance.discovery import DEADLINE_S, discovery, etcd_url, synced, take, two

from dynamo._core.discovery import Delete, Discovery, Put
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import DynamoError, InvalidArgument, NotFound
from dynamo._core.limits import KEY_CHARS_MAX, VALUE_BYTES_MAX

__all__ = ["discovery", "etcd_url", "two"]


# Keys


async def test_get_prefix_returns_keys_in_order(discovery: Discovery) -> None:
    for key in ("b", "a/2", "c", "a/1"):
        await discovery.put(key, key.encode())
    assert list((await discovery.get_prefix("")).items()) == [
        ("a/1", b"a/1"),
        ("a/2", b"a/2"),
        ("b", b"b"),
        ("c", b"c"),
    ]


async def test_what_one_has_put_the_other_gets(two: tuple[Discovery, Discovery]) -> None:
    here, there = two
    for value in range(20):
        await here.put("a", b"%d" % value)
        assert await there.get_prefix("a") == {"a": b"%d" % value}
    await there.delete("a")
    assert await here.get_prefix("a") == {}


async def test_create_sets_only_a_key_that_does_not_exist(two: tuple[Discovery, Discovery]) -> None:
    here, there = two
    assert await here.create("a", b"1")
    assert not await here.create("a", b"2")
    assert not await there.create("a", b"3")
    assert await there.get_prefix("") == {"a": b"1"}
    await there.delete("a")
    assert await here.create("a", b"4")


async def test_of_many_creators_one_wins(two: tuple[Discovery, Discovery]) -> None:
    results = await asyncio.gather(*(two[i % 2].create("a", b"%d" % i) for i in range(20)))
    assert results.count(True) == 1
    assert await two[0].get_prefix("") == {"a": b"%d" % results.index(True)}


async def test_deleting_what_is_not_there_is_no_error(discovery: Discovery) -> None:
    await discovery.delete("nothing")


async def test_a_value_may_be_empty_and_may_be_large(two: tuple[Discovery, Discovery]) -> None:
    large = random.Random(1).randbytes(VALUE_BYTES_MAX)
    await two[0].put("empty", b"")
    await two[0].put("large", large)
    assert await two[1].get_prefix("") == {"empty": b"", "large": large}


async def test_a_key_may_be_long_and_in_any_script(two: tuple[Discovery, Discovery]) -> None:
    key = ("v1/ключ/键/ " * KEY_CHARS_MAX)[:KEY_CHARS_MAX]
    await two[0].put(key, b"1")
    assert await two[1].get_prefix(key) == {key: b"1"}


@pytest.mark.parametrize("key", ["", "x" * (KEY_CHARS_MAX + 1), "line\nbreak", "\ud800"])
async def test_a_key_that_is_none_is_refused(discovery: Discovery, key: str) -> None:
    with pytest.raises(InvalidArgument):
        await discovery.put(key, b"")
    with pytest.raises(InvalidArgument):
        await discovery.create(key, b"")


async def test_a_value_over_the_limit_is_refused(discovery: Discovery) -> None:
    with pytest.raises(InvalidArgument, match="large"):
        await discovery.put("large", bytes(VALUE_BYTES_MAX + 1))
    assert await discovery.get_prefix("") == {}


# Leases


async def test_lease_ids_are_positive_distinct_and_fit_63_bits(two: tuple[Discovery, Discovery]) -> None:
    ids = [(await two[i % 2].grant()).id for i in range(20)]
    assert len(set(ids)) == 20
    assert all(0 < id < 2**63 for id in ids)


async def test_closing_a_lease_deletes_its_keys_and_no_others(two: tuple[Discovery, Discovery]) -> None:
    here, there = two
    lease, other = await here.grant(), await there.grant()
    await here.put("a/1", b"", lease)
    await here.put("a/2", b"", lease)
    await there.put("b", b"", other)
    await here.put("c", b"")
    async with synced(there) as changes:
        await lease.close()
        assert sorted(change.key for change in await take(changes, 2) if isinstance(change, Delete)) == ["a/1", "a/2"]
    assert list(await here.get_prefix("")) == list(await there.get_prefix("")) == ["b", "c"]


async def test_closing_a_lease_again_changes_nothing(discovery: Discovery) -> None:
    lease = await discovery.grant()
    await lease.close()
    await lease.close()


async def test_a_closed_lease_takes_no_keys(discovery: Discovery) -> None:
    lease = await discovery.grant()
    await lease.close()
    with pytest.raises(NotFound, match="lease"):
        await discovery.put("a", b"", lease)
    with pytest.raises(NotFound, match="lease"):
        await discovery.create("a", b"", lease)
    assert await discovery.get_prefix("") == {}


async def test_a_key_moves_to_the_lease_given_last(two: tuple[Discovery, Discovery]) -> None:
    here, there = two
    old, new = await here.grant(), await there.grant()
    await here.put("a", b"old", old)
    await there.put("a", b"new", new)
    await old.close()
    assert await here.get_prefix("") == {"a": b"new"}
    await here.put("a", b"for ever")
    await new.close()
    assert await here.get_prefix("") == {"a": b"for ever"}
    last = await here.grant()
    await here.put("a", b"for ever", last)
    await last.close()
    assert await there.get_prefix("") == {}


async def test_a_watch_never_sees_a_moving_key_vanish(two: tuple[Discovery, Discovery]) -> None:
    here, there = two
    leases = [(here, await here.grant()), (there, await there.grant())]
    await here.put("a", b"first", leases[0][1])
    async with synced(there) as changes:
        for turn in range(20):
            owner, lease = leases[turn % 2]
            await owner.put("a", b"%d" % turn, lease)
            await asyncio.sleep(0)
        seen = []
        while Put("a", b"19") not in seen:
            seen += await take(changes, 1)
        assert Delete("a") not in seen


async def test_a_lease_that_cannot_live_is_refused(discovery: Discovery) -> None:
    for ttl_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="ttl_s"):
            await discovery.grant(ttl_s)


async def test_an_expired_lease_is_lost() -> None:
    discovery = MemoryDiscovery()
    lease = await discovery.grant()
    await discovery.put("a", b"", lease)
    async with synced(discovery) as changes:
        discovery.expire(lease)
        assert await take(changes, 1) == [Delete("a")]
    with pytest.raises(NotFound, match="lost"):
        await discovery.put("a", b"", lease)


# The end


async def test_close_ends_a_watch_that_waits(discovery: Discovery) -> None:
    async with synced(discovery) as changes:
        waiting = asyncio.create_task(anext(changes, None))
        await asyncio.sleep(0)
        await discovery.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting is None


async def test_what_is_closed_says_so(discovery: Discovery) -> None:
    await discovery.close()
    await discovery.close()
    with pytest.raises(DynamoError, match="closed"):
        await discovery.grant()
    with pytest.raises(DynamoError, match="closed"):
        await discovery.put("a", b"")
    with pytest.raises(DynamoError, match="closed"):
        await discovery.get_prefix("")
    with pytest.raises(DynamoError, match="closed"):
        await anext(discovery.watch(""))
