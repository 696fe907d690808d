"""The container image of services that do not name their own."""

from __future__ import annotations

import os

__all__ = ["DYNAMO_IMAGE"]

#: From the environment variable of the same name, as it was when this was imported.
DYNAMO_IMAGE = os.environ.get("DYNAMO_IMAGE", "dynamo:latest-vllm")
