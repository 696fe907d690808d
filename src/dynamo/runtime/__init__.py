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
    StreamIncomplete,
)
from dynamo.runtime._client import Client, Instance
from dynamo.runtime._codec import Annotated
from dynamo.runtime._component import Component, Endpoint, Namespace
from dynamo.runtime._decorators import dynamo_endpoint, dynamo_worker
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._response import ResponseStream
from dynamo.runtime._runtime import DistributedRuntime
from dynamo.runtime._serving import ServedEndpoint

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
    "HandlerError",
    "Instance",
    "InvalidArgument",
    "Namespace",
    "NoInstances",
    "ResponseStream",
    "ServedEndpoint",
    "StreamIncomplete",
    "dynamo_endpoint",
    "dynamo_worker",
]
