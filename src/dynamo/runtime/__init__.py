"""The runtime: processes that find each other, serve endpoints and call them.

```python
import asyncio
from dynamo.runtime import DistributedRuntime, dynamo_worker

async def generate(request, context):
    for word in request["text"].split():
        yield word

@dynamo_worker()
async def main(runtime: DistributedRuntime):
    await runtime.serve("shop.words.generate", generate)
    client = await runtime.client("shop.words.generate")
    async for word in await client.generate({"text": "one two"}, annotated=False):
        print(word)

asyncio.run(main())
```

Of the classes that are not here (a namespace, a component, a context), objects come from methods and to handlers.
"""

import warnings
from typing import TYPE_CHECKING

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
from dynamo._core.lazy import lazy_names
from dynamo._core.work_queue import QueueLimits
from dynamo.runtime._client import Client
from dynamo.runtime._codec import Annotated
from dynamo.runtime._component import Endpoint
from dynamo.runtime._decorators import dynamo_endpoint, dynamo_worker
from dynamo.runtime._events import Event, Events, Subscription
from dynamo.runtime._instances import Instance
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._response import ResponseStream
from dynamo.runtime._runtime import DistributedRuntime
from dynamo.runtime._served_endpoint import ServedEndpoint
from dynamo.runtime._timeouts import StreamTimeouts
from dynamo.runtime._unary import UnaryClient, serve_unary_endpoint
from dynamo.runtime._work_queue import Job, ServedWorkQueue, WorkQueue

if TYPE_CHECKING:  # older names: see `__getattr__`
    from dynamo._core.context import CancellationToken as CancellationToken
    from dynamo._core.context import Context as Context
    from dynamo.runtime._compat import EtcdClient as EtcdClient
    from dynamo.runtime._compat import EtcdKvCache as EtcdKvCache
    from dynamo.runtime._component import Component as Component
    from dynamo.runtime._component import Namespace as Namespace

__all__ = [
    "Annotated",
    "CannotConnect",
    "Client",
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
    "UnaryClient",
    "WorkQueue",
    "WorkerUnavailable",
    "dynamo_endpoint",
    "dynamo_worker",
    "serve_unary_endpoint",
]

#: Names that have moved out of sight, and where they are; each import of one warns.
_MOVED = {
    "CancellationToken": "dynamo._core.context",
    "Component": "._component",
    "Context": "dynamo._core.context",
    "Namespace": "._component",
}
#: Names of 0.x whose methods warn.
_FORMER = {"EtcdClient": "._compat", "EtcdKvCache": "._compat"}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    _lazy = lazy_names(__name__, _MOVED | _FORMER)

    def __getattr__(name: str) -> object:
        if name in _MOVED:
            warnings.warn(
                f"dynamo.runtime.{name} is dynamo._internal.{name} now, and goes from here with version 1.0; "
                "most code needs no import of it: methods return it, and handlers are given it",
                DeprecationWarning,
                stacklevel=2,
            )
        return _lazy(name)
