"""A door for our own components: names that they share and that are promised to nobody.

The code lives where its subject is, and is imported when a name is first asked for. What stands here may change
without notice; users get the same objects from methods, such as `runtime.namespace("ns")`, and name no class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo._core.lazy import lazy_names

if TYPE_CHECKING:
    from dynamo._core.context import CancellationToken, Context
    from dynamo.llm._model_card import ModelCard as ModelDeploymentCard
    from dynamo.llm._model_config import ModelRuntimeConfig
    from dynamo.runtime._component import Component, Namespace

__all__ = ["CancellationToken", "Component", "Context", "ModelDeploymentCard", "ModelRuntimeConfig", "Namespace"]

#: Where each name is.
_LAZY = {
    "CancellationToken": "dynamo._core.context",
    "Component": "dynamo.runtime._component",
    "Context": "dynamo._core.context",
    "ModelDeploymentCard": "dynamo.llm._model_card:ModelCard",
    "ModelRuntimeConfig": "dynamo.llm._model_config",
    "Namespace": "dynamo.runtime._component",
}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    __getattr__ = lazy_names(__name__, _LAZY)
