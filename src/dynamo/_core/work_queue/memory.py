"""A work queue in one process: the reference for the others, and what the embedded one serves."""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections import deque
from dataclasses import dataclass, field

from dynamo._core.errors import DynamoError, Overloaded
from dynamo._core.limits import WORK_QUEUE_BYTES_MAX
from dynamo._core.work_queue.base import QueueLimits, check_job, check_timeout

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Entry:
    """A job, and the state of its present delivery if it is being worked on."""

    id: int
    payload: bytes
    attempt: int = 0
    timer: asyncio.TimerHandle | None = None
    over: asyncio.Future[None] | None = field(default=None, repr=False)


class MemoryJob:
    """A job of a `MemoryWorkQueue`, as it was given out."""

    def __init__(self, queue: MemoryWorkQueue, entry: _Entry, over: asyncio.Future[None]) -> None:
        self._queue = queue
        self.id = entry.id
        self._payload = entry.payload
        self._attempt = entry.attempt
        self._over = over

    @property
    def payload(self) -> bytes:
        return self._payload

    @property
    def attempt(self) -> int:
        return self._attempt

    async def ack(self) -> None:
        self._queue.finish(self.id)

    async def nack(self) -> None:
        self._queue.release(self.id, self._attempt)

    async def extend(self) -> None:
        self._queue.extend(self.id, self._attempt)

    async def ended(self) -> None:
        """Wait until the job is no longer ours: acknowledged, given back, or taken from us."""
        await asyncio.wait([self._over])


class MemoryWorkQueue:
    """Jobs in memory. Belongs to one event loop."""

    def __init__(self, limits: QueueLimits | None = None, *, random: random_module.Random | None = None) -> None:
        self._limits = limits or QueueLimits()
        # Where the numbers of jobs begin: those of a queue before this one must not be taken for ours.
        self._last_id = (random or random_module.SystemRandom()).getrandbits(52)
        self._entries: dict[int, _Entry] = {}
        self._waiting: deque[_Entry] = deque()
        self._size_bytes = 0
        # Who waits for a job, in the order in which they came.
        self._takers: dict[asyncio.Future[MemoryJob], None] = {}
        self._closed = False

    async def enqueue(self, payload: bytes) -> None:
        self._check_open()
        check_job(payload)
        if len(self._entries) >= self._limits.jobs_max or self._size_bytes + len(payload) > WORK_QUEUE_BYTES_MAX:
            raise Overloaded(
                f"the work queue is full: {len(self._entries)} jobs of at most {self._limits.jobs_max}",
                jobs_max=self._limits.jobs_max,
            )
        self._last_id += 1
        entry = self._entries[self._last_id] = _Entry(self._last_id, bytes(payload))
        self._size_bytes += len(payload)
        self._waiting.append(entry)
        self._give_out()

    async def dequeue(self, timeout_s: float) -> MemoryJob | None:
        self._check_open()
        check_timeout(timeout_s)
        if self._waiting:
            return self._deliver(self._waiting.popleft())
        if timeout_s == 0:
            return None
        taker: asyncio.Future[MemoryJob] = asyncio.get_running_loop().create_future()
        self._takers[taker] = None
        job: MemoryJob | None = None
        try:
            async with asyncio.timeout(timeout_s):
                job = await taker
        except TimeoutError:
            pass
        finally:
            self._takers.pop(taker, None)
            if job is None and taker.done() and not taker.cancelled() and taker.exception() is None:
                self._undo(taker.result())  # it came in the moment in which we left
        return job

    async def size(self) -> int:
        self._check_open()
        return len(self._entries)

    async def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        for entry in list(self._entries.values()):
            self._remove(entry)
        for taker in self._takers:
            if not taker.done():
                taker.set_exception(_closed())
        self._takers.clear()

    def finish(self, id: int) -> None:
        """The job is done, whoever has it now."""
        entry = self._entries.get(id)
        if entry is not None:
            self._remove(entry)

    def release(self, id: int, attempt: int) -> None:
        """Take a job back from its consumer, if it is still this attempt's."""
        entry = self._held(id, attempt)
        if entry is not None:
            self._take_back(entry)

    def extend(self, id: int, attempt: int) -> None:
        """Give a consumer more time, if the job is still this attempt's."""
        entry = self._held(id, attempt)
        if entry is not None:
            self._start_timer(entry)

    def _held(self, id: int, attempt: int) -> _Entry | None:
        entry = self._entries.get(id)
        return entry if entry is not None and entry.over is not None and entry.attempt == attempt else None

    def _give_out(self) -> None:
        while self._waiting and self._takers:
            taker = next(iter(self._takers))
            del self._takers[taker]
            if not taker.done():
                taker.set_result(self._deliver(self._waiting.popleft()))

    def _deliver(self, entry: _Entry) -> MemoryJob:
        entry.attempt += 1
        entry.over = asyncio.get_running_loop().create_future()
        self._start_timer(entry)
        return MemoryJob(self, entry, entry.over)

    def _undo(self, job: MemoryJob) -> None:
        entry = self._held(job.id, job.attempt)
        if entry is not None:
            self._end_delivery(entry)
            entry.attempt -= 1
            self._waiting.appendleft(entry)
            self._give_out()

    def _start_timer(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        loop = asyncio.get_running_loop()
        entry.timer = loop.call_later(self._limits.visibility_s, self._take_back, entry)

    def _take_back(self, entry: _Entry) -> None:
        """End a delivery that was not acknowledged."""
        self._end_delivery(entry)
        if entry.attempt >= self._limits.attempts_max:
            logger.error("a job was given out %d times and never acknowledged; it is given up", entry.attempt)
            self._remove(entry)
            return
        self._waiting.appendleft(entry)
        self._give_out()

    def _end_delivery(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.over is not None and not entry.over.done():
            entry.over.set_result(None)
        entry.timer = entry.over = None

    def _remove(self, entry: _Entry) -> None:
        if entry.over is None and entry in self._waiting:
            self._waiting.remove(entry)
        self._end_delivery(entry)
        del self._entries[entry.id]
        self._size_bytes -= len(entry.payload)

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()


def _closed() -> DynamoError:
    return DynamoError("this work queue is closed; open a new one")
