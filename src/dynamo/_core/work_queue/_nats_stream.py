"""The stream of JetStream's that is a work queue, and its one durable consumer, from which everybody pulls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from nats.errors import NoRespondersError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from dynamo._core.address import nats_stream
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.limits import JOB_BYTES_MAX, WORK_QUEUE_BYTES_MAX, WORK_QUEUE_PULLS_MAX
from dynamo._core.stability import beta
from dynamo._core.work_queue.base import QueueLimits

CONSUMER = "workers"
#: NATS waits so much longer than a consumer may take. It would let a consumer give back what is another's by now, so
#: we must be sure to know of the end first, though the job took a while to reach us.
MARGIN_S = 0.5
#: NATS answers, but does not know the queue: it has lost its data.
GONE = (NoRespondersError, NoStreamResponseError, NotFoundError)
_OTHER_CONFIGURATION = 10058


@beta(since="0.1")
class _Known(msgspec.Struct):
    """What NATS keeps for us of a queue, as the description of its consumer."""

    name: str
    limits: QueueLimits


class NatsStream:
    """Makes a queue, and knows its limits."""

    def __init__(
        self, jetstream: Callable[[], JetStreamContext], name: str, limits: QueueLimits | None, setting: str
    ) -> None:
        self._jetstream = jetstream
        self._queue = name
        self._setting = setting
        #: True if others say what the limits are.
        self.keeps_limits = limits is None
        self.limits = limits or QueueLimits()
        self.name, self.subject = nats_stream(name)

    async def open(self) -> None:
        """Make the queue if it is not there. One that is has our limits then, or we have its if we came with none."""
        if not (self.keeps_limits and await self._take_limits()):
            await self.make()

    async def make(self) -> None:
        """Make the stream and its consumer, or take those that there are."""
        stream = StreamConfig(
            name=self.name,
            description=self._queue,
            subjects=[self.subject],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_msgs=self.limits.jobs_max,
            max_bytes=WORK_QUEUE_BYTES_MAX,
            max_msg_size=JOB_BYTES_MAX + 4096,
        )
        with self._told_of():
            try:
                await self._jetstream().add_stream(stream)
            except APIError as error:
                if error.err_code != _OTHER_CONFIGURATION:
                    raise
                await self._take_over(stream)
            await self._jetstream().add_consumer(
                self.name,
                ConsumerConfig(
                    durable_name=CONSUMER,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=self.limits.visibility_s + MARGIN_S,
                    max_ack_pending=self.limits.jobs_max,
                    max_waiting=WORK_QUEUE_PULLS_MAX,
                    description=msgspec.json.encode(_Known(self._queue, self.limits)).decode(),
                ),
            )

    async def _take_limits(self) -> bool:
        """Take the limits of the queue that there is; False if there is none, or not one of ours."""
        with self._told_of():
            try:
                found = (await self._jetstream().consumer_info(self.name, CONSUMER)).config.description
            except NotFoundError:
                return False
        try:
            known = msgspec.json.decode(found or "", type=_Known)
        except (ValueError, RecursionError, InvalidArgument):
            return False
        if known.name != self._queue:
            return False
        self.limits = known.limits
        return True

    @contextmanager
    def _told_of(self) -> Iterator[None]:
        """Raise what NATS refuses as `ConfigError`."""
        try:
            yield
        except (NoRespondersError, NoStreamResponseError, ServiceUnavailableError) as error:
            raise ConfigError(
                f"{self._setting}: the JetStream of NATS is not there ({error}); start nats-server with -js, or wait "
                "until it has begun",
                setting=self._setting,
            ) from error
        except APIError as error:
            raise ConfigError(
                f"{self._setting}: NATS refuses the work queue {self._queue!r}: {error.description}",
                setting=self._setting,
            ) from error

    async def _take_over(self, stream: StreamConfig) -> None:
        """Use the stream that another process has made, with our limits."""
        found = (await self._jetstream().stream_info(self.name)).config
        if found.description != self._queue:
            raise ConfigError(
                f"the work queues {self._queue!r} and {found.description!r} are the same to NATS: {self.name}; "
                "rename one of them",
                queue=self._queue,
            )
        await self._jetstream().update_stream(stream)
