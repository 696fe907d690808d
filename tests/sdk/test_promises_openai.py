"""The documented pipeline behind an OpenAI server: a processor in front of a worker with a format of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from tests.cli.serving import DEADLINE_S
from tests.sdk.project import Project

WORKER = """
from pydantic import BaseModel
from dynamo.sdk import dynamo_endpoint, service

class RequestType(BaseModel):
    text: str

class ResponseType(BaseModel):
    text: str

@service(dynamo={"namespace": "your_namespace"})
class YourWorker:
    @dynamo_endpoint()
    async def generate(self, request: RequestType):
        for token in request.text.split():
            yield ResponseType(text=token).model_dump_json()
"""

PROCESSOR = """
from pydantic import BaseModel
from dynamo.sdk import depends, dynamo_endpoint, service
from worker import RequestType, ResponseType, YourWorker

class ChatMessage(BaseModel):
    role: str
    content: str

class ChatCompletionRequest(BaseModel):
    model: str
    messages: list[ChatMessage]

@service(dynamo={"namespace": "your_namespace"})
class Processor:
    worker = depends(YourWorker)

    @dynamo_endpoint(name="chat/completions")
    async def generate(self, request: ChatCompletionRequest):
        # Convert requests from Chat Completions format to the RequestType format your worker expects
        prompt = RequestType(text=" ".join(message.content for message in request.messages))

        # Forward requests to the worker(s), and convert responses back into Chat Completions response format
        async for response in self.worker.generate(prompt):
            token = ResponseType.model_validate_json(response).text
            yield self.chunk(request, {"role": "assistant", "content": f"{token} "})
        yield self.chunk(request, {}, finish_reason="stop")

    def chunk(self, request, delta, finish_reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {
            "id": "chat-1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": request.model,
            "choices": [choice],
        }
"""

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "one"},
    {"role": "user", "content": "two three"},
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of an OpenAI server, in front of the processor, which is registered as `my-model`."""
    async with AsyncExitStack() as stack:
        project = await stack.enter_async_context(Project(tmp_path))
        project.write(worker=WORKER, processor=PROCESSOR)
        await project.serve("processor:Processor")
        add = ("http", "add", "chat", "my-model", "your_namespace.Processor.chat/completions")
        out = await project.python("-c", "from dynamo.cli._llmctl import main; main()", *add)
        assert "Added new chat model my-model" in out
        frontend = await project.spawn("-m", "dynamo.frontend", "--http-port=0")
        url = (await frontend.line(r"listening on (\S+)"))[1]
        await frontend.line("ready: serving my-model")
        yield await stack.enter_async_context(
            openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0, timeout=DEADLINE_S)
        )


async def test_an_openai_client_talks_to_a_worker_that_knows_nothing_of_openai(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="my-model", messages=MESSAGES)
    assert whole.choices[0].message.content == "one two three "
    assert whole.choices[0].finish_reason == "stop"


async def test_the_converted_answer_is_streamed(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="my-model", messages=MESSAGES, stream=True)
    deltas = [chunk.choices[0].delta.content async for chunk in stream]
    assert deltas == ["one ", "two ", "three ", None]
