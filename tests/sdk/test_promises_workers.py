"""The documented workers: their names, their types, and a processor between two formats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pydantic import BaseModel
from tests.sdk.world import World

from dynamo.sdk import depends, dynamo_context, dynamo_endpoint, service, service_of


class RequestType(BaseModel):
    text: str


class ResponseType(BaseModel):
    text: str


@service(
    dynamo={
        "namespace": "your_namespace",
    },
)
class YourWorker:
    @dynamo_endpoint()
    async def your_endpoint(self, request: RequestType) -> AsyncIterator[ResponseType]:
        for token in request.text.split():
            yield ResponseType(text=token)


async def test_a_worker_is_found_by_its_namespace_its_class_and_its_method(world: World) -> None:
    await world.run(YourWorker)
    [endpoint] = dynamo_context["endpoints"]
    assert str(endpoint.id) == "your_namespace/YourWorker/your_endpoint"
    assert await world.call(YourWorker, "your_endpoint", {"text": "a b"}) == [{"text": "a"}, {"text": "b"}]


async def test_a_request_may_be_text_an_object_or_the_model_itself(world: World) -> None:
    await world.run(YourWorker)
    request = RequestType(text="a")
    for form in (request.model_dump_json(), request.model_dump(), request):
        assert await world.call(YourWorker, "your_endpoint", form) == [{"text": "a"}]


class ChatMessage(BaseModel):
    role: str
    content: str


class ChatCompletionRequest(BaseModel):
    model: str
    messages: list[ChatMessage]
    stream: bool = False


class Delta(BaseModel):
    content: str


class Choice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: str | None = None


class ChatCompletionChunk(BaseModel):
    id: str
    object: str = "chat.completion.chunk"
    model: str
    choices: list[Choice]


@service
class YourLLMWorker:
    @dynamo_endpoint(name="my_chat_completions_endpoint")
    async def generate(self, request: ChatCompletionRequest):  # type: ignore[no-untyped-def]
        yield {"asked": request.messages[-1].content}


async def test_an_endpoint_may_be_named_otherwise_than_its_method(world: World) -> None:
    await world.run(YourLLMWorker)
    [endpoint] = dynamo_context["endpoints"]
    assert endpoint.id.endpoint == "my_chat_completions_endpoint"
    request = ChatCompletionRequest(model="any", messages=[ChatMessage(role="user", content="hello")])
    assert await world.call(YourLLMWorker, "my_chat_completions_endpoint", request) == [{"asked": "hello"}]


@service(dynamo={"namespace": "your_namespace"})
class Processor:
    """Takes chat completions, speaks the format of the worker, and answers in chunks of a chat completion."""

    worker = depends(YourWorker)

    @dynamo_endpoint(name="chat/completions")
    async def generate(self, request: ChatCompletionRequest) -> AsyncIterator[ChatCompletionChunk]:
        prompt = RequestType(text=" ".join(message.content for message in request.messages))
        async for response in self.worker.your_endpoint(prompt):
            delta = Delta(content=response.text)
            yield ChatCompletionChunk(id="chat-1", model=request.model, choices=[Choice(delta=delta)])


async def test_a_processor_speaks_chat_completions_before_a_worker_that_does_not(world: World) -> None:
    await world.run(YourWorker)
    await world.run(Processor)
    messages = [{"role": "system", "content": "one"}, {"role": "user", "content": "two"}]
    chunks = await world.call(Processor, "chat/completions", {"model": "any", "messages": messages, "stream": True})
    read = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert [chunk.choices[0].delta.content for chunk in read] == ["one", "two"]
    assert {chunk.model for chunk in read} == {"any"}


@service(
    resources={
        "cpu": "10",
        "memory": "20Gi",
        "gpu": "1",
    }
)
class Demanding:
    async def some_async_operation(self) -> str:
        await asyncio.sleep(0)
        return "done"

    @dynamo_endpoint()
    async def generate(self, request):  # type: ignore[no-untyped-def]
        # Use async operations for better performance
        result = await self.some_async_operation()
        return {"request": request, "result": result}


def test_resources_may_be_written_as_text() -> None:
    resources = service_of(Demanding).options.resources
    assert (resources.cpu, resources.memory, resources.gpu) == ("10", "20Gi", 1)


async def test_an_endpoint_without_types_gets_what_was_sent_and_may_return_its_answer(world: World) -> None:
    await world.run(Demanding)
    answer = {"request": {"any": ["thing", 1]}, "result": "done"}
    assert await world.call(Demanding, "generate", {"any": ["thing", 1]}) == [answer]
