"""A graph of one service: `dynamo serve tests.vllm.real.service:Llama` serves a model with vLLM."""

from __future__ import annotations

from dynamo.sdk import service
from dynamo.vllm import VllmWorker


@service(dynamo={"namespace": "zoo"})
class Llama(VllmWorker):
    """A real model."""
