"""A reader who follows a page of the documentation to the letter.

Python and YAML blocks are files, under the name in their first line, and are saved where they stand. Bash blocks
are commands; what follows one in a text block is what it must print, where `...` stands for anything; one that
prints `error: ` must fail, any other succeed. A command that serves keeps running until the section ends, or until a
text block begins with ^C: then it is interrupted. A text block after a file, or after another text block, is what
the command that runs says then.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cli.commands import make_scripts
from tests.cli.serving import environment_of
from tests.free_port import free_port

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0

#: Ports as pages name them; each is replaced by one that is free.
PORT = re.compile(r"\b(?:80\d\d|90\d\d|2379|2380|4222)\b")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$|^(## [^\n]*)$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")
_SERVES = re.compile(
    r"(?:\w+=\S+ )*(?:dynamo serve|dynamo route |python \w+_worker\.py|python -m dynamo\.|python -m uvicorn |etcd |"
    r"nats-server )"
)
_FAILURE = re.compile(r"^error: ", re.MULTILINE)
_READY = re.compile(
    r"ready in|listening on|serving the model |Uvicorn running on|ready to serve client requests|Server is ready"
)


@dataclass(frozen=True)
class Block:
    """A block of a page, or with the language `##` a heading."""

    language: str
    text: str


def blocks_of(page: str) -> Iterator[Block]:
    for match in _FENCE.finditer(page):
        yield Block("##", match[3]) if match[3] else Block(match[1], match[2])


class Program:
    """A command that runs, and what it has printed."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        #: How much of it was there when somebody looked last.
        self.seen = 0
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        return self._reader.done()

    async def until(self, pattern: re.Pattern[str]) -> bool:
        """Wait for a line; False if it ends without one."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not any(pattern.search(line) for line in self.lines[self.seen :]):
                    if self._reader.done():
                        return False
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no line has {pattern.pattern!r}:\n{self.text}") from None
        return True

    async def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """Do what Ctrl-C does in a terminal, and wait for the end."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        await self.wait()

    async def wait(self) -> int:
        """Wait for the end; return the exit status."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._reader
                return await self.process.wait()
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"it does not end:\n{self.text}") from None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip("\n"))
            self._changed.set()
        self._changed.set()


class Reader:
    """Follows one page in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "project"
        self._folder.mkdir()
        # Some pages are for those who have the repository.
        (self._folder / "examples").symlink_to(ROOT / "examples")
        scripts = make_scripts(folder / "bin")
        discovery = folder / "discovery"
        discovery.mkdir(mode=0o700)
        self._environment = environment_of(discovery) | {
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }
        # The mutable state: the ports in use here, and what the section has started.
        self._ports: dict[str, str] = {}
        self._running: list[Program] = []

    async def follow(self, page: str) -> None:
        """Do what the page says. Raises `AssertionError` where it is wrong."""
        blocks = list(blocks_of(page))
        try:
            before = Block("##", "")
            for block, following in zip(blocks, [*blocks[1:], Block("##", "")], strict=True):
                expected = self._here(following.text) if following.language == "text" else None
                if block.language == before.language == "text" and not _interrupts(block):
                    await _says(self._running[-1], self._here(block.text))
                else:
                    await self._do(block, expected)
                before = block
        finally:
            await self._end_all()

    async def _do(self, block: Block, expected: str | None) -> None:
        match block.language:
            case "##":
                await self._end_all()
            case "python" | "yaml":
                await self._save(block.text, expected)
            case "bash":
                commands = _commands(block.text)
                for command in commands[:-1]:
                    await self._run(command, None)
                await self._run(commands[-1], expected)
            case "text" if _interrupts(block):
                await self._interrupt(self._here(block.text.removeprefix("^C\n")))
            case "text":
                pass  # it belongs to the block before
            case other:
                raise AssertionError(f"nothing is known of blocks of {other!r}:\n{block.text}")

    async def _save(self, text: str, expected: str | None) -> None:
        name = _NAME.match(text)
        assert name, f"the first line of a file must be its name, as in '# service.py':\n{text}"
        file = self._folder / name[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        for program in self._running:
            program.seen = len(program.lines)
        file.write_text(self._here(text))
        if expected is not None:
            await _says(self._running[-1], expected)

    async def _run(self, command: str, expected: str | None) -> None:
        serves = _SERVES.match(command) is not None and "--dry-run" not in command and "--help" not in command
        if serves and expected is not None and "8000" in command + expected and "port" not in command:
            command += " --port 8000"
        program = await self._start(self._here(command))
        if serves and await program.until(_READY):
            if expected is not None:
                await _says(program, expected)
            return
        status = await program.wait()
        self._running.remove(program)
        fails = expected is not None and _FAILURE.search(expected) is not None
        assert (status != 0) == fails, f"{command} ended with status {status}:\n{program.text}"
        if expected is not None:
            assert _pattern(expected).fullmatch(program.text), f"{command} printed:\n{program.text}"

    async def _start(self, command: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command),
            cwd=self._folder,
            env=self._environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        self._running.append(Program(process))
        return self._running[-1]

    async def _interrupt(self, expected: str) -> None:
        assert self._running, "nothing runs that could be interrupted"
        program = self._running.pop()
        program.seen = len(program.lines)
        await program.end()
        await _says(program, expected)

    async def _end_all(self) -> None:
        running, self._running = self._running, []
        for program in reversed(running):
            await program.end()

    def _here(self, text: str) -> str:
        """Put ports that are free here in place of those of the page."""

        def free(match: re.Match[str]) -> str:
            return self._ports.setdefault(match[0], str(free_port()))

        return PORT.sub(free, text)


def _interrupts(block: Block) -> bool:
    return block.language == "text" and block.text.startswith("^C\n")


def _commands(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


async def _says(program: Program, expected: str) -> None:
    """Wait until a program that runs has printed each of these lines, in whatever order."""
    for line in expected.splitlines():
        if line != "...":
            assert await program.until(_pattern(line, whole=True)), f"it does not say {line!r}:\n{program.text}"


def _pattern(expected: str, whole: bool = False) -> re.Pattern[str]:
    lines = [".*" if line == "..." else re.escape(line).replace(r"\.\.\.", "[^\n]*") for line in expected.splitlines()]
    pattern = "\n".join(lines)
    return re.compile(f"^{pattern}$" if whole else pattern, re.DOTALL)
