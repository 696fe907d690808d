"""An engine's own KV events, as vLLM publishes them on ZeroMQ: heard, put in order, and what was lost asked for.

Messages are numbered from 0. One that is missing is asked for at the engine's replay socket; what that has not any
more is lost for good, and then the cache counts as empty: a block that is not known costs a hit, one that is not
there costs more. The engine's numbers begin again when it does, which is seen by a message with an old number and
another content.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress

import zmq
import zmq.asyncio
from xxhash import xxh3_64_intdigest

from dynamo.llm._kv_events import KvEventSink
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._kv_vllm_blocks import VllmBlocks
from dynamo.llm._kv_vllm_events import SEQUENCE_BYTES, read_batch, read_sequence

log = logging.getLogger(__name__)

#: What ZeroMQ keeps while Python is busy, and how large a message may be.
MESSAGES_MAX = 10_000
MESSAGE_BYTES_MAX = 32 << 20
#: How long the engine's replay may take, from one message to the next.
REPLAY_TIMEOUT_S = 2.0
#: The last messages whose content is remembered.
REMEMBERED_MAX = 1024
#: Others on the loop have their turn after so many blocks: about a millisecond. A message, and each event in it, takes
#: as long as some.
BLOCKS_PER_TURN = 512
MESSAGE_WEIGHT, EVENT_WEIGHT = 24, 8

_END = b"\xff" * SEQUENCE_BYTES
_ZmqSocket = zmq.asyncio.Socket


class ZmqKvEvents:
    """Tells `sink` of the KV events of the engine that publishes at `endpoint`, from `start` to `close`.

    It connects; with `bind` the engine does, as vLLM does to an address without `*`. `replay_endpoint` is where it
    says again what was lost; without that, whenever something is, the cache counts as empty. Without a `block_size` it
    is that of the first block that is heard of.
    """

    def __init__(
        self,
        sink: KvEventSink,
        endpoint: str,
        block_size: int | None,
        *,
        replay_endpoint: str | None = None,
        topic: str = "",
        bind: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._replay_endpoint = replay_endpoint
        self._topic = topic.encode()
        self._bind = bind
        self._faults = Faults(log, f"KV events at {endpoint}", asyncio.get_running_loop().time)
        self._blocks = VllmBlocks(sink, block_size, self._faults)
        self._running: asyncio.Task[None] | None = None
        # The mutable state: the number of the next message, and what the last ones were.
        self._next = 0
        self._has_begun = False
        self._remembered: OrderedDict[int, int] = OrderedDict()
        # What was taken from a replay comes once more in the ordinary way, or does not.
        self._replayed_to = -1
        # What was done since others had their turn, in blocks.
        self._work = 0
        self.num_messages = 0
        self.num_replays = 0
        self.num_restarts = 0

    async def __aenter__(self) -> ZmqKvEvents:
        self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def block_size(self) -> int | None:
        """Tokens in a block; None as long as nobody has said."""
        return self._blocks.block_size

    @property
    def faults(self) -> Mapping[str, int]:
        """How often something was wrong, by reason."""
        return self._faults.counts

    def start(self) -> None:
        """Begin to listen."""
        self._running = asyncio.get_running_loop().create_task(self._run(), name=f"KV events at {self._endpoint}")

    async def close(self) -> None:
        """Listen no more. A second call changes nothing."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            _limit(socket)
            socket.setsockopt(zmq.SUBSCRIBE, self._topic)
            if self._bind:
                socket.bind(self._endpoint)
            else:
                socket.connect(_reachable(self._endpoint))
            await self._listen(context, socket, monitor)
        except (zmq.ZMQError, OSError):
            log.exception("the KV events at %s cannot be heard", self._endpoint)
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)
            context.term()

    async def _listen(self, context: zmq.asyncio.Context, socket: _ZmqSocket, monitor: _ZmqSocket) -> None:
        if self._replay_endpoint is not None:
            await self._start_over(context, socket)  # what was before we came
        while True:
            frames = await socket.recv_multipart()
            self.num_messages += 1
            await self._worked(MESSAGE_WEIGHT)
            try:
                topic, number, payload = frames
                sequence = read_sequence(number)
            except ValueError as error:
                self._faults.note(Fault.MALFORMED, 1, f"a message is ignored: {error}")
                continue
            if self._topic and topic != self._topic:
                continue  # one that only begins like ours
            lives = self.num_restarts
            if await _has_reconnected(monitor):
                self._replayed_to = -1  # what comes now is not what came before
                await self._replay(context)  # is it still the same life of the engine?
            if lives == self.num_restarts and not self._is_new(sequence, payload):
                num_twice = int(sequence > self._replayed_to)
                self._faults.note(Fault.DUPLICATE, num_twice, "a message came twice", logging.DEBUG)
                continue
            if lives == self.num_restarts and sequence > self._next:
                await self._replay(context)
            if lives != self.num_restarts and self._replay_endpoint is not None:
                await self._start_over(context, socket)
            elif sequence >= self._next:
                self._give_up_before(sequence)
                await self._take(sequence, payload)

    async def _worked(self, weight: int) -> None:
        """Let others have their turn if it is time: to receive what has arrived already gives them none."""
        self._work += weight
        if self._work >= BLOCKS_PER_TURN:
            self._work = 0
            await asyncio.sleep(0)

    def _is_new(self, sequence: int, payload: bytes) -> bool:
        """Whether a message was not taken yet. One with an old number may be the first of the engine's next life.

        One that a replay had, so long ago that nobody remembers its content, is what has waited to be received.
        """
        if sequence >= self._next:
            return True
        remembered = self._remembered.get(sequence)
        if remembered == xxh3_64_intdigest(payload) or (remembered is None and sequence <= self._replayed_to):
            return False
        log.info("the engine at %s has started anew", self._endpoint)
        self.num_restarts += 1
        self._forget_all()
        return True

    def _forget_all(self) -> None:
        self._next, self._replayed_to = 0, -1
        self._remembered.clear()
        self._blocks.restart()

    def _give_up_before(self, sequence: int) -> None:
        """Forget all if something is missing before a message: it is not to be had."""
        if sequence > self._next and self._has_begun:
            what = "messages of the engine are lost; what it holds counts as unknown"
            self._faults.note(Fault.MISSED, sequence - self._next, what)
            self._blocks.clear()

    async def _start_over(self, context: zmq.asyncio.Context, socket: _ZmqSocket) -> None:
        """Have the engine say all that it has said in this life of it.

        What waits to be received is passed over: it is of a former life, or is said again.
        """
        lives = -1
        while lives != self.num_restarts:
            lives = self.num_restarts
            with suppress(zmq.Again):
                while True:
                    await socket.recv_multipart(zmq.NOBLOCK)
                    self.num_messages += 1
                    await self._worked(MESSAGE_WEIGHT)
            await self._replay(context)

    async def _replay(self, context: zmq.asyncio.Context) -> None:
        """Take what the engine still has of the messages that come next, until it turns out to have started anew."""
        if self._replay_endpoint is None:
            return
        self.num_replays += 1
        # The last one that was taken, too: if it is another one now, the engine has started anew.
        begin = max(0, self._next - 1)
        socket = context.socket(zmq.DEALER)
        try:
            _limit(socket)
            socket.connect(_reachable(self._replay_endpoint))
            await socket.send_multipart([b"", begin.to_bytes(SEQUENCE_BYTES, "big")])
            while await self._take_replayed(socket):
                await self._worked(MESSAGE_WEIGHT)
        except TimeoutError:
            what = f"{self._replay_endpoint} did not answer within {REPLAY_TIMEOUT_S:g} s"
            self._faults.note(Fault.NOT_ANSWERED, 1, what)
        except ValueError as error:
            self._faults.note(Fault.MALFORMED, 1, f"a replay is ignored from a message on: {error}")
        finally:
            socket.close(linger=0)

    async def _take_replayed(self, socket: _ZmqSocket) -> bool:
        """Take one message of a replay; False behind the last one that counts. Raises ValueError, and TimeoutError."""
        async with asyncio.timeout(REPLAY_TIMEOUT_S):
            frames = await socket.recv_multipart()
        _, _, number, payload = [b"", *frames] if len(frames) == 3 else frames
        if number == _END:
            return False
        sequence, lives = read_sequence(number), self.num_restarts
        if not self._is_new(sequence, payload):
            self._replayed_to = max(self._replayed_to, sequence)  # it is still the same life
            return True
        if self.num_restarts != lives:
            return False
        self._give_up_before(sequence)
        await self._take(sequence, payload)
        self._replayed_to = sequence
        return True

    async def _take(self, sequence: int, payload: bytes) -> None:
        """Take the message that comes next."""
        self._next = sequence + 1
        self._has_begun = True
        self._remembered[sequence] = xxh3_64_intdigest(payload)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        try:
            events = read_batch(payload)
        except (ValueError, RecursionError) as error:
            # What it said may have been that blocks are gone.
            self._faults.note(Fault.MALFORMED, 1, f"a message cannot be read; what is held counts as unknown: {error}")
            self._blocks.clear()
            return
        for event in events:
            await self._worked(EVENT_WEIGHT + self._blocks.take(event))


async def _has_reconnected(monitor: _ZmqSocket) -> bool:
    """Whether the connection was lost since this was asked before."""
    has_reconnected = False
    while await monitor.poll(0):
        await monitor.recv_multipart()
        has_reconnected = True
    return has_reconnected


def _limit(socket: _ZmqSocket) -> None:
    socket.setsockopt(zmq.RCVHWM, MESSAGES_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)


def _reachable(endpoint: str) -> str:
    """Return where to connect to what a server binds: all addresses of this host include the loopback one."""
    return endpoint.replace("://*", "://127.0.0.1").replace("://0.0.0.0", "://127.0.0.1").replace("://[::]", "://[::1]")
