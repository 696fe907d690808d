"""`HttpService`: an OpenAI server in the test itself, before generators of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from tests.frontend.scene import DEADLINE_S

from dynamo._core.context import CancellationToken, Context
from dynamo._core.errors import ConfigError, InvalidArgument, NotFound
from dynamo._core.limits import MESSAGE_BYTES_MAX
from dynamo.llm import HttpAsyncEngine, HttpError, HttpService, PythonAsyncEngine
from dynamo.runtime import DistributedRuntime

MESSAGES = [ChatCompletionUserMessageParam(role="user", content="one two three")]
BODY: dict[str, object] = {"model": "parrot", "messages": [{"role": "user", "content": "hi"}]}
Chunk = dict[str, object]


def chunk(text: str, reason: str | None = None) -> Chunk:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


async def parrot(request: dict[str, list[dict[str, str]]]) -> AsyncGenerator[Chunk, None]:
    """Say the last message back, word by word."""
    for word in request["messages"][-1]["content"].split():
        yield chunk(f"{word} ")
    yield chunk("", "stop")


async def says_hello(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
    yield {"choices": [{"index": 0, "text": f"hello {request['prompt']}", "finish_reason": "stop"}]}


@asynccontextmanager
async def running(service: HttpService) -> AsyncIterator[str]:
    """Run it beside the test; yield its URL once its models can be asked."""
    token = CancellationToken()
    serving = asyncio.create_task(service.run(token))
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield await service.wait_ready()
            token.cancel()
            await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def client_of(engine: Callable[..., AsyncIterator[Chunk]]) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a service with the chat model parrot, which this generator answers for."""
    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(engine))
    async with (
        running(service) as url,
        openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0, timeout=DEADLINE_S) as client,
    ):
        yield client


async def test_a_generator_answers_whole_and_as_a_stream() -> None:
    async with client_of(parrot) as client:
        whole = await client.chat.completions.create(model="parrot", messages=MESSAGES)
        stream = await client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        chunks = [one async for one in stream]
    assert whole.choices[0].message.content == "one two three "
    assert whole.choices[0].finish_reason == "stop"
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "one two three "
    assert {one.model for one in chunks} == {"parrot"}
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_completions_are_asked_of_the_engine_for_completions() -> None:
    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(parrot))
    service.add_completions_model("parrot", PythonAsyncEngine(says_hello))
    assert service.list_chat_completions_models() == service.list_completions_models() == ["parrot"]
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        answer = (await client.post("/v1/completions", json={"model": "parrot", "prompt": "you"})).json()
        chat = (await client.post("/v1/chat/completions", json=BODY)).json()
    assert answer["choices"][0]["text"] == "hello you"
    assert chat["choices"][0]["message"]["content"] == "hi "


async def test_the_request_is_what_the_client_sent_and_the_context_is_its_own() -> None:
    seen: list[tuple[dict[str, object], str]] = []

    async def look(request: dict[str, object], context: Context) -> AsyncGenerator[Chunk, None]:
        seen.append((request, context.id()))
        yield chunk("", "stop")

    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(look, asyncio.get_running_loop()))
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post(
            "/v1/chat/completions", json=BODY | {"temperature": 0.5}, headers={"x-request-id": "mine"}
        )
    assert response.status_code == 200
    assert seen == [(BODY | {"temperature": 0.5, "stream": True}, "mine")]


async def test_a_function_may_return_the_generator_as_older_programs_do() -> None:
    class Engine:
        def generate(self, request: dict[str, list[dict[str, str]]]) -> AsyncGenerator[Chunk, None]:
            return parrot(request)

    async with client_of(Engine().generate) as client:
        whole = await client.chat.completions.create(model="parrot", messages=MESSAGES)
    assert whole.choices[0].message.content == "one two three "


async def test_models_come_and_go_while_it_runs() -> None:
    service = HttpService(port=0)
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 404
        service.add_chat_completions_model("parrot", HttpAsyncEngine(parrot))
        await service.wait_ready()
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
        assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["parrot"]
        service.remove_chat_completions_model("parrot")
        await service.wait_ready()
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 404
        assert service.list_chat_completions_models() == []


async def test_a_model_that_is_replaced_is_answered_for_by_the_new_engine() -> None:
    async def other(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        yield chunk("other", "stop")

    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(parrot))
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        service.remove_chat_completions_model("parrot")
        service.add_chat_completions_model("parrot", HttpAsyncEngine(other))
        await service.wait_ready()
        answer = (await client.post("/v1/chat/completions", json=BODY)).json()
    assert answer["choices"][0]["message"]["content"] == "other"


@pytest.mark.parametrize("code", [400, 404, 418, 429, 500, 503])
async def test_an_http_error_is_the_status_and_the_message_of_the_answer(code: int) -> None:
    async def refuse(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        raise HttpError(code, "not with me")
        yield chunk("")

    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(refuse))
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        for body in (BODY, BODY | {"stream": True}):
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == code
            assert response.json()["error"]["message"] == "not with me"
            assert response.json()["error"]["code"] == "http_error"


async def test_an_http_error_with_the_status_of_no_error_is_a_fault_of_the_server() -> None:
    async def refuse(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        raise HttpError(200, "all is well")
        yield chunk("")

    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(refuse))
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/v1/chat/completions", json=BODY)
    assert response.status_code == 500
    assert "all is well" not in response.text


async def test_an_http_error_in_the_middle_of_a_stream_is_its_last_event() -> None:
    is_heard = asyncio.Event()

    async def stop(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        yield chunk("so far")
        await is_heard.wait()
        raise HttpError(429, "and no further")

    async with client_of(stop) as client:
        stream = await client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="and no further"):
            async for _ in stream:
                is_heard.set()


async def test_what_else_an_engine_raises_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        raise RuntimeError("the secret is 42")
        yield chunk("")

    async with client_of(fail) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="parrot", messages=MESSAGES)
    assert "secret" not in str(caught.value)  # its id may have a 42
    assert "the secret is 42" in caplog.text


async def test_a_generator_that_does_not_finish_its_choice_is_told_as_that_and_asked_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = 0

    async def forget(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        nonlocal asked
        asked += 1
        yield chunk("text")

    async with client_of(forget) as client:
        with pytest.raises(openai.APIStatusError, match="the worker ended its answer without a finish") as caught:
            await client.chat.completions.create(model="parrot", messages=MESSAGES)
        stream = await client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="the worker ended its answer without a finish"):
            async for _ in stream:
                pass
    assert (caught.value.status_code, caught.value.code, asked) == (502, "no_finish", 2)
    assert "broke its contract (no_finish, 1 times since that was last said)" in caplog.text


@pytest.mark.parametrize(
    ("item", "logged"),
    [
        (chunk("\ud83d"), "surrogates not allowed"),
        (chunk("x" * (MESSAGE_BYTES_MAX + 1)), "exceeds the limit"),
        (object(), "unsupported type object"),
    ],
    ids=["no Unicode", "too large", "no JSON"],
)
async def test_a_chunk_that_cannot_be_sent_is_the_fault_of_the_engine_and_not_of_the_client(
    item: object, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    was_read = asyncio.Event()

    async def unsendable(request: dict[str, object]) -> AsyncGenerator[object, None]:
        yield chunk("so far")
        await was_read.wait()
        yield item

    said = "the worker's answer has a part that cannot be sent: the server's log says which"
    async with client_of(unsendable) as client:  # type: ignore[arg-type]
        was_read.set()  # of an answer in one piece nothing is read before its end
        with pytest.raises(openai.InternalServerError, match=said) as caught:
            await client.chat.completions.create(model="parrot", messages=MESSAGES)
        was_read.clear()
        stream = await client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match=said):
            async for _ in stream:
                was_read.set()
    assert (caught.value.status_code, caught.value.code) == (500, "unsendable_item")
    assert "Traceback" not in str(caught.value.body)
    assert logged in caplog.text


async def test_a_client_that_leaves_closes_the_generator() -> None:
    closed = asyncio.Event()

    async def forever(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        try:
            while True:
                yield chunk("on ")
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with client_of(forever) as client:
        stream = await client.chat.completions.create(model="parrot", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await asyncio.wait_for(closed.wait(), DEADLINE_S)


async def test_a_runtime_that_shuts_down_ends_it_after_the_requests_that_run() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(request: dict[str, object]) -> AsyncGenerator[Chunk, None]:
        begun.set()
        await may_end.wait()
        yield chunk("done", "stop")

    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(wait))
    async with asyncio.timeout(DEADLINE_S), DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        serving = asyncio.create_task(service.run(runtime))
        async with httpx.AsyncClient(base_url=await service.wait_ready()) as client:
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
            await begun.wait()
            runtime.shutdown()
            may_end.set()
            assert (await asking).json()["choices"][0]["message"]["content"] == "done"
        await serving
    assert service.url == ""


async def test_a_service_that_is_cancelled_closes_its_port_and_can_run_again() -> None:
    service = HttpService(port=0)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(parrot))
    serving = asyncio.create_task(service.run(CancellationToken()))
    async with asyncio.timeout(DEADLINE_S):
        url = await service.wait_ready()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/live")
    async with running(service) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200


# What is wrong.


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"port": "80"}, TypeError, "port='80' is of type str: give an integer from 0 to 65535"),
        ({"port": 65536}, InvalidArgument, "port=65536: give an integer from 0 to 65535"),
        ({"port": -1}, InvalidArgument, "port=-1: give an integer from 0 to 65535"),
        ({"port": True}, TypeError, "port=True is of type bool"),
        ({"host": 1}, TypeError, "host=1 is of type int: give an IP address, or a host's name"),
        ({"insecure": 1}, TypeError, "insecure=1 is of type int: give True or False"),
        ({"request_timeout_s": 0}, InvalidArgument, "request_timeout_s=0: give seconds, more than 0"),
        ({"request_timeout_s": 1e9}, ConfigError, "request_timeout_s is 1000000000.0: it must be from 0.001 to 86400"),
        ({"drain_s": "1"}, TypeError, "drain_s='1' is of type str: give seconds, 0 or more"),
        ({"wait_for_first_item": True}, TypeError, "wait_for_first_item"),
    ],
)
def test_a_wrong_argument_of_the_service_is_refused(
    arguments: dict[str, int], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        HttpService(**arguments)  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_a_wrong_model_or_engine_is_refused() -> None:
    service, engine = HttpService(), HttpAsyncEngine(parrot)
    with pytest.raises(TypeError, match="model=1 is of type int: give the name of a model"):
        service.add_chat_completions_model(1, engine)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"engine=.* is of type function: give an HttpAsyncEngine"):
        service.add_completions_model("parrot", parrot)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="'a b' is not a valid model name: use letters"):
        service.add_chat_completions_model("a b", engine)
    service.add_chat_completions_model("parrot", engine)
    with pytest.raises(InvalidArgument, match="model='parrot' has been added for chat: remove it first"):
        service.add_chat_completions_model("parrot", engine)
    with pytest.raises(NotFound, match="model='raven' has not been added for chat; there are: parrot"):
        service.remove_chat_completions_model("raven")
    with pytest.raises(NotFound, match="model='parrot' has not been added for completion; there are: none"):
        service.remove_completions_model("parrot")


async def no_request() -> AsyncGenerator[Chunk, None]:
    yield chunk("", "stop")


async def three(request: object, context: object, temperature: float) -> AsyncGenerator[Chunk, None]:
    yield chunk("", "stop")


async def by_name(request: object, *, temperature: float) -> AsyncGenerator[Chunk, None]:
    yield chunk("", "stop")


@pytest.mark.parametrize(
    ("generator", "says"),
    [(no_request, "too many positional arguments"), (three, "'temperature'"), (by_name, "'temperature'")],
)
@pytest.mark.parametrize("kind", [HttpAsyncEngine, PythonAsyncEngine])
def test_a_generator_of_other_parameters_is_refused_when_the_engine_is_made(
    kind: type[PythonAsyncEngine], generator: Callable[..., AsyncIterator[object]], says: str
) -> None:
    with pytest.raises(TypeError, match=f"^generator=.*{generator.__name__}.*: .*{says}.*give an async generator"):
        kind(generator)


def test_what_tells_nothing_of_its_parameters_is_taken_and_so_are_those_with_defaults() -> None:
    async def optional(request: object, temperature: float = 0.5, **more: object) -> AsyncGenerator[Chunk, None]:
        yield chunk("", "stop")

    class Engine:
        async def __call__(self, *arguments: object) -> AsyncGenerator[Chunk, None]:
            yield chunk("", "stop")

    for generator in (optional, Engine(), print):
        HttpAsyncEngine(generator)  # type: ignore[arg-type]


def test_a_wrong_generator_is_refused() -> None:
    with pytest.raises(TypeError, match="generator=7 is of type int: give an async generator function"):
        HttpAsyncEngine(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loop='x' is of type str: give an event loop"):
        PythonAsyncEngine(parrot, "x")  # type: ignore[arg-type]


async def test_an_engine_of_another_loop_is_refused_before_anything_is_served() -> None:
    other = asyncio.new_event_loop()
    try:
        service = HttpService(port=0)
        service.add_chat_completions_model("parrot", HttpAsyncEngine(parrot, other))
        with pytest.raises(InvalidArgument, match="is not the event loop that serves the engine: leave it out"):
            await service.run(CancellationToken())
    finally:
        other.close()


async def test_what_it_cannot_run_with_is_refused() -> None:
    service = HttpService(port=0)
    with pytest.raises(TypeError, match="runtime=None is of type NoneType: give a DistributedRuntime, or the token"):
        await service.run(None)  # type: ignore[arg-type]
    async with running(service) as url:
        with pytest.raises(InvalidArgument, match=f"this HttpService runs already, at {url}"):
            await service.run(CancellationToken())
        with pytest.raises(ConfigError, match=r"choose another port$"):
            await HttpService(port=int(url.rpartition(":")[2])).run(CancellationToken())
    with pytest.raises(
        ConfigError, match=r"^host=0\.0\.0\.0 is reachable from .*: give insecure=True if the"
    ) as caught:
        await HttpService(port=0, host="0.0.0.0").run(CancellationToken())
    assert "--" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^host=999\.1\.1\.1: that is no IP address$"):
        await HttpService(port=0, host="999.1.1.1").run(CancellationToken())


@pytest.mark.parametrize(
    ("code", "message", "kind", "says"),
    [
        ("404", "x", TypeError, "code='404' is of type str: give an HTTP status from 0 to 599"),
        (600, "x", InvalidArgument, "code=600: give an HTTP status from 0 to 599"),
        (-1, "x", InvalidArgument, "code=-1: give an HTTP status from 0 to 599"),
        (404, b"x", TypeError, "message=b'x' is of type bytes: give a str"),
    ],
)
def test_an_http_error_that_is_none_is_refused(code: int, message: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        HttpError(code, message)
    assert says in str(caught.value)


def test_a_long_message_is_cut() -> None:
    error = HttpError(0, "x" * 10_000)
    assert len(str(error)) == 8192
    assert error.status == 0
