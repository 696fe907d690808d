"""A server that fails is passed over, and tried again; a client sees it only if no other one can help."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from tests.frontend.route.fake_server import DEADLINE_S, Answers, Exchange, fake_server, says
from tests.frontend.route.scene import CHAT, eventually, routing

STREAM = CHAT | {"stream": True}


async def test_a_server_that_takes_no_connection_is_passed_over_and_comes_back() -> None:
    async with fake_server(says("one")) as one, fake_server(says("two")) as two, routing(one.url, two.url) as route:
        await two.stop()
        assert [(await route.post(CHAT)).json() for _ in range(4)] == [{"text": "one"}] * 4
        health = await route.health()
        assert health["status"] == "degraded"
        shown = health["backends"]
        assert isinstance(shown, list)
        assert [(each["url"], each["status"]) for each in shown] == [(one.url, "well"), (two.url, "passed_over")]
        assert "cannot be reached: Connection refused" in shown[1]["why"]
        await two.start()
        await eventually(lambda: route.server.backends[2].is_well)
        assert {(await route.post(CHAT)).json()["text"] for _ in range(4)} == {"one", "two"}


async def test_no_server_alive_is_503_and_says_which_and_why() -> None:
    async with fake_server(says("one")) as one, fake_server(says("two")) as two, routing(one.url, two.url) as route:
        await one.stop()
        await two.stop()
        answer = await route.post(CHAT)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert error["code"] == "no_backend"
        for url in (one.url, two.url):
            assert f"{url} cannot be reached: Connection refused" in error["message"]
        await eventually(lambda: not any(each.is_well for each in route.server.backends))
        health = await route.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "no_backends")


async def test_a_route_starts_before_its_servers_do() -> None:
    async with fake_server(says("late")) as server:
        await server.stop()
        async with routing(server.url, is_ready=False) as route:
            assert (await route.post(CHAT)).status_code == 503
            await server.start()
            async with asyncio.timeout(DEADLINE_S):
                assert await route.server.wait_ready() == ["tiny"]
            assert (await route.post(CHAT)).json() == {"text": "late"}


@pytest.mark.parametrize("has_head", [False, True])
async def test_a_server_that_dies_before_the_first_byte_costs_the_client_nothing(has_head: bool) -> None:
    async def dies(exchange: Exchange) -> None:
        if has_head:
            await exchange.begin()
        exchange.abort()

    async with fake_server(dies) as one, fake_server(says("two")) as two, routing(one.url, two.url) as route:
        assert [(await route.post(CHAT)).json() for _ in range(3)] == [{"text": "two"}] * 3
        assert len(one.seen) >= 1
        assert await route.metric('dynamo_route_retries_total{reason="lost"}') == len(one.seen)


async def test_a_request_that_two_servers_were_lost_with_reaches_no_third() -> None:
    async def dies(exchange: Exchange) -> None:
        exchange.abort()

    async with (
        fake_server(dies) as one,
        fake_server(dies) as two,
        fake_server(dies) as three,
        routing(one.url, two.url, three.url) as route,
    ):
        answer = await route.post(CHAT)
        assert answer.status_code == 503
        assert "was lost before it answered" in answer.json()["error"]["message"]
        assert len(one.seen) + len(two.seen) + len(three.seen) == 2


async def test_a_server_that_dies_in_the_middle_of_a_stream_ends_it_with_an_error() -> None:
    async def dies(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.chunk(b'data: {"n":1}\n\n')
        await exchange.chunk(b'data: {"n":2}\n\ndata: {"n"')
        exchange.abort()

    async with fake_server(dies) as one, fake_server(says("two")) as two, routing(one.url, two.url) as route:
        lines = [line for line in (await route.post(STREAM)).text.splitlines() if line]
        assert lines[:2] == ['data: {"n":1}', 'data: {"n":2}']
        assert '"code":"disconnected"' in lines[2]
        assert len(lines) == 3, "there is no half of an event, and no [DONE]"
        assert two.seen == []
        assert await route.metric(f'dynamo_route_failures_total{{backend="{one.url}",code="disconnected"}}') == 1


async def test_a_server_that_dies_in_the_middle_of_json_breaks_the_connection() -> None:
    async def dies(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        exchange.abort()

    async with fake_server(dies) as one, routing(one.url) as route:
        with pytest.raises(httpx.RemoteProtocolError):
            await route.post(CHAT)


async def test_a_stream_that_ends_like_a_death_is_told_as_one() -> None:
    async def old(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        exchange.abort()

    async with fake_server(old) as one, routing(one.url) as route:
        assert '"code":"stream_incomplete"' in (await route.post(STREAM)).text


@pytest.mark.parametrize("status", ["500 Internal Server Error", "502 Bad Gateway", "504 Gateway Timeout"])
async def test_a_server_that_fails_is_not_asked_again_at_once(status: str) -> None:
    async with fake_server(says("broken", status)) as one, fake_server(says("two")) as two:
        one.models = lambda exchange: exchange.json({}, status)
        async with routing(one.url, two.url) as route:
            assert [(await route.post(CHAT)).json() for _ in range(4)] == [{"text": "two"}] * 4
            assert not route.server.backends[1].is_well


async def test_if_all_fail_the_client_gets_what_the_last_one_says() -> None:
    async with fake_server(says("broken", "500 Internal Server Error")) as one, routing(one.url) as route:
        answer = await route.post(CHAT)
        assert (answer.status_code, answer.json()) == (500, {"text": "broken"})


async def test_a_busy_server_is_left_alone_for_as_long_as_it_says() -> None:
    busy = says("busy", "503 Service Unavailable", "retry-after: 30\r\n")
    async with fake_server(busy) as one, fake_server(says("two")) as two, routing(one.url, two.url) as route:
        assert [(await route.post(CHAT)).json() for _ in range(5)] == [{"text": "two"}] * 5
        assert len(one.seen) == 1
        shown = (await route.health())["backends"]
        assert isinstance(shown, list)
        assert 25 < shown[0]["rests_s"] <= 30


async def test_if_all_are_busy_the_client_is_told_when_to_come_back() -> None:
    busy = says("busy", "429 Too Many Requests", "retry-after: 30\r\n")
    async with fake_server(busy) as one, routing(one.url) as route:
        first = await route.post(CHAT)
        assert (first.status_code, first.headers["retry-after"], first.json()) == (429, "30", {"text": "busy"})
        second = await route.post(CHAT)
        assert second.status_code == 503
        assert 25 < int(second.headers["retry-after"]) <= 30
        assert f"{one.url} is busy" in second.json()["error"]["message"]
        assert len(one.seen) == 1


async def test_a_limit_that_may_be_one_clients_own_does_not_keep_others_away() -> None:
    async with fake_server(says("no", "429 Too Many Requests")) as one, routing(one.url) as route:
        assert [(await route.post(CHAT)).status_code for _ in range(2)] == [429, 429]
        assert len(one.seen) == 2


async def test_when_to_come_back_may_be_a_date_of_the_servers_own_clock() -> None:
    dates = "date: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2015 07:28:20 GMT\r\n"
    async with fake_server(says("busy", "503 Service Unavailable", dates)) as one, routing(one.url) as route:
        await route.post(CHAT)
        assert 15 < int((await route.post(CHAT)).headers["retry-after"]) <= 20


async def test_a_server_that_answers_nothing_at_all_any_more_loses_the_requests_that_wait() -> None:
    async with (
        fake_server(lambda exchange: exchange.closed()) as one,
        fake_server(says("two")) as two,
        routing(one.url, two.url, check_timeout_s=0.5) as route,
    ):
        asking = asyncio.create_task(route.post(CHAT))
        await eventually(lambda: bool(one.seen) or asking.done())
        one.models = lambda exchange: exchange.closed()
        async with asyncio.timeout(DEADLINE_S):
            assert (await asking).json() == {"text": "two"}
        assert "does not answer" in route.server.backends[1].why_out
        assert await route.metric(f'dynamo_route_failures_total{{backend="{one.url}",code="stalled"}}') == 1


async def test_a_server_without_a_list_of_models_is_no_worse_for_it() -> None:
    async with fake_server(says("ok")) as one:
        one.models = lambda exchange: exchange.json({"error": "key"}, "401 Unauthorized")
        async with routing(one.url) as route:
            assert route.server.backends[1].is_well
            assert (await route.post(CHAT)).json() == {"text": "ok"}


async def test_what_is_no_http_is_a_loss_and_told_in_one_line() -> None:
    async def garbage(exchange: Exchange) -> None:
        await exchange.raw(b"SSH-2.0-OpenSSH_9.6\r\n")
        exchange.abort()

    async with fake_server(garbage) as one, routing(one.url) as route:
        answer = await route.post(CHAT)
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert f"{one.url} answers what is no HTTP" in message
        assert "\n" not in message


async def test_a_refusal_that_is_lost_on_its_way_is_none() -> None:
    async def dies(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\nhalf")
        exchange.abort()

    async with fake_server(dies) as one, routing(one.url) as route:
        answer = await route.post(CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_backend")


async def test_the_end_of_the_route_lets_what_runs_finish() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def answers(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.chunk(b"data: 1\n\n")
        began.set()
        await may_end.wait()
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    async with fake_server(answers) as one, routing(one.url, drain_s=DEADLINE_S) as route:
        asking = asyncio.create_task(route.post(STREAM))
        await began.wait()
        stopping = asyncio.create_task(route.server.stop())
        await asyncio.sleep(0)
        may_end.set()
        await stopping
        assert (await asking).text == "data: 1\n\ndata: [DONE]\n\n"


def drips(status: str, part: bytes) -> Answers:
    """Say no, and then send this part again and again, or nothing."""

    async def answers(exchange: Exchange) -> None:
        await exchange.raw(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        while part:
            await exchange.chunk(part)
            await asyncio.sleep(0.05)
        await exchange.closed()

    return answers


@pytest.mark.parametrize("status", ["503 Busy", "500 Broken"])
@pytest.mark.parametrize("part", [b"", b"x"])
async def test_a_server_that_says_no_and_does_not_finish_costs_no_request(status: str, part: bytes) -> None:
    answers = drips(status, part)
    async with fake_server(answers) as one, fake_server(says("two")) as two, routing(one.url, two.url) as route:
        assert (await route.post(CHAT)).json() == {"text": "two"}
        assert len(one.seen) == 1


async def test_a_server_that_says_no_and_does_not_finish_is_told_of_if_it_is_the_only_one() -> None:
    async with fake_server(drips("503 Busy", b"x")) as one, routing(one.url) as route:
        answer = await route.post(CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_backend")
        assert f"{one.url} answers 503 Busy, and that not to its end within 1 s" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "models", [b'{"data": [{"id": ' + b"[" * 5000 + b"]" * 5000 + b"}]}", b'{"data": [{"id": "\xff"}]}']
)
async def test_a_list_of_models_that_cannot_be_read_is_none(models: bytes) -> None:
    num_asked = 0

    async def lists(exchange: Exchange) -> None:
        nonlocal num_asked
        num_asked += 1
        await exchange.answer(models)

    async with fake_server(says("one")) as one:
        one.models = lists
        async with routing(one.url) as route:
            await eventually(lambda: num_asked >= 3)
            assert (await route.health())["status"] == "healthy"
            assert (await route.post(CHAT)).json() == {"text": "one"}
