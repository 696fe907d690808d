"""A worker for any causal language model of Hugging Face transformers, on CPU or GPU.

Importing this package does not import torch; loading a model does.

What is here is imported when it is asked for: the engine needs no SDK, and Ctrl-C may come while the command imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo.transformers._engine import TransformersEngine
    from dynamo.transformers._service import TransformersWorker

__all__ = ["TransformersEngine", "TransformersWorker"]

#: Where each name is.
_LAZY = {"TransformersEngine": "._engine", "TransformersWorker": "._service"}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
