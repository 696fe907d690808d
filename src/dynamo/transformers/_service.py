"""The transformers worker as a base class for services of an SDK graph."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, ModelInput, ModelType, register_llm, unregister_llm
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._worker import read_request
from dynamo.runtime import Endpoint
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_context, dynamo_endpoint
from dynamo.transformers._engine import MAX_NUM_SEQS, TransformersEngine

log = logging.getLogger(__name__)


class TransformersWorker:
    """Serves a causal language model of the transformers library:

    @service(dynamo={"namespace": "demo"}, resources={"gpu": 1})
    class Worker(TransformersWorker): ...

    The parameters of the constructor come from the service's section of the configuration.
    """

    def __init__(
        self,
        model_path: str,
        model_name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_num_seqs: int = MAX_NUM_SEQS,
        context_length: int | None = None,
        num_threads: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.model_path = model_path
        self.model_name = model_name
        self.device = device
        self.dtype = dtype
        self.max_num_seqs = max_num_seqs
        self.context_length = context_length
        self.num_threads = num_threads
        self.seed = seed
        self._engine: TransformersEngine | None = None
        self._watch: asyncio.Task[None] | None = None

    @async_on_start
    async def start_engine(self) -> None:
        """Load the model, and tell the frontends about it."""
        path = await fetch_llm(self.model_path)
        self._engine = await TransformersEngine.start(
            str(path),
            device=self.device,
            dtype=self.dtype,
            max_num_seqs=self.max_num_seqs,
            max_context_length=self.context_length,
            num_threads=self.num_threads,
            seed=self.seed,
        )
        self._watch = asyncio.create_task(self._end_with(self._engine))
        await register_llm(
            ModelInput.Tokens,
            ModelType.Chat | ModelType.Completions,
            self._endpoint(),
            str(path),
            self.model_name or default_model_name(self.model_path),
            context_length=self._engine.max_context_length,
        )

    @dynamo_endpoint()
    async def generate(self, request: object, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Token ids in, token ids out."""
        assert self._engine is not None
        async with aclosing(self._engine.generate(read_request(request), context)) as outputs:
            async for output in outputs:
                yield output

    @async_on_shutdown
    async def close_engine(self) -> None:
        """Take the model back, and end the engine."""
        if self._watch is not None:
            self._watch.cancel()
        if self._engine is not None:
            await unregister_llm(self._endpoint())
            await self._engine.close()

    async def _end_with(self, engine: TransformersEngine) -> None:
        """A worker whose engine has failed must not get more requests: end the process."""
        log.error("the worker ends: %s", await engine.ended())
        dynamo_context["runtime"].shutdown()

    def _endpoint(self) -> Endpoint:
        return next(endpoint for endpoint in dynamo_context["endpoints"] if endpoint.id.endpoint == "generate")
