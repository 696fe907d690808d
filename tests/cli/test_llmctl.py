"""`llmctl`: what it says, what it changes, and that the frontend follows."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from tests.cli.conftest import Serve
from tests.cli.serving import DEADLINE_S, Serving, environment_of
from typer.testing import CliRunner, Result

from dynamo._core.address import EndpointId, registration_key
from dynamo._core.discovery import open_discovery
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo.cli._llmctl_app import app
from dynamo.entrypoint._one_endpoint import OneEndpoint
from dynamo.llm._registration import Kind, Registration

Llmctl = Callable[..., Result]

FOO = """\
+------------+------------+-----------+-----------+----------+
| MODEL TYPE | MODEL NAME | NAMESPACE | COMPONENT | ENDPOINT |
+------------+------------+-----------+-----------+----------+
| chat       | foo        | app       | Worker    | generate |
+------------+------------+-----------+-----------+----------+
"""


@pytest.fixture
def llmctl(tmp_path: Path) -> Llmctl:
    """Run the command in this process, with a discovery of the test's own."""

    def run(*arguments: str, **variables: str) -> Result:
        return CliRunner().invoke(app, arguments, env={"DYN_DISCOVERY": f"file://{tmp_path}/discovery", **variables})

    return run


def test_a_model_is_added_listed_and_removed(llmctl: Llmctl) -> None:
    added = llmctl("http", "add", "chat", "foo", "app.Worker.generate")
    assert (added.exit_code, added.stdout) == (0, f"Added new chat model foo\n{FOO}")
    assert "nobody serves app/Worker/generate now" in added.stderr
    listed = llmctl("http", "list")
    assert (listed.exit_code, listed.stdout) == (0, f"Listing all models in the public namespace: public\n{FOO}")
    listed = llmctl("http", "list", "chat")
    assert listed.stdout == f"Listing all chat models in the public namespace: public\n{FOO}"
    removed = llmctl("http", "remove", "chat", "foo")
    assert (removed.exit_code, removed.stdout) == (0, "chat model foo removed from the public namespace: public\n")
    assert llmctl("http", "list").stdout == "No models found in the public namespace: public\n"


def test_removing_what_is_not_there_is_no_error(llmctl: Llmctl) -> None:
    removed = llmctl("http", "remove", "completion", "bar")
    assert (removed.exit_code, removed.stdout) == (
        0,
        "completion model bar removed from the public namespace: public\n",
    )


def test_an_endpoint_without_a_namespace_is_in_the_public_one(llmctl: Llmctl) -> None:
    added = llmctl("-n", "staging", "http", "add", "completion", "bar", "Worker.generate")
    assert added.stdout.splitlines()[:2] == [
        "Using the public namespace: staging for model: bar",
        "Added new completion model bar",
    ]
    assert "| completion | bar        | staging   | Worker    | generate |" in added.stdout
    assert llmctl("http", "list").stdout == "No models found in the public namespace: public\n"
    assert "| bar " in llmctl("--public-namespace", "staging", "http", "list", "completions").stdout
    assert llmctl("-n", "staging", "http", "list", "chat").stdout == (
        "No chat models found in the public namespace: staging\n"
    )


def test_a_model_that_is_registered_elsewhere_is_left_as_it_is(llmctl: Llmctl) -> None:
    llmctl("http", "add", "chat", "foo", "app.Worker.generate")
    refused = llmctl("http", "add", "chat", "foo", "app.Worker.other")
    assert (refused.exit_code, refused.stdout) == (1, FOO)
    assert refused.stderr == ("error: chat model foo already exists, please remove it before changing the endpoint.\n")
    again = llmctl("http", "add", "chat", "foo", "app.Worker.generate")
    assert (again.exit_code, again.stdout) == (0, f"chat model foo already exists\n{FOO}")
    assert llmctl("http", "add", "completion", "foo", "app.Worker.other").exit_code == 0


@pytest.mark.parametrize("word", ["chat", "chats", "chat-model", "chat-models", "Chat"])
def test_a_kind_has_several_names(llmctl: Llmctl, word: str) -> None:
    assert llmctl("http", "add", word, "foo", "app.Worker.generate").exit_code == 0
    assert FOO in llmctl("http", "list", word).stdout
    other = word.lower().replace("chat", "completion")
    assert llmctl("http", "list", other).stdout == "No completion models found in the public namespace: public\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "chat", "/bad", "a.b"], "error: Model name '/bad' cannot start with a slash\n"),
        (["remove", "chat", "/bad"], "error: Model name '/bad' cannot start with a slash\n"),
        (["add", "chat", "b..d", "a.b"], "error: 'b..d' is not a valid model name"),
        (
            ["add", "chat", "foo", "a"],
            "error: Endpoint name 'a' is too short. Format should be 'component.endpoint'",
        ),
        (["add", "chat", "foo", "a.b.c.d"], "error: Endpoint name 'a.b.c.d' is too long. Format should be"),
        (["add", "chat", "foo", "a.b.c d"], "error: 'c d' is not a valid endpoint"),
        (["add", "video", "foo", "a.b"], "'video' is neither 'chat' nor"),
        (["add", "chat", "foo"], "Missing argument"),
        (["ad"], "No such command 'ad'. Did you mean 'add'?"),
    ],
)
def test_a_wrong_command_line_names_what_is_wrong(llmctl: Llmctl, arguments: list[str], words: str) -> None:
    result = llmctl("http", *arguments, NO_COLOR="1", TERM="dumb", COLUMNS="120")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_public_namespace_is_a_name(llmctl: Llmctl) -> None:
    result = llmctl("-n", "../x", "http", "list")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'../x' is not a valid namespace" in result.stderr


@pytest.mark.parametrize("url", ["memory:", "nowhere:", "file:relative"])
def test_a_discovery_that_no_frontend_shares_is_an_error(llmctl: Llmctl, url: str) -> None:
    result = llmctl("http", "list", DYN_DISCOVERY=url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: DYN_DISCOVERY is '{url}'" in result.stderr


async def test_what_it_adds_outlives_it_without_a_lease(tmp_path: Path) -> None:
    await llmctl_process(tmp_path, "http", "add", "chat", "foo", "app.Worker.generate")
    discovery = open_discovery(f"file://{tmp_path}/discovery")
    [(key, value)] = (await discovery.get_prefix("v1/registrations/")).items()
    await discovery.close()
    assert key == "v1/registrations/public/chat/foo"
    assert Registration.from_json(value) == Registration("foo", Kind.Chat, EndpointId("app", "Worker", "generate"))


# With real processes: a worker that knows nothing of models, the frontend, and a client of OpenAI's API.

WORKER = """
from pydantic import BaseModel

from dynamo.sdk import dynamo_endpoint, service


class ChatCompletionRequest(BaseModel):
    model: str
    messages: list[dict[str, str]]
    stream: bool


class Choice(BaseModel):
    index: int = 0
    delta: dict[str, str]
    finish_reason: str | None = None


class Chunk(BaseModel):
    choices: list[Choice]


@service(dynamo={"namespace": "your_namespace"})
class YourLLMWorker:
    @dynamo_endpoint(name="my_chat_completions_endpoint")
    async def generate(self, request: ChatCompletionRequest):
        assert request.stream
        for word in request.messages[-1]["content"].split():
            yield Chunk(choices=[Choice(delta={"content": word + " "})]).model_dump_json()
        yield Chunk(choices=[Choice(delta={}, finish_reason="stop")])
"""
ENDPOINT = "your_namespace.YourLLMWorker.my_chat_completions_endpoint"
MESSAGES = [ChatCompletionUserMessageParam(role="user", content="one two three")]


async def llmctl_process(directory: Path, *arguments: str) -> str:
    """Run the command as a process; return its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from dynamo.cli._llmctl import main; main()", *arguments),
        cwd=directory,
        env=environment_of(directory / "discovery"),
        stdin=DEVNULL,
        stdout=PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_a_registered_worker_answers_through_the_frontend(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    await (await serve("worker:YourLLMWorker")).ready()
    async with AsyncExitStack() as stack:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dynamo.frontend", "--http-port=0"),
            env=environment_of(tmp_path / "discovery"),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        frontend = await stack.enter_async_context(Serving(process))
        url = (await frontend.line(r"listening on (\S+)"))[1]
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0, timeout=DEADLINE_S)
        )
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="foo", messages=MESSAGES)

        assert "Added new chat model foo" in await llmctl_process(tmp_path, "http", "add", "chat", "foo", ENDPOINT)
        await frontend.line("ready: serving foo")
        assert [model.id for model in (await client.models.list()).data] == ["foo"]
        whole = await client.chat.completions.create(model="foo", messages=MESSAGES)
        assert whole.choices[0].message.content == "one two three "
        stream = await client.chat.completions.create(model="foo", messages=MESSAGES, stream=True)
        deltas = [chunk.choices[0].delta.content async for chunk in stream]
        assert deltas == ["one ", "two ", "three ", None]
        with pytest.raises(openai.BadRequestError, match="answers chat requests only"):
            await client.completions.create(model="foo", prompt="one")

        await llmctl_process(tmp_path, "http", "remove", "chat", "foo")
        async with asyncio.timeout(DEADLINE_S):
            while (await client.models.list()).data:  # noqa: ASYNC110 - the frontend tells nobody
                await asyncio.sleep(0.02)
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="foo", messages=MESSAGES)


async def test_who_asks_the_workers_of_one_endpoint_sees_no_registration() -> None:
    everything = MemoryDiscovery()
    registration = Registration("foo", Kind.Chat, EndpointId("app", "Worker", "generate"))
    await everything.put(registration.key("app"), registration.to_json())
    one = OneEndpoint(everything, registration.endpoint)
    assert await one.get_prefix(registration_key("app")) == {}
