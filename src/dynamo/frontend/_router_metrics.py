"""What the KV routers of a frontend, or of a route, have counted, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dynamo.llm._router_metrics import RouterCollector
from dynamo.llm._routing import Router

PREFIX = "dynamo_frontend_router_"


def router_metrics(routers: Callable[[], Mapping[str, Router]]) -> RouterCollector:
    """Return the metrics of the router of each model."""
    return RouterCollector(routers, PREFIX)
