"""Services for tests: a worker with every kind of endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from pydantic import BaseModel

from dynamo.sdk import dynamo_endpoint, service


class Request(BaseModel):
    text: str


class Reply(BaseModel):
    word: str


@service
class Worker:
    @dynamo_endpoint()
    async def stream(self, request: Request) -> AsyncIterator[Reply]:
        for word in request.text.split():
            yield Reply(word=word)

    @dynamo_endpoint()
    async def text(self, request: Request) -> AsyncIterator[str]:
        for word in request.text.split():
            yield Reply(word=word).model_dump_json()

    @dynamo_endpoint()
    async def unary(self, request: Request) -> Reply:
        return Reply(word=request.text)

    @dynamo_endpoint()
    def sync(self, request: Request) -> str:
        return request.text.upper()

    @dynamo_endpoint()
    def sync_stream(self, request: Request) -> Iterator[str]:
        yield from request.text.split()

    @dynamo_endpoint("chat/completions")
    async def chat(self, request):  # type: ignore[no-untyped-def]
        yield request

    @dynamo_endpoint()
    async def plain(self, request: dict[str, object] | str) -> AsyncIterator[object]:
        yield request

    @dynamo_endpoint()
    async def nothing(self) -> str:
        return "asked for nothing"

    @dynamo_endpoint()
    async def fails_after(self, request: int) -> AsyncIterator[int]:
        for number in range(request):
            yield number
        raise LookupError("no more numbers")
