"""The process that serves an embedded work queue, and what others may ask of it.

A queue lives as long as the process that serves it. The stream that gives out a job stays open until the job is
over, so it tells of the death of a consumer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from dynamo._core.address import work_queue_key
from dynamo._core.context import Context
from dynamo._core.discovery import Discovery, Lease
from dynamo._core.discovery.base import LEASE_TTL_S
from dynamo._core.errors import DynamoError, InvalidArgument, WorkerUnavailable
from dynamo._core.request_plane import Listener, RequestPlane
from dynamo._core.stability import stable
from dynamo._core.work_queue.base import QueueLimits
from dynamo._core.work_queue.memory import MemoryJob, MemoryWorkQueue

logger = logging.getLogger(__name__)

#: A consumer that waits longer asks again; so the serving process need not be trusted to remember it.
WAIT_S_MAX = 30.0


@stable(since="0.1")
class Request(msgspec.Struct):
    what: Literal["enqueue", "dequeue", "size", "ack", "nack", "extend"]
    payload: bytes = b""
    timeout_s: float = 0.0
    id: int = 0
    attempt: int = 0


@stable(since="0.1")
class Reply(msgspec.Struct):
    size: int = 0
    # The job, if there was one: then `id` is not 0.
    id: int = 0
    attempt: int = 0
    payload: bytes = b""


_decoder = msgspec.msgpack.Decoder(Request)
_encoder = msgspec.msgpack.Encoder()


class QueueServer:
    """Serves a queue. `handle` is a handler of the request plane."""

    def __init__(self, limits: QueueLimits | None) -> None:
        self._queue = MemoryWorkQueue(limits)
        self._closed = False

    async def handle(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Do what a client asks; the stream that gives out a job stays open until the job is over."""
        try:
            asked = _decoder.decode(request)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"that is no request to a work queue: {error}") from error
        if self._closed:
            raise _ended()
        if asked.what == "dequeue":
            job = await self._dequeue(min(asked.timeout_s, WAIT_S_MAX))
            if job is None:
                yield _encoder.encode(Reply())
                return
            try:
                yield _encoder.encode(Reply(id=job.id, attempt=job.attempt, payload=job.payload))
                await job.ended()
            finally:
                self._queue.release(job.id, job.attempt)
            return
        yield _encoder.encode(await self._answer(asked))

    async def close(self) -> int:
        """End the queue; return how many jobs were in it."""
        num_jobs = 0 if self._closed else await self._queue.size()
        self._closed = True
        await self._queue.close()
        return num_jobs

    async def _dequeue(self, timeout_s: float) -> MemoryJob | None:
        try:
            return await self._queue.dequeue(timeout_s)
        except DynamoError as error:
            if self._closed:
                raise _ended() from error
            raise

    async def _answer(self, asked: Request) -> Reply:
        if asked.what == "enqueue":
            await self._queue.enqueue(asked.payload)
        elif asked.what == "ack":
            self._queue.finish(asked.id)
        elif asked.what == "nack":
            self._queue.release(asked.id, asked.attempt)
        elif asked.what == "extend":
            self._queue.extend(asked.id, asked.attempt)
        return Reply(size=await self._queue.size())


def _ended() -> WorkerUnavailable:
    return WorkerUnavailable("the process that was asked serves this work queue no longer")


class ServedQueue:
    """A queue that others can reach."""

    def __init__(self, name: str, server: QueueServer, listener: Listener, discovery: Discovery, key: str) -> None:
        self._name = name
        self._server = server
        self._listener = listener
        self._discovery = discovery
        self._key = key

    async def close(self) -> None:
        """Unregister the queue and end it; its jobs are lost, and their number is logged. Again, nothing changes."""
        try:
            await self._unregister()
        finally:
            num_lost = await self._server.close()
            await self._listener.close()
            if num_lost:
                logger.warning("the work queue %r has ended; jobs that are lost with it: %d", self._name, num_lost)

    async def _unregister(self) -> None:
        registered = self._listener.address.encode()
        try:
            # Another process serves it now if our lease was lost.
            if (await self._discovery.get_prefix(self._key)).get(self._key) == registered:
                await self._discovery.delete(self._key)
        except DynamoError as error:
            logger.warning("a work queue could not be unregistered; its lease will run out: %s", error)


async def serve_work_queue(
    name: str, plane: RequestPlane, discovery: Discovery, lease: Lease, limits: QueueLimits | None = None
) -> ServedQueue:
    """Serve the queue `name` as long as `lease` lives. Raises `DynamoError` if somebody does already."""
    key = work_queue_key(name)
    server = QueueServer(limits)
    listener = await plane.listen(server.handle)
    try:
        if not await discovery.create(key, listener.address.encode(), lease):
            raise DynamoError(
                f"the work queue {name!r} is served by another process already; use that. If it has died, its claim "
                f"ends by itself within {LEASE_TTL_S:g} s, and the queue can be served again then",
                queue=name,
            )
    except BaseException:
        await listener.close()
        raise
    return ServedQueue(name, server, listener, discovery, key)
