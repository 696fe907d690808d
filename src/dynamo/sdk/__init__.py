"""The SDK: an inference graph as plain Python classes, started with `dynamo serve`."""

from dynamo._core.stability import Stability, Tier
from dynamo.sdk._context import dynamo_context, server_context
from dynamo.sdk._depends import depends
from dynamo.sdk._endpoints import DynamoTransport, api, dynamo_endpoint, endpoint
from dynamo.sdk._hooks import async_on_shutdown, async_on_start, liveness, on_shutdown, readiness
from dynamo.sdk._interface import (
    AbstractDynamoService,
    AbstractService,
    abstract_dynamo_endpoint,
    abstract_endpoint,
)
from dynamo.sdk._service import Service, service, service_of
from dynamo.sdk.lib.image import DYNAMO_IMAGE

__all__ = [
    "DYNAMO_IMAGE",
    "AbstractDynamoService",
    "AbstractService",
    "DynamoTransport",
    "Service",
    "abstract_dynamo_endpoint",
    "abstract_endpoint",
    "api",
    "async_on_shutdown",
    "async_on_start",
    "depends",
    "dynamo_context",
    "dynamo_endpoint",
    "endpoint",
    "liveness",
    "on_shutdown",
    "readiness",
    "server_context",
    "service",
    "service_of",
]
#: The marks of what can carry none.
__stability__: dict[str, Stability] = {
    "DYNAMO_IMAGE": Stability(Tier.STABLE, "0.1"),
    "dynamo_context": Stability(Tier.STABLE, "0.1"),
    "server_context": Stability(Tier.STABLE, "0.1"),
}
