"""The two services of the depends benchmark: one that answers, and one that calls it in two ways.

`Caller` measures from inside a handler, as a service of a graph calls another one: through `depends`, and
through a client of the same endpoint, which does by hand what the annotations ask of `depends`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from benchmarks.rpc_items import STREAM_ITEMS, TEXT
from dynamo.runtime import Client
from dynamo.sdk import async_on_start, depends, dynamo_context, dynamo_endpoint, service

DEPENDS, BARE = "depends", "bare client"
UNARY, STREAM = "unary", f"stream {STREAM_ITEMS}"
UNARY_MODEL, STREAM_MODEL = "unary, models", f"stream {STREAM_ITEMS}, models"
WORKLOADS = (UNARY, STREAM, UNARY_MODEL, STREAM_MODEL)


class Question(BaseModel):
    text: str
    token_ids: list[int]


class Answer(BaseModel):
    index: int
    text: str


class Cell(BaseModel):
    """What one request asks the caller to measure."""

    workload: str
    way: str
    window_s: float


QUESTION: dict[str, Any] = {"text": TEXT, "token_ids": list(range(16))}
ITEM = {"index": 0, "text": TEXT}


@service(dynamo={"namespace": "bench"})
class Answering:
    @dynamo_endpoint()
    async def unary(self, request: dict[str, Any]) -> dict[str, Any]:
        return ITEM

    @dynamo_endpoint()
    async def stream(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        for _ in range(STREAM_ITEMS):
            yield ITEM

    @dynamo_endpoint()
    async def unary_model(self, request: Question) -> Answer:
        return Answer(index=0, text=request.text)

    @dynamo_endpoint()
    async def stream_model(self, request: Question) -> AsyncIterator[Answer]:
        for _ in range(STREAM_ITEMS):
            yield Answer(index=0, text=request.text)


@service(dynamo={"namespace": "bench"})
class Caller:
    answering = depends(Answering)

    @async_on_start
    async def start(self) -> None:
        self.clients: dict[str, Client] = {}
        for name in ("unary", "stream", "unary_model", "stream_model"):
            self.clients[name] = await dynamo_context["runtime"].endpoint(f"bench.Answering.{name}").client()
        self.calls: dict[tuple[str, str], Callable[[], Awaitable[None]]] = {
            (UNARY, DEPENDS): self._unary,
            (UNARY, BARE): self._unary_bare,
            (STREAM, DEPENDS): self._stream,
            (STREAM, BARE): self._stream_bare,
            (UNARY_MODEL, DEPENDS): self._unary_model,
            (UNARY_MODEL, BARE): self._unary_model_bare,
            (STREAM_MODEL, DEPENDS): self._stream_model,
            (STREAM_MODEL, BARE): self._stream_model_bare,
        }

    @dynamo_endpoint()
    async def measure(self, request: Cell) -> dict[str, float]:
        """Call, one after the other, until the window is over."""
        call = self.calls[request.workload, request.way]
        count = 0
        began = time.perf_counter()
        end = began + request.window_s
        while (now := time.perf_counter()) < end:
            await call()
            count += 1
        return {"calls": count, "elapsed_s": now - began}

    async def _unary(self) -> None:
        _check(await self.answering.unary(QUESTION))

    async def _unary_bare(self) -> None:
        async for item in await self.clients["unary"].generate(QUESTION, annotated=False):
            _check(item)

    async def _stream(self) -> None:
        count = 0
        async for item in self.answering.stream(QUESTION):
            count += _check(item)
        _check_count(count)

    async def _stream_bare(self) -> None:
        count = 0
        async for item in await self.clients["stream"].generate(QUESTION, annotated=False):
            count += _check(item)
        _check_count(count)

    async def _unary_model(self) -> None:
        _check_model(await self.answering.unary_model(Question(**QUESTION)))

    async def _unary_model_bare(self) -> None:
        request = Question(**QUESTION).model_dump(mode="json")
        async for item in await self.clients["unary_model"].generate(request, annotated=False):
            _check_model(Answer.model_validate(item))

    async def _stream_model(self) -> None:
        count = 0
        async for item in self.answering.stream_model(Question(**QUESTION)):
            count += _check_model(item)
        _check_count(count)

    async def _stream_model_bare(self) -> None:
        count = 0
        request = Question(**QUESTION).model_dump(mode="json")
        async for item in await self.clients["stream_model"].generate(request, annotated=False):
            count += _check_model(Answer.model_validate(item))
        _check_count(count)


def _check(item: Any) -> int:
    if item != ITEM:
        raise RuntimeError(f"an item is wrong: {item!r}")
    return 1


def _check_model(answer: Answer) -> int:
    if type(answer) is not Answer or answer.text != TEXT:
        raise RuntimeError(f"an answer is wrong: {answer!r}")
    return 1


def _check_count(count: int) -> None:
    if count != STREAM_ITEMS:
        raise RuntimeError(f"a stream ended after {count} of {STREAM_ITEMS} items")
