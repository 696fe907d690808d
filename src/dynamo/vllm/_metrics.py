"""vLLM's own metrics, for the `/metrics` of the worker.

vLLM has them in the registry of the process, which has others, too: those of the process are told by the runtime.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

PREFIX = "vllm:"


class VllmMetrics:
    """Those metrics of a registry that are vLLM's; without one, of the registry that the process has anyway."""

    def __init__(self, registry: Collector | None = None) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        from prometheus_client import REGISTRY

        return [metric for metric in (self._registry or REGISTRY).collect() if metric.name.startswith(PREFIX)]
