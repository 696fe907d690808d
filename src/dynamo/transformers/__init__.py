"""A worker for any causal language model of Hugging Face transformers, on CPU or GPU.

Importing this package does not import torch; loading a model does. `TransformersWorker` is imported
when it is asked for: it brings the SDK, which the engine does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo.transformers._engine import TransformersEngine

if TYPE_CHECKING:
    from dynamo.transformers._service import TransformersWorker

__all__ = ["TransformersEngine", "TransformersWorker"]

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        if name == "TransformersWorker":
            from dynamo.transformers._service import TransformersWorker

            return TransformersWorker
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
