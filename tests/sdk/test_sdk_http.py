"""Services that serve HTTP: routes, streams, errors, and an end that waits for what runs."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as WebRequest
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send
from tests.sdk.services import Request, Worker
from tests.sdk.world import DEADLINE_S, World

from dynamo._core.errors import NotFound, RouterQueueLimitExceeded
from dynamo.runtime import DynamoError, NoInstances
from dynamo.runtime._http_server import HttpServer
from dynamo.runtime._listening import listen
from dynamo.sdk import api, async_on_shutdown, async_on_start, depends, dynamo_endpoint, endpoint, service, service_of
from dynamo.sdk._context import request_context
from dynamo.sdk._endpoints import DynamoTransport
from dynamo.sdk._runner import ServiceRunner


class Answer(BaseModel):
    word: str
    count: int


started = asyncio.Event()
ended = asyncio.Event()
waiting = asyncio.Event()
cancelled = asyncio.Event()
sync_ended = threading.Event()


class WebEndpoints:
    worker = depends(Worker)

    @async_on_start
    def prepare(self) -> None:
        self.prepared = True

    @async_on_shutdown
    def clean_up(self) -> None:
        ended.set()

    @dynamo_endpoint(is_api=True)
    async def words(self, request: Request) -> AsyncIterator[str]:
        async for item in self.worker.sync_stream(request):  # type: ignore[attr-defined]
            yield f"{item};"

    @dynamo_endpoint(is_api=True)
    async def lines(self, request: Request) -> AsyncIterator[object]:
        yield {"text": request.text}
        yield Answer(word="ä", count=1)

    @dynamo_endpoint(is_api=True)
    async def old_style(self, request: Request) -> StreamingResponse:
        async def content() -> AsyncIterator[str]:
            async for item in self.worker.stream(request):
                yield f"{item.word};"

        return StreamingResponse(content())

    @api(name="v1/count", http_method="GET")
    async def count(self, text: str, times: int = 1) -> Answer:
        assert self.prepared
        return Answer(word=text, count=times)

    @api
    def sync(self, request: Request) -> dict[str, str]:
        return {"text": request.text}

    @endpoint(transports=[DynamoTransport.DEFAULT, DynamoTransport.HTTP])
    async def both(self, request: Request) -> AsyncIterator[str]:
        yield request.text

    @api
    async def refused(self) -> None:
        raise NoInstances("nobody is there")

    @api
    async def full(self) -> None:
        raise RouterQueueLimitExceeded("10000 requests wait")

    @api
    async def not_found(self) -> None:
        raise NotFound("there is none")

    @api
    async def refused_stream(self) -> AsyncIterator[str]:
        if self.prepared:
            raise NoInstances("nobody is there")
        yield ""

    @api
    async def broken_stream(self) -> AsyncIterator[str]:
        yield "first"
        raise LookupError("no second")

    @api
    async def broken(self, request: Request) -> None:
        raise LookupError("a secret")

    @api
    async def broken_at_once(self) -> AsyncIterator[str]:
        if self.prepared:
            raise LookupError("a secret")
        yield ""

    @api
    async def unspeakable(self) -> AsyncIterator[object]:
        yield float("nan")

    @api
    async def leaves(self, request: Request) -> None:
        raise SystemExit(request.text)

    @api
    def leaves_its_thread(self, request: Request) -> None:
        raise SystemExit(request.text)

    @api
    async def leaves_a_stream(self, request: Request) -> AsyncIterator[str]:
        if self.prepared:
            raise SystemExit(request.text)
        yield ""

    @api
    async def leaves_midway(self, request: Request) -> AsyncIterator[str]:
        yield "first"
        raise SystemExit(request.text)

    @api
    async def gives_up(self, request: Request) -> None:
        raise asyncio.CancelledError(request.text)

    @api
    def sync_words(self, request: Request) -> Iterator[str]:
        context = request_context.get()
        try:
            for word in request.text.split():
                time.sleep(0.001)  # it may block
                yield f"{word};"
            yield "" if context is None else context.request_id
        finally:
            sync_ended.set()

    @api
    async def handled(self) -> None:
        raise KeyError("of the application")

    @api
    async def waits(self, request: Request) -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @api
    async def reads(self, request: WebRequest) -> str:
        return (await request.body()).decode()

    @api
    async def empty_stream(self) -> AsyncIterator[str]:
        words: list[str] = []
        for word in words:
            yield word

    @api
    async def slow(self) -> AsyncIterator[str]:
        try:
            yield "first"
            started.set()
            await asyncio.sleep(0.05)
            yield "second"
        finally:
            ended.set()

    @api
    async def stuck(self) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            ended.set()


def make_web() -> type:
    """The service, with an application of its own that has a route already."""
    app = FastAPI(title="mine")

    @app.exception_handler(KeyError)
    async def answer(request: WebRequest, error: KeyError) -> PlainTextResponse:
        return PlainTextResponse(str(error), status_code=418)

    @app.get("/own")
    async def own() -> str:
        return "route"

    @service(app=app)
    class Web(WebEndpoints): ...

    return Web


StartWeb = Callable[[type], Awaitable[tuple[ServiceRunner, httpx.AsyncClient]]]


@pytest.fixture
async def start_web(world: World) -> AsyncIterator[StartWeb]:
    async with AsyncExitStack() as stack:

        async def start(decorated: type) -> tuple[ServiceRunner, httpx.AsyncClient]:
            bound = socket.socket()
            bound.bind(("127.0.0.1", 0))
            runner = ServiceRunner(service_of(decorated), await world.join(), http_socket=bound)
            stack.push_async_callback(runner.stop)
            await runner.start()
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=DEADLINE_S)
            return runner, await stack.enter_async_context(client)

        yield start


@pytest.fixture
async def web(world: World, start_web: StartWeb) -> httpx.AsyncClient:
    await world.run(Worker)
    _, client = await start_web(make_web())
    return client


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("/words", "a;b;", "text/plain; charset=utf-8"),
        ("/lines", '{"text": "a b"}\n{"word":"ä","count":1}\n', "application/x-ndjson"),
        ("/both", "a b", "text/plain; charset=utf-8"),
        ("/sync", '{"text":"a b"}', "application/json"),
        ("/sync_words", "a;b;mine", "text/plain; charset=utf-8"),
    ],
)
async def test_endpoints_are_routes(web: httpx.AsyncClient, path: str, text: str, kind: str) -> None:
    response = await web.post(path, json={"text": "a b"}, headers={"x-request-id": "mine"})
    assert (response.status_code, response.text, response.headers["content-type"]) == (200, text, kind)


async def test_a_response_object_passes_as_it_is(web: httpx.AsyncClient) -> None:
    response = await web.post("/old_style", json={"text": "a b"})
    assert response.text == "a;b;"


async def test_parameters_are_bound_from_the_signature(web: httpx.AsyncClient) -> None:
    response = await web.get("/v1/count", params={"text": "a", "times": 2})
    assert response.json() == {"word": "a", "count": 2}
    missing = await web.get("/v1/count")
    assert (missing.status_code, missing.json()["detail"][0]["loc"]) == (422, ["query", "text"])
    assert (await web.post("/v1/count")).status_code == 405


async def test_the_application_keeps_its_own_routes_and_describes_all(web: httpx.AsyncClient) -> None:
    assert (await web.get("/own")).json() == "route"
    document = (await web.get("/openapi.json")).json()
    assert document["info"]["title"] == "mine"
    assert {"/own", "/words", "/v1/count"} <= set(document["paths"])


async def test_an_endpoint_of_both_transports_is_on_the_plane_too(world: World, start_web: StartWeb) -> None:
    await world.run(Worker)
    web = make_web()
    await start_web(web)
    assert await world.call(web, "both", {"text": "a"}) == ["a"]


@pytest.mark.parametrize(
    ("path", "status", "code", "message"),
    [
        ("/refused", 503, "no_instances", "the service cannot take the request now; try again later"),
        ("/refused_stream", 503, "no_instances", "the service cannot take the request now; try again later"),
        ("/full", 529, "router_queue_limit_exceeded", "the service cannot take the request now; try again later"),
        ("/not_found", 404, "not_found", "there is none"),
    ],
)
async def test_an_error_of_ours_has_its_status(
    web: httpx.AsyncClient, path: str, status: int, code: str, message: str
) -> None:
    response = await web.post(path, headers={"x-request-id": "mine"})
    assert response.status_code == status
    assert response.json() == {"error": {"code": code, "message": message, "request_id": "mine"}}
    assert ("retry-after" in response.headers) == (status in (503, 529))


@pytest.mark.parametrize("path", ["/broken_stream", "/leaves_midway"])
async def test_an_error_after_the_first_item_breaks_the_connection(
    web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with web.stream("POST", path, json={"text": "a"}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()
    [line] = [one.getMessage() for one in caplog.records if one.levelname == "ERROR" and one.name.startswith("dynamo")]
    assert line.startswith(f"a response was broken off ({response.headers['x-request-id']}): ")


@pytest.mark.parametrize("path", ["/broken", "/broken_at_once"])
async def test_an_error_of_the_service_tells_the_log_and_not_the_client(
    web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    response = await web.post(path, json={"text": "a"}, headers={"x-request-id": "mine"})
    assert response.status_code == 500
    said = {"code": "handler_error", "message": "the service failed; its log says why", "request_id": "mine"}
    assert response.json() == {"error": said}
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(f"POST {path} failed (mine): LookupError: a secret (")


@pytest.mark.parametrize("path", ["/leaves", "/leaves_its_thread", "/leaves_a_stream", "/gives_up"])
async def test_what_would_end_the_process_ends_its_request(
    web: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    response = await web.post(path, json={"text": "a secret"}, headers={"x-request-id": "mine"})
    assert response.status_code == 500
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"] == "mine"
    assert "secret" not in response.text
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert re.search(r" raised (SystemExit|CancelledError): a secret \(.*test_sdk_http.py:\d+ in ", line)
    assert (await web.post("/sync", json={"text": "goes on"})).status_code == 200


@pytest.mark.parametrize("sent", ["NaN", r'{"\ud800": 1}', "[" * 400 + "]" * 400])
async def test_a_wrong_request_that_cannot_be_sent_back_is_the_clients_fault(web: httpx.AsyncClient, sent: str) -> None:
    response = await web.post("/sync", content=f'{{"text": {sent}}}', headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "text"]


async def test_an_item_that_json_cannot_say_has_a_status(web: httpx.AsyncClient) -> None:
    assert (await web.post("/unspeakable")).status_code == 500


async def test_the_application_answers_for_the_errors_that_it_knows(web: httpx.AsyncClient) -> None:
    response = await web.post("/handled")
    assert (response.status_code, response.text) == (418, "'of the application'")


async def test_a_call_is_cancelled_when_the_client_leaves(web: httpx.AsyncClient) -> None:
    call = asyncio.create_task(web.post("/waits", json={"text": "a"}))
    await asyncio.wait_for(waiting.wait(), DEADLINE_S)
    call.cancel()
    await asyncio.wait_for(cancelled.wait(), DEADLINE_S)


async def test_a_method_may_read_the_request_itself(web: httpx.AsyncClient) -> None:
    assert (await web.post("/reads", content=b"body")).json() == "body"


async def test_an_empty_stream_is_an_empty_answer(web: httpx.AsyncClient) -> None:
    response = await web.post("/empty_stream")
    assert (response.status_code, response.text) == (200, "")


async def test_the_generator_ends_when_the_client_leaves(web: httpx.AsyncClient) -> None:
    ended.clear()
    async with web.stream("POST", "/stuck") as response:
        assert await anext(response.aiter_text()) == "first"
    await asyncio.wait_for(ended.wait(), DEADLINE_S)


async def test_a_sync_generator_is_closed_when_the_client_leaves(web: httpx.AsyncClient) -> None:
    sync_ended.clear()
    async with web.stream("POST", "/sync_words", json={"text": "a " * 100_000}) as response:
        assert (await anext(response.aiter_text())).startswith("a;")
    assert await asyncio.to_thread(sync_ended.wait, DEADLINE_S)


async def test_a_stop_lets_a_response_end(world: World, start_web: StartWeb) -> None:
    await world.run(Worker)
    runner, client = await start_web(make_web())
    started.clear()
    response = asyncio.create_task(client.post("/slow"))
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    ended.clear()
    await runner.stop()
    assert (await response).text == "firstsecond"
    assert ended.is_set()
    with pytest.raises(httpx.ConnectError):
        await client.get("/own")


async def test_a_response_that_is_not_done_in_time_is_broken_off_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        begun.set()
        await asyncio.Event().wait()

    server = HttpServer(app, listen("127.0.0.1", 0), is_ours=True)
    await server.start()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        response = asyncio.create_task(client.get(server.url))
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        await server.stop(0.0)
        with pytest.raises(httpx.RemoteProtocolError):
            await response
    warnings = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert warnings == ["requests that were not done after 1 s: 1; they are broken off"]


async def test_without_an_app_a_service_with_routes_gets_one(start_web: StartWeb) -> None:
    @service
    class Small:
        @api(http_method="GET")
        async def ping(self) -> str:
            return "pong"

    _, client = await start_web(Small)
    assert (await client.get("/ping")).json() == "pong"
    assert (await client.get("/openapi.json")).json()["info"]["title"] == "Small"


async def test_an_app_whose_startup_fails_fails_the_start(start_web: StartWeb) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise OSError("no database")
        yield

    @service(app=FastAPI(lifespan=lifespan))
    class Broken: ...

    with pytest.raises(DynamoError, match="the startup of the FastAPI application failed"):
        await start_web(Broken)
