"""What a running service knows of its surroundings."""

from __future__ import annotations

from typing import TypedDict, TypeVar, cast

from dynamo._core.context import current_context
from dynamo.runtime import Component, DistributedRuntime, Endpoint
from dynamo.runtime._lease import CustomLease

T = TypeVar("T")


class DynamoContext(TypedDict, total=False):
    """The keys of `dynamo_context`; they are there from before the service is built."""

    service_name: str
    #: The services that run elsewhere, each with its `dynamo://namespace/component`.
    runner_map: dict[str, str]
    namespace: str
    #: 1 for the first worker of the service.
    worker_id: int
    runtime: DistributedRuntime
    component: Component
    #: The endpoints of the service, in the order of definition.
    endpoints: list[Endpoint]
    #: What the instances of this worker live by; only there if the service has `dynamo.custom_lease`.
    lease: CustomLease


#: The surroundings of the service that this process runs.
dynamo_context: DynamoContext = {}


class ServerContext:
    """What BentoML's `server_context` says: the same facts as `dynamo_context`, as attributes."""

    @property
    def worker_index(self) -> int:
        """1 for the first worker of the service."""
        return _in_service("worker_index", dynamo_context.get("worker_id"))

    @property
    def service_name(self) -> str:
        return _in_service("service_name", dynamo_context.get("service_name"))


server_context = ServerContext()


def _in_service(attribute: str, value: T | None) -> T:
    if value is None:
        raise RuntimeError(f"server_context.{attribute} is known only in a process that runs a service")
    return value


def clear_context() -> None:
    """Forget the surroundings, when the service has ended."""
    cast("dict[str, object]", dynamo_context).clear()


#: The request that is being served, so that the calls it makes belong to it.
request_context = current_context
