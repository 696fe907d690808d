"""What code for earlier releases imports from here; new code imports it from `dynamo.sdk`."""

from dynamo.sdk._endpoints import api, dynamo_endpoint, endpoint
from dynamo.sdk._hooks import async_on_shutdown, async_on_start, liveness, on_shutdown, readiness

__all__ = [
    "api",
    "async_on_shutdown",
    "async_on_start",
    "dynamo_endpoint",
    "endpoint",
    "liveness",
    "on_shutdown",
    "readiness",
]
