"""A work queue that one process of ours serves to the others over the request plane: no server is needed.

It lives as long as the process that serves it. A consumer that takes a job keeps a stream open until it is done;
when its process dies, so does the stream, and the job is given to somebody else at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

import msgspec

from dynamo._core.address import work_queue_key
from dynamo._core.context import Context
from dynamo._core.discovery import Discovery
from dynamo._core.errors import (
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    IncompatibleVersion,
    NoInstances,
    Overloaded,
    ProtocolError,
    Unauthorized,
    WorkerUnavailable,
)
from dynamo._core.limits import WORK_QUEUE_HOLDS_MAX
from dynamo._core.request_plane import Address, RequestPlane, ResponseStream
from dynamo._core.work_queue._server import WAIT_S_MAX, QueueServer, Reply, Request, ServedQueue, serve_work_queue
from dynamo._core.work_queue.base import check_job, check_timeout

__all__ = ["EmbeddedJob", "EmbeddedWorkQueue", "QueueServer", "ServedQueue", "serve_work_queue"]

logger = logging.getLogger(__name__)

#: So long may the serving process take to answer.
REPLY_TIMEOUT_S = 5.0
#: How often a consumer that waits looks for somebody who serves the queue.
LOOK_S_MIN, LOOK_S_MAX = 0.1, 1.0
# Nobody serves the queue now, or not the one that did; a consumer that waits has lost nothing by that.
_AWAY = (NoInstances, CannotConnect, Disconnected, WorkerUnavailable, EngineShutdown)

_reply_decoder = msgspec.msgpack.Decoder(Reply)
_encoder = msgspec.msgpack.Encoder()


class EmbeddedJob:
    """A job from a queue in another process."""

    def __init__(self, queue: EmbeddedWorkQueue, reply: Reply, address: Address, hold: ResponseStream) -> None:
        self._queue = queue
        self._reply = reply
        self._address = address
        self._hold = hold

    @property
    def payload(self) -> bytes:
        return self._reply.payload

    @property
    def attempt(self) -> int:
        return self._reply.attempt

    async def ack(self) -> None:
        await self._tell_and_let_go("ack")

    async def nack(self) -> None:
        await self._tell_and_let_go("nack")

    async def extend(self) -> None:
        await self._tell("extend")

    async def _tell_and_let_go(self, what: Literal["ack", "nack"]) -> None:
        try:
            await self._tell(what)
        finally:
            await self._queue.let_go(self._hold)  # if nobody has heard us, others get the job at once

    async def _tell(self, what: Literal["ack", "nack", "extend"]) -> None:
        # To the process that gave it out, and to no other: it alone knows the job.
        await self._queue.ask_at(self._address, Request(what, id=self._reply.id, attempt=self._reply.attempt))


class EmbeddedWorkQueue:
    """A queue that another process serves with `serve_work_queue`."""

    def __init__(self, name: str, plane: RequestPlane, discovery: Discovery) -> None:
        self._name = name
        self._key = work_queue_key(name)
        self._plane = plane
        self._discovery = discovery
        self._address: Address | None = None
        # The streams of the jobs that are ours.
        self._holds: dict[ResponseStream, None] = {}
        self._is_away = False
        self._closed = False

    async def enqueue(self, payload: bytes) -> None:
        check_job(payload)
        await self._ask(Request("enqueue", payload=bytes(payload)))

    async def dequeue(self, timeout_s: float) -> EmbeddedJob | None:
        """Return the next job. While nobody serves the queue it waits, too, and says so when the time is up."""
        check_timeout(timeout_s)
        if len(self._holds) >= WORK_QUEUE_HOLDS_MAX:
            await self._let_go_of_ended()
        if len(self._holds) >= WORK_QUEUE_HOLDS_MAX:
            raise Overloaded(
                f"this process has {WORK_QUEUE_HOLDS_MAX} jobs of the work queue {self._name!r}; acknowledge some"
            )
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        look_s = LOOK_S_MIN
        while True:
            left_s = max(0.0, until - loop.time())
            try:
                job = await self._dequeue_once(min(left_s, WAIT_S_MAX))
            except _AWAY as error:
                if left_s == 0 or isinstance(error, Unauthorized | IncompatibleVersion):
                    raise
                self._note_away(error)
                await asyncio.sleep(min(left_s, look_s))
                look_s = min(look_s * 2, LOOK_S_MAX)
                continue
            self._is_away = False
            if job is not None or loop.time() >= until:
                return job

    async def size(self) -> int:
        return (await self._ask(Request("size"))).size

    async def close(self) -> None:
        self._closed = True
        for hold in list(self._holds):
            await self.let_go(hold)

    async def ask_at(self, address: Address, request: Request) -> None:
        """Tell one process about a job that it gave out."""
        self._check_open()
        _, stream, _ = await self._send_to(address, request, REPLY_TIMEOUT_S)
        await self.let_go(stream)

    async def let_go(self, hold: ResponseStream) -> None:
        """Close the stream of a job; if the job is not acknowledged, others get it."""
        self._holds.pop(hold, None)
        await hold.aclose()

    async def _let_go_of_ended(self) -> None:
        """Forget the jobs that were taken from us: whoever had them may never acknowledge them."""
        for hold in [hold for hold in self._holds if hold.ended]:
            await self.let_go(hold)

    async def _dequeue_once(self, wait_s: float) -> EmbeddedJob | None:
        address, stream, reply = await self._send(Request("dequeue", timeout_s=wait_s), wait_s + REPLY_TIMEOUT_S)
        if reply.id == 0:
            await self.let_go(stream)
            return None
        return EmbeddedJob(self, reply, address, stream)

    async def _ask(self, request: Request) -> Reply:
        _, stream, reply = await self._send(request, REPLY_TIMEOUT_S)
        await self.let_go(stream)
        return reply

    async def _send(self, request: Request, timeout_s: float) -> tuple[Address, ResponseStream, Reply]:
        """Send a request to whoever serves the queue now; return the stream, still open, and its first item."""
        self._check_open()
        if self._address is not None:
            try:
                return await self._send_to(self._address, request, timeout_s)
            except (CannotConnect, WorkerUnavailable):  # nobody has seen the request
                self._address = None
            except (Disconnected, DeadlineExceeded):
                self._address = None
                raise
        found = (await self._discovery.get_prefix(self._key)).get(self._key)
        if found is None:
            raise NoInstances(f"no process serves the work queue {self._name!r}", queue=self._name)
        sent = await self._send_to(found.decode(errors="replace"), request, timeout_s)
        self._address = sent[0]
        return sent

    async def _send_to(
        self, address: Address, request: Request, timeout_s: float
    ) -> tuple[Address, ResponseStream, Reply]:
        stream = await self._plane.call(address, _encoder.encode(request), Context())
        self._holds[stream] = None
        try:
            return address, stream, await self._read(stream, timeout_s)
        except BaseException:
            await self.let_go(stream)
            raise

    async def _read(self, stream: ResponseStream, timeout_s: float) -> Reply:
        try:
            async with asyncio.timeout(timeout_s):
                item = await anext(stream, None)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"whoever serves the work queue {self._name!r} has not answered for {timeout_s:.0f} s", queue=self._name
            ) from error
        try:
            return _reply_decoder.decode(item or b"")
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"what serves the work queue {self._name!r} is none: {error}") from error

    def _note_away(self, error: DynamoError) -> None:
        self._check_open()  # it may be away for us only
        if not self._is_away:
            self._is_away = True
            logger.warning("waiting for somebody to serve the work queue %r: %s", self._name, error)

    def _check_open(self) -> None:
        if self._closed:
            raise DynamoError("this work queue is closed; open a new one")
