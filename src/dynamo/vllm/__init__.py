"""A worker that runs vLLM's engine: tokens in and tokens out, its KV cache known to routers, its metrics with ours.

Importing this package does not import vLLM; starting an engine does.

What is here is imported when it is asked for: the engine needs no SDK, and Ctrl-C may come while the command imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo.vllm._engine import VllmEngine
    from dynamo.vllm._service import VllmWorker

__all__ = ["VllmEngine", "VllmWorker"]

#: Where each name is.
_LAZY = {"VllmEngine": "._engine", "VllmWorker": "._service"}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
