"""The SDK: an inference graph as plain Python classes, started with `dynamo serve`."""

from dynamo.sdk._context import dynamo_context
from dynamo.sdk._depends import depends
from dynamo.sdk._endpoints import DynamoTransport, api, dynamo_endpoint, endpoint
from dynamo.sdk._hooks import async_on_shutdown, async_on_start, on_shutdown, readiness
from dynamo.sdk._service import Service, service, service_of

__all__ = [
    "DynamoTransport",
    "Service",
    "api",
    "async_on_shutdown",
    "async_on_start",
    "depends",
    "dynamo_context",
    "dynamo_endpoint",
    "endpoint",
    "on_shutdown",
    "readiness",
    "service",
    "service_of",
]
