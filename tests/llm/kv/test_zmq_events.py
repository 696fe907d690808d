"""An engine's own events on real sockets: heard, lost, repeated, out of order, and from another life."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.llm.kv.fake_vllm import FakeVllm, Fate, encoded, fake_vllm, removed, stored, tokens_of
from tests.llm.kv.scene import Host, endpoint_of, finds
from tests.llm.kv.test_vllm_blocks import Index

from dynamo._core.blocks import block_hashes
from dynamo.llm import KvPublisher
from dynamo.llm._kv_zmq_events import BLOCKS_PER_TURN, REMEMBERED_MAX, ZmqKvEvents

SIZE = 4
DEADLINE_S = 60.0


def prompt(number: int, num_blocks: int = 3) -> list[int]:
    return tokens_of(number, num_blocks, SIZE)


class Listener:
    def __init__(self, engine: FakeVllm, *, replay: bool = True, topic: str = "") -> None:
        self.sink = Index()
        self.events = ZmqKvEvents(
            self.sink, engine.endpoint, SIZE, replay_endpoint=engine.replay_endpoint if replay else None, topic=topic
        )

    def holds(self, number: int) -> int:
        return self.sink.holds(block_hashes(prompt(number), SIZE))

    async def hears(self, *numbers: int, count: int = 3) -> None:
        """Wait until the blocks of these prompts are known."""
        async with asyncio.timeout(DEADLINE_S):
            while any(self.holds(number) != count for number in numbers):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def has_received(self, num_messages: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.events.num_messages < num_messages:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(engine: FakeVllm, *, replay: bool = True, topic: str = "") -> AsyncIterator[Listener]:
    listener = Listener(engine, replay=replay, topic=topic)
    async with listener.events:
        await engine.subscribed()
        yield listener


async def publish(engine: FakeVllm, *numbers: int, fate: Fate = "sent") -> None:
    for number in numbers:
        await engine.publish(stored(prompt(number), SIZE, hashes=[number * 10 + at for at in range(3)]), fate=fate)


async def test_what_is_published_is_heard() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1, 2)
        await listener.hears(1, 2)
        await engine.publish(removed([10, 11, 12]))
        await listener.hears(1, count=0)
        assert listener.events.faults == {}


async def test_what_was_before_is_asked_for() -> None:
    async with fake_vllm() as engine:
        await publish(engine, 1, 2)
        async with listening(engine) as listener:
            await listener.hears(1, 2)
            await publish(engine, 3)
            await listener.hears(3)
            assert engine.num_replays == 1
            assert listener.events.faults == {}


async def test_what_was_lost_is_asked_for() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1)
        await publish(engine, 2, 3, fate="lost")
        await publish(engine, 4)
        await listener.hears(1, 2, 3, 4)
        assert listener.sink.num_cleared == 0


async def test_what_comes_twice_or_late_changes_nothing() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1)
        await listener.hears(1)
        await publish(engine, 2, fate="twice")
        await publish(engine, 3, fate="late")
        await publish(engine, 4, 5)
        await listener.hears(1, 2, 3, 4, 5)
        assert listener.events.faults.get("duplicate", 0) >= 1
        assert (listener.events.num_restarts, listener.sink.num_cleared) == (0, 0)


async def test_what_is_lost_for_good_makes_all_unknown() -> None:
    async with fake_vllm(buffer_steps=2) as engine, listening(engine) as listener:
        await publish(engine, 1)
        await listener.hears(1)
        await publish(engine, 2, 3, 4, fate="lost")
        await publish(engine, 5)
        await listener.hears(4, 5)
        assert (listener.holds(1), listener.holds(2)) == (0, 0)
        assert listener.events.faults["missed"] == 2


async def test_without_a_replay_every_loss_makes_all_unknown() -> None:
    async with fake_vllm() as engine, listening(engine, replay=False) as listener:
        await publish(engine, 1)
        await publish(engine, 2, fate="lost")
        await publish(engine, 3)
        await listener.hears(3)
        assert listener.holds(1) == 0
        assert listener.events.faults == {"missed": 1}


async def test_an_engine_that_starts_anew_holds_nothing_of_before() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1, 2, 3)
        await listener.hears(1, 2, 3)
        await engine.restart()
        await engine.subscribed()
        await publish(engine, 4)
        await listener.hears(4)
        assert (listener.holds(1), listener.events.num_restarts) == (0, 1)


async def test_what_an_engine_said_before_it_started_anew_and_has_waited_since_is_passed_over() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1)
        await listener.hears(1)
        engine.answers = False
        await publish(engine, 2, fate="lost")
        await publish(engine, *range(3, 30))  # they wait for the answer about the lost one, which does not come
        async with asyncio.timeout(DEADLINE_S):
            while engine.num_replays < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await engine.restart()
        await engine.subscribed()
        engine.answers = True
        await publish(engine, *range(31, 40))
        await listener.has_received(engine.num_sent)
        await listener.hears(*range(31, 40))
        assert [number for number in range(30) if listener.holds(number)] == []
        assert listener.events.num_restarts == 1


async def test_a_replay_that_is_far_ahead_of_what_waits_is_no_other_life_of_the_engine() -> None:
    num_ahead = REMEMBERED_MAX + 500
    async with fake_vllm(buffer_steps=5000) as engine, listening(engine) as listener:
        await publish(engine, 1)
        await listener.hears(1)
        await publish(engine, 2, fate="lost")
        await publish(engine, *range(3, num_ahead))  # they wait while the replay has all of them
        await publish(engine, num_ahead)
        await listener.hears(1, 2, 3, num_ahead)
        async with asyncio.timeout(DEADLINE_S):
            while listener.events.num_messages < num_ahead - 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert (listener.events.num_restarts, listener.sink.num_cleared) == (0, 0)
        await engine.restart()
        await engine.subscribed()
        await publish(engine, num_ahead + 1)
        await listener.hears(num_ahead + 1)
        assert (listener.holds(1), listener.events.num_restarts) == (0, 1)


async def test_others_have_their_turn_while_much_is_told_again() -> None:
    async with fake_vllm(buffer_steps=5000) as engine:
        await publish(engine, *range(1, 1001))
        num_blocks = [0]
        async with listening(engine) as listener:
            async with asyncio.timeout(DEADLINE_S):
                while num_blocks[-1] < 3000:
                    num_blocks.append(listener.sink.index.num_blocks)
                    await asyncio.sleep(0)
        assert max(after - before for before, after in itertools.pairwise(num_blocks)) < BLOCKS_PER_TURN


async def test_others_have_their_turn_while_one_message_says_much() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await engine.publish(*(stored(prompt(number, 100), SIZE) for number in range(30)))
        num_blocks = [0]
        async with asyncio.timeout(DEADLINE_S):
            while num_blocks[-1] < 3000:
                num_blocks.append(listener.sink.index.num_blocks)
                await asyncio.sleep(0)
        assert max(after - before for before, after in itertools.pairwise(num_blocks)) <= BLOCKS_PER_TURN + 100


@pytest.mark.parametrize("num_lost", [2, 4])
async def test_a_new_life_is_seen_when_its_count_has_reached_that_of_the_former_one(num_lost: int) -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1, 2)
        await listener.hears(1, 2)
        await engine.restart()
        await engine.subscribed()
        lost = range(3, 3 + num_lost)
        await publish(engine, *lost, fate="lost")
        await publish(engine, 9)
        await listener.hears(*lost, 9)
        assert (listener.holds(1), listener.events.num_restarts) == (0, 1)


async def test_a_message_that_cannot_be_read_makes_all_unknown() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1)
        await engine.publish(payload=b"garbage")
        await publish(engine, 2)
        await listener.hears(2)
        assert listener.holds(1) == 0
        assert listener.events.faults == {"malformed": 1}


async def test_frames_that_are_no_message_are_counted_and_ignored() -> None:
    async with fake_vllm() as engine, listening(engine) as listener:
        await publish(engine, 1)
        await engine.send_frames(b"")
        await engine.send_frames(b"", b"123", b"")
        await publish(engine, 2)
        await listener.hears(1, 2)
        assert listener.events.faults == {"malformed": 2}


async def test_only_the_topic_is_heard() -> None:
    async with fake_vllm("kv@other") as engine, listening(engine, replay=False, topic="kv@") as listener:
        await publish(engine, 1)
        await engine.send_frames(b"kv@", bytes(8), encoded(stored(prompt(2), SIZE)))
        await listener.hears(2)
        assert listener.holds(1) == 0


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_becomes_of_messages_what_is_known_is_what_is_there(seed: int) -> None:
    rng = random.Random(seed)
    fates: tuple[Fate, ...] = ("sent", "lost", "twice", "late")
    async with fake_vllm() as engine, listening(engine) as listener:
        held: set[int] = set()
        for _ in range(60):
            if rng.random() < 0.05:
                await engine.restart()
                await engine.subscribed()
                held.clear()
            number = rng.randrange(1, 12)
            fate = rng.choice(fates)
            if number in held:
                held.discard(number)
                await engine.publish(removed([number * 10 + at for at in range(3)]), fate=fate)
            else:
                held.add(number)
                await publish(engine, number, fate=fate)
        await publish(engine, 20)
        await listener.hears(20)
        assert {number for number in range(1, 12) if listener.holds(number)} == held


async def test_a_publisher_tells_routers_what_its_engine_says() -> None:
    host = Host()
    async with fake_vllm() as engine, host.process() as runtime, host.router(SIZE) as indexer:
        publisher = KvPublisher(
            endpoint_of(runtime),
            kv_block_size=SIZE,
            zmq_endpoint=engine.endpoint.replace("127.0.0.1", "*"),
            zmq_replay_endpoint=engine.replay_endpoint,
        )
        await engine.subscribed()
        await publish(engine, 1)
        await publish(engine, 2, fate="lost")
        await publish(engine, 3)
        for number in (1, 2, 3):
            await finds(indexer, block_hashes(prompt(number), SIZE), {publisher.worker: 3})
        await engine.restart()
        await engine.subscribed()
        await publish(engine, 4)
        await finds(indexer, block_hashes(prompt(4), SIZE), {publisher.worker: 3})
        assert indexer.find(block_hashes(prompt(1), SIZE)) == {}
        await engine.send_frames(b"")
        await publish(engine, 5)
        await finds(indexer, block_hashes(prompt(5), SIZE), {publisher.worker: 3})
        assert publisher.faults == {"malformed": 1}
