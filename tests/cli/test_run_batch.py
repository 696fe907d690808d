"""`dynamo run in=batch:FILE`: a file of requests, and the file of their answers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.cli.running import run
from tests.cli.serving import DEADLINE_S
from tests.llm.scene import ScriptedEngine, World, forever, load_tokenizer, says_text

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown
from dynamo.entrypoint._answering import Ended
from dynamo.entrypoint._ask_options import AskOptions
from dynamo.entrypoint._batch import numbered_lines, run_batch
from dynamo.entrypoint._batch_report import Failed, Report, Result, Usage
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.runtime import DistributedRuntime


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


def options(*, concurrency: int = 16, max_tokens: int | None = None, force: bool = False) -> AskOptions:
    return AskOptions(request_timeout_s=DEADLINE_S, max_tokens=max_tokens, concurrency=concurrency, force=force)


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
    assert (
        done.stderr
        == f"error: '{output}' exists: move it away, overwrite it with --force, or give another one with --output\n"
    )
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
