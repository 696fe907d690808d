"""`dynamo run`: a prompt, a chat, a server and a worker, with real processes."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx
import pytest
from tests.cli.pty_session import CTRL_C, CTRL_D, PtySession
from tests.cli.running import Start, command, run
from tests.cli.serving import DEADLINE_S

from dynamo._core.address import MODEL_CARDS, EndpointId
from dynamo._core.discovery.base import Put, Synced
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import EngineShutdown
from dynamo.entrypoint._answering import until_ended
from dynamo.entrypoint._one_endpoint import OneEndpoint
from dynamo.entrypoint._terminal import shown_text

# A prompt that is piped in.


def test_a_piped_prompt_is_answered_and_nothing_else_is_on_stdout(
    environment: dict[str, str], tiny_model: Path
) -> None:
    done = run(environment, str(tiny_model), "out=echo", piped="hello there\n")
    assert done.returncode == 0
    assert done.stdout.strip() == "hello there"
    assert done.stderr == ""


def test_a_model_answers_a_piped_prompt(environment: dict[str, str], tiny_model: Path) -> None:
    options = ("--device", "cpu", "--dtype", "float32", "--temperature", "0", "--max-tokens", "5")
    done = run(environment, str(tiny_model), *options, piped="hello")
    assert done.returncode == 0
    assert len(done.stdout) > len("\n")
    assert "on cpu in float32" in done.stderr
    assert "it may have no more tokens" in done.stderr


async def test_a_piped_prompt_that_is_interrupted_ends_with_130(environment: dict[str, str], tiny_model: Path) -> None:
    arguments = command(str(tiny_model), "out=echo", "--token-delay-s", "0.2")
    process = await asyncio.create_subprocess_exec(*arguments, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello " * 1000)
    process.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in said


@pytest.mark.parametrize(
    ("model", "piped", "says"),
    [
        (None, "\n", "error: there is no prompt on stdin: pipe one in, or run it in a terminal to chat\n"),
        (None, "word " * 5000, "error: the prompt has "),
        ("/no/such/model", "hello", "error: there is no model directory at '/no/such/model'\n"),
    ],
)
def test_what_fails_is_one_line_and_status_1(
    environment: dict[str, str], tiny_model: Path, model: str | None, piped: str, says: str
) -> None:
    done = run(environment, model or str(tiny_model), "out=echo", piped=piped)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


# A chat.


def test_a_chat_streams_answers_remembers_and_leaves_with_ctrl_d(environment: dict[str, str], tiny_model: Path) -> None:
    with PtySession(["run", str(tiny_model), "out=echo"], environment) as session:
        at = session.read_until(r"chatting with tiny-model: .*\n> ")
        session.type(b"first question\n")
        at = session.read_until(r"first question\n\s*first question\s*> ", after=at)
        session.type(b"second\n")
        # The echo ends where the first turn of the conversation ends, which is still the first question.
        at = session.read_until(r"second\n\s*first question\s*> ", after=at)
        session.type(b"/clear\n")
        at = session.read_until("> ", after=at)
        session.type(b"third\n")
        session.read_until(r"third\n\s*third\s*> ", after=at)
        session.type(CTRL_D)
        assert session.exit_status() == 0


def test_ctrl_c_stops_an_answer_and_frees_the_engine(environment: dict[str, str], tiny_model: Path) -> None:
    options = ["--max-num-seqs", "1", "--token-delay-s", "0.2"]
    with PtySession(["run", str(tiny_model), "out=echo", *options], environment) as session:
        at = session.read_until("> ")
        # At five tokens a second, the whole answer would take longer than this test may.
        session.type(b"alpha " + b"beta " * 300 + b"\n")
        at = session.read_until("beta *\n", after=at)
        at = session.read_until("alpha", after=at)
        session.type(CTRL_C)
        at = session.read_until("> ", after=at)
        session.type(b"/clear\n")
        at = session.read_until("> ", after=at)
        # There is one place in the engine: this is only answered if it is free again.
        session.type(b"again\n")
        session.read_until(r"again\n\s*again\s*> ", after=at)
        session.type(CTRL_C)
        assert session.exit_status() == 0


def test_ctrl_c_at_the_prompt_leaves_and_the_terminal_is_as_before(
    environment: dict[str, str], tiny_model: Path
) -> None:
    with PtySession(["run", str(tiny_model), "out=echo"], environment) as session:
        session.read_until("> ")
        session.type(b"half a lin" + CTRL_C)
        assert session.exit_status() == 0
        assert session.modes() == session.modes_before
        assert "Traceback" not in session.text


def test_an_answer_that_fails_is_said_and_the_chat_goes_on(environment: dict[str, str], tiny_model: Path) -> None:
    with PtySession(["run", str(tiny_model), "out=echo", "--context-length", "64"], environment) as session:
        at = session.read_until("> ")
        session.type(b"word " * 100 + b"\n")
        at = session.read_until(r"error: the prompt has \d+ tokens.*\n> ", after=at)
        session.type(b"short\n")
        session.read_until(r"short\n\s*short\s*> ", after=at)
        session.type(CTRL_D)
        assert session.exit_status() == 0


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert shown_text("caf\u00e9\n\tok \x1b]0;title\x07\x9b2J") == "caf\u00e9\n\tok \ufffd]0;title\ufffd\ufffd2J"


# HTTP.


async def test_http_serves_the_openai_api_until_ctrl_c(start: Start, tiny_model: Path) -> None:
    running = await start("in=http", "out=echo", str(tiny_model), "--http-port", "0", "--model-name", "parrot")
    url = (await running.line(r"ready: serving parrot at (http://127\.0\.0\.1:\d+)"))[1]
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
        body = {"model": "parrot", "messages": [{"role": "user", "content": "hello there"}]}
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        assert answer["choices"][0]["message"]["content"].strip() == "hello there"
        assert (await client.get("/health")).json()["models"] == ["parrot"]
    assert await running.interrupt() == 0


async def test_an_answer_that_runs_at_ctrl_c_is_finished(start: Start, tiny_model: Path) -> None:
    running = await start("in=http", "out=echo", str(tiny_model), "--http-port", "0", "--token-delay-s", "0.02")
    url = (await running.line(r"ready: serving tiny-model at (\S+)"))[1]
    body = {"model": "tiny-model", "prompt": "one two three four", "stream": True}
    async with (
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client,
        client.stream("POST", "/v1/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        first = await anext(lines)
        ending = asyncio.create_task(running.interrupt())
        rest = [line async for line in lines]
    assert await ending == 0
    assert first.startswith("data: ")
    assert [line for line in rest if line][-1] == "data: [DONE]"


def test_an_address_that_others_reach_needs_a_flag(environment: dict[str, str], tiny_model: Path) -> None:
    done = run(environment, "in=http", "out=echo", str(tiny_model), "--http-host", "0.0.0.0", "--http-port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --http-host 0.0.0.0 is reachable from other machines")
    assert "--insecure" in done.stderr


# Workers, and asking them.


async def test_a_worker_of_one_process_answers_the_prompt_of_another(
    start: Start, environment: dict[str, str], tiny_model: Path
) -> None:
    worker = await start("in=dyn://zoo.birds", "out=echo", str(tiny_model), "--model-name", "parrot")
    await worker.line("serving the model 'parrot' at zoo/birds/generate")
    for out in ("out=dyn", "out=dyn://zoo.birds.generate"):
        done = await asyncio.to_thread(run, environment, out, piped="hello")
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "hello", "")
    elsewhere = await asyncio.to_thread(run, environment, "out=dyn://zoo.fish", "--wait-s", "0", piped="hello")
    assert elsewhere.returncode == 1
    assert "no model could be asked within 0 s: no worker has registered one" in elsewhere.stderr
    other = await asyncio.to_thread(run, environment, "out=dyn", "--model-name", "x", "--wait-s", "0", piped="hello")
    assert other.returncode == 1
    assert "the model 'x' could not be asked within 0 s: workers serve parrot" in other.stderr
    assert await worker.interrupt() == 0


async def test_of_several_models_one_must_be_named(start: Start, environment: dict[str, str], tiny_model: Path) -> None:
    for name in ("parrot", "raven"):
        worker = await start(f"in=dyn://{name}", "out=echo", str(tiny_model), "--model-name", name)
        await worker.line(f"serving the model '{name}'")
    done = await asyncio.to_thread(run, environment, "out=dyn", piped="hello")
    assert done.returncode == 2
    assert (
        done.stderr == "error: there are 2 models, parrot, raven: say in model_name (--model-name) which one to ask\n"
    )
    named = await asyncio.to_thread(run, environment, "out=dyn", "--model-name", "raven", piped="hello")
    assert (named.returncode, named.stdout.strip()) == (0, "hello")


async def test_http_can_serve_the_workers_of_one_endpoint(start: Start, tiny_model: Path) -> None:
    for name in ("parrot", "raven"):
        worker = await start(f"in=dyn://zoo.{name}", "out=echo", str(tiny_model), "--model-name", name)
        await worker.line(f"serving the model '{name}'")
    running = await start("in=http", "out=dyn://zoo.raven", "--http-port", "0")
    url = (await running.line(r"ready: serving raven at (\S+)"))[1]
    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["raven"]
    assert await running.interrupt() == 0


async def test_only_the_models_of_one_endpoint_are_seen() -> None:
    inner = MemoryDiscovery()
    mine, other = EndpointId("a", "b", "c"), EndpointId("a", "b", "d")
    await inner.put(mine.model_card_key(1), b"mine")
    await inner.put(other.model_card_key(2), b"other")
    await inner.put(other.instance_key(2), b"instance")
    seen = OneEndpoint(inner, mine)
    assert await seen.get_prefix(MODEL_CARDS) == {mine.model_card_key(1): b"mine"}
    assert await seen.get_prefix(other.instances_prefix) == {other.instance_key(2): b"instance"}
    changes = seen.watch(MODEL_CARDS)
    assert [await anext(changes), await anext(changes)] == [Put(mine.model_card_key(1), b"mine"), Synced()]
    await changes.aclose()
    await seen.close()


# The end of who answers.


async def test_work_is_stopped_when_who_answers_ends() -> None:
    stopped = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def ended() -> EngineShutdown:
        return EngineShutdown("the device is lost")

    with pytest.raises(EngineShutdown, match="the device is lost"):
        await until_ended(ended, work())
    assert stopped.is_set()
