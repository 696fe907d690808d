"""A batch: a request per line of a file, and a result per line of another, in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import msgspec
from pydantic import JsonValue

from dynamo._core.errors import DynamoError, InvalidArgument, WrongUsage
from dynamo._core.exit_status import FAILED, OK
from dynamo.entrypoint._answering import Answering
from dynamo.entrypoint._ask_options import AskOptions
from dynamo.entrypoint._asking import Asker, asking
from dynamo.entrypoint._batch_report import Failed, Report, Result, Usage
from dynamo.frontend._json import loads
from dynamo.llm._messages import CompletionUsage
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest

#: As long as the body of a request over HTTP may be.
LINE_BYTES_MAX = 32 << 20
#: So many results may wait for an earlier one that takes longer; then no request is begun until it is there.
RESULTS_WAITING_MAX = 1024

_ASKS_WITH = ("text", "messages", "prompt")
_NOT_HERE = ("stream", "stream_options")


def output_beside(file: Path) -> Path:
    """Return where the results go if nobody says it."""
    return file.with_name(f"{file.stem}-output.jsonl")


def output_file(file: Path, options: AskOptions) -> Path:
    """Return where a command's results go. Raises `WrongUsage` if they cannot, or would replace something."""
    output = options.output or output_beside(file)
    if not output.parent.is_dir():
        raise WrongUsage(f"there is no directory {str(output.parent)!r} for the results: make it, or change --output")
    if output.exists():
        if output.samefile(file):
            raise WrongUsage(f"{str(output)!r} is the file of the requests: give another one with --output")
        if not options.force:
            raise WrongUsage(
                f"{str(output)!r} exists: move it away, overwrite it with --force, or give another one with --output"
            )
    return output


async def run_batch(answering: Answering, file: Path, output: Path, options: AskOptions) -> int:
    """Answer every line; return 1 if any of them failed."""
    async with asking(answering, options.request_timeout_s) as asker:
        batch = _Batch(asker, options)
        try:
            with file.open("rb") as requests, output.open("wb" if options.force else "xb") as results:
                report = Report(sum(1 for _ in numbered_lines(requests)))
                requests.seek(0)
                try:
                    with report:
                        await asker.while_it_answers(batch.run(numbered_lines(requests), results, report))
                finally:
                    print(f"{report.summary()}\nresults: {output}", flush=True)
        except OSError as error:
            raise DynamoError(f"{error.filename or output}: {error.strerror or error}") from error
    return FAILED if report.num_failed else OK


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank, each with its number from 1; None for one that is too long."""
    number = 0
    while line := stream.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_BYTES_MAX)
            yield number, None
        elif line.strip():
            yield number, line


class _Batch:
    """Asks with each line, several at a time."""

    def __init__(self, asker: Asker, options: AskOptions) -> None:
        self._asker = asker
        self._options = options
        self._places = asyncio.Semaphore(options.concurrency)
        # The lines that are begun and not yet written, in order.
        self._begun: deque[asyncio.Task[Result | Failed]] = deque()

    async def run(self, lines: Iterable[tuple[int, bytes | None]], results: BinaryIO, report: Report) -> None:
        """Write a result for each line, in their order."""
        try:
            for number, line in lines:
                await self._places.acquire()
                self._begun.append(asyncio.create_task(self._answer_line(number, line, report)))
                while self._begun and (self._begun[0].done() or len(self._begun) > RESULTS_WAITING_MAX):
                    await self._write(results)
            while self._begun:
                await self._write(results)
        finally:
            for task in self._begun:
                task.cancel()
            await asyncio.gather(*self._begun, return_exceptions=True)

    async def _write(self, results: BinaryIO) -> None:
        """Write the first of the results, once it is there. What is written outlives whatever happens to us."""
        results.write(msgspec.json.encode(await self._begun[0]) + b"\n")
        results.flush()
        self._begun.popleft()

    async def _answer_line(self, number: int, line: bytes | None, report: Report) -> Result | Failed:
        try:
            outcome: Result | Failed = await self._answer(number, line)
        except DynamoError as error:
            outcome = Failed.because(number, error)
        finally:
            self._places.release()
        report.add(outcome)
        return outcome

    async def _answer(self, number: int, line: bytes | None) -> Result:
        kind, body = self._request(line)
        now = asyncio.get_running_loop().time
        started, first = now(), None
        text: list[str] = []
        reason, usage = None, CompletionUsage()
        async with aclosing(self._asker.ask(kind, body)) as pieces:
            async for piece in pieces:
                if first is None:
                    first = now()
                text.append(piece.text)
                reason, usage = piece.finish_reason or reason, piece.usage or usage
        ended = now()
        return Result(
            line=number,
            text="".join(text),
            finish_reason=reason,
            usage=Usage(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
            ttft_s=round((first or ended) - started, 3),
            latency_s=round(ended - started, 3),
        )

    def _request(self, line: bytes | None) -> tuple[type[OpenAIRequest], dict[str, JsonValue]]:
        """Read a line, in which what the command line says is the default."""
        if line is None:
            raise InvalidArgument(f"the line is longer than {LINE_BYTES_MAX} bytes: split the request")
        try:
            body = loads(line)
        except InvalidArgument as error:
            raise InvalidArgument(error.message.replace("the body", "it", 1)) from error
        if not isinstance(body, dict):
            raise InvalidArgument("the line must be a JSON object")
        asks_with = [name for name in _ASKS_WITH if name in body]
        if len(asks_with) != 1:
            found = " and ".join(repr(name) for name in asks_with) or "none"
            raise InvalidArgument(f"the line must have one of 'text', 'messages' and 'prompt'; it has {found}")
        if "text" in body and not isinstance(body["text"], str):
            raise InvalidArgument("'text' must be a text", param="text")
        for name in _NOT_HERE:
            if name in body:
                raise InvalidArgument(f"{name!r} has no meaning in a batch: leave it out", param=name)
        if body.get("n") not in (None, 1):
            raise InvalidArgument(
                "'n' above 1 has no meaning in a batch: write the line as often as you want", param="n"
            )
        return self._kind_and_body(asks_with[0], body)

    def _kind_and_body(
        self, asks_with: str, body: dict[str, JsonValue]
    ) -> tuple[type[OpenAIRequest], dict[str, JsonValue]]:
        defaults: dict[str, JsonValue] = {}
        if self._options.max_tokens is not None and "max_completion_tokens" not in body:
            defaults["max_tokens"] = self._options.max_tokens
        if self._options.temperature is not None:
            defaults["temperature"] = self._options.temperature
        body = defaults | body
        if asks_with == "prompt":
            return CompletionRequest, body
        if asks_with == "text":
            body["messages"] = [{"role": "user", "content": body.pop("text")}]
        return ChatRequest, body
