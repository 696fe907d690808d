"""Workers that take text, and are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.llm.mortal import (
    NEW,
    Cluster,
    Worker,
    cluster_of,
)
from tests.llm.scene import MODEL
from tests.oracle import OracleEngine

from dynamo._core.context import Context
from dynamo._core.errors import (
    Disconnected,
    InvalidArgument,
)
from dynamo.llm import ModelInput
from dynamo.llm._openai import ChatRequest, parse

CHAT = parse(
    ChatRequest,
    {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "response_format": {"type": "json_object"},
    },
)


class TextEngine:
    """Says some words, one chunk each, and is lost after so many."""

    def __init__(self, clusters: list[Cluster], lost_after: int | None) -> None:
        self.num_requests = 0
        self._clusters = clusters
        self._lost_after = lost_after

    async def generate(self, body: object, context: Context) -> AsyncIterator[object]:
        self.num_requests += 1
        for index, text in enumerate(("{", "}", "")):
            if index == self._lost_after:
                next(worker for worker in self._clusters[0].workers if worker.engine is self).lose()
                await asyncio.Event().wait()
            yield {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None if text else "stop"}]}


async def test_a_worker_that_takes_text_hands_over_what_has_not_begun(tiny_model: Path) -> None:
    clusters: list[Cluster] = []
    engines = [TextEngine(clusters, 0), TextEngine(clusters, None)]
    async with cluster_of(tiny_model, engines, model_input=ModelInput.Text) as (cluster, models):
        clusters.append(cluster)
        for _ in range(2):
            answer = msgspec.json.decode(await models.pipeline(MODEL).complete(CHAT, Context()))
            assert answer["choices"][0]["message"]["content"] == "{}"
        assert models.migrations.migrations[NEW] == cluster.num_lost == 1


async def test_what_a_worker_that_takes_text_has_begun_cannot_be_resumed(tiny_model: Path) -> None:
    clusters: list[Cluster] = []
    engines = [TextEngine(clusters, 1), TextEngine(clusters, 1)]
    async with cluster_of(tiny_model, engines, model_input=ModelInput.Text) as (cluster, models):
        clusters.append(cluster)
        with pytest.raises(Disconnected, match="cannot be resumed by another"):
            await models.pipeline(MODEL).complete(CHAT, Context())
        assert sum(engine.num_requests for engine in engines) == 1


FINISHED: list[dict[str, object]] = [
    {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]
USAGE: dict[str, object] = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


class Says:
    """Sends some chunks, and is lost before it can say that there are no more."""

    def __init__(self, chunks: list[dict[str, object]]) -> None:
        self.workers: list[Worker] = []
        self._chunks = chunks

    async def generate(self, body: object, context: Context) -> AsyncIterator[object]:
        for chunk in self._chunks:
            yield chunk
        self.workers[0].lose()
        await asyncio.Event().wait()


async def said(tiny_model: Path, chunks: list[dict[str, object]], **fields: object) -> list[dict[str, object]]:
    """Ask a worker that says this and is lost; return what there is of the answer."""
    engine = Says(chunks)
    async with cluster_of(tiny_model, [engine], model_input=ModelInput.Text) as (cluster, models):
        engine.workers += cluster.workers
        pipeline = models.pipeline(MODEL)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}
        request = parse(ChatRequest, body)  # type: ignore[arg-type]
        if not request.stream:
            return [msgspec.json.decode(await pipeline.complete(request, Context()))]
        return [msgspec.json.decode(one) async for batch in pipeline.stream(request, Context()) for one in batch]


async def test_a_worker_that_takes_text_and_is_lost_after_every_reason_has_answered(tiny_model: Path) -> None:
    [whole] = await said(tiny_model, FINISHED)
    assert whole["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ]
    assert len(await said(tiny_model, FINISHED, stream=True)) == 2


async def test_it_has_not_if_a_choice_or_the_usage_that_was_asked_for_is_missing(tiny_model: Path) -> None:
    counting: dict[str, object] = {"stream": True, "stream_options": {"include_usage": True}}
    assert len(await said(tiny_model, [*FINISHED, USAGE], **counting)) == 3
    for fields in (counting, {"n": 2}):
        with pytest.raises(Disconnected, match="cannot be resumed by another"):
            await said(tiny_model, FINISHED, **fields)


async def test_a_worker_with_token_ids_is_given_no_request_that_could_not_be_resumed(tiny_model: Path) -> None:
    async with cluster_of(tiny_model, [OracleEngine()]) as (_, models):
        with pytest.raises(InvalidArgument, match="'response_format' is not served yet"):
            await models.pipeline(MODEL).complete(CHAT, Context())
