"""A work queue on NATS JetStream: it outlives every process of ours, and a restart of NATS.

The jobs are a stream with one durable consumer, from which everybody pulls. NATS does not notice that a consumer
has died: its job is given out again when its time is up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from nats.aio.msg import Msg
from nats.errors import Error, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import Header
from nats.js.client import JetStreamContext
from nats.js.errors import APIError

from dynamo._core._nats import NatsConnection, NatsServers
from dynamo._core.errors import CannotConnect, ConfigError, Disconnected, DynamoError, Overloaded
from dynamo._core.work_queue._nats_stream import CONSUMER, GONE, NatsStream
from dynamo._core.work_queue.base import QueueLimits, check_job, check_timeout

logger = logging.getLogger(__name__)

#: So long may NATS take to answer.
REPLY_TIMEOUT_S = 2.0
OPEN_TIMEOUT_S = 1.6
#: A pull is lost if NATS is restarted, so none is longer than this.
PULL_S_MAX = 5.0
RETRY_S = 0.1
#: How often who provides a queue looks whether NATS has it.
KEEP_S = 1.0
_FULL = (10077, 10047)  # too many messages or bytes; no memory or disk

T = TypeVar("T")


class NatsJob:
    """A job from JetStream."""

    def __init__(self, connection: NatsConnection, message: Msg, visibility_s: float) -> None:
        self._connection = connection
        self._message = message
        self._visibility_s = visibility_s
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + visibility_s

    @property
    def payload(self) -> bytes:
        return self._message.data

    @property
    def attempt(self) -> int:
        return int(self._message.metadata.num_delivered)

    async def ack(self) -> None:
        await self._tell(Msg.Ack.Ack)
        self._until = 0.0

    async def nack(self) -> None:
        if self._loop.time() < self._until:
            await self._tell(Msg.Ack.Nak)
            self._until = 0.0

    async def extend(self) -> None:
        if self._loop.time() < self._until:
            until = self._loop.time() + self._visibility_s
            await self._tell(Msg.Ack.Progress)
            self._until = until

    async def give_up(self) -> None:
        """Let nobody have the job again."""
        await self._tell(Msg.Ack.Term)

    async def _tell(self, what: bytes) -> None:
        try:
            await self._connection.client.request(self._message.reply, what, timeout=REPLY_TIMEOUT_S)
        except (Error, OSError) as error:
            raise Disconnected(f"NATS did not answer about a job, which may be given out again: {error}") from error


class NatsWorkQueue:
    """A work queue on NATS. Use `connect`."""

    def __init__(self, connection: NatsConnection, name: str, limits: QueueLimits | None, setting: str) -> None:
        self._connection = connection
        self._name = name
        self._stream = NatsStream(lambda: self._jetstream, name, limits, setting)
        # What is pulled for callers that have left.
        self._returning: set[asyncio.Task[None]] = set()
        # Makes the queue anew if NATS loses it.
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def connect(
        cls,
        url: str,
        name: str,
        limits: QueueLimits | None = None,
        *,
        setting: str = "DYN_WORK_QUEUE",
        environ: Mapping[str, str] = os.environ,
    ) -> NatsWorkQueue:
        """Open the queue `name` on `nats://HOST:PORT`, and make it if it is not there.

        With `limits` it has those from now on, for who opens it later, and again if NATS loses it; without, it keeps
        those that it has. Raises
        `CannotConnect` or `ConfigError`, naming `setting`, in less than two seconds.
        """
        connection = NatsConnection(NatsServers.from_url(url, setting, environ))
        queue = cls(connection, name, limits, setting)
        loop = asyncio.get_running_loop()
        until = loop.time() + OPEN_TIMEOUT_S
        await connection.open()
        try:
            async with asyncio.timeout_at(until):
                await queue._stream.open()
        except (TimeoutError, NatsTimeoutError) as error:
            await connection.close()
            raise CannotConnect(f"{setting}: NATS answers, but its JetStream does not", setting=setting) from error
        except BaseException:
            await connection.close()
            raise
        if limits is not None:
            queue._keeping = asyncio.create_task(queue._keep(), name=f"keep the work queue {name!r}")
        return queue

    async def enqueue(self, payload: bytes) -> None:
        self._check_open()
        check_job(payload)
        try:
            await self._again_if_gone(
                lambda: self._jetstream.publish(self._stream.subject, bytes(payload), timeout=REPLY_TIMEOUT_S)
            )
        except APIError as error:
            if error.err_code not in _FULL:
                raise self._lost(error) from error
            raise Overloaded(
                f"the work queue {self._name!r} is full: at most {self._stream.limits.jobs_max} jobs", queue=self._name
            ) from error
        except (Error, OSError) as error:
            raise self._lost(error) from error

    async def dequeue(self, timeout_s: float) -> NatsJob | None:
        check_timeout(timeout_s)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            self._check_open()
            left_s = max(0.0, until - loop.time())
            try:
                wait_s = min(left_s, PULL_S_MAX)
                message = await self._again_if_gone(partial(self._pull_or_return, wait_s))
            except (Error, OSError) as error:
                if left_s <= RETRY_S:
                    raise self._lost(error) from error
                await asyncio.sleep(RETRY_S)
                continue
            if message is None:
                if loop.time() >= until:
                    return None
                continue
            job = NatsJob(self._connection, message, self._stream.limits.visibility_s)
            if job.attempt <= self._stream.limits.attempts_max:
                return job
            await self._give_up(job)

    async def size(self) -> int:
        self._check_open()
        try:
            info = await self._again_if_gone(lambda: self._jetstream.stream_info(self._stream.name))
            return int(info.state.messages)
        except (Error, OSError) as error:
            raise self._lost(error) from error

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._keeping is not None:
                self._keeping.cancel()
                await asyncio.wait([self._keeping])
            for returning in list(self._returning):
                returning.cancel()
                await asyncio.wait([returning])
            await self._connection.close()

    @property
    def _jetstream(self) -> JetStreamContext:
        return self._connection.client.jetstream(timeout=REPLY_TIMEOUT_S)

    async def _again_if_gone(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask NATS; if it has lost the queue with its jobs, make it anew and ask again.

        Who came without limits leaves that to whoever provides the queue: what it has known of them may be old.
        """
        try:
            return await ask()
        except GONE as error:
            if not self._connection.client.is_connected:
                raise
            if self._stream.keeps_limits:
                raise Error("NATS has lost it, and whoever serves it has not made it anew yet") from error
            logger.error("NATS knows the work queue %r no longer; making it anew: %s", self._name, error)
            try:
                await self._stream.make()
            except ConfigError as refused:  # what was right at first is right again soon, or NATS is another one
                raise Error(refused.message) from refused
            return await ask()

    async def _keep(self) -> None:
        """See that NATS has the queue, until it is closed: who only provides it would not notice."""
        while not self._closed:  # a cancellation that comes together with an answer of NATS's client is forgotten
            await asyncio.sleep(KEEP_S)
            try:
                await self._again_if_gone(lambda: self._jetstream.consumer_info(self._stream.name, CONSUMER))
            except (Error, OSError) as error:
                logger.debug("whether NATS has the work queue %r is not known: %r", self._name, error)

    async def _pull_or_return(self, wait_s: float) -> Msg | None:
        """Pull; if the caller is cancelled, give back what comes then."""
        pulling = asyncio.create_task(self._pull(wait_s))
        try:
            return await asyncio.shield(pulling)
        except asyncio.CancelledError:
            returning = asyncio.create_task(self._return(pulling))
            self._returning.add(returning)
            returning.add_done_callback(self._returning.discard)
            raise

    async def _return(self, pulling: asyncio.Task[Msg | None]) -> None:
        try:
            message = await pulling
            if message is not None:
                await NatsJob(self._connection, message, self._stream.limits.visibility_s).nack()
        except (Error, OSError, DynamoError) as error:
            logger.debug("a pull that nobody waits for: %s", error)  # its job, if any, comes again in time

    async def _pull(self, wait_s: float) -> Msg | None:
        """Ask for one job. None if there was none in time."""
        ask: dict[str, object] = {"batch": 1}
        if wait_s < 0.001:
            ask["no_wait"] = True
        else:
            ask["expires"] = int(wait_s * 1e9)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream.name}.{CONSUMER}"
        # The old style, with an inbox of its own: a job comes under its own subject, which the new one does not know.
        timeout_s = wait_s + REPLY_TIMEOUT_S
        message = await self._connection.client.request(subject, json.dumps(ask).encode(), timeout_s, old_style=True)
        status = (message.headers or {}).get(Header.STATUS)
        if status is None:
            return message
        if status in ("404", "408"):
            return None
        if status == "503":
            raise NoRespondersError
        raise Error(f"NATS says {status} {(message.headers or {}).get(Header.DESCRIPTION, '')}")

    async def _give_up(self, job: NatsJob) -> None:
        logger.error("a job was given out %d times and never acknowledged; it is given up", job.attempt - 1)
        await job.give_up()

    def _lost(self, error: Exception) -> DynamoError:
        if self._connection.client.is_connected:
            reason = str(error) or type(error).__name__
            return Disconnected(f"NATS did not answer about the work queue {self._name!r}: {reason}", queue=self._name)
        # What its client says of that is about its buffers.
        return CannotConnect(
            f"NATS, with the work queue {self._name!r}, is away; connecting to it again", queue=self._name
        )

    def _check_open(self) -> None:
        if self._closed:
            raise DynamoError("this work queue is closed; open a new one")
