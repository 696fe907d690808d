"""Between HTTP clients and a service: request ids that travel, limits, and applications that stay what they are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from fastapi import Request as WebRequest
from fastapi.responses import PlainTextResponse, Response
from starlette.middleware.base import RequestResponseEndpoint
from starlette.types import Message, Receive, Scope, Send
from tests.sdk.services import Request
from tests.sdk.world import DEADLINE_S, World

from dynamo.runtime import DynamoError
from dynamo.sdk import api, async_on_shutdown, depends, dynamo_endpoint, service, service_of
from dynamo.sdk._context import request_context
from dynamo.sdk._http_guard import HttpGuard
from dynamo.sdk._runner import ServiceRunner

Start = Callable[[type], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def start(world: World) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(decorated: type) -> httpx.AsyncClient:
            bound = socket.socket()
            bound.bind(("127.0.0.1", 0))
            runner = ServiceRunner(service_of(decorated), await world.join(), http_socket=bound)
            stack.push_async_callback(runner.stop)
            await runner.start()
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=DEADLINE_S)
            return await stack.enter_async_context(client)

        yield start


@service
class Named:
    @dynamo_endpoint()
    async def who(self, request: str) -> AsyncIterator[str]:
        context = request_context.get()
        assert context is not None
        yield context.request_id

    @dynamo_endpoint()
    async def broken(self, request: str) -> AsyncIterator[str]:
        raise LookupError("/etc/secret is empty")
        yield ""


def make_front() -> type:
    """A service whose application has everything that an application may have."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seen.append("startup")
        yield
        seen.append("shutdown")

    app = FastAPI(lifespan=lifespan)

    @app.middleware("http")
    async def mark(request: WebRequest, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = ",".join(seen)
        return response

    @app.exception_handler(KeyError)
    async def teapot(request: WebRequest, error: KeyError) -> PlainTextResponse:
        return PlainTextResponse("teapot", status_code=418)

    @app.get("/health")
    async def health() -> str:
        return "the user's own"

    @app.post("/own/echo")
    async def echo(request: WebRequest) -> int:
        return len(await request.body())

    @app.get("/{rest:path}")
    async def everything(rest: str) -> str:
        return f"caught {rest}"

    @service(app=app)
    class Front:
        named = depends(Named)

        @api(http_method="GET")
        async def who(self) -> str:
            return "".join([item async for item in self.named.who("")])

        @api(http_method="GET")
        async def who_streams(self) -> AsyncIterator[str]:
            async for item in self.named.who(""):
                yield item

        @api
        async def echo(self, request: Request) -> str:
            return request.text

        @api
        async def remote(self) -> str:
            async for item in self.named.broken(""):
                return item
            return ""

        @api
        async def handled(self) -> None:
            raise KeyError("of the application")

    return Front


@pytest.fixture
async def front(world: World, start: Start) -> httpx.AsyncClient:
    await world.run(Named)
    return await start(make_front())


@pytest.mark.parametrize("path", ["/who", "/who_streams"])
async def test_the_id_of_a_request_goes_with_the_calls_that_it_makes(front: httpx.AsyncClient, path: str) -> None:
    given = await front.get(path, headers={"x-request-id": "abc-1"})
    assert "abc-1" in given.text
    assert given.headers["x-request-id"] == "abc-1"
    made = await front.get(path)
    assert len(made.headers["x-request-id"]) == 32
    assert made.headers["x-request-id"] in made.text


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "a\tb", "ä".encode().decode("latin-1"), "<script>"])
async def test_what_is_no_id_is_replaced(front: httpx.AsyncClient, given: str) -> None:
    response = await front.get("/who", headers={b"x-request-id": given.encode("latin-1")})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/openapi.json"])
async def test_every_response_has_an_id(front: httpx.AsyncClient, path: str) -> None:
    assert (await front.get(path, headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"


async def test_an_application_stays_what_it_is(front: httpx.AsyncClient) -> None:
    health = await front.get("/health")
    assert (health.status_code, health.json()) == (200, "the user's own")
    assert health.headers["x-seen"] == "startup"
    assert (await front.post("/handled")).text == "teapot"
    assert (await front.get("/some/where")).json() == "caught some/where"


async def test_an_endpoint_comes_before_a_route_that_takes_every_path(front: httpx.AsyncClient) -> None:
    assert "caught" not in (await front.get("/who")).text


async def test_an_endpoint_that_the_application_has_already_is_refused(start: Start) -> None:
    app = FastAPI()

    @app.post("/echo")
    async def echo() -> None: ...

    @service(app=app)
    class Twice:
        @api
        async def echo(self) -> None: ...

    with pytest.raises(DynamoError, match="the app of Twice has a route POST /echo already; rename the endpoint"):
        await start(Twice)


async def test_an_application_that_never_starts_or_ends_keeps_no_worker(world: World) -> None:
    happened: list[str] = []
    begun = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        begun.set()
        await asyncio.Event().wait()
        yield

    @service(app=FastAPI(lifespan=lifespan))
    class Stuck:
        @async_on_shutdown
        def end(self) -> None:
            happened.append("end")

    with socket.create_server(("127.0.0.1", 0)) as bound:
        runner = ServiceRunner(service_of(Stuck), await world.join(), http_socket=bound)
        starting = asyncio.create_task(runner.start())
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await asyncio.wait_for(runner.stop(), DEADLINE_S)
    assert happened == ["end"]


async def test_an_application_without_endpoints_is_served(start: Start) -> None:
    app = FastAPI()

    @app.get("/own")
    async def own() -> str:
        return "route"

    @service(app=app)
    class Only: ...

    client = await start(Only)
    assert (await client.get("/own")).json() == "route"


async def test_an_error_of_another_service_tells_the_log_and_not_the_client(
    front: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await front.post("/remote", headers={"x-request-id": "mine"})
    assert response.status_code == 500
    said = {"code": "handler_error", "message": "the service failed; its log says why", "request_id": "mine"}
    assert response.json() == {"error": said}
    [line] = [record.getMessage() for record in caplog.records if record.name == "dynamo.sdk._http"]
    assert line.startswith("POST /remote failed (mine): HandlerError: LookupError: /etc/secret is empty")


# Limits.


@pytest.fixture
async def small(world: World, start: Start, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Front": {"http_body_limit_mb": 0.001}}))
    await world.run(Named)
    return await start(make_front())


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 100):
        yield b"x" * 100


@pytest.mark.parametrize("path", ["/echo", "/own/echo"])
async def test_a_body_over_the_limit_is_refused(small: httpx.AsyncClient, path: str) -> None:
    message = "the body of a request may have 1048 bytes"
    for content in (b"x" * 2000, chunks(2000)):
        response = await small.post(path, content=content, headers={"x-request-id": "mine"})
        assert response.status_code == 413
        assert response.json() == {"error": {"code": "invalid_argument", "message": message, "request_id": "mine"}}
    assert (await small.post(path, json={"text": "a" * 900})).status_code == 200


@pytest.mark.parametrize("limit", [0, -1, "big", True, None])
async def test_a_limit_that_is_none_is_named(start: Start, monkeypatch: pytest.MonkeyPatch, limit: object) -> None:
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Plain": {"http_body_limit_mb": limit}}))

    @service
    class Plain:
        @api
        async def ping(self) -> None: ...

    with pytest.raises(DynamoError, match=r"Plain\.http_body_limit_mb must be a number of MiB above 0"):
        await start(Plain)


async def raw(client: httpx.AsyncClient, request: bytes) -> bytes:
    """Send bytes, and return what the server answers until it closes."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(request)
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_head_that_is_too_large_is_refused(front: httpx.AsyncClient) -> None:
    assert (await raw(front, b"GET /who HTTP/1.1\r\nx: " + b"a" * (70 << 10))).startswith(b"HTTP/1.1 431 ")
    many = b"".join(b"x-%d: 1\r\n" % number for number in range(200))
    assert (await raw(front, b"GET /who HTTP/1.1\r\n" + many + b"\r\n")).startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_stops_to_come_is_not_waited_for() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message["type"] != "http.disconnect":
            message = await receive()
        await send({"type": "http.response.start", "status": 400, "headers": []})
        raise LookupError("the client has left")

    async def receive() -> Message:
        if not sent:
            sent.append({})
            return {"type": "http.request", "body": b"a", "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    guard = HttpGuard(app, 100, body_stall_s=0.01)
    await guard({"type": "http", "headers": []}, receive, send)
    assert [message.get("status") for message in sent[1:]] == [408, None]
    assert b"nothing of the body came for 0.01 s" in sent[2]["body"]


async def test_what_is_not_http_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing() -> Message:
        raise AssertionError

    async def nowhere(message: Message) -> None:
        raise AssertionError

    await HttpGuard(app, 1)({"type": "lifespan"}, nothing, nowhere)
    assert seen == ["lifespan"]


async def test_an_id_that_the_application_sets_is_kept(start: Start) -> None:
    app = FastAPI()

    @app.get("/own")
    async def own() -> PlainTextResponse:
        return PlainTextResponse("", headers={"X-Request-ID": "of the application"})

    @service(app=app)
    class Only: ...

    response = await (await start(Only)).get("/own")
    assert response.headers.get_list("x-request-id") == ["of the application"]


async def test_a_worker_of_a_graph_answers_in_the_name_of_its_caller(world: World, start: Start) -> None:
    """Over two hops, and in a stream."""

    @service
    class Middle:
        named = depends(Named)

        @dynamo_endpoint()
        async def pass_on(self, request: str) -> AsyncIterator[str]:
            async for item in self.named.who(request):
                yield item

    @service
    class Web:
        middle = depends(Middle)

        @api(http_method="GET")
        async def who(self) -> AsyncIterator[str]:
            async for item in self.middle.pass_on(""):
                yield item

    await world.run(Named)
    await world.run(Middle)
    response = await (await start(Web)).get("/who", headers={"x-request-id": "far"})
    assert response.text == "far"
