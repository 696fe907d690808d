"""The Python worker of the http benchmark; runs unchanged under either system.

A Tokens worker: it takes token ids and yields one token id at a time, with one turn of the event loop
after each, as an engine that shares its loop with the runtime does. Its tokens are whole words, so that
every token is a visible piece of text.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.chat_request import ENDPOINT, MODEL_NAME, TOKENS, words
from dynamo import llm
from dynamo.runtime import DistributedRuntime, dynamo_worker

#: The peer wants to be told that this worker does everything; ours assumes it.
ROLE = {"worker_type": llm.WorkerType.Aggregated} if hasattr(llm, "WorkerType") else {}


async def serve(runtime: DistributedRuntime, model: Path) -> None:
    token_ids = list(words(model).values())

    async def generate(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if request["stop_conditions"]["max_tokens"] != TOKENS:
            raise ValueError(f"the benchmark asks for {TOKENS} tokens, not {request['stop_conditions']}")
        for token_id in token_ids[:-1]:
            yield {"token_ids": [token_id]}
            await asyncio.sleep(0)
        yield {"token_ids": [token_ids[-1]], "finish_reason": "length"}

    endpoint = runtime.endpoint(ENDPOINT)
    await llm.register_llm(llm.ModelInput.Tokens, llm.ModelType.Chat, endpoint, str(model), MODEL_NAME, **ROLE)
    await endpoint.serve_endpoint(generate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()

    @dynamo_worker()
    async def main(runtime: DistributedRuntime) -> None:
        await serve(runtime, options.model)

    uvloop.install()
    asyncio.run(main())
