"""A door for our own components: names that they share and that are promised to nobody.

The code lives where its subject is, and is imported when a name is first asked for. What stands here may change
without notice; users get the same objects from methods, such as `runtime.namespace("ns")`, and name no class.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamo._core.context import CancellationToken, Context
    from dynamo.llm._model_card import ModelCard as ModelDeploymentCard
    from dynamo.llm._model_config import ModelRuntimeConfig
    from dynamo.runtime._component import Component, Namespace

__all__ = ["CancellationToken", "Component", "Context", "ModelDeploymentCard", "ModelRuntimeConfig", "Namespace"]

_PLACES = {
    "CancellationToken": "dynamo._core.context:CancellationToken",
    "Component": "dynamo.runtime._component:Component",
    "Context": "dynamo._core.context:Context",
    "ModelDeploymentCard": "dynamo.llm._model_card:ModelCard",
    "ModelRuntimeConfig": "dynamo.llm._model_config:ModelRuntimeConfig",
    "Namespace": "dynamo.runtime._component:Namespace",
}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above

    def __getattr__(name: str) -> object:
        place = _PLACES.get(name)
        if place is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)
