"""Web pages that use the server from a browser: none may, unless their origins are named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.frontend.route.fake_server import Exchange, fake_server
from tests.frontend.route.scene import routing
from tests.frontend.scene import CHAT, DEADLINE_S, FakeModels, pipeline_of

from dynamo._core.errors import ConfigError, Overloaded
from dynamo.frontend._app import create_app
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._cors import read_origins
from dynamo.frontend._route.config import RouteConfig
from dynamo.frontend._server import DrainingServer, open_listener
from dynamo.frontend._serving import FrontendServer
from dynamo.runtime import DistributedRuntime

PAGE = "https://app.example.com"
OTHER = "https://evil.example.com"
ALLOWED = "access-control-allow-origin"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}
COMPLETIONS = "/v1/chat/completions"


@asynccontextmanager
async def page(
    origins: str | None, *, origin: str = PAGE, error: Exception | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that asks as a page of this origin does, of a server that allows these."""
    app = create_app(FakeModels(pipeline_of([b"1"], [b"2"], error=error)))
    listener = open_listener("127.0.0.1", 0, insecure=False)
    server = DrainingServer(app, listener, keep_alive_s=5.0, cors_origins=read_origins(origins))
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, headers={"origin": origin}, timeout=DEADLINE_S) as client:
            yield client
    finally:
        await server.stop(0.0)


@pytest.mark.parametrize(("origins", "allowed"), [(f"http://localhost:3000, {PAGE}", PAGE), ("*", "*")])
async def test_a_page_of_an_origin_that_is_named_asks_before_and_may(origins: str, allowed: str) -> None:
    async with page(origins) as client:
        asked = await client.options(COMPLETIONS, headers=PREFLIGHT)
        assert asked.status_code == 200
        assert asked.headers[ALLOWED] == allowed
        assert "POST" in asked.headers["access-control-allow-methods"]
        assert asked.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
        assert "access-control-allow-credentials" not in asked.headers


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/no/such/route"])
async def test_what_a_page_gets_it_may_read_errors_included(path: str) -> None:
    async with page(PAGE) as client:
        answer = await client.get(path)
        assert answer.headers[ALLOWED] == PAGE
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_may_read_answers_and_streams(stream: bool) -> None:
    async with page(PAGE) as client:
        answer = await client.post(COMPLETIONS, json=CHAT | {"stream": stream})
        assert answer.headers[ALLOWED] == PAGE
        assert answer.text == ("data: 1\n\ndata: 2\n\ndata: [DONE]\n\n" if stream else "[1,2]")


@pytest.mark.parametrize(("body", "status"), [({}, 400), ({"model": "none", "messages": CHAT["messages"]}, 404)])
async def test_a_page_may_read_why_its_request_was_refused(body: dict[str, object], status: int) -> None:
    async with page(PAGE) as client:
        answer = await client.post(COMPLETIONS, json=body)
        assert answer.status_code == status
        assert answer.headers[ALLOWED] == PAGE


async def test_a_page_may_read_what_failed_inside_and_when_to_come_again() -> None:
    async with page(PAGE, error=Overloaded("busy")) as client:
        answer = await client.post(COMPLETIONS, json=CHAT)
        assert answer.status_code >= 500
        assert answer.headers[ALLOWED] == PAGE
        assert answer.headers["retry-after"]
        assert "retry-after" in answer.headers["access-control-expose-headers"]


async def test_a_page_of_another_origin_may_read_nothing() -> None:
    async with page(PAGE, origin=OTHER) as client:
        asked = await client.options(COMPLETIONS, headers=PREFLIGHT)
        assert asked.status_code == 400
        assert ALLOWED not in asked.headers
        assert ALLOWED not in (await client.get("/v1/models")).headers


async def test_no_page_may_read_anything_unless_somebody_says_so() -> None:
    async with page(None) as client:
        asked = await client.options(COMPLETIONS, headers=PREFLIGHT)
        assert asked.status_code == 405
        answers = [asked, await client.get("/v1/models"), await client.post(COMPLETIONS, json=CHAT)]
        assert not [name for one in answers for name in one.headers if name.startswith("access-control-")]


async def test_who_is_no_page_is_answered_as_before() -> None:
    async with page(PAGE) as client:
        del client.headers["origin"]
        answer = await client.post(COMPLETIONS, json=CHAT)
        assert answer.text == "[1,2]"
        assert ALLOWED not in answer.headers


async def test_the_frontend_allows_what_its_option_names() -> None:
    server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0, http_cors_origins=PAGE))
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:") as runtime:
        url = await server.start(runtime)
        try:
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
                assert (await client.get("/live", headers={"origin": PAGE})).headers[ALLOWED] == PAGE
        finally:
            await server.stop()


@pytest.mark.parametrize(("origins", "allowed"), [(None, None), (PAGE, PAGE)])
async def test_which_pages_read_what_a_route_passes_on_is_said_by_the_route(
    origins: str | None, allowed: str | None
) -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.json({"choices": []}, headers="Access-Control-Allow-Origin: *\r\n")

    async with fake_server(answers) as server, routing(server.url, http_cors_origins=origins) as route:
        answer = await route.post(CHAT, origin=PAGE)
        assert answer.status_code == 200
        assert answer.headers.get(ALLOWED) == allowed


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://[::1]:3000",
        "https://app.example.com:8443",
        "tauri://localhost",
        "chrome-extension://abcdef",
    ],
)
def test_origins_are_taken_as_browsers_write_them(origin: str) -> None:
    assert FrontendConfig(http_cors_origins=f"{origin},https://a").http_cors_origins == f"{origin},https://a"


@pytest.mark.parametrize(
    "origin",
    [
        "localhost:3000",
        "https://a/",
        "https://a/b",
        "https://A",
        "https://a:443",
        "http://a:80",
        "https://*.a",
        "http://localhost:*",
        "https://u@a",
        "null",
        "",
        "*",
    ],
)
def test_what_no_browser_would_send_is_refused_by_its_value(origin: str) -> None:
    for make in (FrontendConfig, lambda **given: RouteConfig(backend="http://127.0.0.1:1", **given)):
        with pytest.raises(ConfigError) as caught:
            make(http_cors_origins=f"{PAGE},{origin}")
        assert str(caught.value).startswith(f"--http-cors-origins (DYN_HTTP_CORS_ORIGINS): {origin!r} is no origin")
        assert caught.value.details["setting"] == "http_cors_origins"
