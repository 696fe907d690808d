"""A worker process for the tests: a model `tiny` that says one token each 10 ms, for ever."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, ModelInput, ModelType, PreprocessedRequest, register_llm, serve_engine
from dynamo.runtime import DistributedRuntime, dynamo_worker


class SlowEngine:
    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
        while True:
            await asyncio.sleep(0.01)
            yield EngineOutput(token_ids=[65])


@dynamo_worker()
async def worker(runtime: DistributedRuntime, model_path: str) -> None:
    endpoint = runtime.endpoint("test.worker.generate")
    await serve_engine(endpoint, SlowEngine())
    await register_llm(ModelInput.Tokens, ModelType.Chat | ModelType.Completions, endpoint, model_path, "tiny")
    await runtime.wait_for_shutdown()


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[1]))
