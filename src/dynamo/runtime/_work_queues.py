"""Work queues by their names, as a runtime opens and serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast, overload

from dynamo._core.work_queue import QueueLimits, open_work_queue, provide_work_queue
from dynamo.runtime._arguments import check_text, check_type
from dynamo.runtime._codec import JsonValue
from dynamo.runtime._payload import payload_decoder
from dynamo.runtime._work_queue import ServedWorkQueue, WorkQueue

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

T = TypeVar("T")


class WorkQueues:
    """Uses work queues, and lets others use one; a `DistributedRuntime` is one."""

    @overload
    async def work_queue(self, name: str) -> WorkQueue[JsonValue]: ...
    @overload
    async def work_queue(self, name: str, payload_type: type[T]) -> WorkQueue[T]: ...
    async def work_queue(self, name: str, payload_type: type[T] | None = None) -> WorkQueue[T]:
        """Return the work queue `name`, to put jobs in or to take some out.

        Raises `InvalidArgument` for a name that is none, and `CannotConnect` if the server of the queue is away.

        Somebody must serve it, with `serve_work_queue`; it need not be there yet. Payloads are read into
        `payload_type`, a msgspec type or a pydantic model.
        """
        check_text("name", name)
        runtime = cast("DistributedRuntime", self)
        at, setting = runtime._planes.queues_named.at, runtime._planes.queues_named.setting
        opened = await open_work_queue(at, name, runtime.requests, runtime.discovery, setting=setting)
        return await runtime._adopted(WorkQueue(name, opened, payload_decoder(payload_type), runtime.release))

    async def serve_work_queue(self, name: str, limits: QueueLimits | None = None) -> ServedWorkQueue:
        """Let others use the work queue `name`, with these limits, until it is closed or the runtime ends.

        An embedded queue is in the memory of this process: choose one that lives as long as its jobs are worth
        anything. Raises `DynamoError` if another process serves it. One on NATS is made there, and stays.
        """
        check_text("name", name)
        check_type("limits", limits, (QueueLimits, type(None)), "QueueLimits, or None")
        runtime = cast("DistributedRuntime", self)
        at, setting = runtime._planes.queues_named.at, runtime._planes.queues_named.setting
        limits = limits or QueueLimits()
        served = await provide_work_queue(
            at, name, runtime.requests, runtime.discovery, runtime.lease, limits, setting=setting
        )
        return await runtime._adopted(ServedWorkQueue(name, served, runtime.release))
