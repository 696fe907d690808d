"""Work that waits until somebody is free to do it: jobs are values, and each is done at least once.

Who has the work enqueues it, and who is free dequeues it: nobody need know how many there are of the others. The
same code runs on the embedded queue, which one process serves to the others, and on NATS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from dynamo._core import work_queue
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_seconds
from dynamo.runtime._codec import UNREADABLE, encode

logger = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)


@stable(since="0.1", constructor=False)
class Job(Generic[T_co]):
    """A job that was given to us; nobody else gets it while it is ours.

    `async with job:` acknowledges it at the end of the block, and gives it back if the block raises.
    """

    def __init__(self, job: work_queue.Job, payload: T_co) -> None:
        self._job = job
        self.payload = payload

    @property
    def attempt(self) -> int:
        """How often it was given to somebody, this time included."""
        return self._job.attempt

    async def ack(self) -> None:
        """The work is done: nobody gets the job again.

        Raises a `DynamoError` if the queue cannot be reached; then somebody may get the job again.
        """
        await self._job.ack()

    async def nack(self) -> None:
        """Give the job back, at once to somebody else. If it is no longer ours, nothing happens."""
        await self._job.nack()

    async def extend(self) -> None:
        """Ask for another `visibility_s`, from now. If the job is no longer ours, nothing happens."""
        await self._job.extend()

    async def __aenter__(self) -> Job[T_co]:
        return self

    async def __aexit__(self, error_type: type[BaseException] | None, *exc_info: object) -> None:
        await (self.ack() if error_type is None else self.nack())


@stable(since="0.1", constructor=False)
class WorkQueue(Generic[T_co]):
    """One queue, as this process sees it. `DistributedRuntime.work_queue` returns one; it is closed with it."""

    def __init__(
        self,
        name: str,
        queue: work_queue.WorkQueue,
        decode: Callable[[bytes], T_co],
        on_close: Callable[[WorkQueue[T_co]], None],
    ) -> None:
        self.name = name
        self._queue = queue
        self._decode = decode
        self._on_close = on_close

    async def __aenter__(self) -> WorkQueue[T_co]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def enqueue(self, payload: object) -> None:
        """Add a job; return when the queue has it.

        Raises `Overloaded` if the queue is full, `InvalidArgument` for a job that is too large, `NoInstances` if
        nobody serves the queue, and another `DynamoError` if it cannot be reached; after `Disconnected` or
        `DeadlineExceeded` it may have the job.
        """
        await self._queue.enqueue(encode(payload))

    async def dequeue(self, timeout_s: float) -> Job[T_co] | None:
        """Return the next job, waiting `timeout_s` seconds for one, 0 or more; None if there was none.

        Raises a `DynamoError` if the queue cannot be reached, and still cannot when the time is up. A job that
        cannot be read is given back, for somebody who may know it, and given up like one that nobody does.
        """
        check_seconds("timeout_s", timeout_s)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        left_s = timeout_s
        while (job := await self._queue.dequeue(left_s)) is not None:
            try:
                return Job(job, self._decode(job.payload))
            except UNREADABLE as error:
                logger.error("a job of the work queue %r cannot be read, and is given back: %s", self.name, error)
                await job.nack()
            left_s = max(0.0, until - loop.time())
        return None

    async def size(self) -> int:
        """Return how many jobs wait or are being worked on: everything that was not acknowledged.

        Raises a `DynamoError` if the queue cannot be reached.
        """
        return await self._queue.size()

    async def close(self) -> None:
        """Leave the queue. Jobs that are ours and not acknowledged are given to others, sooner or later."""
        self._on_close(self)
        await self._queue.close()


@stable(since="0.1", constructor=False)
class ServedWorkQueue:
    """A queue that this process serves; on NATS, one that it has seen to.

    `DistributedRuntime.serve_work_queue` returns one; it is closed with it.
    """

    def __init__(
        self, name: str, served: work_queue.ProvidedQueue, on_close: Callable[[ServedWorkQueue], None]
    ) -> None:
        self.name = name
        self._served = served
        self._on_close = on_close

    async def __aenter__(self) -> ServedWorkQueue:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the queue, and lose its jobs; one on NATS stays, with its jobs. A second call changes nothing."""
        self._on_close(self)
        await self._served.close()
