"""Completion in a shell: the scripts that are installed, and what the commands answer to them."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.commands import ENTRY_POINTS, make_scripts

Shell = Callable[..., str]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a line of bash where the commands are found and the home directory is the test's own."""
    bin = make_scripts(tmp_path / "bin")
    home = tmp_path / "home"
    home.mkdir()

    def run(line: str, **variables: str) -> str:
        environment = {"PATH": f"{bin}:/usr/bin:/bin", "HOME": str(home), "NO_COLOR": "1", **variables}
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        # `; exit` keeps bash, which the command is to find as its shell, from becoming the command.
        done = subprocess.run(
            ["bash", "--norc", "-c", f"{line}; exit $?"],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_commands_are_those_that_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {name: f"{module}:main" for name, module in ENTRY_POINTS.items()}


@pytest.mark.parametrize("program", ["dynamo", "llmctl"])
@pytest.mark.parametrize(
    ("kind", "words"), [("bash", "complete -o default -F"), ("zsh", "#compdef"), ("fish", "complete --command")]
)
def test_there_is_a_script_for_each_shell(shell: Shell, program: str, kind: str, words: str) -> None:
    script = shell(program, **{f"_{program.upper()}_COMPLETE": f"source_{kind}"})
    assert words in script
    assert f"_{program.upper()}_COMPLETE=complete_{kind}" in script


@pytest.mark.parametrize("program", ["dynamo", "llmctl"])
def test_bash_completes_once_it_is_installed(shell: Shell, program: str) -> None:
    shown = shell(f"{program} --show-completion")
    assert f"complete -o default -F _{program}_completion {program}" in shown
    assert "bash completion installed" in shell(f"{program} --install-completion")
    words = {"dynamo": ("dynamo s", "serve"), "llmctl": ("llmctl http r", "remove")}[program]
    line, expected = words
    parts = line.split()
    completed = shell(
        f". ~/.bashrc; COMP_WORDS=({line}); COMP_CWORD={len(parts) - 1}; "
        f'_{program}_completion {program}; echo "${{COMPREPLY[@]}}"'
    )
    assert completed == f"{expected}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dynamo ", {"serve", "run", "route", "explain", "replay", "doctor", "env"}),
        ("dynamo serve --work", {"--working-dir"}),
        ("dynamo run --http", {"--http-host", "--http-port"}),
        ("dynamo --v", {"--version"}),
        ("llmctl ", {"http"}),
        ("llmctl --p", {"--public-namespace"}),
        ("llmctl http ", {"add", "list", "remove"}),
        ("llmctl http add ", {"chat", "completion"}),
        ("llmctl -n x http remove co", {"completion"}),
    ],
)
def test_subcommands_options_and_kinds_are_completed(shell: Shell, line: str, expected: set[str]) -> None:
    program = line.split()[0]
    words = line.split(" ")
    variables = {f"_{program.upper()}_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    assert set(shell(program, **variables).split()) == expected
