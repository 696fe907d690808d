"""The runtime: processes that find each other, serve endpoints and call them."""

from dynamo._core.errors import (
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    HandlerError,
    InvalidArgument,
    NoInstances,
    Overloaded,
    Stalled,
    StreamIncomplete,
    WorkerUnavailable,
)
from dynamo._core.event_plane import Gap
from dynamo._core.work_queue import QueueLimits
from dynamo.runtime._client import Client
from dynamo.runtime._codec import Annotated
from dynamo.runtime._component import Component, Endpoint, Namespace
from dynamo.runtime._decorators import dynamo_endpoint, dynamo_worker
from dynamo.runtime._events import Event, Events, Subscription
from dynamo.runtime._instances import Instance
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._response import ResponseStream
from dynamo.runtime._runtime import DistributedRuntime
from dynamo.runtime._serving import ServedEndpoint
from dynamo.runtime._timeouts import StreamTimeouts
from dynamo.runtime._work_queue import Job, ServedWorkQueue, WorkQueue

__all__ = [
    "Annotated",
    "CannotConnect",
    "Client",
    "Component",
    "CustomLease",
    "DeadlineExceeded",
    "Disconnected",
    "DistributedRuntime",
    "DynamoError",
    "Endpoint",
    "EngineShutdown",
    "Event",
    "Events",
    "Gap",
    "HandlerError",
    "Instance",
    "InvalidArgument",
    "Job",
    "Namespace",
    "NoInstances",
    "Overloaded",
    "QueueLimits",
    "ResponseStream",
    "ServedEndpoint",
    "ServedWorkQueue",
    "Stalled",
    "StreamIncomplete",
    "StreamTimeouts",
    "Subscription",
    "WorkQueue",
    "WorkerUnavailable",
    "dynamo_endpoint",
    "dynamo_worker",
]
