"""A worker that runs vLLM's engine: tokens in and tokens out, its KV cache known to routers, its metrics with ours.

Importing this package does not import vLLM; starting an engine does. `VllmWorker` is imported when it is asked for:
it brings the SDK, which the engine does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.vllm._engine import VllmEngine

if TYPE_CHECKING:
    from dynamo.vllm._service import VllmWorker

__all__ = ["VllmEngine", "VllmWorker"]

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        if name == "VllmWorker":
            from dynamo.vllm._service import VllmWorker

            return VllmWorker
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
