"""What the command line itself understands, without starting anything."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from importlib.metadata import version
from typing import IO

import pytest
import typer
from typer.testing import CliRunner

from dynamo.cli._app import app
from dynamo.cli._serve import split_overrides
from dynamo.sdk._console import LINE_BYTES_MAX, Console

run = CliRunner()
DEADLINE_S = 60.0


PLAIN = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.mark.parametrize("option", ["--version", "-v"])
def test_the_version_is_that_of_the_distribution(option: str) -> None:
    result = run.invoke(app, [option])
    assert (result.exit_code, result.output) == (0, f"dynamo {version('dynamo-serve')}\n")


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], []])
def test_the_help_names_every_command(arguments: list[str]) -> None:
    result = run.invoke(app, arguments, env=PLAIN)
    assert all(f" {command} " in result.stdout for command in ("serve", "run", "explain", "doctor", "env"))


def test_the_commands_are_known_without_what_any_of_them_does() -> None:
    """A shell asks for them whenever somebody presses the tabulator key."""
    needed = {"asyncio", "dynamo.llm", "dynamo.runtime", "dynamo.sdk", "msgspec", "pydantic", "rich", "watchfiles"}
    script = f"import sys, dynamo.cli._app; print(sorted({needed} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.stdout == "[]\n"


def test_a_command_that_is_misspelled_is_suggested() -> None:
    result = run.invoke(app, ["serv"], env=PLAIN)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such command 'serv'. Did you mean 'serve'?" in result.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("dynamo.cli", ["serv"], "No such command 'serv'. Did you mean 'serve'? (see {} --help)"),
        ("dynamo.cli", ["serve"], "Missing argument 'GRAPH'. (see {} serve --help)"),
        (
            "dynamo.cli",
            ["doctor", "--only", "instal"],
            "Invalid value for '--only': 'instal' is not one of 'install', 'settings', 'planes', 'workers', "
            "'frontend'. (see {} doctor --help)",
        ),
        ("dynamo.cli", ["serve", "g", "--foo=1"], "No such option: --foo (see {} serve --help)"),
        (
            "dynamo.cli",
            ["serve", "g", "--A.b"],
            "Invalid value: --A.b needs a value: write --A.b=VALUE (see {} serve --help)",
        ),
        (
            "dynamo.cli._llmctl",
            ["http", "add", "chat", "x", "a.b", "c"],
            "Got unexpected extra argument(s) (c) (see {} http add --help)",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(module: str, arguments: list[str], words: str) -> None:
    code = f"from {module} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {words.format('-c')}\n"


@pytest.mark.parametrize("arguments", [["env"], ["--help"], ["--version"], ["doctor", "--imports", __file__]])
def test_an_output_that_cannot_be_written_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = started(arguments, stdout=full)
        _, said = done.communicate(timeout=DEADLINE_S)
    assert (done.returncode, said) == (1, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments", [["env"], ["--help"], ["route", "--help"]])
def test_a_reader_that_has_seen_enough_is_told_nothing(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = started(arguments, stdout=writing)
    os.close(writing)
    _, said = done.communicate(timeout=DEADLINE_S)
    assert said == ""


def test_a_command_needs_no_output_to_write_to() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "dynamo.cli", "--version"],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


def started(arguments: list[str], stdout: IO[str] | int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dynamo.cli", *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_the_help_names_every_option() -> None:
    result = run.invoke(app, ["serve", "--help"], env=PLAIN)
    assert result.exit_code == 0
    for option in (
        "--config-file",
        "--port",
        "--host",
        "--insecure",
        "--working-dir",
        "--service-name",
        "--depends",
        "--reload",
        "--restart",
        "--log-format",
        "--verbose",
        "--dry-run",
        "--Service.key",
    ):
        assert option in result.output


@pytest.mark.parametrize(
    ("arguments", "rest", "overrides"),
    [
        (["g:F", "--A.b=1"], ["g:F"], ["A.b=1"]),
        (["--A.b", "1", "g:F"], ["g:F"], ["A.b=1"]),
        (["--A.b", "=", "1", "g:F"], ["g:F"], ["A.b=1"]),
        (["--A.b", "-5", "--A.c=-x"], [], ["A.b=-5", "A.c=-x"]),
        (["--A.b="], [], ["A.b="]),
        (["--A.b=x=y z\n"], [], ["A.b=x=y z\n"]),
        (["--A.ServiceArgs.workers", "2", "-f", "a.yaml"], ["-f", "a.yaml"], ["A.ServiceArgs.workers=2"]),
        (["--working-dir", "./a.b", "--foo=1"], ["--working-dir", "./a.b", "--foo=1"], []),
    ],
)
def test_overrides_are_taken_out_wherever_they_stand(
    arguments: list[str], rest: list[str], overrides: list[str]
) -> None:
    assert split_overrides(None, arguments) == (rest, overrides)


@pytest.mark.parametrize("arguments", [["--A.b"], ["--A.b", "="], ["--A.b", "--A.c=1"]])
def test_an_override_without_a_value_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match=r"--A\.b needs a value"):
        split_overrides(None, arguments)


# What is printed.


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


async def relayed(console: Console, stream: io.BytesIO, *chunks: bytes) -> bytes:
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    await console.relay(reader, "A:1", stream)
    return stream.getvalue()


async def test_every_line_of_a_worker_has_its_name_before_it() -> None:
    out = io.BytesIO()
    text = await relayed(Console(out, out, {}), out, b"one\ntw", b"o\n\nno end")
    assert text == b"[A:1] one\n[A:1] two\n[A:1] \n[A:1] no end\n"


async def test_a_line_without_an_end_is_printed_in_pieces() -> None:
    out = io.BytesIO()
    text = await relayed(Console(out, out, {}), out, b"x" * (3 * LINE_BYTES_MAX))
    assert text.replace(b"[A:1] ", b"").replace(b"\n", b"") == b"x" * (3 * LINE_BYTES_MAX)
    assert text.count(b"\n") == 2


async def test_colour_is_for_terminals_and_can_be_refused() -> None:
    terminal, refusing = Terminal(), Terminal()
    assert await relayed(Console(terminal, terminal, {}), terminal, b"a\n") == b"\x1b[36m[A:1]\x1b[0m a\n"
    assert await relayed(Console(refusing, refusing, {"NO_COLOR": "1"}), refusing, b"a\n") == b"[A:1] a\n"


class Gone(io.BytesIO):
    def write(self, data: object) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_is_no_error() -> None:
    Console(Gone(), Gone(), {}).say("hello")


def test_commands_that_are_not_stable_say_so_in_the_list_and_in_their_help() -> None:
    words = run.invoke(app, ["--help"], env=PLAIN).output.replace("│", " ").split()
    listed = " ".join(words)
    assert "compare policies. [beta]" in listed
    assert "and keep it running. run" in listed
    shown = " ".join(run.invoke(app, ["replay", "--help"], env=PLAIN).output.split())
    assert "Beta since 0.1: it may change with a minor release." in shown
