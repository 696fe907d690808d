"""What the watches of every discovery must say, run on each of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.discovery import KINDS, discovery, etcd_url, open_two, read_until, synced, take, two

from dynamo._core.discovery import Delete, Discovery, Lease, Put, Synced

__all__ = ["discovery", "etcd_url", "two"]


async def test_a_watch_starts_with_what_is_already_there(discovery: Discovery) -> None:
    lease = await discovery.grant()
    await discovery.put("a/2", b"two", lease)
    await discovery.put("a/1", b"one")
    async with aclosing(discovery.watch("a/")) as changes:
        assert await take(changes, 3) == [Put("a/1", b"one"), Put("a/2", b"two"), Synced()]


async def test_a_watch_of_nothing_starts_with_synced(discovery: Discovery) -> None:
    async with aclosing(discovery.watch("a/")) as changes:
        assert await take(changes, 1) == [Synced()]


async def test_a_watch_goes_on_with_changes(discovery: Discovery) -> None:
    async with synced(discovery) as changes:
        await discovery.put("a", b"1")
        assert await take(changes, 1) == [Put("a", b"1")]
        await discovery.put("a", b"2")
        assert await take(changes, 1) == [Put("a", b"2")]
        await discovery.delete("a")
        assert await take(changes, 1) == [Delete("a")]
        assert await discovery.create("a", b"3")
        assert await take(changes, 1) == [Put("a", b"3")]


async def test_what_happens_before_synced_is_read_is_not_missed(discovery: Discovery) -> None:
    await discovery.put("a", b"1")
    await discovery.put("b", b"1")
    async with aclosing(discovery.watch("")) as changes:
        assert await take(changes, 1) == [Put("a", b"1")]
        await discovery.put("c", b"1")
        await discovery.delete("a")
        assert await take(changes, 4) == [Put("b", b"1"), Synced(), Put("c", b"1"), Delete("a")]


async def test_the_others_see_each_change(two: tuple[Discovery, Discovery]) -> None:
    here, there = two
    async with synced(there) as changes:
        lease = await here.grant()
        await here.put("a", b"1", lease)
        assert await take(changes, 1) == [Put("a", b"1")]
        await here.put("a", b"2", lease)
        assert await take(changes, 1) == [Put("a", b"2")]
        await here.delete("a")
        assert await take(changes, 1) == [Delete("a")]
        await here.put("b", b"1")
        assert await take(changes, 1) == [Put("b", b"1")]


async def test_two_watches_see_the_same(discovery: Discovery) -> None:
    async with synced(discovery) as first, synced(discovery) as second:
        await discovery.put("a", b"1")
        assert await take(first, 1) == await take(second, 1) == [Put("a", b"1")]


async def test_a_prefix_is_a_plain_beginning(discovery: Discovery) -> None:
    async with synced(discovery, "a/1") as changes:
        for key in ("a/2", "a/1", "a/10", "b/a/1", "a/"):
            await discovery.put(key, b"")
        await discovery.put("a/1/last", b"")
        assert {change.key for change in await take(changes, 3) if isinstance(change, Put)} == {
            "a/1",
            "a/10",
            "a/1/last",
        }
    assert list(await discovery.get_prefix("a/1")) == ["a/1", "a/1/last", "a/10"]
    assert list(await discovery.get_prefix("a/1/")) == ["a/1/last"]


async def test_a_slow_reader_is_told_the_newest_value(discovery: Discovery) -> None:
    async with synced(discovery) as changes:
        for value in range(50):
            await discovery.put("a", b"%d" % value)
        known: dict[str, bytes] = {}
        await read_until(changes, known, {"a": b"49"})


async def test_a_slow_reader_is_not_told_of_keys_that_came_and_went(discovery: Discovery) -> None:
    async with synced(discovery) as changes:
        for key in range(50):
            await discovery.put(f"short/{key}", b"")
            await discovery.delete(f"short/{key}")
        await discovery.put("end", b"")
        assert await take(changes, 1) == [Put("end", b"")]


async def test_closing_the_generator_frees_the_watch(discovery: Discovery) -> None:
    async with synced(discovery) as changes:
        await discovery.put("a", b"1")
    with pytest.raises(StopAsyncIteration):
        await anext(changes)


async def test_cancelling_a_reader_ends_its_watch_and_no_other(discovery: Discovery) -> None:
    async with synced(discovery) as first, synced(discovery) as second:
        waiting = asyncio.create_task(anext(first))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await discovery.put("a", b"1")
        assert await take(second, 1) == [Put("a", b"1")]
        with pytest.raises(StopAsyncIteration):
            await anext(first)


# For all sequences of operations

Operation = tuple[str, int, str, int]
operations = st.lists(
    st.tuples(
        st.sampled_from(["grant", "close", "put", "create", "delete"]),
        st.integers(0, 3),
        st.sampled_from(["a", "a/1", "a/10", "b"]),
        st.integers(0, 2),
    ),
    max_size=25,
)


class Model:
    """The simplest discovery that could be right, beside the one that is tested."""

    def __init__(self, parties: tuple[Discovery, Discovery]) -> None:
        self.keys: dict[str, tuple[bytes, int | None]] = {}
        self._parties = parties
        self._leases: list[tuple[Discovery, Lease]] = []

    @property
    def values(self) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self.keys.items()}

    async def do(self, operation: Operation) -> None:
        verb, which, key, number = operation
        owner, lease = self._leases[which] if which < len(self._leases) else (self._parties[which % 2], None)
        entry = b"%d" % number, None if lease is None else lease.id
        if verb == "grant" and len(self._leases) < 4:
            self._leases.append((owner, await owner.grant()))
        elif verb == "close" and lease is not None:
            self._leases.remove((owner, lease))
            await lease.close()
            self.keys = {key: held for key, held in self.keys.items() if held[1] != lease.id}
        elif verb == "put":
            await owner.put(key, entry[0], lease)
            self.keys[key] = entry
        elif verb == "create":
            assert await owner.create(key, entry[0], lease) == (key not in self.keys)
            self.keys.setdefault(key, entry)
        elif verb == "delete":
            await owner.delete(key)
            self.keys.pop(key, None)


async def follow_a_history(
    open_parties: Callable[[], tuple[Discovery, Discovery]], history: list[Operation], reads: random.Random
) -> None:
    parties = open_parties()
    model = Model(parties)
    known: list[dict[str, bytes]] = [{}, {}]
    try:
        async with aclosing(parties[0].watch("")) as first, aclosing(parties[1].watch("")) as second:
            assert await take(first, 1) == await take(second, 1) == [Synced()]
            for operation in history:
                await model.do(operation)
                if reads.random() < 0.5:
                    await read_until(first, known[0], model.values)
            for party in parties:
                assert await party.get_prefix("") == model.values
            await read_until(first, known[0], model.values)
            await read_until(second, known[1], model.values)
    finally:
        for party in parties:
            await party.close()


@pytest.mark.parametrize("kind", KINDS)
@given(history=operations, seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_watches_and_gets_agree_with_the_simplest_model(
    kind: str, etcd_url: str, history: list[Operation], seed: int
) -> None:
    with TemporaryDirectory() as directory:
        parties = partial(open_two, kind, Path(directory) / "d", etcd_url)
        asyncio.run(follow_a_history(parties, history, random.Random(seed)))
