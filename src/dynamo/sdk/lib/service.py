"""What code written for earlier releases imports from here: the edges of the graph, and typed options."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from dynamo._core.stability import Stability, Tier, stable
from dynamo.sdk._options import DynamoConfig, LeaseConfig
from dynamo.sdk._service import Service, linked_services, service_of

__all__ = ["ComponentType", "DynamoConfig", "LeaseConfig", "LinkedServices"]
#: The marks of what can carry none.
__stability__: dict[str, Stability] = {"LinkedServices": Stability(Tier.STABLE, "0.1")}

Target = TypeVar("Target")


@stable(since="0.1")
class ComponentType(StrEnum):
    """What `component_type` can be; it means something to deployment only."""

    PLANNER = "planner"


Edges = dict[Service[object], set[Service[object]]]


class _LinkedServices:
    """The edges between services that were linked, in this process."""

    @property
    def edges(self) -> Edges:
        """The services that were linked, each with those that it was linked to."""
        return {service: targets for service, targets in self.remove_unused_edges().items() if targets}

    def register_edge(self, source: Service[object], target: Service[Target]) -> Service[Target]:
        """Link `source` to `target`: the same as `source.link(target)`. Raises TypeError if `source` is no service."""
        return service_of(source).link(target)

    def remove_unused_edges(self) -> Edges:
        """Return the edges that are kept of every service that took part in a link.

        There is nothing left to do: an edge counts as removed from the first link of its service on.
        """
        return {service: set(service.edges().values()) for service in linked_services}


LinkedServices: _LinkedServices = _LinkedServices()
