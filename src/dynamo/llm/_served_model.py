"""A model whose engine is served by somebody else, such as a service of a graph.

Whoever serves the endpoint holds one: it owns the engine, tells the frontends about the model, and takes it
back. If the engine fails, the runtime shuts down: a worker that cannot answer must not be asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

from dynamo._core.context import Context
from dynamo.llm._messages import EngineOutput
from dynamo.llm._model_card import ModelInput, ModelType
from dynamo.llm._register import register_llm, unregister_llm
from dynamo.llm._worker import WorkerEngine, read_request
from dynamo.runtime import Endpoint

log = logging.getLogger(__name__)


class ServedModel:
    """Made by `start`; ended by `close`."""

    def __init__(self, engine: WorkerEngine, endpoint: Endpoint) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._watch = asyncio.create_task(self._end_with_engine())

    @classmethod
    async def start(cls, engine: WorkerEngine, endpoint: Endpoint, path: Path, name: str) -> ServedModel:
        """Own `engine`, and tell the frontends that it answers for the model in `path`, at `endpoint`."""
        model = cls(engine, endpoint)
        try:
            await register_llm(
                ModelInput.Tokens,
                ModelType.Chat | ModelType.Completions,
                endpoint,
                str(path),
                name,
                context_length=engine.max_context_length,
            )
        except BaseException:
            await model._close_engine()
            raise
        return model

    def generate(self, request: object, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Token ids in, token ids out. Raises `InvalidArgument` for what is no `PreprocessedRequest`."""
        return self._engine.generate(read_request(request), context)

    async def close(self) -> None:
        """Take the model back, and end the engine. A second call changes nothing."""
        try:
            await unregister_llm(self._endpoint)
        finally:
            await self._close_engine()

    async def _close_engine(self) -> None:
        self._watch.cancel()
        await self._engine.close()

    async def _end_with_engine(self) -> None:
        log.error("the worker ends: %s", await self._engine.ended())
        self._endpoint.runtime.shutdown()
