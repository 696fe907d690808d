"""A worker of the oracle that takes only so many requests at a time, and says which it begins."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from tests.oracle import OracleOptions, start_engine

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, ModelInput, ModelType, PreprocessedRequest, register_llm
from dynamo.llm._worker import WorkerEngine
from dynamo.runtime import DistributedRuntime, dynamo_worker
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._settings import option, read_settings


@dataclass(frozen=True, kw_only=True)
class LimitedOptions(OracleOptions):
    """The options of a worker that admits only so many."""

    max_concurrent_requests: int = option(4, "requests that run at a time", least=1)
    max_queued_requests: int = option(4, "requests that wait", least=0)


class TellingEngine:
    """An engine that says which requests it begins."""

    def __init__(self, engine: WorkerEngine) -> None:
        self._engine = engine

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        print(f"begun: {context.request_id}", flush=True)
        async with aclosing(self._engine.generate(request, context)) as outputs:
            async for output in outputs:
                yield output


@dynamo_worker()
async def worker(runtime: DistributedRuntime, options: LimitedOptions) -> None:
    """Serve until the runtime shuts down."""
    path = Path(options.model_path)
    engine = TellingEngine(await start_engine(options)(path))
    endpoint = runtime.namespace(options.namespace).component(options.component).endpoint(options.endpoint)
    await endpoint.serve(
        engine.generate,
        request_type=PreprocessedRequest,
        max_concurrent_requests=options.max_concurrent_requests,
        max_queued_requests=options.max_queued_requests,
    )
    await register_llm(ModelInput.Tokens, ModelType.Chat, endpoint, str(path), options.model_name)
    print("serving the model", flush=True)
    await runtime.wait_for_shutdown()


if __name__ == "__main__":
    set_up_logging(os.environ)
    asyncio.run(
        worker(
            read_settings(LimitedOptions, sys.argv[1:], os.environ, prog="limited_worker", description=__doc__ or "")
        )
    )
