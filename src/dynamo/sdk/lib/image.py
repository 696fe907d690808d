"""The container image of services that do not name their own."""

from __future__ import annotations

import os

from dynamo._core.stability import Stability, Tier

__all__ = ["DYNAMO_IMAGE"]
#: The marks of what can carry none.
__stability__: dict[str, Stability] = {"DYNAMO_IMAGE": Stability(Tier.STABLE, "0.1")}

#: From the environment variable of the same name, as it was when this was imported.
DYNAMO_IMAGE = os.environ.get("DYNAMO_IMAGE", "dynamo:latest-vllm")
