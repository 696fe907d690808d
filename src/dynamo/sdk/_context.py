"""What a running service knows of its surroundings."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TypedDict, cast

from dynamo._core.context import Context
from dynamo.runtime import Component, DistributedRuntime, Endpoint


class DynamoContext(TypedDict, total=False):
    """The keys of `dynamo_context`; they are there from before the service is built."""

    service_name: str
    namespace: str
    #: 1 for the first worker of the service.
    worker_id: int
    runtime: DistributedRuntime
    component: Component
    #: The endpoints of the service, in the order of definition.
    endpoints: list[Endpoint]


#: The surroundings of the service that this process runs.
dynamo_context: DynamoContext = {}


def clear_context() -> None:
    """Forget the surroundings, when the service has ended."""
    cast("dict[str, object]", dynamo_context).clear()


#: The request that is being served, so that the calls it makes belong to it.
request_context: ContextVar[Context | None] = ContextVar("request_context", default=None)
