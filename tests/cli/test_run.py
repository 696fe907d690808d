"""`dynamo run`: its words, and each of its inputs and outputs with real processes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.cli.pty_session import CTRL_C, CTRL_D, PtySession
from tests.cli.serving import DEADLINE_S, environment_of
from tests.llm.scene import ScriptedEngine, World, forever, load_tokenizer, says_text
from typer.testing import CliRunner

from dynamo._core.address import MODEL_CARDS, EndpointId
from dynamo._core.context import Context
from dynamo._core.discovery.base import Put, Synced
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import EngineShutdown
from dynamo.cli._app import app
from dynamo.cli._run_batch import numbered_lines, run_batch
from dynamo.cli._run_batch_report import Failed, Report, Result, Usage
from dynamo.cli._run_options import RunOptions
from dynamo.cli._run_outputs import Ended, OneEndpoint, until_ended
from dynamo.cli._run_terminal import shown_text
from dynamo.cli._run_words import Batch, Http, Local, Remote, Text, WorkerAt, WrongUsage, parse_words
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.runtime import DistributedRuntime

PLAIN = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment, with a discovery of the test's own."""
    return environment_of(tmp_path / "discovery") | PLAIN


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dynamo.cli", "run", *arguments]


def run(environment: dict[str, str], *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments),
        check=False,
        input=piped,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment,
    )


class Running:
    """A command that runs, and the lines that it prints."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def line(self, pattern: str) -> re.Match[str]:
        """Return the next line of the output that has the pattern, waiting for it."""
        assert self.process.stdout is not None
        seen = ""
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.process.stdout.readline()).decode():
                seen += line
                if match := re.search(pattern, line):
                    return match
        raise AssertionError(f"no line has {pattern!r}:\n{seen}")

    async def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(environment: dict[str, str]) -> AsyncIterator[Start]:
    """Run the command beside the test."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Running:
            process = await asyncio.create_subprocess_exec(
                *command(*arguments), env=environment, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
            )
            running = Running(process)
            stack.push_async_callback(running.close)
            return running

        yield start


# Words.


@pytest.mark.parametrize(
    ("words", "asks", "answers"),
    [
        (["model"], Text(), Local("transformers", "model")),
        (["out=echo", "model", "in=http"], Http(), Local("echo", "model")),
        (["./a=b"], Text(), Local("transformers", "./a=b")),
        (["in=text", "out=dyn"], Text(), Remote(None)),
        (["in=http", "out=dyn://a.b.c"], Http(), Remote(EndpointId("a", "b", "c"))),
        (["out=dyn://a"], Text(), Remote(EndpointId("a", "backend", "generate"))),
        (["in=dyn://a.b", "m"], WorkerAt(EndpointId("a", "b", "generate")), Local("transformers", "m")),
    ],
)
def test_words_may_stand_in_any_order_and_have_defaults(words: list[str], asks: object, answers: object) -> None:
    assert parse_words(words) == (asks, answers)


def test_a_batch_is_a_file_that_exists(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.touch()
    assert parse_words([f"in=batch:{file}", "out=dyn"]) == (Batch(file), Remote(None))
    for name in ("", "no-such-file", str(tmp_path)):
        with pytest.raises(WrongUsage, match=r"names no file: write in=batch:FILE\.jsonl"):
            parse_words([f"in=batch:{name}", "out=dyn"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give a MODEL"),
        (["in=grpc", "m"], "in=grpc is not known: write in=text, in=http, in=batch:FILE.jsonl or in=dyn://"),
        (["out=vllm", "m"], "out=vllm is not known: write out=echo, out=transformers, out=dyn or out=dyn://"),
        (["out=echo"], "out=echo needs a MODEL"),
        (["out=transformers"], "out=transformers needs a MODEL"),
        (["out=dyn", "m"], "choose one of them with --model-name m"),
        (["a", "b"], "the model 'a' and the model 'b': there can be only one"),
        (["in=text", "in=http", "m"], "in=text and in=http: there can be only one"),
        (["inn=text", "m"], "neither in=... nor out=...; if it is a model's directory, write ./inn=text"),
        (["out=dyn://"], "'' is not a valid namespace"),
        (["out=dyn://a.b.c.d"], "has 4 parts: write dyn://NAMESPACE.COMPONENT.ENDPOINT"),
        (["out=dyn://a..c"], "'' is not a valid component"),
        (["in=dyn", "m"], "in=dyn is not known"),
        (["in=dyn://a", "out=dyn"], "would pass requests on"),
    ],
)
def test_words_that_are_wrong_are_refused_with_what_to_write(words: list[str], says: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        parse_words(words)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["out=nonsense", "m"], "error: out=nonsense is not known"),
        (["out=echo", "m", "--http-port", "1"], "error: --http-port has no effect with in=text: it is for in=http\n"),
        (
            ["in=http", "m", "--max-tokens", "1"],
            "--max-tokens has no effect with in=http: it is for in=text and in=batch",
        ),
        (["out=echo", "m", "--device", "cpu"], "error: --device has no effect with out=echo: leave it out\n"),
        (["out=dyn", "--seed", "1"], "error: --seed has no effect with out=dyn: leave it out\n"),
        (["out=echo", "m", "--wait-s", "1"], "error: --wait-s has no effect with out=echo: it is for out=dyn\n"),
        (["in=http", "out=echo", "m", "--router-mode", "kv"], "error: --router-mode has no effect with out=echo"),
        (["in=http", "out=dyn", "--router-mode", "best"], "error: --router-mode='best' must be one of round-robin, "),
        (["in=http", "out=dyn", "--model-name", "a"], "error: --model-name has no effect with in=http out=dyn"),
        (["out=echo", "m", "--token-delay-s=-1"], "error: --token-delay-s is -1.0: it must be 0 or more\n"),
        (["m", "--dtype", "int8"], "error: --dtype='int8' must be one of auto, float32, bfloat16, float16\n"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["run", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_variable_that_is_wrong_is_named() -> None:
    result = CliRunner().invoke(app, ["run", "out=echo", "m"], env={"DYN_DRAIN_S": "x", "DYN_MAX_NUM_SEQS": "0"})
    assert result.exit_code == 2
    assert result.stderr == "error: DYN_MAX_NUM_SEQS is 0: it must be 1 or more\n"


def test_the_help_names_every_option_and_word() -> None:
    result = CliRunner().invoke(app, ["run", "--help"], env=PLAIN)
    assert result.exit_code == 0
    for word in (
        "in=text", "in=http", "in=batch:FILE.jsonl", "in=dyn://", "out=echo", "out=transformers", "out=dyn://",
        "--model-name", "--wait-s", "--request-timeout-s", "--max-tokens", "--temperature", "--http-host",
        "--http-port", "--insecure", "--concurrency", "--output", "--force", "--context-length",
        "--custom-jinja-template",
        "--max-num-seqs", "--token-delay-s", "--tokens-per-second", "--device", "--dtype", "--num-threads", "--seed",
        "8080", "DYN_HTTP_PORT",
    ):  # fmt: skip
        assert word in result.output


def test_other_commands_do_not_load_what_run_needs() -> None:
    script = "import sys, dynamo.cli._app; print([name for name in sys.modules if '.cli._run_' in name])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n"


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
    assert done.stderr == "error: there are 2 models: choose one with --model-name (parrot, raven)\n"
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


# Batches.


class EngineInTheTest:
    """A scripted engine answers, in the way in which `EngineHere` has one answer."""

    namespace: str | None = None
    model_name: str | None = "tiny"
    is_here = True
    ready_timeout_s = DEADLINE_S

    def __init__(self, engine: ScriptedEngine, model_path: Path) -> None:
        self._engine = engine
        self._model_path = model_path
        self._world = World()
        #: Set it, and the engine has ended.
        self.ended = asyncio.Event()

    @asynccontextmanager
    async def runtime(self) -> AsyncIterator[DistributedRuntime]:
        async with self._world.runtime() as runtime:
            yield runtime

    @asynccontextmanager
    async def serving(self, runtime: DistributedRuntime) -> AsyncIterator[Ended]:
        async with self._world.worker(self._engine, self._model_path):
            yield self._end

    async def _end(self) -> EngineShutdown:
        await self.ended.wait()
        return EngineShutdown("the device is lost")


def options(*, concurrency: int = 16, max_tokens: int | None = None, force: bool = False) -> RunOptions:
    return RunOptions(
        model_name=None, wait_s=0, request_timeout_s=DEADLINE_S, max_tokens=max_tokens, temperature=None,
        http_host="", http_port=0, insecure=False, router_mode=None, concurrency=concurrency, output=None, force=force,
        engine={}, given=frozenset(),
    )  # fmt: skip


class CountingEngine(ScriptedEngine):
    """Says a number that the prompt's length decides, later requests sooner; knows how many ran at a time."""

    def __init__(self) -> None:
        super().__init__(forever)
        self.num_running = 0
        self.num_running_max = 0
        self._turn = 0

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        self.num_running += 1
        self.num_running_max = max(self.num_running_max, self.num_running)
        self._turn += 1
        try:
            for _ in range(20 if self._turn % 4 == 1 else 1):
                await asyncio.sleep(0)
            yield EngineOutput(token_ids=request.token_ids, finish_reason="stop")
        finally:
            self.num_running -= 1


async def test_results_are_in_the_order_of_the_lines_and_no_more_run_than_may(tmp_path: Path, tiny_model: Path) -> None:
    file, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(f'{{"prompt": "number {n}"}}\n' for n in range(50)))
    engine = CountingEngine()
    assert await run_batch(EngineInTheTest(engine, tiny_model), file, output, options(concurrency=4)) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["line"] for record in records] == list(range(1, 51))
    assert [record["text"] for record in records] == [f"number {n}" for n in range(50)]
    assert engine.num_running_max == 4


async def test_a_batch_ends_when_its_engine_does(tmp_path: Path, tiny_model: Path) -> None:
    file, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"text": "hello"}\n')
    engine = ScriptedEngine(forever)
    answering = EngineInTheTest(engine, tiny_model)
    running = asyncio.create_task(run_batch(answering, file, output, options()))
    await asyncio.wait_for(engine.started.wait(), DEADLINE_S)
    answering.ended.set()
    with pytest.raises(EngineShutdown, match="the device is lost"):
        await running
    await asyncio.wait_for(engine.closed.wait(), DEADLINE_S)


async def test_what_an_interrupted_batch_has_done_is_kept(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    second = asyncio.Event()

    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        if len(engine.requests) == 2:
            second.set()
            await asyncio.Event().wait()
        yield EngineOutput(token_ids=request.token_ids, finish_reason="stop")

    engine = ScriptedEngine(script)
    running = asyncio.create_task(run_batch(EngineInTheTest(engine, tiny_model), file, output, options(concurrency=1)))
    await asyncio.wait_for(second.wait(), DEADLINE_S)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == ["one"]
    assert capsys.readouterr().out.startswith("1 of 3 requests in ")


async def test_the_command_line_says_what_lines_leave_out(tmp_path: Path, tiny_model: Path) -> None:
    file, output = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"text": "a"}\n{"text": "a", "max_tokens": 2}\n{"text": "a", "max_completion_tokens": 3}\n')
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), "x"))
    await run_batch(EngineInTheTest(engine, tiny_model), file, output, options(max_tokens=7))
    assert sorted(request.stop_conditions.max_tokens or 0 for request in engine.requests) == [2, 3, 7]


BATCH = """{"text": "hello"}
{"messages": [{"role": "user", "content": "one two three four"}], "max_tokens": 3}

not json
["hello"]
{"prompt": "once upon a time"}
{"text": "a", "messages": []}
{"temperature": 1}
{"text": 3}
{"text": "a", "colour": "red"}
{"text": "a", "n": 2}
{"text": "a", "stream": true}
{"text": "a", "model": "another"}
"""


def test_a_bad_line_is_an_error_that_names_it_and_the_others_are_answered(
    environment: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(BATCH)
    done = run(environment, f"in=batch:{file}", "out=echo", str(tiny_model))
    assert done.returncode == 1
    assert re.match(
        r"12 requests in \d+\.\d+ s, 9 failed: \d+ tokens, \d+\.\d tokens/s; ttft p50 \S+ s, p99 \S+ s\n", done.stdout
    )
    assert done.stdout.endswith(f"results: {tmp_path / 'a-output.jsonl'}\n")
    records = [json.loads(line) for line in (tmp_path / "a-output.jsonl").read_text().splitlines()]
    assert [record["line"] for record in records] == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    answers = {record["line"]: record for record in records if "text" in record}
    assert answers.keys() == {1, 2, 6}
    assert (answers[1]["text"].strip(), answers[1]["finish_reason"]) == ("hello", "stop")
    assert (answers[2]["finish_reason"], answers[2]["usage"]["completion_tokens"]) == ("length", 3)
    assert answers[6]["text"] == "once upon a time"
    assert 0 <= answers[1]["ttft_s"] <= answers[1]["latency_s"]
    errors = {record["line"]: record["error"] for record in records if "error" in record}
    assert errors[4]["message"].startswith("line 4: it is not JSON: ")
    assert errors[5]["message"] == "line 5: the line must be a JSON object"
    assert errors[7]["message"].endswith("one of 'text', 'messages' and 'prompt'; it has 'text' and 'messages'")
    assert errors[8]["message"].endswith("it has none")
    assert errors[9]["param"] == "text"
    assert errors[10]["param"] == "colour"
    assert errors[11]["param"] == "n"
    assert errors[12]["param"] == "stream"
    assert errors[13]["code"] == "model_not_found"


def test_results_are_not_overwritten_without_force(
    environment: dict[str, str], tiny_model: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "a.jsonl", tmp_path / "mine"
    file.write_text('{"text": "hello"}\n')
    output.write_text("precious\n")
    arguments = (f"in=batch:{file}", "out=echo", str(tiny_model), "--output")
    done = run(environment, *arguments, str(output))
    assert done.returncode == 2
    assert done.stderr == f"error: '{output}' exists: overwrite it with --force, or give another one with --output\n"
    assert output.read_text() == "precious\n"
    itself = run(environment, *arguments, str(file), "--force")
    assert itself.returncode == 2
    assert "is the file of the requests" in itself.stderr
    nowhere = run(environment, *arguments, str(tmp_path / "no" / "such"))
    assert nowhere.returncode == 2
    assert "there is no directory" in nowhere.stderr
    forced = run(environment, *arguments, str(output), "--force")
    assert forced.returncode == 0
    assert json.loads(output.read_text())["text"].strip() == "hello"


def test_lines_have_the_numbers_that_an_editor_shows(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one\n\n  \nfour\nfive")
    with file.open("rb") as stream:
        assert list(numbered_lines(stream)) == [(1, b"one\n"), (4, b"four\n"), (5, b"five")]


async def test_the_summary_counts_what_was_done() -> None:
    with Report(total=4) as report:
        for latency_s in (0.1, 0.2, 0.3):
            report.add(Result(1, "x", "stop", Usage(1, 5, 6), latency_s, latency_s))
        assert report.summary().startswith("3 of 4 requests in ")
        report.add(Failed.because(2, EngineShutdown("gone")))
    summary = report.summary()
    assert summary.startswith("4 requests in ")
    assert " 1 failed: 15 tokens, " in summary
    assert summary.endswith("; ttft p50 0.200 s, p99 0.300 s")


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
