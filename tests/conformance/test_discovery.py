"""What every discovery must do, run on each of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo._core.discovery import Change, Delete, Discovery, Lease, Put, Synced
from dynamo._core.discovery.base import KEY_CHARS_MAX, VALUE_BYTES_MAX
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import DynamoError, InvalidArgument, NotFound

DEADLINE_S = 10.0
KINDS = ["memory", "file", "file without inotify"]


def open_two(kind: str, directory: Path) -> tuple[Discovery, Discovery]:
    """Return two parties that should see each other."""
    if kind == "memory":
        shared = MemoryDiscovery()
        return shared, shared
    use_inotify = kind == "file"
    return FileDiscovery(directory, use_inotify=use_inotify), FileDiscovery(directory, use_inotify=use_inotify)


@pytest_asyncio.fixture(params=KINDS)
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Discovery, Discovery]]:
    first, second = open_two(request.param, tmp_path / "discovery")
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def discovery(two: tuple[Discovery, Discovery]) -> Discovery:
    return two[0]


async def take(changes: AsyncGenerator[Change, None], count: int) -> list[Change]:
    """Read so many changes; each must arrive in time."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(changes) for _ in range(count)]


@asynccontextmanager
async def synced(discovery: Discovery, prefix: str = "") -> AsyncIterator[AsyncGenerator[Change, None]]:
    """A watch that has said what there was."""
    async with aclosing(discovery.watch(prefix)) as changes:
        while not isinstance((await take(changes, 1))[0], Synced):
            pass
        yield changes


async def read_until(
    changes: AsyncGenerator[Change, None], known: dict[str, bytes], expected: dict[str, bytes]
) -> None:
    """Apply changes to what is known until it is what is expected."""
    async with asyncio.timeout(DEADLINE_S):
        while known != expected:
            change = await anext(changes)
            if isinstance(change, Put):
                known[change.key] = change.value
            elif isinstance(change, Delete):
                del known[change.key]


# What a watch says


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


async def follow_a_history(kind: str, directory: Path, history: list[Operation], reads: random.Random) -> None:
    parties = open_two(kind, directory)
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
def test_watches_and_gets_agree_with_the_simplest_model(kind: str, history: list[Operation], seed: int) -> None:
    with TemporaryDirectory() as directory:
        asyncio.run(follow_a_history(kind, Path(directory) / "d", history, random.Random(seed)))
