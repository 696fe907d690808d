"""What a listener hears of a network that loses, repeats and reorders: in order, each event at most once, and of
everything else that it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from tests._core.event_planes import Opened, opened
from tests.conformance.event_plane import read, read_payloads

from dynamo._core.event_plane import Event, Gap
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane

__all__ = ["opened"]

U64_MAX = 2**64 - 1

PUBLISHERS = (7, 8, 9)
LAST = 40


@dataclass(frozen=True)
class Delivery:
    """An event, or a head, that arrives; and whether the listener has a turn then."""

    publisher_id: int
    sequence: int
    is_head: bool
    then_reads: bool


deliveries = st.lists(
    st.builds(Delivery, st.sampled_from(PUBLISHERS), st.integers(1, LAST), st.booleans(), st.booleans()), max_size=80
)


async def heard_of(arriving: Sequence[Delivery]) -> list[Event | Gap]:
    """What a listener hears of it, and of the heads that all publishers say at the end."""
    bus = EventBus()
    plane = InprocEventPlane(bus)
    subscription = plane.subscribe("kv")
    heard: list[Event | Gap] = []

    async def read() -> None:
        async for item in subscription:
            heard.append(item)

    reading = asyncio.create_task(read())
    for delivery in arriving:
        if delivery.is_head:
            bus.head("kv", delivery.publisher_id, delivery.sequence)
        else:
            bus.event("kv", delivery.publisher_id, delivery.sequence, b"%d" % delivery.sequence)
        if delivery.then_reads:
            await asyncio.sleep(0)
    for publisher_id in PUBLISHERS:
        bus.head("kv", publisher_id, LAST)
    await plane.close()
    await reading
    return heard


@given(deliveries)
def test_whatever_arrives_each_publisher_is_heard_in_order_and_nothing_is_missing_untold(
    arriving: list[Delivery],
) -> None:
    heard = asyncio.run(heard_of(arriving))
    for publisher_id in PUBLISHERS:
        # Listening begins with the first that arrives: an event, or a head, which says what is over by then.
        first = next((delivery for delivery in arriving if delivery.publisher_id == publisher_id), None)
        counted = LAST if first is None else first.sequence - (not first.is_head)
        for item in heard:
            if item.publisher_id != publisher_id:
                continue
            if isinstance(item, Gap):
                assert item.missed is not None
                counted += item.missed
            else:
                counted += 1
                assert (item.sequence, item.payload) == (counted, b"%d" % counted)
        assert counted == LAST


@given(deliveries)
def test_what_comes_again_and_late_changes_nothing(arriving: list[Delivery]) -> None:
    once = asyncio.run(heard_of(arriving))
    again = [copy for number in range(len(arriving)) for copy in (arriving[number], *arriving[: number + 1])]
    assert asyncio.run(heard_of(again)) == once


class UnreliableBus(EventBus):
    """Loses, repeats and reorders as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: set[bytes] = set()
        self.hold: bytes | None = None
        self.num_copies = 1
        self._held: tuple[str, int, int, bytes] | None = None

    def event(self, subject: str, publisher_id: int, sequence: int, payload: bytes) -> None:
        if payload in self.lose:
            return
        if payload == self.hold:
            self._held = (subject, publisher_id, sequence, payload)
            return
        for _ in range(self.num_copies):
            super().event(subject, publisher_id, sequence, payload)
        if self._held is not None:
            held, self._held = self._held, None
            super().event(*held)


# Loss is seen


async def test_a_lost_event_is_a_gap_in_its_place(opened: Opened) -> None:
    bus = UnreliableBus()
    plane = opened(InprocEventPlane(bus))
    subscription = plane.subscribe("kv")
    bus.lose = {b"2", b"3"}
    for payload in (b"1", b"2", b"3", b"4"):
        await plane.publish("kv", payload)
    id = plane.publisher_id
    assert await read(subscription, 3) == [Event(id, 1, b"1"), Gap(id, 2), Event(id, 4, b"4")]


async def test_the_loss_of_the_last_event_is_seen_though_nothing_follows(opened: Opened) -> None:
    bus = UnreliableBus()
    plane = opened(InprocEventPlane(bus))
    subscription = plane.subscribe("kv")
    bus.lose = {b"2"}
    await plane.publish("kv", b"1")
    await plane.publish("kv", b"2")
    id = plane.publisher_id
    assert await read(subscription, 2) == [Event(id, 1, b"1"), Gap(id, 1)]
    await plane.publish("kv", b"3")
    assert await read(subscription, 1) == [Event(id, 3, b"3")]


async def test_an_event_that_comes_twice_is_heard_once(opened: Opened) -> None:
    bus = UnreliableBus()
    plane = opened(InprocEventPlane(bus))
    subscription = plane.subscribe("kv")
    bus.num_copies = 3
    await plane.publish("kv", b"1")
    await plane.publish("kv", b"2")
    assert await read_payloads(subscription, 2) == [b"1", b"2"]
    await plane.close()
    assert await subscription.batch() == []


async def test_events_that_change_places_are_never_heard_out_of_order(opened: Opened) -> None:
    bus = UnreliableBus()
    plane = opened(InprocEventPlane(bus))
    subscription = plane.subscribe("kv")
    bus.hold = b"2"
    for payload in (b"1", b"2", b"3", b"4"):
        await plane.publish("kv", payload)
    id = plane.publisher_id
    assert await read(subscription, 4) == [Event(id, 1, b"1"), Gap(id, 1), Event(id, 3, b"3"), Event(id, 4, b"4")]


async def test_a_forged_count_does_not_silence_a_publisher(opened: Opened) -> None:
    bus = EventBus()
    plane = opened(InprocEventPlane(bus))
    subscription = plane.subscribe("kv")
    id = plane.publisher_id
    await plane.publish("kv", b"1")
    bus.head("kv", id, U64_MAX)
    await plane.publish("kv", b"2")
    assert await read(subscription, 4) == [Event(id, 1, b"1"), Gap(id, U64_MAX - 1), Gap(id, None), Event(id, 2, b"2")]
