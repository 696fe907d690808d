"""What a running service knows of its surroundings."""

from __future__ import annotations

from typing import NotRequired, TypedDict, TypeVar, cast

from dynamo._core.context import current_context
from dynamo.runtime import DistributedRuntime, Endpoint
from dynamo.runtime._component import Component
from dynamo.runtime._lease import CustomLease

T = TypeVar("T")


class DynamoContext(TypedDict):
    """The keys of `dynamo_context`; they are there from before the service is built until it has ended.

    In a process that runs no service there are none, and asking for one is a `KeyError`.
    """

    service_name: str
    #: The services that run elsewhere, each with its `dynamo://namespace/component`.
    runner_map: dict[str, str]
    #: As is the component: only there if the service is one, so unless its `dynamo.enabled` is false.
    namespace: str
    #: 1 for the first worker of the service.
    worker_id: int
    runtime: DistributedRuntime
    component: Component
    #: The endpoints of the service, in the order of definition.
    endpoints: list[Endpoint]
    #: What the instances of this worker live by; only there if the service has `dynamo.custom_lease`.
    lease: NotRequired[CustomLease]


#: The surroundings of the service that this process runs.
dynamo_context: DynamoContext = cast("DynamoContext", {})


class ServerContext:
    """What BentoML's `server_context` says: the same facts as `dynamo_context`, as attributes."""

    @property
    def worker_index(self) -> int:
        """1 for the first worker of the service. RuntimeError in a process that runs none."""
        return _in_service("worker_index", dynamo_context.get("worker_id"))

    @property
    def service_name(self) -> str:
        """The name of the service. RuntimeError in a process that runs none."""
        return _in_service("service_name", dynamo_context.get("service_name"))


#: The same for code that was written for BentoML.
server_context: ServerContext = ServerContext()


def _in_service(attribute: str, value: T | None) -> T:
    if value is None:
        raise RuntimeError(f"server_context.{attribute} is known only in a process that runs a service")
    return value


def clear_context() -> None:
    """Forget the surroundings, when the service has ended."""
    cast("dict[str, object]", dynamo_context).clear()


#: The request that is being served, so that the calls it makes belong to it.
request_context = current_context
