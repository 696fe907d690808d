"""What every event plane must do, run on each of them."""

from __future__ import annotations

import asyncio

import pytest
from tests.conformance.event_plane import (
    DEADLINE_S,
    HELLO,
    Parties,
    meet,
    parties,
    read,
    read_payloads,
    read_until,
)

from dynamo._core.address import EndpointId
from dynamo._core.errors import DynamoError, InvalidArgument, Overloaded
from dynamo._core.event_plane import Event, EventPlane, Gap
from dynamo._core.limits import (
    EVENT_BYTES_MAX,
    EVENT_OVERHEAD_BYTES,
    EVENT_QUEUE_BYTES_MAX,
    EVENT_QUEUE_EVENTS_MAX,
    SUBJECT_CHARS_MAX,
    SUBJECTS_MAX,
    SUBSCRIPTIONS_MAX,
)

__all__ = ["parties"]


# Order, and who hears what


async def test_events_of_a_publisher_come_in_order(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    subscription = there.subscribe("kv")
    first = await meet(here, subscription) + 1
    for number in range(1000):
        await here.publish("kv", b"%d" % number)
    assert await read(subscription, 1000) == [
        Event(here.publisher_id, first + number, b"%d" % number) for number in range(1000)
    ]


async def test_everyone_hears_every_publisher(parties: Parties) -> None:
    publishers = [await parties.open() for _ in range(3)]
    subscriptions = [(await parties.open()).subscribe("kv") for _ in range(3)]
    for publisher in publishers:
        await meet(publisher, *subscriptions)
    for number in range(100):
        for publisher in publishers:
            await publisher.publish("kv", b"%d" % number)
    for subscription in subscriptions:
        heard: dict[int, list[bytes]] = {publisher.publisher_id: [] for publisher in publishers}
        while any(payloads[-1:] != [b"99"] for payloads in heard.values()):
            (item,) = await read(subscription, 1)
            assert isinstance(item, Event)
            if item.payload not in (HELLO, b"met"):
                heard[item.publisher_id].append(item.payload)
        assert all(payloads == [b"%d" % number for number in range(100)] for payloads in heard.values())


async def test_a_plane_hears_itself(parties: Parties) -> None:
    plane = await parties.open()
    subscription = plane.subscribe("kv")
    await meet(plane, subscription)
    await plane.publish("kv", b"me")
    assert await read_payloads(subscription, 1) == [b"me"]


async def test_publishers_have_different_ids(parties: Parties) -> None:
    ids = {(await parties.open()).publisher_id for _ in range(5)}
    assert len(ids) == 5
    assert all(0 < id < 2**63 for id in ids)


async def test_one_may_subscribe_before_anybody_publishes(parties: Parties) -> None:
    subscription = (await parties.open()).subscribe("kv")
    publisher = await parties.open()
    await meet(publisher, subscription)
    await publisher.publish("kv", b"after")
    assert await read_payloads(subscription, 1) == [b"after"]


async def test_who_comes_late_hears_nothing_of_the_past(parties: Parties) -> None:
    publisher = await parties.open()
    early = (await parties.open()).subscribe("kv")
    await meet(publisher, early)
    for number in range(100):
        await publisher.publish("kv", b"old %d" % number)
    await read_until(early, b"old 99")
    late = (await parties.open()).subscribe("kv")
    await publisher.publish("kv", HELLO)
    await meet(publisher, late)
    await publisher.publish("kv", b"new")
    (event,) = await read(late, 1)
    assert isinstance(event, Event)
    assert event.payload == b"new"
    assert event.sequence > 101


async def test_the_first_event_says_that_there_was_something_before(parties: Parties) -> None:
    publisher = await parties.open()
    await publisher.publish("kv", b"past")
    subscription = (await parties.open()).subscribe("kv")
    while True:
        await publisher.publish("kv", b"now")
        try:
            async with asyncio.timeout(0.1):
                first = await anext(subscription)
                break
        except TimeoutError:
            continue
    assert isinstance(first, Event)
    assert first.sequence > 1


async def test_a_subject_is_heard_exactly(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    subject = EndpointId("ns", "comp", "ep").event_subject("kv")
    subscription = there.subscribe(subject)
    await meet(here, subscription, subject=subject)
    for other in ("kv", f"{subject}s", f"{subject}/more", f"x/{subject}", subject.replace("/", "."), subject[:-1]):
        await here.publish(other, b"not for you")
    await here.publish(subject, b"for you")
    assert await read_payloads(subscription, 1) == [b"for you"]


async def test_subjects_that_differ_only_in_dots_and_slashes_are_different(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    dotted, slashed = there.subscribe("a.b"), there.subscribe("a/b")
    await meet(here, dotted, subject="a.b")
    await meet(here, slashed, subject="a/b")
    await here.publish("a.b", b"dot")
    await here.publish("a/b", b"slash")
    assert await read_payloads(dotted, 1) == [b"dot"]
    assert await read_payloads(slashed, 1) == [b"slash"]


async def test_subjects_are_counted_apart(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    first, second = there.subscribe("first"), there.subscribe("second")
    await meet(here, first, subject="first")
    await meet(here, second, subject="second")
    for number in range(50):
        await here.publish("first", b"%d" % number)
        await here.publish("second", b"%d" % number)
    expected = [b"%d" % number for number in range(50)]
    assert await read_payloads(first, 50) == await read_payloads(second, 50) == expected


@pytest.mark.parametrize("size_bytes", [0, 1, EVENT_BYTES_MAX])
async def test_a_payload_may_be_empty_and_may_be_large(parties: Parties, size_bytes: int) -> None:
    here, there = await parties.open(), await parties.open()
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    await here.publish("kv", bytes(size_bytes))
    assert await read_payloads(subscription, 1) == [bytes(size_bytes)]


async def test_two_subscriptions_of_one_plane_hear_the_same(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    first, second = there.subscribe("kv"), there.subscribe("kv")
    await meet(here, first, second)
    await here.publish("kv", b"both")
    assert await read_payloads(first, 1) == await read_payloads(second, 1) == [b"both"]


async def test_a_batch_is_everything_that_has_arrived(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    for number in range(100):
        await here.publish("kv", b"%d" % number)
    payloads: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(payloads) < 100:
            payloads += [item.payload for item in await subscription.batch() if isinstance(item, Event)]
    assert payloads == [b"%d" % number for number in range(100)]


# Who is slow, and who is not there


async def test_publishing_to_nobody_is_no_error(parties: Parties) -> None:
    plane = await parties.open()
    for _ in range(1000):
        await plane.publish("kv", bytes(100))
    assert plane.stats.num_published == 1000


async def test_publishing_never_waits(parties: Parties) -> None:
    publisher = await parties.open()
    publisher_of_nothing_read = (await parties.open()).subscribe("kv")
    await meet(publisher, publisher_of_nothing_read)
    for _ in range(100):
        publishing = publisher.publish("kv", bytes(100_000))
        with pytest.raises(StopIteration):  # it returns without ever giving the loop a turn
            publishing.__await__().__next__()


async def until_missed(plane: EventPlane, count: int) -> None:
    """Wait until all has arrived of which a slow reader is to miss so much."""
    async with asyncio.timeout(DEADLINE_S):
        while plane.stats.num_missed < count:  # noqa: ASYNC110 - nobody is told before it is read
            await asyncio.sleep(0.01)


async def test_a_slow_reader_is_told_of_a_gap_and_then_hears_the_newest(parties: Parties) -> None:
    publisher, behind = await parties.open(), await parties.open()
    slow, quick = behind.subscribe("kv"), (await parties.open()).subscribe("kv")
    begin = await meet(publisher, slow, quick)
    count = EVENT_QUEUE_EVENTS_MAX + 5000
    received = 0
    for number in range(1, count + 1):
        await publisher.publish("kv", b"%d" % number)
        if number % 500 == 0:  # let it arrive, so that it is the reader who loses
            async with asyncio.timeout(DEADLINE_S):
                while received < number:
                    received += sum(isinstance(item, Event) for item in await quick.batch())
    await until_missed(behind, count - EVENT_QUEUE_EVENTS_MAX)
    items = await read_until(slow, b"%d" % count)
    assert isinstance(items[0], Gap)
    assert items[0].publisher_id == publisher.publisher_id
    assert items[0].missed is not None
    assert items[0].missed >= 4000  # all but what arrives while we read
    first = begin + 1 + items[0].missed
    assert [event.sequence for event in items[1:] if isinstance(event, Event)] == list(range(first, begin + 1 + count))


async def test_a_slow_reader_holds_a_limited_number_of_bytes(parties: Parties) -> None:
    publisher, behind = await parties.open(), await parties.open()
    slow, quick = behind.subscribe("kv"), (await parties.open()).subscribe("kv")
    await meet(publisher, slow, quick)
    size_bytes = EVENT_BYTES_MAX
    count = EVENT_QUEUE_BYTES_MAX // size_bytes + 20
    for number in range(count):
        await publisher.publish("kv", bytes(size_bytes - 1) + bytes([number]))
        await read(quick, 1)
    await until_missed(behind, count - EVENT_QUEUE_BYTES_MAX // (size_bytes + EVENT_OVERHEAD_BYTES))
    items = await read_until(slow, bytes(size_bytes - 1) + bytes([count - 1]))
    assert isinstance(items[0], Gap)
    assert items[0].missed == count - (len(items) - 1)
    assert items[0].missed >= 10  # all but what arrives while we read


async def test_a_publisher_that_leaves_is_no_gap_and_one_that_comes_back_is_another(parties: Parties) -> None:
    subscription = (await parties.open()).subscribe("kv")
    for _ in range(3):
        publisher = await parties.open()
        await meet(publisher, subscription)
        await publisher.publish("kv", b"here")
        (event,) = await read(subscription, 1)
        assert isinstance(event, Event)
        assert event.publisher_id == publisher.publisher_id
        await publisher.close()


# What is refused


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "a b",
        "a\nb",
        "a*",
        ">",
        "a/>",
        "ключ",
        "a\0",
        "a~b",
        "\ud800",
        "x" * (SUBJECT_CHARS_MAX + 1),
    ],
)
async def test_a_subject_that_is_none_is_refused(parties: Parties, subject: str) -> None:
    plane = await parties.open()
    with pytest.raises(InvalidArgument, match="subject"):
        await plane.publish(subject, b"")
    with pytest.raises(InvalidArgument, match="subject"):
        plane.subscribe(subject)


async def test_a_payload_over_the_limit_is_refused_and_leaves_no_gap(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    with pytest.raises(InvalidArgument, match="exceeds"):
        await here.publish("kv", bytes(EVENT_BYTES_MAX + 1))
    await here.publish("kv", b"next")
    assert await read_payloads(subscription, 1) == [b"next"]


async def test_a_publisher_uses_a_limited_number_of_subjects(parties: Parties) -> None:
    plane = await parties.open()
    for number in range(SUBJECTS_MAX):
        await plane.publish(f"s/{number}", b"")
    with pytest.raises(Overloaded, match="subjects"):
        await plane.publish("one/more", b"")
    await plane.publish("s/0", b"")


async def test_a_plane_has_a_limited_number_of_subscriptions(parties: Parties) -> None:
    plane = await parties.open()
    subscriptions = [plane.subscribe("kv") for _ in range(SUBSCRIPTIONS_MAX)]
    with pytest.raises(Overloaded, match="subscriptions"):
        plane.subscribe("kv")
    await subscriptions[0].aclose()
    await meet(plane, subscriptions[-1], plane.subscribe("kv"))


async def test_a_subscription_has_one_reader_at_a_time(parties: Parties) -> None:
    subscription = (await parties.open()).subscribe("kv")
    waiting = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    with pytest.raises(DynamoError, match="subscribe again"):
        await anext(subscription)
    waiting.cancel()


# The end


async def test_a_reader_that_is_cancelled_may_read_on(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    waiting = asyncio.create_task(anext(subscription))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await here.publish("kv", b"still here")
    assert await read_payloads(subscription, 1) == [b"still here"]


async def test_closing_a_subscription_ends_it_and_no_other(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    first, second = there.subscribe("kv"), there.subscribe("kv")
    await meet(here, first, second)
    waiting = asyncio.create_task(anext(first, None))
    await asyncio.sleep(0)
    await first.aclose()
    await first.aclose()
    async with asyncio.timeout(DEADLINE_S):
        assert await waiting is None
    await here.publish("kv", b"second")
    assert await read_payloads(second, 1) == [b"second"]
    assert await first.batch() == []


async def test_close_ends_the_subscriptions_after_what_has_arrived(parties: Parties) -> None:
    here, there = await parties.open(), await parties.open()
    first, second = there.subscribe("kv"), there.subscribe("kv")
    await meet(here, first, second)
    await here.publish("kv", b"last")
    await read_until(second, b"last")
    waiting = asyncio.create_task(anext(second, None))
    await asyncio.sleep(0)
    await there.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await waiting is None
        assert [item.payload async for item in first if isinstance(item, Event)] in ([b"last"], [])


async def test_what_is_closed_says_so(parties: Parties) -> None:
    plane = await parties.open()
    await plane.publish("kv", b"")
    await plane.close()
    await plane.close()
    with pytest.raises(DynamoError, match="closed"):
        await plane.publish("kv", b"")
    with pytest.raises(DynamoError, match="closed"):
        plane.subscribe("kv")
