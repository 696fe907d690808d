"""A door for our own components: names that they share and that are promised to nobody.

The code lives where its subject is. What stands here may change without notice.
"""

from dynamo._core.context import CancellationToken, Context
from dynamo.llm._model_card import ModelCard as ModelDeploymentCard
from dynamo.runtime._component import Component, Namespace

__all__ = ["CancellationToken", "Component", "Context", "ModelDeploymentCard", "Namespace"]
