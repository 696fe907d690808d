"""An engine that publishes KV events as vLLM does, on real sockets, and may lose, repeat and reorder them."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
import zmq
import zmq.asyncio

Value = dict[str, object]
Fate = Literal["sent", "lost", "twice", "late"]

#: What waits to be sent; of more, some is lost.
MESSAGES_MAX = 100_000
_HASHES = itertools.count(0xF000_0000_0000_0001)
_ARRAY_FIELDS = {
    "BlockStored": ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id"),
    "BlockRemoved": ("block_hashes",),
    "AllBlocksCleared": (),
}


def stored(
    tokens: Sequence[int],
    block_size: int,
    parent: int | bytes | None = None,
    hashes: Sequence[object] = (),
    **more: object,
) -> Value:
    """A `BlockStored` as vLLM writes it now."""
    names = list(hashes) or [next(_HASHES) for _ in range(len(tokens) // block_size)]
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": parent,
        "token_ids": list(tokens),
        "block_size": block_size,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None] * len(names),
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        **more,
    }


def removed(hashes: Sequence[object], **more: object) -> Value:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU", "group_idx": 0, **more}


CLEARED: Value = {"type": "AllBlocksCleared"}


def as_array(event: Value) -> list[object]:
    """The same as older engines write it."""
    kind = str(event["type"])
    return [kind, *(event[name] for name in _ARRAY_FIELDS[kind])]


def encoded(*events: object, ts: float = 1.5) -> bytes:
    """A batch of events as it is sent."""
    return msgspec.msgpack.encode([ts, list(events), 0])


class FakeVllm:
    """Binds its sockets as vLLM does for an address with `*`."""

    def __init__(self, topic: str = "", buffer_steps: int = 1000) -> None:
        self.topic = topic.encode()
        self.buffer_steps = buffer_steps
        self._context = zmq.asyncio.Context()
        self._publisher = self._new_publisher()
        port = self._publisher.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._router = self._context.socket(zmq.ROUTER)
        port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.replay_endpoint = f"tcp://127.0.0.1:{port}"
        self._answering: asyncio.Task[None] | None = None
        # Of one life.
        self._sequence = 0
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffer_steps)
        self._late: list[tuple[int, bytes]] = []
        self._life = 0
        self.num_replays = 0
        self.num_sent = 0
        #: Whether it answers those who ask again.
        self.answers = True

    def _new_publisher(self) -> zmq.asyncio.Socket:
        publisher = self._context.socket(zmq.XPUB)
        publisher.setsockopt(zmq.SNDHWM, MESSAGES_MAX)
        return publisher

    async def subscribed(self) -> None:
        """Wait until somebody listens."""
        assert (await self._publisher.recv())[:1] == b"\x01"

    async def publish(self, *events: object, fate: Fate = "sent", payload: bytes | None = None) -> None:
        """Publish a batch; what is late comes after the next one that is sent."""
        payload = encoded(*events, ts=self._life + self._sequence / 1e6) if payload is None else payload
        message = (self._sequence, payload)
        self._sequence += 1
        self._buffer.append(message)
        if fate == "late":
            self._late.append(message)
        elif fate != "lost":
            late, self._late = self._late, []
            for one in (message, message, *late) if fate == "twice" else (message, *late):
                await self.send(*one)

    async def send(self, sequence: int, payload: bytes) -> None:
        await self.send_frames(self.topic, sequence.to_bytes(8, "big"), payload)

    async def send_frames(self, *frames: bytes) -> None:
        self.num_sent += 1
        await self._publisher.send_multipart(frames)

    async def restart(self) -> None:
        """Another life of the engine, with the same addresses."""
        self._publisher.close(linger=0)
        self._publisher = self._new_publisher()
        async with asyncio.timeout(60):
            while True:
                try:
                    self._publisher.bind(self.endpoint)
                    break
                except zmq.ZMQError:  # the former one is still about to close
                    await asyncio.sleep(0.01)
        self._sequence, self._life = 0, self._life + 1
        self._buffer.clear()
        self._late.clear()

    async def answer(self) -> None:
        """Say again what is asked for, as long as it is in the buffer."""
        while True:
            identity, _, number = await self._router.recv_multipart()
            self.num_replays += 1
            if not self.answers:
                continue
            begin = int.from_bytes(number, "big")
            for sequence, payload in list(self._buffer):
                if sequence >= begin:
                    await self._router.send_multipart([identity, b"", self.topic, sequence.to_bytes(8, "big"), payload])
            await self._router.send_multipart([identity, b"", b"", b"\xff" * 8, b""])

    async def close(self) -> None:
        self._publisher.close(linger=0)
        self._router.close(linger=0)
        self._context.term()


@asynccontextmanager
async def fake_vllm(topic: str = "", buffer_steps: int = 1000) -> AsyncIterator[FakeVllm]:
    engine = FakeVllm(topic, buffer_steps)
    answering = asyncio.create_task(engine.answer())
    try:
        yield engine
    finally:
        answering.cancel()
        await asyncio.wait([answering])
        await engine.close()


def tokens_of(number: int, num_blocks: int, block_size: int) -> list[int]:
    """A prompt of its own."""
    return list(range(number * 10_000, number * 10_000 + num_blocks * block_size))
