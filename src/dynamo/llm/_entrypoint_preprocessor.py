"""The pipeline as an endpoint: OpenAI chat requests in, OpenAI chunks out, with the engine at another endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from pydantic import JsonValue

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import beta
from dynamo.llm._migration import Migration, MigrationPolicy, MigrationStats
from dynamo.llm._model_card import ModelCard
from dynamo.llm._openai import ChatRequest, parse
from dynamo.llm._pipeline import TokenPipeline
from dynamo.llm._poison import PoisonList
from dynamo.llm._preprocess import Preprocessor
from dynamo.llm._workers import Workers
from dynamo.runtime import Endpoint
from dynamo.runtime._arguments import check_type

ENDPOINT = "an Endpoint, such as runtime.endpoint('namespace.component.endpoint')"
CARD = "a ModelDeploymentCard, such as ModelDeploymentCard.from_local_path(...)"


@beta(since="0.1")
class OAIChatPreprocessor:
    """Answers OpenAI chat requests at `current_endpoint` with the workers at `next_endpoint`.

    The workers take token ids and yield token ids: a `Backend`, or whatever `serve_engine` serves. Messages become
    token ids by the chat template and the tokenizer that the card `mdc` tells of, and the token ids of the answer
    become text; a worker that is lost is followed by another, as often as the card says. Raises TypeError for
    arguments of other types.
    """

    def __init__(self, mdc: ModelCard, current_endpoint: Endpoint, next_endpoint: Endpoint) -> None:
        check_type("mdc", mdc, ModelCard, CARD)
        check_type("current_endpoint", current_endpoint, Endpoint, ENDPOINT)
        check_type("next_endpoint", next_endpoint, Endpoint, ENDPOINT)
        self._card = mdc
        self._current = current_endpoint
        self._next = next_endpoint

    async def start(self) -> None:
        """Serve until the runtime shuts down.

        A request is the body of a chat request, a dict; items are the chunks of its stream, dicts, whether it asks
        for a stream or not. Callers get `InvalidArgument` for a request that is wrong, with its field as `param`.
        Raises `ConfigError` or `NotFound` if the model's files cannot be read, and `InvalidArgument` if this process
        serves the endpoint already.
        """
        preprocessor = await Preprocessor.load(self._card)
        try:
            await self._serve(preprocessor)
        finally:
            preprocessor.close()

    async def _serve(self, preprocessor: Preprocessor) -> None:
        client = await self._next.client()
        runtime = self._next.runtime
        workers = Workers(self._card.display_name, client, None, runtime.rng)
        migration = Migration(
            self._card.display_name,
            workers,
            MigrationPolicy(self._card.migration_limit),
            MigrationStats(),
            PoisonList(asyncio.get_running_loop().time),
            runtime.rng,
        )
        pipeline = TokenPipeline(preprocessor, migration)

        async def answer(body: dict[str, JsonValue], context: Context) -> AsyncGenerator[object, None]:
            if not isinstance(body, dict):
                raise InvalidArgument("the request must be the body of an OpenAI chat request, an object")
            request = parse(ChatRequest, {**body, "stream": True})
            async with aclosing(pipeline.stream(request, context)) as batches:
                async for chunks in batches:
                    for chunk in chunks:
                        yield msgspec.json.decode(chunk)

        try:
            await self._current.serve_endpoint(answer)
        finally:
            await workers.close()
