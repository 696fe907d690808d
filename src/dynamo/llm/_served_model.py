"""A model whose engine is served by somebody else, such as a service of a graph.

Whoever serves the endpoint holds one: it owns the engine, tells the frontends about the model, and takes it
back. If the engine ends by itself, the runtime shuts down, because a worker that cannot answer must not be asked,
and `close` raises why: so the worker fails, and is started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown
from dynamo.llm._messages import EngineOutput
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._register import register_llm, unregister_llm
from dynamo.llm._worker import WorkerEngine, model_config, read_request
from dynamo.llm._worker_options import REFUSE
from dynamo.runtime import Endpoint

log = logging.getLogger(__name__)

NO_LABELS: Mapping[str, object] = {}


class ServedModel:
    """Made by `start`; ended by `close`."""

    def __init__(self, engine: WorkerEngine, endpoint: Endpoint) -> None:
        self._engine = engine
        self._endpoint = endpoint
        # Why the engine ended, if nobody here had asked it to.
        self._failure: EngineShutdown | None = None
        self._watch = asyncio.create_task(self._end_with_engine())

    @classmethod
    async def start(
        cls,
        engine: WorkerEngine,
        endpoint: Endpoint,
        path: Path,
        name: str,
        *,
        migration_limit: int = MIGRATION_LIMIT,
        labels: Mapping[str, object] = NO_LABELS,
        on_conflict: str = REFUSE,
    ) -> ServedModel:
        """Own `engine`, and tell the frontends that it answers for the model in `path`, at `endpoint`.

        `labels` are what else the model card says of the worker; see `worker_labels`. If other workers differ from it,
        it is refused with `ConfigError`, or waits until they are gone, as `on_conflict` says.
        """
        model = cls(engine, endpoint)
        try:
            config = model_config(
                engine, path, name, labels=labels, migration_limit=migration_limit, on_conflict=on_conflict
            )
            await register_llm(endpoint, config)
        except BaseException:
            await model._close_engine()
            raise
        return model

    def generate(self, request: object, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Token ids in, token ids out. Raises `InvalidArgument` for what is no `PreprocessedRequest`."""
        return self._engine.generate(read_request(request), context)

    async def close(self) -> None:
        """Take the model back, and end the engine. A second call changes nothing.

        Raises `EngineShutdown` if the engine had ended by itself.
        """
        try:
            await unregister_llm(self._endpoint)
        finally:
            await self._close_engine()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def _close_engine(self) -> None:
        self._watch.cancel()
        await self._engine.close()

    async def _end_with_engine(self) -> None:
        self._failure = await self._engine.ended()
        log.error("the worker ends: %s", self._failure)
        self._endpoint.runtime.shutdown()
