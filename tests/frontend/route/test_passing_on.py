"""What goes to a server is what came, and what comes back is what it answered, as it answered it."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from tests.frontend.route.fake_server import DEADLINE_S, EVENT_STREAM, Exchange, fake_server, says
from tests.frontend.route.scene import CHAT, eventually, routing

RAW = b'{"model" : "tiny",  "messages":[{"role":"user","content":"h\\u00fc"}], "top_k": 3, "unknown": [1e400]}'


@pytest.mark.parametrize("mode", ["round-robin", "kv"])
async def test_the_body_reaches_the_server_byte_for_byte(mode: str) -> None:
    async with fake_server(says("ok")) as server, routing(server.url, router_mode=mode) as route:
        headers = {"content-type": "application/json", "authorization": "Bearer key", "x-mine": "1"}
        answer = await route.client.post("/v1/chat/completions?a=b%20c", content=RAW, headers=headers)
        assert answer.status_code == 200
        [seen] = server.seen
        assert (seen.method, seen.target, seen.body) == ("POST", "/v1/chat/completions?a=b%20c", RAW)
        assert {name: seen.headers[name] for name in headers} == headers


async def test_what_is_addressed_to_the_route_does_not_reach_the_server() -> None:
    async with fake_server(says("ok")) as server, routing(server.url) as route:
        await route.post(CHAT, x_dynamo_session_id="s", x_request_id="mine")
        [seen] = server.seen
        assert "x-dynamo-session-id" not in seen.headers
        assert seen.headers["x-request-id"] == "mine"
        assert seen.headers["host"] == server.url.removeprefix("http://")


async def test_the_answer_comes_back_byte_for_byte_with_its_status_and_headers() -> None:
    body = b'{ "error": "no such thing",\n"x":1 }'

    async def answers(exchange: Exchange) -> None:
        await exchange.answer(body, "418 I'm a teapot", "content-type: text/odd; q=1\r\nx-theirs: yes\r\nserver: s\r\n")

    async with fake_server(answers) as server, routing(server.url) as route:
        answer = await route.post(CHAT, x_request_id="mine")
        assert (answer.status_code, answer.content) == (418, body)
        assert answer.headers["content-type"] == "text/odd; q=1"
        assert (answer.headers["x-theirs"], answer.headers["server"]) == ("yes", "s")
        assert answer.headers["x-request-id"] == "mine"
        assert len(answer.headers.get_list("date")) == 1


async def test_a_compressed_answer_stays_as_it_is() -> None:
    body = gzip.compress(b'{"text":"hi"}')

    async def answers(exchange: Exchange) -> None:
        await exchange.answer(body, headers="content-type: application/json\r\ncontent-encoding: gzip\r\n")

    async with (
        fake_server(answers) as server,
        routing(server.url) as route,
        route.client.stream("POST", "/v1/chat/completions", json=CHAT) as answer,
    ):
        assert b"".join([part async for part in answer.aiter_raw()]) == body


async def test_each_event_is_passed_on_before_the_next_one_exists() -> None:
    read = asyncio.Event()

    async def answers(exchange: Exchange) -> None:
        await exchange.begin()
        for number in range(3):
            await exchange.chunk(b'data: {"n":%d}\n\n' % number)
            await read.wait()
            read.clear()
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    async with (
        fake_server(answers) as server,
        routing(server.url) as route,
        route.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer,
    ):
        lines: list[str] = []
        async with asyncio.timeout(DEADLINE_S):
            async for line in answer.aiter_lines():
                if line:
                    lines.append(line)
                    read.set()
        assert lines == ['data: {"n":0}', 'data: {"n":1}', 'data: {"n":2}', "data: [DONE]"]


async def test_a_client_that_leaves_closes_the_stream_of_the_server() -> None:
    began, was_closed = asyncio.Event(), asyncio.Event()

    async def answers(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.chunk(b"data: 1\n\n")
        began.set()
        await exchange.closed()
        was_closed.set()

    async with (
        fake_server(answers) as server,
        routing(server.url) as route,
        route.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer,
    ):
        await anext(answer.aiter_lines())
        await began.wait()
        async with asyncio.timeout(DEADLINE_S):
            await was_closed.wait()
        assert route.server.backends[1].num_active == 0


async def test_a_client_that_leaves_before_the_answer_begins_is_noticed_too() -> None:
    was_closed = asyncio.Event()

    async def answers(exchange: Exchange) -> None:
        await exchange.closed()
        was_closed.set()

    async with fake_server(answers) as server, routing(server.url) as route:
        asking = asyncio.create_task(route.post(CHAT))
        await eventually(lambda: bool(server.seen))
        asking.cancel()
        async with asyncio.timeout(DEADLINE_S):
            await was_closed.wait()


async def test_a_request_that_is_not_answered_in_time_is_ended_with_504() -> None:
    async with (
        fake_server(lambda exchange: exchange.closed()) as server,
        routing(server.url, request_timeout_s=0.2) as route,
    ):
        answer = await route.post(CHAT)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"


async def test_the_models_are_those_of_all_servers_each_once() -> None:
    async with fake_server(says("1")) as one, fake_server(says("2")) as two:
        own = {"id": "org/other", "object": "model", "created": 2, "owned_by": "two"}
        two.models = lambda exchange: exchange.json({"object": "list", "data": [{"id": "tiny", "x": 1}, own]})
        async with routing(one.url, two.url) as route:
            models = (await route.client.get("/v1/models")).json()
            assert [model["id"] for model in models["data"]] == ["tiny", "org/other"]
            assert models["data"][0]["owned_by"] == "test"
            assert (await route.client.get("/v1/models/org/other")).json() == own
            assert (await route.client.get("/v1/models/none")).status_code == 404
            answers = [(await route.post(CHAT | {"model": "org/other"})).json() for _ in range(3)]
            assert answers == [{"text": "2"}] * 3


async def test_tokenize_is_passed_on_and_so_is_that_a_server_has_none() -> None:
    async def answers(exchange: Exchange) -> None:
        offered = exchange.seen.target == "/tokenize"
        await exchange.json({"tokens": [1]} if offered else {"detail": "Not Found"}, "200 OK" if offered else "404 No")

    async with fake_server(answers) as server, routing(server.url) as route:
        assert (await route.post({"prompt": "a"}, "/tokenize")).json() == {"tokens": [1]}
        missing = await route.post({"tokens": [1]}, "/detokenize")
        assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})


async def test_other_paths_are_not_there_and_other_methods_are_refused() -> None:
    async with fake_server(says("ok")) as server, routing(server.url) as route:
        assert (await route.client.post("/v1/images", json={})).status_code == 404
        refused = await route.client.get("/v1/chat/completions")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert server.seen == []


async def test_a_body_that_is_too_large_is_refused_here() -> None:
    async with fake_server(says("ok")) as server, routing(server.url, http_body_limit_mb=0.001) as route:
        assert (await route.post({"prompt": "x" * 2000})).status_code == 413
        assert server.seen == []


async def test_a_body_that_is_no_json_is_the_servers_to_refuse() -> None:
    async with fake_server(says("bad", "400 Bad Request")) as server, routing(server.url, router_mode="kv") as route:
        answer = await route.client.post("/v1/completions", content=b"{no json")
        assert (answer.status_code, answer.json()) == (400, {"text": "bad"})
        assert await route.metric('dynamo_route_prompts_total{by="none"}') == 1


async def test_a_stream_may_end_in_the_middle_of_an_event_if_the_server_says_that_it_ends() -> None:
    async def answers(exchange: Exchange) -> None:
        await exchange.begin(EVENT_STREAM)
        await exchange.chunk(b"data: 1\n\ndata: [DO")
        await exchange.chunk(b"NE]")
        await exchange.end()

    async with fake_server(answers) as server, routing(server.url) as route:
        assert (await route.post(CHAT)).text == "data: 1\n\ndata: [DONE]"


async def test_an_answer_nested_too_deeply_to_be_read_is_passed_on_as_it_is() -> None:
    body = b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"

    async with (
        fake_server(lambda exchange: exchange.answer(body, headers="content-type: application/json\r\n")) as one,
        routing(one.url, router_mode="kv") as route,
    ):
        answer = await route.post(CHAT, x_dynamo_explain="1")
        assert (answer.status_code, answer.content) == (200, body)
