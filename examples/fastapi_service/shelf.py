"""A service with a FastAPI application of its own: its routes, its middleware, and endpoints beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from dynamo.sdk import api, depends, dynamo_context, dynamo_endpoint, service


class Text(BaseModel):
    text: str


class Counts(BaseModel):
    words: int
    characters: int
    #: Which of the workers has counted.
    worker_id: int


@service(dynamo={"namespace": "shelf"}, workers=2)
class Counter:
    """Counts, in a process of its own."""

    @dynamo_endpoint()
    async def count(self, request: Text) -> Counts:
        worker_id = dynamo_context["worker_id"]
        return Counts(words=len(request.text.split()), characters=len(request.text), worker_id=worker_id)

    @dynamo_endpoint()
    async def words(self, request: Text) -> AsyncIterator[str]:
        for word in request.text.split():
            yield word


app = FastAPI(title="Shelf", description="Texts on a shelf, and what is in them.")
texts: dict[str, Text] = {}
TEXTS_MAX = 1000


@app.middleware("http")
async def name_the_service(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Tell every client who has answered."""
    response = await call_next(request)
    response.headers["X-Served-By"] = dynamo_context["service_name"]
    return response


@app.put("/texts/{name}", status_code=201)
async def put_text(name: str, text: Text) -> None:
    """Put a text on the shelf."""
    if name not in texts and len(texts) >= TEXTS_MAX:
        raise HTTPException(507, f"the shelf is full: it holds {TEXTS_MAX} texts")
    texts[name] = text


@service(dynamo={"namespace": "shelf"}, app=app)
class Shelf:
    counter = depends(Counter)

    @api(http_method="GET")
    async def count(self, name: str) -> Counts:
        """Count what is in a text."""
        return await self.counter.count(self.find(name))

    @api(http_method="GET")
    async def read(self, name: str) -> AsyncIterator[str]:
        """Stream a text, a word on each line."""
        async for word in self.counter.words(self.find(name)):
            yield f"{word}\n"

    def find(self, name: str) -> Text:
        if name not in texts:
            raise HTTPException(404, f"there is no text {name!r} on the shelf")
        return texts[name]
